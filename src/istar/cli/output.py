"""Where a command writes: the file's name and directory, and its path on stdout at the end."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from istar.cli.chosen_model import ChosenModel
from istar.cli.console import (
    print_file,
    print_path,
    voice,
)
from istar.cli.encoding import ClipOutput
from istar.cli.options import CommonOptions
from istar.cli.output_writer import OutputFile
from istar.clip_format import clip_format, is_numbered
from istar.errors import IstarError, MediaError, UsageError
from istar.files import existing_parent, expanded, temporary_path, writing_failed
from istar.output_names import SLASHES, output_path, usual_suffix
from istar.output_templates import NameTemplate, is_template
from istar.request import GenerationRequest, Mode

if TYPE_CHECKING:
    from istar.take import Take

STDOUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


@contextmanager
def output_directory(name: str | Path) -> Iterator[Path]:
    """Inside, a directory is there; those that were made for it go again if they stay empty.

    Args:
        name: of the directory, as typed.

    Raises:
        UsageError: it names a home directory that is unknown.
        MediaError: it cannot be made.
    """
    directory = expanded(name)
    if directory.exists() and not directory.is_dir():
        raise MediaError(f"'{directory}' is a file, not a directory; choose another directory")
    is_new = not directory.exists()
    there = existing_parent(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise writing_failed(directory, error) from error
    try:
        yield directory
    finally:
        if is_new:
            with suppress(OSError):
                for made in (directory, *directory.parents):
                    if made == there:
                        break
                    made.rmdir()


@contextmanager
def output_file(
    options: CommonOptions,
    request: GenerationRequest,
    written_as: ClipOutput | None = None,
    target: Path | None = None,
) -> Iterator[OutputFile]:
    """The file to write, its name settled and refused early; its path printed at the end.

    Args:
        options: as typed.
        request: what is made.
        written_as: how, if it is a clip.
        target: its name, a number added if it is taken; its directory is made. None for the one
            that the options give, whose directory is made if it ends in a slash.

    Raises:
        UsageError: stdout is a terminal and the bytes should go there; the suffix does not fit, or
            its format does not know what is asked for.
        MediaError: the directory is missing or not writable, or the sound cannot be kept.
    """
    written_as = written_as or ClipOutput()
    if request.mode == "t2i" and written_as.words:
        raise UsageError(f"{written_as.words[0]} is for clips, and this is a picture")
    suffix = usual_suffix(request.mode)
    if target is None and options.output in STDOUT:
        check_stdout(options)
        if written_as.grows:
            with _file_for_stdout(options, suffix, written_as) as output:
                yield output
            return
        streamed = Path("stdout").with_suffix(suffix)
        if request.mode != "t2i":
            check_clip(streamed, written_as)
        yield OutputFile(
            streamed,
            written_as=written_as,
            overwrite=True,
            has_settings=not options.no_metadata,
            stays=False,
            streams=True,
        )
        return
    if target is None and options.output and is_template(options.output):
        model = cache(lambda: ChosenModel(options, [request]))
        target = template_path(options.output, request.mode, field_values(request, 1, model))
    with ExitStack() as block:
        if target is not None:
            directory = target.parent
            if request.mode != "t2i" and is_numbered(target):
                directory = directory.parent
            block.enter_context(output_directory(directory))
        elif options.output and options.output.endswith(SLASHES):
            block.enter_context(output_directory(options.output))
        wanted = options.output if target is None else target
        is_named = wanted is not None
        target = free_path(wanted, request.mode, overwrite=options.overwrite)
        if request.mode != "t2i":
            check_clip(target, written_as)
        if options.sidecar:
            _check_sidecar(target, overwrite=options.overwrite)
        output = OutputFile(
            target,
            written_as=written_as,
            overwrite=options.overwrite,
            has_settings=not options.no_metadata,
            has_sidecar=options.sidecar,
            is_named=is_named,
        )
        yield output
    print_path(output.target)


def free_path(wanted: str | Path | None, mode: Mode, *, overwrite: bool) -> Path:
    """The name that a file of a mode gets, see `istar.output_names.output_path`."""
    return output_path(
        wanted,
        default_stem=f"istar-{mode}",
        suffix=usual_suffix(mode),
        overwrite=overwrite,
    )


FieldValues = dict[str, Callable[[], str | int]]
"""What fields of a template stand for; asked only for those that it has."""


def field_values(
    request: GenerationRequest, number: int, model: Callable[[], ChosenModel]
) -> FieldValues:
    """What fields of a template stand for, of a request.

    Args:
        request: what is made.
        number: its place among all, from 1.
        model: gives what makes it.
    """
    return _request_values(request, number) | {
        "model": lambda: model().spec.name,
        "size": lambda: "{1}x{0}".format(*model().size_of(request)),
    }


def take_values(take: Take, number: int) -> FieldValues:
    """What fields of a template stand for, of a take; before its first step it has no size.

    Args:
        take: what is continued or decoded.
        number: its place among all, from 1.
    """
    values, size = _request_values(take.request, number), take.size
    values["model"] = lambda: take.model.name
    if size is not None:
        values["size"] = lambda: "{1}x{0}".format(*size)
    return values


def _request_values(request: GenerationRequest, number: int) -> FieldValues:
    return {
        "prompt": lambda: request.typed_prompts[0],
        "seed": lambda: request.seed,
        "number": lambda: number,
        "mode": lambda: request.mode,
    }


def template_path(text: str, mode: Mode, values: FieldValues) -> Path:
    """The name of a file by a template.

    Args:
        text: as typed.
        mode: of what is made.
        values: of the fields.

    Raises:
        UsageError: as `NameTemplate.parse`, or a field has no value.
    """
    template = NameTemplate.parse(text, suffix=usual_suffix(mode))
    for field in template.fields - values.keys():
        raise UsageError(f"'{text}': {{{field}}} is not known when the file gets its name")
    return template.path(values)


def check_stdout(options: CommonOptions) -> None:
    """Refuse to send media where they should not go.

    Raises:
        UsageError: stdout is a terminal or takes events, or a file should lie beside it.
    """
    if voice().as_json:
        raise UsageError("stdout takes the file or --json's events; name a file with --output")
    if sys.stdout.isatty():
        raise UsageError("stdout is a terminal; send it to a file, or name one with --output")
    if options.sidecar:
        raise UsageError("--sidecar writes a file beside the output, and stdout has no such place")


@contextmanager
def _file_for_stdout(
    options: CommonOptions, suffix: str, written_as: ClipOutput
) -> Iterator[OutputFile]:
    """A temporary file for what is written again and again, sent to stdout at the end."""
    directory = Path(tempfile.mkdtemp(prefix="istar-"))
    target = directory / f"output{suffix}"
    with ExitStack() as block:
        block.enter_context(temporary_path(directory))
        block.callback(shutil.rmtree, directory, ignore_errors=True)
        check_clip(target, written_as)
        yield OutputFile(
            target,
            written_as=written_as,
            overwrite=True,
            has_settings=not options.no_metadata,
            stays=False,
        )
        try:
            print_file(target)
        except IstarError as error:
            block.pop_all()
            raise IstarError(f"{error}; the file is kept as {target}") from error


def _check_sidecar(target: Path, *, overwrite: bool) -> None:
    """Refuse a name whose file of settings could not be written, before anything is loaded."""
    from istar.file_settings import sidecar_of

    beside = sidecar_of(target)
    if not overwrite and os.path.lexists(beside):
        raise MediaError(f"'{beside}' exists", remedies=("other_name", "overwrite"))


def check_clip(target: Path, written_as: ClipOutput) -> None:
    """Refuse what the format of a clip does not know, before anything is loaded."""
    written_as.encoding.check(target)
    kind = clip_format(target)
    if written_as.grows and not kind.continues:
        raise UsageError(
            f"'{target}': pictures are added after every prompt, which {kind.name} does not allow; "
            "choose .mp4 or .webm"
        )
    if written_as.sound is not None:
        from istar.media import check_sound

        check_sound(written_as.sound, target)
