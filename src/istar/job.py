"""A running generation: one object that takes a step at a time and can be saved between any two.

What is saved are tokens: the bits of every step taken or given, the request, the model's identity
and the state of the random generator. Keys and values, latents and pictures are computed again
from the bits where a later step needs them, so a restored job begins at its first step with bits
that are known, and is finished by the same code as any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from istar.errors import IstarError, StateError, UsageError
from istar.events import ClipReady, Decoding, Event, Loading, Note, Progress
from istar.generation.loop import advance
from istar.generation.schedule import TEMPLATES
from istar.generation.state import GenerationState, JobState
from istar.inputs import Inputs, picture_size, read_inputs
from istar.networks import Networks
from istar.opening import Opening, begins_with_image
from istar.placement import memory_failure
from istar.plan import Plan, plan_request
from istar.request import GenerationRequest, check_prompt
from istar.saved_job import SavedJob, pack, unpack
from istar.transformer.cache import stored


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

    Example:
        >>> job = pipeline.job(request)
        >>> while not job.finished:
        ...     for event in job.advance():
        ...         print(event)
        ...     job.save("waves.job")
    """

    def __init__(
        self,
        networks: Networks,
        request: GenerationRequest,
        inputs: Inputs,
        plan: Plan,
        state: JobState,
    ) -> None:
        self.networks = networks
        self.request = request
        self.inputs = inputs
        self.plan = plan
        self.state = state
        # The network that was reported to be loaded next.
        self._announced = ""
        # Pictures that are being decoded, and the state whose next ones come next.
        self._decoding: tuple[JobState, Iterator[Tensor]] | None = None

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
            CheckpointError: the model cannot do it.
        """
        # Before the input is read: a clip may be long.
        networks.spec.check_possible(request.mode, request.seconds)
        inputs = inputs or read_inputs(request, networks.spec)
        given = 0 if inputs.clip is None else len(inputs.clip)
        plan = plan_request(request, networks.spec, inputs.template, given_pictures=given)
        generator = torch.Generator().manual_seed(request.seed).get_state()
        return cls(networks, request, inputs, plan, JobState(generator=generator))

    @property
    def finished(self) -> bool:
        """Nothing is left to do, until a prompt is added."""
        return self.state.begun and self.state.window == len(self.plan.windows)

    def add_prompt(self, prompt: str) -> None:
        """Let an interactive video continue with one more prompt: one full clip.

        Raises:
            UsageError: the prompt is empty or unusable, or the mode is not `interact`.
        """
        if self.request.mode != "interact":
            raise UsageError(f"{self.request.mode} takes one prompt; interact takes more")
        check_prompt(prompt)
        self.request = replace(self.request, prompt=(*self.request.prompts, prompt))
        self.plan = self.plan.with_prompt(prompt)

    def run(self) -> Iterator[Event]:
        """Everything that is left, event by event.

        Raises:
            DeviceError: memory ran out.
            GenerationError: the network's output is not a number.
        """
        while not self.finished:
            yield from self.advance()

    def advance(self) -> tuple[Event, ...]:
        """Do the next thing: begin, begin a window, take a step, or decode a few pictures.

        Returns:
            what there is to report; nothing when the job is finished.

        Raises:
            DeviceError: memory ran out.
            GenerationError: the network's output is not a number.
        """
        try:
            # Whatever other code has set, the networks compute in their own dtypes.
            with torch.autocast(self.networks.device.type, enabled=False):
                self.state, events = self._next()
            return events
        except Exception as error:
            failure = memory_failure(error, "generating")
            if failure is None:
                raise
        # Only here, where nothing holds the failed step's tensors any more.
        self._decoding = None
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
        notice, clip = self.networks.spec.notice, self.inputs.clip
        texts = (*([notice] if notice else []), *self.inputs.notes)
        events: list[Event] = [Note(text=text) for text in texts]
        events += [Note(text=t, remedies=r) for t, r in self.plan.warnings(self.request)]
        if clip is not None:
            events.append(ClipReady(frames=clip, from_input=True))
        tail = () if clip is None else self._tail_with(clip, window=0)
        return replace(self.state, begun=True, tail=tail), tuple(events)

    def _begin_window(self) -> tuple[JobState, tuple[Event, ...]]:
        # What takes long is reported before it is done.
        texts = self._opening.texts_from(self.state)
        for is_read in (self.networks.has_read(texts), True):
            part = self.networks.loads_next(texts=not is_read)
            if part and part != self._announced:
                self._announced = part
                return self.state, (Loading(part=part),)
            if not is_read:
                self.networks.read_texts(texts)
        self._announced = ""
        state, notes = self._opening.open(self.state)
        return state, tuple(Note(text=text) for text in notes)

    def _take_step(self, generation: GenerationState) -> tuple[JobState, tuple[Event, ...]]:
        step = generation.next_step
        sampling = self.plan.sampling(self.state.window, self.request)
        networks = self.networks
        with torch.inference_mode():
            generation = advance(
                networks.transformer, generation, sampling, together=networks.plan.together
            )
        before, total = self._steps_before()
        progress = Progress(
            done=before + step.index + 1,
            total=total,
            clip=step.clip,
            scale=step.scale,
            tokens=step.grid.tokens,
            given=step.index in generation.given,
        )
        # A finished clip that is not shown is decoded no further than the next one looks back.
        window, decoded = self.plan.windows[self.state.window], self.state.decoded
        while decoded < len(generation.latents) and not self._opening.shows(
            decoded, generation, window
        ):
            decoded += 1
        state = replace(self.state, generation=generation, decoded=decoded)
        if state.decodes_next:
            return state, (progress, Decoding(clip=decoded))
        return state, (progress,)

    def _decode(self, generation: GenerationState) -> tuple[JobState, tuple[Event, ...]]:
        """The next latent frame's pictures of the clip that is finished."""
        state, clip = self.state, self.state.decoded
        window = self.plan.windows[state.window]
        latent = generation.latents[clip]
        # 1. What is being decoded holds much; it is dropped where the state is not the one it has
        # come to, after a failure, and begun again.
        decoding, self._decoding = self._decoding, None
        if decoding is None or decoding[0] is not state:
            decoding = (state, self._pictures(generation))
        pictures = decoding[1]
        frames = next(pictures)
        # 2. A new video's first picture.
        if clip == 1 and begins_with_image(generation, window) and not state.shown:
            frames = torch.cat((self._first_picture(frames), frames))
        tail = self._tail_with(frames, window=state.window + 1)
        # 3. After its last pictures the clip ends, and after its last clip the window.
        if state.shown + 1 < latent.shape[2]:
            state = replace(state, shown=state.shown + 1, tail=tail)
            self._decoding = (state, pictures)
            return state, (ClipReady(frames=frames),)
        state = replace(state, decoded=clip + 1, shown=0, tail=tail)
        if window.interactive:
            assert state.former is not None
            both = torch.cat((state.former, latent), dim=2)
            state = replace(state, former=both[:, :, -self.plan.spec.clip_frames - 1 :])
        if generation.finished and not state.decodes_next:
            state = self._end_window(state, generation)
        return state, (ClipReady(frames=frames),)

    def _pictures(self, generation: GenerationState) -> Iterator[Tensor]:
        """The pictures of the finished clip from the first that is not handed out.

        The decoder's causal convolutions look back at what is before: the window's other clips, or
        in the interactive mode the clip before.
        """
        state = self.state
        before = generation.latents[: state.decoded]
        if self.plan.windows[state.window].interactive:
            assert state.former is not None
            before = (state.former[:, :, 1:],)
        skip = sum(latent.shape[2] for latent in before) + state.shown
        latents = torch.cat((*before, generation.latents[state.decoded]), dim=2)
        is_read = self._opening.pictures_read(state.window + 1) > 0
        return self.networks.pictures(latents, skip=skip, whole=is_read)

    def _end_window(self, state: JobState, generation: GenerationState) -> JobState:
        former, first = state.former, state.first
        if self.request.mode == "interact" and former is None:
            former = torch.cat(generation.latents, dim=2)
            first = former[:, :, :1]
        return replace(
            state,
            bits=(*state.bits, dict(enumerate(generation.bits))),
            generation=None,
            generator=generation.generator,
            former=former,
            first=first,
        )

    @property
    def _opening(self) -> Opening:
        return Opening(
            networks=self.networks, request=self.request, inputs=self.inputs, plan=self.plan
        )

    def _first_picture(self, after: Tensor) -> Tensor:
        """A new video's first picture: the image that it is made from, else a copy of the second.

        The released reference overwrites a video's first picture with the second, too.
        """
        return after[:1] if self.inputs.image is None else self.inputs.image

    def _tail_with(self, frames: Tensor, *, window: int) -> tuple[Tensor, ...]:
        """The last pictures after more of them, no more than a window reads.

        Copies, since the pictures themselves are handed out.
        """
        count = self._opening.pictures_read(window)
        if not count:
            return ()
        tail = (*self.state.tail, frames[-count:].clone())
        while sum(map(len, tail[1:])) >= count:
            tail = tail[1:]
        return tail

    def _steps_before(self) -> tuple[int, int]:
        """Steps of the windows before this one, and of all; in `interact` the prompt's own."""
        counts = [len(steps) for steps in self.plan.schedules]
        if self.request.mode == "interact":
            return 0, counts[self.state.window]
        return sum(counts[: self.state.window]), sum(counts)

    # Files

    def save(self, path: Path | str) -> None:
        """Write the job; under its name it is whole or not there at all.

        Raises:
            StateError: it cannot be written.
        """
        state = self.state
        windows = dict(state.known) | dict(enumerate(state.bits))
        generator = state.generator
        if state.generation is not None:
            taken = dict(enumerate(state.generation.bits))
            windows[state.window] = {**state.generation.given, **taken}
            generator = state.generation.generator
        SavedJob(
            request=self.request.to_json(),
            template=self.plan.template.name,
            model=self.networks.spec.name,
            fingerprint=self.networks.fingerprint,
            settings=self.plan.fingerprint(self.request),
            dtype=self.networks.precision,
            generator=generator,
            packed={
                (window, step): pack(bits)
                for window, own in windows.items()
                for step, bits in own.items()
            },
            image=self.inputs.image,
            clip=self.inputs.clip,
        ).write(Path(path).expanduser())

    @classmethod
    def load(cls, path: Path | str, networks: Networks) -> Job:
        """A saved job, to be run from its first step; the steps it had taken are not sampled again.

        On the machine that saved it, in the same dtype, it ends in the same bits as if it had never
        stopped.

        Raises:
            StateError: the file is missing or damaged, or was made by another model.
        """
        saved = SavedJob.read(Path(path).expanduser())
        if saved.fingerprint != networks.fingerprint:
            raise StateError(
                f"{path} was made by the {saved.model} model, and these are other weights",
                remedies=("other_model",),
            )
        try:
            job = cls._restored(saved, networks)
            if saved.settings != job.plan.fingerprint(job.request):
                raise StateError(
                    f"{path} was made with other settings of the {saved.model} model than it has "
                    "now",
                    remedies=("other_model",),
                )
            job._restore_bits(saved)
            return job
        except StateError:
            raise
        except (IstarError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise StateError(f"{path} is a damaged job: {error}") from error

    @classmethod
    def _restored(cls, saved: SavedJob, networks: Networks) -> Job:
        """The job that a file describes, before its first step and without its bits.

        Raises:
            ValueError: something in it does not fit.
        """
        image = None if saved.image is None else saved.image[0]
        request = GenerationRequest.from_json(saved.request, image=image, clip=saved.clip)
        (template,) = (one for one in TEMPLATES if one.name == saved.template)
        size = (*picture_size(template, networks.spec), 3)
        for name, pictures, count in (("image", saved.image, 1), ("clip", saved.clip, None)):
            if (getattr(request, name) is None) != (pictures is None):
                raise ValueError(f"its {name} is missing")
            if pictures is not None and (
                pictures.dtype != torch.uint8
                or pictures.shape != (len(pictures) if count is None else count, *size)
            ):
                raise ValueError(f"its {name} has the wrong size")
        notes: tuple[str, ...] = ()
        dtype = networks.precision
        if saved.dtype != dtype:
            notes = (
                f"the job was saved in {saved.dtype} and continues in {dtype}: it may end in other "
                "pictures than without the pause",
            )
        inputs = Inputs(template=template, image=saved.image, clip=saved.clip, notes=notes)
        return cls.begin(networks, request, inputs)

    def _restore_bits(self, saved: SavedJob) -> None:
        """Take the bits of a file as known, and continue its random draws.

        Raises:
            ValueError: a window or step that the plan does not have, or one that is left out.
        """
        generator = torch.Generator()
        generator.set_state(saved.generator)
        known: dict[int, dict[int, Tensor]] = {}
        for (window, index), packed in sorted(saved.packed.items()):
            own = known.setdefault(window, {})
            if window != len(known) - 1 or index != len(own):
                raise ValueError(f"the bits before step {index} of window {window} are missing")
            if index == 0 and window and len(known[window - 1]) < len(self.plan.steps(window - 1)):
                raise ValueError(f"window {window - 1} is not complete")
            step = self.plan.steps(window)[index]
            bits = self.networks.config.bits_per_token(semantic=step.semantic)
            own[index] = unpack(packed, step.grid.tokens, bits)
        self.state = JobState(generator=generator.get_state(), known=known)
