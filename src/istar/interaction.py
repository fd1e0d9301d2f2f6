"""The interactive mode: a video that goes on prompt by prompt.

What a prompt brings is one full clip, in the released model five seconds, generated alone with two
more runs of tokens to look at: the clip before, coarse, and the first frame and the last two in
full.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from istar.errors import CheckpointError
from istar.events import ClipReady, Event, Note, Progress
from istar.generation.loop import read_scene
from istar.generation.schedule import ClipPlan, steps
from istar.placement import explained_memory_errors
from istar.plan import Window
from istar.request import check_prompt
from istar.take import Take
from istar.video_tokenizer.config import FRAMES_PER_SECOND
from istar.video_tokenizer.conv import FrameHistory
from istar.windows import last_pictures, run_window


class InteractiveSession:
    """A video under way.

    Attributes:
        former: `(1, C, clip + 1, H, W)`: latents of the last full clip and of the frame before it;
            None before the start.
        first: `(1, C, 1, H, W)`: the first of them as the session began.

    Raises:
        CheckpointError: the model cannot interact.
    """

    def __init__(self, take: Take) -> None:
        spec = take.networks.spec
        config = spec.interact
        if config is None:
            raise CheckpointError(f"the {spec.name} model cannot interact")
        self._take = take
        self._spec = spec
        self._clip_pictures = spec.clip_seconds * FRAMES_PER_SECOND
        self._config = config
        self._sampling = config.sampling.for_request(take.request)
        self.former: Tensor | None = None
        self.first: Tensor | None = None

    def say(self, prompt: str) -> Iterator[Event]:
        """A full clip of what the prompt says; before the first, the given clip.

        Without a clip the first prompt's clip starts the video.

        Raises:
            UsageError: the prompt is empty or unusable.
            DeviceError: memory ran out.
            GenerationError: the network's output is not a number.
        """
        check_prompt(prompt)
        with explained_memory_errors("generating"):
            clip = self._take.inputs.clip
            if self.former is None:
                yield from (Note(text=text) for text in self._take.notes())
            if self.former is None and clip is None:
                start = Window(given_seconds=0, new_seconds=self._spec.clip_seconds)
                latents = yield from run_window(self._take, prompt, start)
                self.former = torch.cat(latents, dim=2)
                self.first = self.former[:, :, :1]
                return
            if self.former is None and clip is not None:
                yield ClipReady(frames=clip, from_input=True)
                shown = last_pictures(clip, self._clip_pictures + 1)
                self.former = self._take.networks.encode(shown)
                self.first = self.former[:, :, :1]
            yield from self._go_on(prompt)

    def _go_on(self, prompt: str) -> Iterator[Event]:
        assert self.former is not None
        assert self.first is not None
        networks, spec = self._take.networks, self._spec
        scales = spec.pixel_budget.scales(self._take.inputs.template)
        clip = ClipPlan(frames=spec.clip_frames, repeats=self._config.repeats)
        schedule = steps([clip], scales, semantic_scales=spec.semantic_scales)
        texts, notes = self._take.texts(prompt, spec.clip_seconds, self._sampling)
        yield from (Note(text=note) for note in notes)
        with torch.inference_mode():
            scene = read_scene(
                networks.transformer, self.former, self.first, scales[self._config.context_scale]
            )
        taken = networks.take_steps(
            schedule, texts, self._sampling, self._take.generator, scene=scene
        )
        for step, latent in taken:
            yield Progress(
                done=step.index + 1,
                total=len(schedule),
                clip=step.clip,
                scale=step.scale,
                tokens=step.grid.tokens,
                given=False,
            )
            if latent is not None:
                both = torch.cat((self.former[:, :, 1:], latent), dim=2)
                frames = networks.decode(both, FrameHistory())
                self.former = both[:, :, -spec.clip_frames - 1 :]
                yield ClipReady(frames=frames[-self._clip_pictures :])
