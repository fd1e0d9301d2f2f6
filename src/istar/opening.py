"""Opening a window: its given bits, its texts, and the frames that it continues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from istar.generation.loop import read_conditions, start
from istar.generation.residual import bits_of_latent
from istar.generation.schedule import Schedule
from istar.generation.state import Bits, JobState, Kept, TakeWindow
from istar.inputs import Inputs
from istar.networks import Networks, Texts
from istar.plan import Plan, interact_of
from istar.request import GenerationRequest
from istar.transformer.cache import Context
from istar.video_tokenizer.config import FRAMES_PER_SECOND, TEMPORAL_STRIDE


@dataclass(frozen=True, kw_only=True)
class Opening:
    """Everything that windows are opened with.

    Attributes:
        networks: the loaded model.
        request: what is made.
        inputs: the picture or clip it starts from.
        plan: its windows.
    """

    networks: Networks
    request: GenerationRequest
    inputs: Inputs
    plan: Plan

    def open(self, state: JobState) -> tuple[JobState, tuple[str, ...]]:
        """The job's next window before its first step, and notes for the person."""
        number = state.window
        window, steps = self.plan.windows[number], self.plan.steps(number)
        # 1. Bits that are known: of the take that is continued, else of clips that are shown again.
        current = self._tokens(number, state)
        final = state.final(number)
        kept = {
            index: Kept(current.bits[index], drawn)
            for index, drawn in current.masks.items()
            if index >= final
        }
        given = {
            index: bits
            for index, bits in current.bits.items()
            if index not in kept and index < len(steps)
        }
        # 2. What the steps look at: their texts and, interactive, the frames before.
        features: Sequence[Tensor] = ()
        notes: tuple[str, ...] = ()
        conditions: tuple[Context, ...] = ()
        if window.interactive:
            state = self._with_former(state)
        with torch.inference_mode():
            if len(given) < len(steps):
                texts = self._texts(number)
                features, notes = texts.features, texts.notes
                if window.interactive:
                    conditions = self._conditions(state)
            # 3. The window before its first step.
            networks = self.networks
            generation = start(
                networks.transformer if len(given) < len(steps) else networks.transformer_as_it_is,
                steps,
                features,
                state.generator,
                given=given,
                kept=kept,
                conditions=conditions,
                together=networks.plan.together,
            )
        opened = replace(state, generation=generation, current=current, decoded=0, shown=0)
        return opened, notes

    def pictures_read(self, state: JobState) -> int:
        """How many of the last pictures the next window to open reads; 0 after the last."""
        number = state.window + (state.generation is not None)
        if number >= len(self.plan.windows):
            return 0
        window = self.plan.windows[number]
        # An interactive window reads pictures of a clip only; its own have latents.
        if window.interactive and number == 0:
            return self.plan.spec.clip_seconds * FRAMES_PER_SECOND + 1
        return window.given_pictures

    def with_pictures(self, state: JobState, frames: Tensor) -> JobState:
        """The state with more pictures `(F, H, W, 3)`, of all the last as far as they are read."""
        count = self.pictures_read(state)
        # Copies, since the pictures themselves are handed out.
        tail = (*state.tail, frames[-count:].clone()) if count else ()
        while sum(map(len, tail[1:])) >= count > 0:
            tail = tail[1:]
        return replace(state, tail=tail)

    def first_shown(self, number: int) -> int:
        """The first of a window's clips whose pictures are new ones, to be shown.

        Given clips are not. Nor is a new video's image clip: the next clip brings its picture.
        """
        given = self.given_clips(number)
        makes_video = self.plan.windows[number].new_seconds > 0
        is_hidden = not given and self.begins_with_image(number) and makes_video
        return 1 if is_hidden else given

    def begins_with_image(self, number: int) -> bool:
        """Whether a window starts a video, or a picture, with an image clip."""
        return self.plan.steps(number)[0].image and not self.plan.windows[number].given_seconds

    def given_clips(self, number: int) -> int:
        """How many of a window's clips show what was there before."""
        window = self.plan.windows[number]
        if window.interactive:
            return 0
        return 2 if window.given_seconds else int(self.inputs.image_of(number) is not None)

    def known_steps(self, number: int, state: JobState) -> frozenset[int]:
        """Indices of a window's steps whose bits are not drawn, whatever they will be."""
        if number < len(state.known):
            tokens, final = state.known[number], state.final(number)
            return frozenset(i for i in tokens.bits if i < final or i not in tokens.masks)
        clips = self.given_clips(number)
        return frozenset(step.index for step in self.plan.steps(number) if step.clip < clips)

    def texts_from(self, state: JobState) -> tuple[str, ...]:
        """The texts that the windows from the job's next one on read."""
        wanted: dict[str, None] = {}
        for number in range(state.window, len(self.plan.windows)):
            # A window that is known whole reads none.
            if not self.knows(number, state):
                wanted[self.plan.prompt_text(number, self.request)] = None
                if self._is_guided(number) and self.request.negative_prompt:
                    wanted[self.request.negative_prompt] = None
        return tuple(wanted)

    def knows(self, number: int, state: JobState) -> bool:
        """Whether every step of a window is known: nothing is computed for it."""
        return state.final(number) == len(self.plan.steps(number))

    def continued(
        self, state: JobState, latents: Sequence[Tensor], *, by_another: bool = False
    ) -> JobState:
        """The state with the latents that an interactive video's next window looks back at.

        Args:
            state: when all clips of a window are finished.
            latents: `(1, C, T, H, W)` of each.
            by_another: that window may be of another job, which continues this one.
        """
        if self.request.mode != "interact" and not by_another:
            return state
        window, first = self.plan.windows[state.window], state.first
        if window.interactive:
            assert state.former is not None
            former = torch.cat((state.former, *latents), dim=2)
        else:
            former = torch.cat(tuple(latents), dim=2)
            if not window.given_seconds:
                first = former[:, :, :1]
        # A full clip and the frame before it; fewer do not serve.
        count = self.plan.spec.clip_frames + 1
        is_enough = former.shape[2] >= count
        return replace(state, former=former[:, :, -count:] if is_enough else None, first=first)

    def _tokens(self, number: int, state: JobState) -> TakeWindow:
        """What is known of a window before its first step."""
        if number < len(state.known):
            return state.known[number]
        schedule = self.plan.schedules[number]
        bits = self._given_bits(number, schedule, state)
        return TakeWindow(
            schedule=schedule,
            generator=state.generator,
            bits=bits,
            given=frozenset(bits),
        )

    def _texts(self, number: int) -> Texts:
        request, text = self.request, self.plan.prompt_text(number, self.request)
        guided, empty = self._is_guided(number), not self.plan.prompts[number].strip()
        return self.networks.texts(text, request.negative_prompt, guided=guided, empty=empty)

    def _is_guided(self, number: int) -> bool:
        """Whether a window has two branches: at scale 1 guidance is the conditional one alone."""
        return self.plan.sampling(number, self.request).guidance.scale != 1

    def _with_former(self, state: JobState) -> JobState:
        """The state with the latents of the clip that an interactive video continues."""
        former, first = state.former, state.first
        if former is None:
            count = self.plan.spec.clip_seconds * FRAMES_PER_SECOND + 1
            former = self.networks.encode(last_pictures(state.tail, count))
        return replace(state, former=former, first=former[:, :, :1] if first is None else first)

    def _conditions(self, state: JobState) -> tuple[Context, ...]:
        assert state.former is not None
        assert state.first is not None
        scales = self.plan.spec.pixel_budget.scales(self.plan.template)
        grid = scales[interact_of(self.plan.spec).context_scale]
        return read_conditions(self.networks.transformer, state.former, state.first, grid)

    def _given_bits(self, number: int, schedule: Schedule, state: JobState) -> Bits:
        """The bits of every step of the given clips.

        Clips that are those of the window before keep their bits; of others the pictures are
        encoded.
        """
        window, image = self.plan.windows[number], self.inputs.image_of(number)
        count = self.given_clips(number)
        if not count:
            return {}
        given: dict[int, Tensor] = {}
        if window.given_seconds:
            if (before := self._window_before(state)) is not None:
                given |= same_clips(before, schedule, count)
            pictures = last_pictures(state.tail, window.given_pictures)
        else:
            assert image is not None
            pictures = image
        clips = [[step for step in schedule.steps if step.clip == clip] for clip in range(count)]
        missing = [own for own in clips if own[0].index not in given]
        if not missing:
            return given
        # The clips that are missing come first: all of them, or the single picture.
        lengths = [own[0].grid.frames for own in missing]
        latents = self.networks.encode(pictures[: TEMPORAL_STRIDE * (sum(lengths) - 1) + 1])
        semantic_bits = self.networks.config.semantic_bits
        for own, latent in zip(missing, latents.split(lengths, dim=2), strict=True):
            with torch.inference_mode():
                bits = bits_of_latent(latent, own, semantic_bits=semantic_bits)
            given |= {step.index: value.cpu() for step, value in zip(own, bits, strict=True)}
        return given

    def _window_before(self, state: JobState) -> TakeWindow | None:
        """The tokens of the window before the next one, of the take that is continued too."""
        if state.windows:
            return state.windows[-1]
        take = self.inputs.take
        return take.windows[-1] if take is not None else None


