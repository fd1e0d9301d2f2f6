"""The pictures of a job's window: its finished clips, and the one under way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
        become_bits: bits will be made of the pictures, so they are decoded in one way only.
    """

    networks: Networks
    inputs: Inputs
    plan: Plan
    become_bits: bool

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
        return self.networks.pictures(whole, skip=skip, whole=self.become_bits)

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
        image = self.inputs.image
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
