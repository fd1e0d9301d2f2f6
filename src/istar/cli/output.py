"""The file that a command writes: its name, its writer, and its path on stdout at the end."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from istar.cli.console import print_file, print_path, say
from istar.cli.options import CommonOptions
from istar.errors import IstarError, UsageError
from istar.files import output_path, unfinished
from istar.request import GenerationRequest

if TYPE_CHECKING:
    from torch import Tensor

    from istar.pipeline import InfinityStarPipeline
    from istar.take import Take

STDOUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


class OutputFile:
    """A picture or a clip being written.

    Attributes:
        target: the name that it has, or will have.
        stays: it outlasts the command; what goes to stdout does not.
        written: something is in it.
    """

    def __init__(self, target: Path, *, overwrite: bool, stays: bool = True) -> None:
        self.target = target
        self.stays = stays
        self.written = False
        self._overwrite = overwrite

    @contextmanager
    def writing(
        self, pipeline: InfinityStarPipeline, made: GenerationRequest | Take, *, kept: int = 0
    ) -> Iterator[Writer]:
        """Write it piece by piece; it appears under its name when the block ends well.

        What was written before stays as it was until then.

        Args:
            pipeline: the model, kept in the file with the request's settings.
            made: the request that makes it, with every prompt so far, or the take that it is
                decoded from.
            kept: of a clip that was written before, so many pictures come first.
        """
        request = made if isinstance(made, GenerationRequest) else made.request
        with ExitStack() as stack:
            writer = Writer(
                self.target,
                stack,
                is_picture=request.mode == "t2i",
                metadata=pipeline.metadata(made),
                overwrite=self._overwrite or self.written,
                kept=kept,
            )
            yield writer
        self.target = writer.written
        self.written = True


class Writer:
    """Takes finished frames `(F, H, W, 3)`.

    Attributes:
        pictures: how many it was given.
    """

    def __init__(
        self,
        target: Path,
        stack: ExitStack,
        *,
        is_picture: bool,
        metadata: dict[str, str],
        overwrite: bool,
        kept: int,
    ) -> None:
        from istar.media import ClipWriter

        self.pictures = 0
        self._target = target
        self._stack = stack
        self._is_picture = is_picture
        self._metadata = metadata
        self._overwrite = overwrite
        self._kept = kept
        self._clip: ClipWriter | None = None

    def write(self, frames: Tensor) -> None:
        """Append frames; of a picture there is one."""
        from istar.media import ClipWriter, texts_that_fit, write_picture

        self.pictures += len(frames)
        if self._is_picture:
            if texts_that_fit(self._metadata, self._target) != self._metadata:
                say(f"{self._target}: a JPEG holds 60 kB of text; its longest settings are cut")
            self._target = write_picture(
                frames[0],
                self._target,
                overwrite=self._overwrite,
                numbered=True,
                metadata=self._metadata,
            )
            return
        if self._clip is None:
            self._clip = self._stack.enter_context(
                ClipWriter(
                    self._target,
                    frames.shape[1],
                    frames.shape[2],
                    after=self._target if self._kept else None,
                    kept=self._kept,
                    metadata=self._metadata,
                    overwrite=self._overwrite,
                    numbered=True,
                )
            )
        self._clip.write(frames)

    @property
    def written(self) -> Path:
        """The name of the file, final once its block has ended."""
        return self._clip.target if self._clip else self._target


@contextmanager
def output_file(options: CommonOptions, request: GenerationRequest) -> Iterator[OutputFile]:
    """The file to write, its name settled and refused early; its path printed at the end.

    Raises:
        UsageError: stdout is a terminal and the bytes should go there; the suffix does not fit.
        MediaError: the directory is missing or not writable.
    """
    suffix = ".png" if request.mode == "t2i" else ".mp4"
    if options.output not in STDOUT:
        target = output_path(
            options.output,
            default_stem=f"istar-{request.mode}",
            suffix=suffix,
            overwrite=options.overwrite,
        )
        output = OutputFile(target, overwrite=options.overwrite)
        yield output
        print_path(output.target)
        return
    if sys.stdout.isatty():
        raise UsageError("stdout is a terminal; send it to a file, or name one with --output")
    directory = Path(tempfile.mkdtemp(prefix="istar-"))
    output = OutputFile(directory / f"output{suffix}", overwrite=True, stays=False)
    with ExitStack() as block:
        block.enter_context(unfinished(directory))
        block.callback(shutil.rmtree, directory, ignore_errors=True)
        yield output
        try:
            print_file(output.target)
        except IstarError as error:
            block.pop_all()
            raise IstarError(f"{error}; the file is kept as {output.target}") from error