def same_clips(before: TakeWindow, schedule: Schedule, count: int) -> dict[int, Tensor]:
    """The bits of a schedule's first clips, of those that the window before ended with.

    The model learned to continue a clip as it was made: with all its bits, scale by scale. So bits
    can be used again where the clip has as many latent frames and the same steps; a video of one
    pass ends with both of two given clips, any other with the second.

    Args:
        before: the finished window before.
        schedule: of the window whose first `count` clips show again what was there before.
        count: how many; the last of them ends where `before` ends.
    """
    own = before.schedule
    if (own.scales, own.semantic_scales) != (schedule.scales, schedule.semantic_scales):
        return {}
    bits: dict[int, Tensor] = {}
    for back in range(1, min(count, len(own.clips)) + 1):
        if own.clips[-back] != schedule.clips[count - back]:
            break
        theirs = [step for step in own.steps if step.clip == len(own.clips) - back]
        ours = [step for step in schedule.steps if step.clip == count - back]
        bits |= {step.index: before.bits[one.index] for step, one in zip(ours, theirs, strict=True)}
    return bits


def last_pictures(shown: Sequence[Tensor], count: int) -> Tensor:
    """The last `count` pictures `(count, H, W, 3)`, the first of them doubled if one is missing.

    Args:
        shown: `(F, H, W, 3)` each, in order.
    """
    last = torch.cat(tuple(shown))[-count:]
    return last if len(last) == count else torch.cat((last[:1], last))
