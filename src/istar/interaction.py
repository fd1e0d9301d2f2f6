"""The interactive mode: a video that goes on prompt by prompt.

Each prompt's five seconds are one clip, generated alone, with two more runs of tokens to look at:
the twenty latent frames before, coarse, and the first frame and the last two in full.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from istar.errors import CheckpointError
from istar.events import ClipReady, Event, Note, Progress
from istar.generation.loop import read_scene
from istar.generation.plan import CLIP_SECONDS, Window
from istar.generation.schedule import CLIP_FRAMES, ClipPlan, steps
from istar.memory import explained_memory_errors
from istar.request import check_prompt
from istar.take import Take
from istar.video_tokenizer.config import FRAMES_PER_SECOND
from istar.video_tokenizer.conv import FrameHistory
from istar.windows import last_pictures, run_window

_CLIP_PICTURES = CLIP_SECONDS * FRAMES_PER_SECOND


class InteractiveSession:
    """A video under way.

    Attributes:
        former: `(1, C, 21, H, W)`: latents of the last five seconds; None before the start.
        first: `(1, C, 1, H, W)`: the first of them as the session began.

    Raises:
        CheckpointError: the model cannot interact.
    """

    def __init__(self, take: Take) -> None:
        config = take.engine.spec.interact
        if config is None:
            raise CheckpointError(f"the {take.engine.spec.name} model cannot interact")
        self._take = take
        self._config = config
        self._sampling = take.sampling(config.sampling)
        self.former: Tensor | None = None
        self.first: Tensor | None = None

    def say(self, prompt: str) -> Iterator[Event]:
        """Five seconds of what the prompt says; before the first, the given clip.

        Without a clip the first prompt's five seconds start the video.

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
                start = Window(given_seconds=0, new_seconds=CLIP_SECONDS)
                latents = yield from run_window(self._take, prompt, start)
                self.former = torch.cat(latents, dim=2)
                self.first = self.former[:, :, :1]
                return
            if self.former is None and clip is not None:
                yield ClipReady(frames=clip, from_input=True)
                self.former = self._take.engine.encode(last_pictures(clip, _CLIP_PICTURES + 1))
                self.first = self.former[:, :, :1]
            yield from self._go_on(prompt)

    def _go_on(self, prompt: str) -> Iterator[Event]:
        assert self.former is not None
        assert self.first is not None
        engine = self._take.engine
        scales = engine.spec.pixel_budget.scales(self._take.inputs.template)
        clip = ClipPlan(frames=CLIP_FRAMES, repeats=self._config.repeats)
        schedule = steps([clip], scales, semantic_scales=engine.spec.semantic_scales)
        texts, notes = self._take.texts(prompt, CLIP_SECONDS, self._sampling)
        yield from (Note(text=note) for note in notes)
        with torch.inference_mode():
            scene = read_scene(
                engine.transformer, self.former, self.first, scales[self._config.context_scale]
            )
        taken = engine.take_steps(
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
                frames = engine.decode(both, FrameHistory())
                self.former = both[:, :, -CLIP_FRAMES - 1 :]
                yield ClipReady(frames=frames[-_CLIP_PICTURES:])
