"""The events of a running generation, and its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from istar.errors import Remedy
from istar.generation.schedule import Grid
from istar.media import write_clip, write_picture
from istar.request import GenerationRequest
from istar.video_tokenizer.config import FRAMES_PER_SECOND


@dataclass(frozen=True, kw_only=True)
class WorkDone:
    """How much of a job's work is done, and how long the rest takes.

    Attributes:
        done: floating-point operations, of steps and of decoding.
        total: of the whole request; of an interactive one, of the current prompt.
        seconds_taken: by the steps and the decoding so far.
        seconds_left: predicted from these; None before there is anything to go by.
    """

    done: int
    total: int
    seconds_taken: float
    seconds_left: float | None

    def of_several(self, number: int, count: int) -> WorkDone:
        """That of several jobs that are alike, one after the other.

        Args:
            number: which of them is under way, from 1.
            count: how many there are.
        """
        left = self.seconds_left
        each = self.seconds_taken + (left or 0.0)
        return WorkDone(
            done=(number - 1) * self.total + self.done,
            total=count * self.total,
            seconds_taken=(number - 1) * each + self.seconds_taken,
            seconds_left=None if left is None else left + (count - number) * each,
        )


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One step was taken.

    Attributes:
        done: steps taken so far, with those whose bits were given.
        total: steps of the whole request; of an interactive one, of the current prompt.
        clip: the clip of the window under way.
        scale: which scale, from 0.
        scales: how many the clip has.
        grid: frames, height and width of the scale in tokens.
        tokens: how many tokens the step had.
        given: its bits were known, from the input or a take, and were not sampled.
        work: how much is done.
    """

    done: int
    total: int
    clip: int
    scale: int
    scales: int
    grid: Grid
    tokens: int
    given: bool
    work: WorkDone


@dataclass(frozen=True, kw_only=True)
class Loading:
    """A network is loaded next, where the memory plan does not keep all of them.

    Attributes:
        part: `text encoder` or `transformer`.
    """

    part: str


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """A clip's steps are taken; its pictures come next, a few at a time.

    Attributes:
        clip: of the window under way.
        work: how much is done.
    """

    clip: int
    work: WorkDone


@dataclass(frozen=True, kw_only=True)
class ClipReady:
    """Pictures that are finished, a few at a time; all of them follow each other without a gap.

    Attributes:
        frames: `(F, H, W, 3)`, uint8, RGB, on the CPU, at 16 a second.
        from_input: they are the input's own pictures, scaled.
        work: how much is done; None of pictures that are no part of a job's work.
    """

    frames: Tensor
    from_input: bool = False
    work: WorkDone | None = None


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What the clip under way looks like so far; it comes where it was asked for.

    Attributes:
        frames: `(F, H, W, 3)`, uint8, RGB, on the CPU, at 16 a second: of the whole clip, or the
            first picture of a video.
        clip: of the window under way.
        scale: the last one that is in it, from 0.
        scales: how many the clip has.
        final: it is the finished first picture, and no scale is missing.
    """

    frames: Tensor
    clip: int
    scale: int
    scales: int
    final: bool


@dataclass(frozen=True, kw_only=True)
class Note:
    """A remark that is not an error.

    Attributes:
        text: a sentence.
        remedies: what may help, as those of an error.
        warns: what is made is not what was asked for, or may not come out well.
    """

    text: str
    remedies: tuple[Remedy, ...] = ()
    warns: bool = False


Event = Loading | Progress | Preview | Decoding | ClipReady | Note


@dataclass(frozen=True, kw_only=True)
class GenerationResult:
    """A finished picture or video.

    Attributes:
        request: of the user.
        model: the name of the model that made it.
        frames: `(F, H, W, 3)`, uint8, RGB, on the CPU; a picture is one frame.
        notes: gathered while it was made.
        metadata: what `save` writes into the file, see `istar.file_settings`.
    """

    request: GenerationRequest
    model: str
    frames: Tensor
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Length of the video; 0 for a picture."""
        return 0.0 if len(self.frames) == 1 else len(self.frames) / FRAMES_PER_SECOND

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write a PNG, JPEG or WebP picture, or an MP4 video, with its settings inside.

        Raises:
            UsageError: the suffix does not fit.
            MediaError: the file cannot be written, or exists and may not be overwritten; the sound
                that is kept cannot be copied.
        """
        target, metadata = Path(path), dict(self.metadata)
        if self.request.mode == "t2i":
            return write_picture(self.frames[0], target, overwrite=overwrite, metadata=metadata)
        return write_clip(
            self.frames,
            target,
            sound=self.request.sound,
            overwrite=overwrite,
            metadata=metadata,
        )
