"""A running generation: one object that takes a step at a time and is a take between any two.

A take holds tokens. Keys and values, latents and pictures are computed again from its bits where a
later step needs them, so a job that continues a take begins at the first step with bits that are
known, and is finished by the same code as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic

import torch
from torch import Tensor

from istar.errors import StateError, UsageError
from istar.events import ClipReady, Decoding, Event, Loading, Note, Progress
from istar.generation.loop import advance
from istar.generation.schedule import Step
from istar.generation.state import GenerationState, JobState, Position, seeded_state
from istar.generation.until import Until, stop_step
from istar.inputs import Inputs, read_inputs
from istar.networks import Networks
from istar.opening import Opening
from istar.outlook import Outlook
from istar.placement import memory_failure
from istar.plan import Plan, plan_request
from istar.previews import Previews
from istar.request import GenerationRequest, check_prompt, check_seed
from istar.resume import resumed, take_of
from istar.take import Take
from istar.transformer.cache import stored
from istar.window_pictures import FinishedClips, WindowPictures


class Job:
    """A running generation.

    A step that fails or is interrupted has not happened: `advance` may be called again, and what
    is saved is the job before that step.

    Attributes:
        networks: the loaded model.
        request: with every prompt so far, in the interactive mode.
        inputs: the picture or clip it starts from.
        plan: its windows.
        state: where it is.
        before: the job that makes the pictures of the take that it continues.

    Example:
        >>> job = pipeline.job(request)
        >>> while not job.finished:
        ...     for event in job.advance():
        ...         print(event)
        ...     job.take().save("waves.take", overwrite=True)
    """

    def __init__(
        self,
        networks: Networks,
        request: GenerationRequest,
        inputs: Inputs,
        plan: Plan,
        state: JobState,
        before: Job | None = None,
    ) -> None:
        self.networks = networks
        self.request = request
        self.inputs = inputs
        self.plan = plan
        self.state = state
        self.before = before
        # Another job continues it: its latents are wanted, and its pictures may become bits.
        self._is_continued = False
        # Of so many windows no pictures are wanted.
        self._hidden = 0
        # The network that was reported to be loaded next.
        self._announced = ""
        # Where `run` stops.
        self._until: Position | None = None
        self._outlook = Outlook()
        self._finished_clips = FinishedClips()

    @classmethod
    def begin(
        cls, networks: Networks, request: GenerationRequest, inputs: Inputs | None = None
    ) -> Job:
        """A job before its first step.

        Args:
            networks: the loaded model.
            request: the picture or video to make.
            inputs: its picture or clip if that was read before; read here when absent.

        Raises:
            UsageError: the request does not fit its input.
            MediaError: an input cannot be read.
            StateError: a take that it continues is not finished, or another model made it.
            CheckpointError: the model cannot do it.
        """
        # Before the input is read: a clip may be long.
        networks.spec.check_possible(request.mode, request.seconds)
        inputs = inputs or read_inputs(request, networks.spec)
        before = cls._continued(networks, inputs.take)
        plan = plan_request(
            request, networks.spec, inputs.template, given_pictures=inputs.given_pictures
        )
        state = JobState(generator=seeded_state(request.seed))
        return cls(networks, request, inputs, plan, state, before)

    @property
    def finished(self) -> bool:
        """Nothing is left to do, until a prompt is added."""
        state = self.state
        if state.generation is None:
            return state.begun and state.window == len(self.plan.windows)
        # A window that ends amid a clip.
        return state.generation.finished and not state.decodes_next

    @property
    def windows_shown(self) -> int:
        """Of how many windows the pictures are handed out, or will not be: the hidden ones."""
        return max(self._hidden, len(self.state.windows))

    def add_prompt(
        self,
        prompt: str,
        *,
        typed: str | None = None,
        seed: int | None = None,
        image: Path | None = None,
    ) -> None:
        """Let an interactive video continue with one more prompt: one full clip.

        Args:
            prompt: what happens.
            typed: what a person typed, where the prompt was rewritten from it.
            seed: from here on everything is drawn from it; None to continue with the draws before.
            image: a picture's file, with which the clip begins a new shot; None to continue what
                is before.

        Raises:
            MediaError: the picture cannot be read.
            UsageError: the prompt is empty or unusable, the mode is not `interact`, or there is a
                seed and what was asked before is not finished.
        """
        if self.request.mode != "interact":
            raise UsageError(f"{self.request.mode} takes one prompt; interact takes more")
        check_prompt(prompt)
        if seed is not None:
            check_seed(seed)
            if not self.finished:
                raise UsageError("a seed can be set when the prompts before are finished")
        prompts, images = self.request.prompts, self.request.images
        if image is not None:
            self.inputs = self.inputs.with_image(len(prompts), image, self.networks.spec)
            images = (*images, *[None] * (len(prompts) - len(images)), image)
        if seed is not None:
            self.state = replace(self.state, generator=seeded_state(seed))
        self.request = replace(
            self.request,
            prompt=(*prompts, prompt),
            typed_prompt=(*self.request.typed_prompts, typed or prompt),
            images=images,
        )
        self.plan = self.plan.with_prompt(prompt, anew=image is not None)

    def run(self, until: Position | None = None, *, preview: bool = False) -> Iterator[Event]:
        """Everything that is left, event by event.

        Args:
            until: stop before this step, or before the first one after it.
            preview: show what there is now and then, see `istar.previews`. Nothing else depends on
                it; after the first preview that memory does not suffice for there are no more.

        Raises:
            DeviceError: memory ran out.
            GenerationError: the network's output is not a number.
        """
        self._until = until
        previews = Previews(self.preview, wanted=preview)
        while not self.finished and not (until and self.state.position >= until):
            events = self.advance()
            yield from events
            yield from previews.after(events, self.state.generation)

    @property
    def next_step(self) -> Step | None:
        """The step that `advance` takes; None where it does something else."""
        generation = self.state.generation
        if generation is None or self.state.decodes_next or generation.finished:
            return None
        return generation.next_step

    @property
    def first_shown_clip(self) -> int:
        """The first clip of the first window whose pictures are new ones, to be shown."""
        return self._opening.first_shown(0)

    def stop(self, until: Until) -> Position:
        """Where a draft stops: in the first clip whose pictures are new ones, to be shown.

        Args:
            until: how far in it, see `istar.generation.until.stop_step`.

        Raises:
            UsageError: a scale that the model does not have, or no share.
        """
        steps, clip = self.plan.steps(0), self.first_shown_clip
        return Position(0, stop_step(self.networks.config, steps, clip, until))

    def advance(self) -> tuple[Event, ...]:
        """Do the next thing: begin, begin a window, take a step, or decode a few pictures.

        Returns:
            what there is to report; nothing when the job is finished.

        Raises:
            DeviceError: memory ran out.
            GenerationError: the network's output is not a number.
        """
        return self.attempt(self._next)

    def attempt(self, work: Callable[[], tuple[JobState, tuple[Event, ...]]]) -> tuple[Event, ...]:
        """Do work of one's own as `advance` does the next thing: where memory runs out, step down.

        Args:
            work: gives the state after it and what there is to report. After a failure for want of
                memory it has not happened, and only a note is returned.

        Raises:
            DeviceError: memory ran out, and no plan takes less.
        """
        try:
            # Whatever other code has set, the networks compute in their own dtypes.
            with torch.autocast(self.networks.device.type, enabled=False):
                self.state, events = work()
            return events
        except Exception as error:
            failure = memory_failure(error, "generating")
            if failure is None:
                raise
        # Only here, where nothing holds the failed step's tensors any more.
        plan = self.networks.step_down()
        if plan is None:
            raise failure
        self.state = self.state.with_contexts(
            lambda own: stored(own, host_from=plan.host_contexts_from)
        )
        text = f"{failure}; the run continues with the memory plan {plan.name}"
        return (Note(text=text),)

    def _next(self) -> tuple[JobState, tuple[Event, ...]]:
        generation = self.state.generation
        if self.finished:
            return self.state, ()
        if not self.state.begun:
            return self._begin()
        if generation is None:
            return self._begin_window()
        if self.state.decodes_next:
            return self._decode(generation)
        return self._take_step(generation)

    # The four things that a job does

    def _begin(self) -> tuple[JobState, tuple[Event, ...]]:
        if self.before is not None:
            # One assignment makes a step of both jobs: what is interrupted has not happened.
            self.before.state = self.state.before or self.before.state
            if not self.before.finished:
                return self._advance_before(self.before)
        notice, clip = self.networks.spec.notice, self.inputs.clip
        events: list[Event] = []
        if notice and not self._is_continued:
            events.append(Note(text=notice))
        if self.inputs.has_sound and not self.request.keeps_sound:
            events.append(Note(text=f"'{self.request.clip}': its sound is left out"))
        events += [Note(text=text, warns=True) for text in self.inputs.notes]
        if not self._is_continued:
            warnings = self.plan.warnings(self.request)
            events += [Note(text=text, remedies=helps, warns=True) for text, helps in warnings]
        state = replace(self.state, begun=True, before=None)
        if self.before is not None:
            state = replace(state, former=self.before.state.former, first=self.before.state.first)
        if clip is not None:
            state = self._opening.with_pictures(state, clip)
            if not self._hidden:
                events.append(ClipReady(frames=clip, from_input=True))
        return state, tuple(events)

    def _advance_before(self, before: Job) -> tuple[JobState, tuple[Event, ...]]:
        """The next pictures of the take that is continued; no step of it is sampled."""
        # Its own texts come first, so that a text encoder that does not stay may go.
        if part := self._load_first():
            return self.state, (Loading(part=part),)
        after, events = before._next()
        state, shown = replace(self.state, before=after), list[Event]()
        for event in events:
            if isinstance(event, ClipReady):
                state = self._opening.with_pictures(state, event.frames)
                if not self._hidden:
                    shown.append(replace(event, from_input=True))
            elif isinstance(event, Note):
                shown.append(event)
        return state, tuple(shown)

    def _begin_window(self) -> tuple[JobState, tuple[Event, ...]]:
        if part := self._load_first():
            return self.state, (Loading(part=part),)
        self._announced = ""
        state, notes = self._opening.open(self.state)
        self._outlook.plan(self._opening, state, until=self._until, hidden=self._hidden)
        return state, tuple(Note(text=text, warns=True) for text in notes)

    def _load_first(self) -> str:
        """Read the texts, and say what is loaded next: it takes long, and is reported before."""
        texts = self._opening.texts_from(self.state)
        is_known = self._opening.knows(self.state.window, self.state)
        for is_read in (self.networks.has_read(texts), True):
            part = "" if is_known else self.networks.loads_next(texts=not is_read)
            if part and part != self._announced:
                self._announced = part
                return part
            if not is_read:
                self.networks.read_texts(texts)
        return ""

    def _take_step(self, generation: GenerationState) -> tuple[JobState, tuple[Event, ...]]:
        step = generation.next_step
        sampling = self.plan.sampling(self.state.window, self.request)
        networks = self.networks
        began = monotonic()
        with torch.inference_mode():
            generation = advance(
                networks.transformer_as_it_is if generation.is_given else networks.transformer,
                generation,
                sampling,
                together=networks.plan.together,
            )
        assert self.state.current is not None
        seconds = monotonic() - began
        self._outlook.took_step(self.state.window, step.index, seconds)
        current = self.state.current.after(
            step.index, generation.bits[-1], seconds, generation.scores[-1]
        )
        # A finished clip that is not shown is decoded no further than the next one looks back.
        is_hidden, made = self.state.window < self._hidden, len(generation.latents)
        shown = made if is_hidden else self._opening.first_shown(self.state.window)
        decoded = max(self.state.decoded, min(shown, made))
        state = replace(self.state, generation=generation, current=current, decoded=decoded)
        before, total = self._steps_before()
        work = self._outlook.at(state)
        progress = Progress(
            done=before + step.index + 1,
            total=total,
            clip=step.clip,
            scale=step.scale,
            scales=len(self.plan.schedules[state.window].scales),
            grid=step.grid,
            tokens=step.grid.tokens,
            given=step.index in generation.given,
            work=work,
        )
        if state.decodes_next:
            return state, (progress, Decoding(clip=decoded, work=work))
        if is_hidden and generation.finished:
            state = self._end_window(state, generation)
        return state, (progress,)

    def _decode(self, generation: GenerationState) -> tuple[JobState, tuple[Event, ...]]:
        """The next latent frame's pictures of the clip that is finished."""
        began = monotonic()
        state, frames = self._finished_clips.next(self._pictures, self.state)
        self._outlook.decoded_frame(self.state, monotonic() - began)
        work = self._outlook.at(state)
        if generation.finished and not state.decodes_next:
            state = self._end_window(state, generation)
        return state, (ClipReady(frames=frames, work=work),)

    def _end_window(self, state: JobState, generation: GenerationState) -> JobState:
        assert state.current is not None
        return replace(
            self._opening.continued(state, generation.latents, by_another=self._is_continued),
            windows=(*state.windows, state.current),
            current=None,
            generation=None,
            generator=generation.generator,
        )

    @property
    def _opening(self) -> Opening:
        return Opening(
            networks=self.networks, request=self.request, inputs=self.inputs, plan=self.plan
        )

    @property
    def _pictures(self) -> WindowPictures:
        return WindowPictures(opening=self._opening, continued=self._is_continued)

    def _steps_before(self) -> tuple[int, int]:
        """Steps of the windows before this one, and of all; in `interact` the prompt's own."""
        counts = [len(self.plan.steps(number)) for number in range(len(self.plan.windows))]
        if self.request.mode == "interact":
            return 0, counts[self.state.window]
        return sum(counts[: self.state.window]), sum(counts)

    # Takes

    def take(self) -> Take:
        """The job as tokens, to be saved and continued, see `istar.take.Take`."""
        return take_of(self.networks, self.request, self.inputs, self.plan, self.state)

    @classmethod
    def from_take(cls, networks: Networks, take: Take, *, hidden: int = 0) -> Job:
        """A job that continues a take; the steps that are taken are not sampled again.

        On the machine that made it, in the same dtype, it ends in the same bits as if it had never
        stopped.

        Args:
            networks: the loaded model.
            take: what to continue.
            hidden: of an interactive video: no pictures are made of so many prompts and of what is
                before them, which are there already.

        Raises:
            StateError: another model or schedule made it, or what it holds does not fit together.
            UsageError: something is hidden that later windows look at.
        """
        if hidden and take.request.mode != "interact":
            raise UsageError(f"the pictures of {take.request.mode} cannot be hidden")
        job = cls(networks, *resumed(take, networks), cls._continued(networks, take.before))
        job._hidden = hidden
        return job

    @classmethod
    def _continued(cls, networks: Networks, take: Take | None) -> Job | None:
        """The job of a finished take that another continues."""
        if take is None:
            return None
        if not take.finished:
            raise StateError("the take that is continued is not finished", remedies=("finish",))
        job = cls.rendering(networks, take)
        job._is_continued = True
        return job

    @classmethod
    def rendering(cls, networks: Networks, take: Take) -> Job:
        """A job that decodes what a take holds, and ends there.

        Neither the transformer's blocks nor the text encoder are needed. Of a take that ends amid a
        clip, `preview` gives that clip afterwards.

        Raises:
            StateError: as `from_take`.
        """
        request, inputs, plan, state = resumed(take, networks, continues=False)
        before = cls._continued(networks, take.before)
        return cls(networks, request, inputs, plan.until(*take.position), state, before)

    def preview(self) -> Tensor:
        """The clip under way, `(F, H, W, 3)`, uint8, decoded from its canvas so far.

        See `istar.window_pictures.WindowPictures.under_way`.

        Raises:
            DeviceError: memory ran out; the job is as it was.
            GenerationError: the decoder's output is not a number.
        """
        try:
            with torch.autocast(self.networks.device.type, enabled=False):
                return self._pictures.under_way(self.state)
        except Exception as error:
            failure = memory_failure(error, "making a preview")
            if failure is None:
                raise
        raise failure
