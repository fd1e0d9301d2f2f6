"""The file of a command, written piece by piece: under its name at the end, or to stdout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from istar.cli.console import StdoutBytes, said_where_stdout_fails, say, voice, warn
from istar.cli.encoding import ClipOutput
from istar.cli.json_events import Made
from istar.request import GenerationRequest
from istar.video_tokenizer.config import FRAMES_PER_SECOND

if TYPE_CHECKING:
    from torch import Tensor

    from istar.media import ClipWriter, NumberedPicturesWriter
    from istar.pipeline import InfinityStarPipeline
    from istar.take import Take


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
        return [*words, "-o", str(self.target.absolute())] if self._is_named else words

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
            warn(f"{self._target}: a JPEG holds 60 kB of text; its longest settings are cut")
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
