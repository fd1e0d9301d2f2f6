"""The video of an interactive session: after every change it holds what the session has made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from istar.cli.output_writer import OutputFile, Writer
from istar.cli.session import HeldVideo, Session, WrittenFile

if TYPE_CHECKING:
    from torch import Tensor

    from istar.generation.state import TakeWindow
    from istar.job import Job
    from istar.pipeline import InfinityStarPipeline
    from istar.take import Take


class Film:
    """A video file that follows a job whose windows come, go and are exchanged.

    Clips at its beginning that the job still has are copied as they are; others are written from
    the pictures that the job hands out. A clip looks at no other one in the file, so that any can
    be the last. A file that is not as it was written here is left alone, and another one begun.
    """

    def __init__(
        self, pipeline: InfinityStarPipeline, output: OutputFile, session: Session
    ) -> None:
        self._pipeline = pipeline
        self._output = output
        self._session = session
        output.written = session.owns_video()

    @property
    def path(self) -> Path:
        """The file."""
        return self._output.target

    def holds(self, take: Take) -> int:
        """How many of a take's windows, from the first, are in the file."""
        known = self._session.settings.held
        if known is None or not self._session.has_video():
            self._output.written = self._session.owns_video()
            return 0
        count = 0
        for window, theirs in zip(take.windows, known.windows, strict=False):
            if not window.is_whole or window_hash(window) != theirs:
                break
            count += 1
        return count

    def follow(self, job: Job, pictures: Iterator[Tensor]) -> None:
        """Let the file hold all windows of a job, and no others.

        Args:
            job: before its next steps.
            pictures: `(F, H, W, 3)` each: what the job hands out until it is finished. That is of
                all windows that the file does not hold.
        """
        import torch

        from istar.inputs import picture_size

        held, windows = self.holds(job.take()), len(job.plan.windows)
        # 1. A window at a time, so that its clip stands for itself.
        for number in range(held, windows):
            with self._writing(job, number) as writer:
                for frames in pictures:
                    writer.write(frames)
                    if len(job.state.windows) > number:
                        break
        # 2. The steps to where the next prompt begins.
        for _ in pictures:
            pass
        # 3. Where clips are only taken away, no pictures come.
        known = self._session.settings.held
        if known is not None and len(known.windows) > windows:
            size = picture_size(job.plan.template, self._pipeline.spec)
            with self._writing(job, windows) as writer:
                writer.write(torch.zeros(0, *size, 3, dtype=torch.uint8))

    @contextmanager
    def _writing(self, job: Job, number: int) -> Iterator[Writer]:
        """Write pictures behind so many windows; then the session knows what the file holds."""
        known = self._session.settings.held
        kept = known.pictures[number - 1] if known is not None and number else 0
        with self._output.writing(self._pipeline, job.take(), kept=kept) as writer:
            yield writer
            # Between here and the record below a crash leaves this file under the video's name.
            self._session.update(next_file=WrittenFile.of(writer.finish()))
        ends = known.pictures[:number] if known is not None else ()
        windows = job.state.windows[: number + 1]
        if writer.pictures:
            ends = (*ends, kept + writer.pictures)
        self._session.update(
            video=self._session.seen_from_here(self.path),
            held=HeldVideo(
                windows=tuple(map(window_hash, windows)),
                pictures=ends,
                file=WrittenFile.of(self.path),
            ),
            next_file=None,
        )


def window_hash(window: TakeWindow) -> str:
    """The sha256 of a window's bits."""
    digest = sha256()
    for _, bits in sorted(window.bits.items()):
        digest.update(bits.numpy().tobytes())
    return digest.hexdigest()
