"""The file that a command writes: its name, its writer, and its path on stdout at the end."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from istar.cli.console import (
    StdoutBytes,
    print_file,
    print_path,
    said_where_stdout_fails,
    say,
    voice,
)
from istar.cli.encoding import ClipOutput
from istar.cli.json_events import Made
from istar.cli.options import CommonOptions
from istar.clip_format import clip_format, is_numbered
from istar.errors import IstarError, MediaError, UsageError
from istar.files import existing_parent, expanded, temporary_path, writing_failed
from istar.output_names import SLASHES, output_path, usual_suffix
from istar.output_templates import NameTemplate, is_template
from istar.request import GenerationRequest, Mode
from istar.video_tokenizer.config import FRAMES_PER_SECOND

if TYPE_CHECKING:
    from torch import Tensor

    from istar.media import ClipWriter, NumberedPicturesWriter
    from istar.pipeline import InfinityStarPipeline
    from istar.take import Take

STDOUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


class OutputFile:
    """A picture or a clip being written.

    Attributes:
        target: the name that it has, or will have.
        written_as: how, if it is a clip.
        stays: it outlasts the command; what goes to stdout does not.
        written: something is in it.

    Args:
        target: its name.
        written_as: how, if it is a clip.
        overwrite: it may replace a file.
        has_settings: it holds how it was made.
        has_sidecar: a file beside it does.
        is_named: the name was asked for.
        stays: see the attributes.
        streams: it goes to stdout as it is made, and `target` is no more than its format.
    """

    def __init__(
        self,
        target: Path,
        *,
        written_as: ClipOutput,
        overwrite: bool,
        has_settings: bool = True,
        has_sidecar: bool = False,
        is_named: bool = False,
        stays: bool = True,
        streams: bool = False,
    ) -> None:
        self.target = target
        self._is_named = is_named
        self.written_as = written_as
        self._streams = streams
        self.stays = stays
        self.written = False
        self._overwrite = overwrite
        self._has_settings = has_settings
        self._has_sidecar = has_sidecar

    @property
    def words(self) -> list[str]:
        """The options of a command that writes it in the same way, under the name asked for."""
        words = self.written_as.words
        words += [] if self._has_settings else ["--no-metadata"]
        words += ["--sidecar"] if self._has_sidecar else []
        return [*words, "-o", str(self.target)] if self._is_named else words

    @contextmanager
    def writing(
        self,
        pipeline: InfinityStarPipeline,
        made: GenerationRequest | Take,
        *,
        kept: int = 0,
        deadline: float | None = None,
        unfinished: bool = False,
    ) -> Iterator[Writer]:
        """Write it piece by piece; it appears under its name when the block ends well.

        What was written before stays as it was until then.

        Args:
            pipeline: the model, kept in the file with the request's settings.
            made: the request that makes it, with every prompt so far, or the take that it is
                decoded from.
            kept: of a clip that was written before, so many pictures come first.
            deadline, unfinished: see `istar.file_settings.FileSettings`.
        """
        request = made if isinstance(made, GenerationRequest) else made.request
        metadata = pipeline.metadata(
            made, encoding=self.written_as.encoding, deadline=deadline, unfinished=unfinished
        )
        with ExitStack() as stack:
            writer = Writer(
                self.target,
                stack,
                is_picture=request.mode == "t2i",
                written_as=self.written_as,
                metadata=metadata if self._has_settings else {},
                overwrite=self._overwrite or self.written,
                kept=kept,
                streams=self._streams,
            )
            yield writer
            if self._streams:
                writer.end_stream()
        writer.say_sound()
        if writer.size is not None:
            frames, fps = kept + writer.pictures, self.written_as.encoding.fps
            voice().made = Made(
                model=pipeline.spec.name,
                seed=request.seed,
                frames=frames,
                seconds=frames / (fps or FRAMES_PER_SECOND) if frames > 1 else 0.0,
                width=writer.size[1],
                height=writer.size[0],
            )
        self.target = writer.written
        self.written = True
        if self._has_sidecar:
            from istar.file_settings import write_sidecar

            write_sidecar(self.target, metadata)


class Writer:
    """Takes finished frames `(F, H, W, 3)`.

    Attributes:
        pictures: how many it was given.
        size: their height and width; None before there are any.
    """

    def __init__(
        self,
        target: Path,
        stack: ExitStack,
        *,
        is_picture: bool,
        written_as: ClipOutput,
        metadata: dict[str, str],
        overwrite: bool,
        kept: int,
        streams: bool,
    ) -> None:
        self.pictures = 0
        self.size: tuple[int, int] | None = None
        self._target = target
        self._stack = stack
        self._is_picture = is_picture
        self._written_as = written_as
        self._metadata = metadata
        self._overwrite = overwrite
        self._kept = kept
        self._stdout = StdoutBytes() if streams else None
        self._clip: ClipWriter | NumberedPicturesWriter | None = None

    def write(self, frames: Tensor) -> None:
        """Append frames; of a picture there is one."""
        self.pictures += len(frames)
        self.size = (frames.shape[1], frames.shape[2])
        with self._stdout_failures_said():
            if self._is_picture:
                self._write_picture(frames[0])
                return
            if self._clip is None:
                self._clip = self._stack.enter_context(self._clip_writer(*frames.shape[1:3]))
            self._clip.write(frames)

    def _write_picture(self, pixels: Tensor) -> None:
        from istar.media import encode_png, texts_that_fit, write_picture

        if self._stdout is not None:
            self._stdout.write(encode_png(pixels, self._metadata))
            return
        if texts_that_fit(self._metadata, self._target) != self._metadata:
            say(f"{self._target}: a JPEG holds 60 kB of text; its longest settings are cut")
        self._target = write_picture(
            pixels,
            self._target,
            overwrite=self._overwrite,
            numbered=True,
            metadata=self._metadata,
        )

    def _clip_writer(
        self, height: int, width: int
    ) -> AbstractContextManager[ClipWriter | NumberedPicturesWriter]:
        from istar.media import open_clip_writer

        return open_clip_writer(
            self._target,
            height,
            width,
            encoding=self._written_as.encoding,
            stream=self._stdout,
            after=self._target if self._kept else None,
            kept=self._kept,
            sound=self._written_as.sound,
            metadata=self._metadata,
            overwrite=self._overwrite,
            numbered=True,
        )

    def say_sound(self) -> None:
        """Say what became of the sound that was to be kept."""
        sound = self._clip.sound if self._clip else None
        if sound is not None:
            end = f"{float(sound.end):.3g} s"
            fate = (
                f"cut at {end}, where the pictures end"
                if sound.is_cut
                else f"kept; after {end} it is silent"
            )
            say(f"the sound of {sound.name} is {fate}")

    def finish(self) -> Path:
        """Make the clip whole; gives the file that gets its name when the block ends."""
        from istar.media import ClipWriter

        assert isinstance(self._clip, ClipWriter)
        return self._clip.finish()

    def end_stream(self) -> None:
        """Send the rest of what goes to stdout."""
        if not self._is_picture:
            with self._stdout_failures_said():
                self.finish()

    def _stdout_failures_said(self) -> AbstractContextManager[None]:
        return nullcontext() if self._stdout is None else said_where_stdout_fails()

    @property
    def written(self) -> Path:
        """The name of the file, final once its block has ended."""
        return self._clip.target if self._clip else self._target


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
        target = template_path(options.output, request)
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


def field_values(request: GenerationRequest, number: int) -> dict[str, Callable[[], str | int]]:
    """What fields of a template stand for, as far as a request says."""
    return {
        "prompt": lambda: request.typed_prompt or request.prompts[0],
        "seed": lambda: request.seed,
        "number": lambda: number,
        "mode": lambda: request.mode,
    }


def template_path(text: str, request: GenerationRequest, number: int = 1) -> Path:
    """The name of a file by a template, where the model is not known.

    Args:
        text: as typed.
        request: what is made.
        number: its place among all, from 1.

    Raises:
        UsageError: as `NameTemplate.parse`, or a field that other commands do not know.
    """
    template = NameTemplate.parse(text, suffix=usual_suffix(request.mode))
    values = field_values(request, number)
    for field in template.fields - values.keys():
        raise UsageError(f"'{text}': {{{field}}} is for t2i, t2v, i2v and extend")
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
