"""What a session begins with: its directory, its video, the dtype of its take."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from istar.cli.encoding import ClipOutput
from istar.cli.option_types import NumberType
from istar.cli.options import CommonOptions
from istar.cli.output_writer import OutputFile
from istar.cli.session import SESSION_SUFFIX, Session, held_alone
from istar.files import temporary_path
from istar.output_names import output_path

if TYPE_CHECKING:
    from istar.take import Take

_Options = TypeVar("_Options", bound=CommonOptions)


@contextmanager
def new_session(
    options: CommonOptions,
    words: Sequence[str],
    output: OutputFile,
    directory: Path | None = None,
) -> Iterator[Session]:
    """The directory of a new session, or one that is gone afterwards.

    Args:
        options: as typed.
        words: options of a command that continues it.
        output: the video.
        directory: by default beside the video.

    Raises:
        StateError: it cannot be made.
    """
    directory = directory or output.target.with_suffix(SESSION_SUFFIX)
    if output.stays and not options.no_take:
        session = Session.create(directory, video=output.target, words=words)
        with held_alone(session.directory):
            yield session
        return
    temporary = Path(tempfile.mkdtemp(prefix="istar-"))
    with temporary_path(temporary):
        try:
            yield Session.create(temporary / directory.name, video=output.target, stays=False)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def video_of(options: CommonOptions, session: Session) -> OutputFile:
    """The video of a session that is continued: beside it, where it is not the session's own."""
    target = session.video
    if not session.owns_video():
        target = output_path(target, default_stem=target.stem, suffix=".mp4", overwrite=False)
    return OutputFile(
        target,
        written_as=ClipOutput(grows=True),
        overwrite=False,
        has_settings=not options.no_metadata,
        has_sidecar=options.sidecar,
    )


def in_its_dtype(options: _Options, take: Take) -> _Options:
    """The options with the dtype of a take, where none is named and the device is of its kind."""
    from istar.placement import Placement

    kind = Placement.choose(options.device).device.type
    if options.dtype is not None or kind != take.model.device:
        return options
    return replace(options, dtype=NumberType(take.model.dtype))
