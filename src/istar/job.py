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
from istar.events import ClipReady, Decoding, Event, Note, Progress
from istar.generation.loop import advance
from istar.generation.schedule import TEMPLATES
from istar.generation.state import GenerationState, JobState
from istar.inputs import Inputs, picture_size, read_inputs
from istar.networks import Networks
from istar.opening import Opening
from istar.placement import dtype_name, explained_memory_errors
from istar.plan import Plan, plan_request
from istar.request import GenerationRequest, check_prompt
from istar.saved_job import SavedJob, pack, unpack
from istar.video_tokenizer.config import FRAMES_PER_SECOND
from istar.video_tokenizer.conv import FrameHistory


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
        """Do the next thing: begin, begin a window, take a step, or decode a finished clip.

        Returns:
            what there is to report; nothing when the job is finished.

        Raises:
            DeviceError: memory ran out.
            GenerationError: the network's output is not a number.
        """
        with (
            explained_memory_errors("generating"),
            # Whatever other code has set, the networks compute in their own dtypes.
            torch.autocast(self.networks.transformer.device.type, enabled=False),
        ):
            generation = self.state.generation
            if self.finished:
                return ()
            if not self.state.begun:
                state, events = self._begin()
            elif generation is None:
                state, events = self._begin_window()
            elif self.state.decodes_next:
                state, events = self._decode_clip(generation)
            else:
                state, events = self._take_step(generation)
        if state.decodes_next:
            events = (*events, Decoding(clip=state.decoded))
        self.state = state
        return events

    # The four things that a job does

    def _begin(self) -> tuple[JobState, tuple[Event, ...]]:
        notice, clip = self.networks.spec.notice, self.inputs.clip
        texts = (*([notice] if notice else []), *self.inputs.notes)
        events: list[Event] = [Note(text=text) for text in texts]
        events += [
            Note(text=t, remedies=r) for t, r in self.plan.training_warnings(self.request.mode)
        ]
        if clip is not None:
            events.append(ClipReady(frames=clip, from_input=True))
        tail = None if clip is None else self._new_tail(clip)
        return replace(self.state, begun=True, tail=tail), tuple(events)

    def _begin_window(self) -> tuple[JobState, tuple[Event, ...]]:
        state, notes = self._opening.open(self.state)
        return state, tuple(Note(text=text) for text in notes)

    def _take_step(self, generation: GenerationState) -> tuple[JobState, tuple[Event, ...]]:
        step = generation.next_step
        sampling = self.plan.sampling(self.state.window, self.request)
        networks = self.networks
        with torch.inference_mode():
            generation = advance(
                networks.transformer, generation, sampling, together=networks.together
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
        return replace(self.state, generation=generation), (progress,)

    def _decode_clip(self, generation: GenerationState) -> tuple[JobState, tuple[Event, ...]]:
        """Decode the clip just finished, and show it if it is new.

        Given clips are decoded too, because the decoder's causal convolutions look back at them.
        """
        state, clip = self.state, self.state.decoded
        window = self.plan.windows[state.window]
        latent = generation.latents[clip]
        # 1. Pictures: an interactive clip's with the clip before, any other's with the history.
        if window.interactive:
            assert state.former is not None
            latent = torch.cat((state.former[:, :, 1:], latent), dim=2)
            frames = self.networks.decode(latent, FrameHistory())
            frames = frames[-self.plan.spec.clip_seconds * FRAMES_PER_SECOND :]
            state = replace(state, former=latent[:, :, -self.plan.spec.clip_frames - 1 :])
        else:
            history = state.history.copy()
            frames = self.networks.decode(latent, history)
            state = replace(state, history=history)
        # 2. A new video's image clip is not shown: the next clip brings its picture.
        events = []
        has_image_clip = generation.steps[0].image and not window.given_seconds
        is_hidden = clip == 0 and has_image_clip and window.new_seconds > 0
        if clip >= self._opening.given_clips(window) and not is_hidden:
            if clip == 1 and has_image_clip:
                frames = torch.cat((self._first_picture(frames), frames))
            events.append(ClipReady(frames=frames))
            state = replace(state, tail=self._new_tail(frames))
        # 3. After its last clip the window ends.
        state = replace(state, decoded=clip + 1)
        if generation.finished and state.decoded == len(generation.latents):
            state = self._end_window(state, generation)
        return state, tuple(events)

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
            history=FrameHistory(),
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

    def _new_tail(self, frames: Tensor) -> Tensor:
        """The last pictures after more of them; a copy, since the others are handed out."""
        tail = self.state.tail
        shown = frames if tail is None else torch.cat((tail, frames))
        return shown[-self.plan.spec.clip_seconds * FRAMES_PER_SECOND - 1 :].clone()

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
            dtype=dtype_name(self.networks.transformer.dtype),
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
        dtype = dtype_name(networks.transformer.dtype)
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
            bits = self.networks.transformer.config.bits_per_token(semantic=step.semantic)
            own[index] = unpack(packed, step.grid.tokens, bits)
        self.state = JobState(generator=generator.get_state(), known=known)
