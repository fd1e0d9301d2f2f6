"""The pictures of a job's window: its finished clips, and the one under way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from istar.generation.preview import preview_latent
from istar.generation.schedule import Step
from istar.generation.state import JobState
from istar.inputs import Inputs, picture_size
from istar.networks import Networks
from istar.opening import begins_with_image
from istar.plan import Plan


@dataclass(frozen=True, kw_only=True)
class WindowPictures:
    """Decodes the clips of the window under way.

    Attributes:
        networks: the loaded model.
        inputs: the picture or clip that the job starts from.
        plan: its windows.
        read: how many of its last pictures the next window reads.
        continued: another job continues this one, and may read pictures too.
    """

    networks: Networks
    inputs: Inputs
    plan: Plan
    read: int
    continued: bool

    def of_finished_clip(self, state: JobState) -> Iterator[Tensor]:
        """The pictures that are left of the clip that is decoded next, as `of_clip` gives them."""
        assert state.generation is not None
        return self.of_clip(state.generation.latents, state, clip=state.decoded, skip=state.shown)

    def taken(self, pictures: Iterator[Tensor], state: JobState) -> tuple[JobState, Tensor]:
        """Take the next pictures of the clip that is decoded.

        Args:
            pictures: from `of_finished_clip`.
            state: where the job is.

        Returns:
            where it is then, and the pictures, `(F, H, W, 3)`, uint8.
        """
        generation, clip = state.generation, state.decoded
        assert generation is not None
        frames = next(pictures)
        if not state.shown:
            frames = self.with_first(frames, generation.steps[0], state, clip=clip)
        state = replace(state, shown=state.shown + 1, tail=tail_with(state, frames, self.read))
        if state.shown == generation.latents[clip].shape[2]:
            state = replace(state, decoded=clip + 1, shown=0)
        return state, frames

    def of_clip(
        self, latents: tuple[Tensor, ...], state: JobState, *, clip: int, skip: int = 0
    ) -> Iterator[Tensor]:
        """The pictures of one of the window's clips, of a latent frame at a time.

        The decoder's causal convolutions look back at what is before: the window's other clips, or
        in the interactive mode the clip before.

        Args:
            latents: `(1, C, T, H, W)` of the window's clips.
            state: where the job is.
            clip: which of them.
            skip: latent frames of it whose pictures are not wanted.

        Yields:
            `(F, H, W, 3)`, uint8.
        """
        before = latents[:clip]
        if self.plan.windows[state.window].interactive:
            assert state.former is not None
            before = (state.former[:, :, 1:],)
        skip += sum(latent.shape[2] for latent in before)
        whole = torch.cat((*before, latents[clip]), dim=2)
        # Those that become bits are decoded in one way only.
        become_bits = self.read > 0 or self.continued
        return self.networks.pictures(whole, skip=skip, whole=become_bits)

    def with_first(self, frames: Tensor, first_step: Step, state: JobState, *, clip: int) -> Tensor:
        """The first pictures of a clip, `(F, H, W, 3)`, behind a new video's first one.

        That is the image that the video is made from, else a copy of the second: the released
        reference overwrites a video's first picture with the second, too.

        Args:
            frames: from the clip's beginning.
            first_step: of the window.
            state: where the job is.
            clip: which clip of the window.
        """
        if clip != 1 or not begins_with_image(first_step, self.plan.windows[state.window]):
            return frames
        image = self.inputs.image_of(state.window)
        return torch.cat((frames[:1] if image is None else image, frames))

    def under_way(self, state: JobState) -> Tensor:
        """The clip under way, `(F, H, W, 3)`, uint8, decoded from its canvas so far.

        What is finer than the canvas is taken from the frame before, where the two agree. After a
        clip's last step these are its finished pictures, and between two windows there are none.
        """
        generation = state.generation
        if generation is None or not generation.position:
            size = picture_size(self.plan.template, self.plan.spec)
            return torch.zeros(0, *size, 3, dtype=torch.uint8)
        latents = generation.latents
        last = generation.steps[generation.position - 1]
        if not last.ends_clip:
            before = state.former if not latents else latents[-1]
            frame = None if before is None else before[:, :, -1:]
            latents = (*latents, preview_latent(generation.canvas.total, last.grid, frame))
        clip = len(latents) - 1
        frames = torch.cat(list(self.of_clip(latents, state, clip=clip)))
        return self.with_first(frames, generation.steps[0], state, clip=clip)


def tail_with(state: JobState, frames: Tensor, count: int) -> tuple[Tensor, ...]:
    """A job's last pictures after more of them, no more than are read.

    Copies, since the pictures themselves are handed out.

    Args:
        state: where the job is.
        frames: `(F, H, W, 3)`.
        count: how many are read.
    """
    if not count:
        return ()
    tail = (*state.tail, frames[-count:].clone())
    while sum(map(len, tail[1:])) >= count:
        tail = tail[1:]
    return tail
