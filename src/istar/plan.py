"""A request's length as windows: the passes that the network makes, one after another.

A window is one schedule with a context of its own. The first makes a video from nothing or from a
picture; every later one takes the last seconds of what is there as its first clips, their bits
given, and adds one clip.
"""

from __future__ import annotations

from dataclasses import dataclass

from istar.generation.schedule import (
    LATENT_FRAMES_PER_SECOND,
    Step,
    Template,
    clip_lengths,
    clip_plans,
    steps,
)
from istar.model_spec import ModelSpec
from istar.video_tokenizer.config import FRAMES_PER_SECOND


@dataclass(frozen=True, kw_only=True)
class Window:
    """One pass.

    Attributes:
        given_seconds: whole seconds of video that its first clips show again; 0 starts a video.
        new_seconds: seconds that it adds.
    """

    given_seconds: int
    new_seconds: float

    @property
    def seconds(self) -> float:
        """Length of the whole window."""
        return self.given_seconds + self.new_seconds

    @property
    def given_pictures(self) -> int:
        """Pictures that its given clips are made of."""
        return FRAMES_PER_SECOND * self.given_seconds + 1 if self.given_seconds else 0

    def clip_lengths(self, spec: ModelSpec) -> tuple[int, ...]:
        """Latent frames of each clip, the given ones first, as a model cuts video."""
        new = int(self.new_seconds * LATENT_FRAMES_PER_SECOND)
        if not self.given_seconds:
            return clip_lengths(1 + new, spec.clip_frames, spec.pyramid)
        return (1, self.given_seconds * LATENT_FRAMES_PER_SECOND, new)

    def steps(self, spec: ModelSpec, template: Template) -> tuple[Step, ...]:
        """The window's schedule for one model."""
        clips = clip_plans(
            self.clip_lengths(spec),
            image_repeats=spec.image_repeats,
            video_repeats=spec.video_repeats,
        )
        scales = spec.pixel_budget.scales(template)
        return steps(clips, scales, semantic_scales=spec.semantic_scales, context=spec.context)


def windows_from_start(seconds: float, spec: ModelSpec) -> tuple[Window, ...]:
    """The windows of a new video; 0 seconds are a picture."""
    first = min(seconds, spec.max_seconds)
    rest = windows_after(first, seconds - first, spec)
    return (Window(given_seconds=0, new_seconds=first), *rest)


def windows_after(shown: float, seconds: float, spec: ModelSpec) -> tuple[Window, ...]:
    """The windows that add `seconds` to a video of `shown` seconds.

    Sixteen pictures count as one second, although the network's first second is seventeen: where
    only that one is missing, the first picture is shown to the network twice.
    """
    windows = []
    while seconds > 0:
        new = min(seconds, spec.clip_seconds)
        given = min(int(shown), spec.clip_seconds)
        windows.append(Window(given_seconds=given, new_seconds=new))
        shown += new
        seconds -= new
    return tuple(windows)
