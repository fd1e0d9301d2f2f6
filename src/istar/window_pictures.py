"""The pictures of a job's window: its finished clips, and the one under way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from istar.generation.preview import preview_latent
from istar.generation.state import JobState
from istar.inputs import picture_size
from istar.opening import Opening


@dataclass(frozen=True, kw_only=True)
class WindowPictures:
    """Decodes the clips of the window under way.

    Attributes:
        opening: what windows are opened with.
        continued: another job continues this one, and may read pictures too.
    """

    opening: Opening
    continued: bool

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
        if self.opening.plan.windows[state.window].interactive:
            assert state.former is not None
            before = (state.former[:, :, 1:],)
        skip += sum(latent.shape[2] for latent in before)
        whole = torch.cat((*before, latents[clip]), dim=2)
        # Those that become bits are decoded in one way only.
        become_bits = self.opening.pictures_read(state) > 0 or self.continued
        return self.opening.networks.pictures(whole, skip=skip, whole=become_bits)

    def with_first(self, frames: Tensor, state: JobState, *, clip: int) -> Tensor:
        """The first pictures of a clip, `(F, H, W, 3)`, behind a new video's first one.

        That is the image that the video is made from, else a copy of the second: the released
        reference overwrites a video's first picture with the second, too.

        Args:
            frames: from the clip's beginning.
            state: where the job is.
            clip: which clip of the window.
        """
        if clip != 1 or not self.opening.begins_with_image(state.window):
            return frames
        image = self.opening.inputs.image_of(state.window)
        return torch.cat((frames[:1] if image is None else image, frames))

    def under_way(self, state: JobState) -> Tensor:
        """The clip under way, `(F, H, W, 3)`, uint8, decoded from its canvas so far.

        What is finer than the canvas is taken from the frame before, where the two agree. After a
        clip's last step these are its finished pictures; between two windows it is empty.
        """
        generation, plan = state.generation, self.opening.plan
        if generation is None or not generation.position:
            return torch.zeros(0, *picture_size(plan.template, plan.spec), 3, dtype=torch.uint8)
        latents = generation.latents
        last = generation.steps[generation.position - 1]
        if not last.ends_clip:
            before = state.former if not latents else latents[-1]
            frame = None if before is None else before[:, :, -1:]
            latents = (*latents, preview_latent(generation.canvas.total, last.grid, frame))
        clip = len(latents) - 1
        frames = torch.cat(list(self.of_clip(latents, state, clip=clip)))
        return self.with_first(frames, state, clip=clip)


class FinishedClips:
    """Decodes a job's finished clips, a latent frame at a time.

    What is being decoded holds much. It is kept from one frame to the next; after a failure, or in
    another state than the one that it came to, the clip is begun again behind what was shown.
    """

    def __init__(self) -> None:
        self._kept: tuple[JobState, Iterator[Tensor]] | None = None

    def next(self, window: WindowPictures, state: JobState) -> tuple[JobState, Tensor]:
        """Decode the next latent frame.

        Args:
            window: the one under way.
            state: where the job is, a finished clip's pictures next.

        Returns:
            where it is then, and the pictures, `(F, H, W, 3)`, uint8.
        """
        generation, clip = state.generation, state.decoded
        assert generation is not None
        kept, self._kept = self._kept, None
        if kept is not None and kept[0] is state:
            pictures = kept[1]
        else:
            pictures = window.of_clip(generation.latents, state, clip=clip, skip=state.shown)
        frames = next(pictures)
        if not state.shown:
            frames = window.with_first(frames, state, clip=clip)
        state = window.opening.with_pictures(state, frames)
        if state.shown + 1 == generation.latents[clip].shape[2]:
            return replace(state, decoded=clip + 1, shown=0), frames
        state = replace(state, shown=state.shown + 1)
        self._kept = state, pictures
        return state, frames
