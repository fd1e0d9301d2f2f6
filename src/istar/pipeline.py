"""The pipeline: a request in, events and finished clips out.

Data flows one way: request → schedule → text → loop → transformer → bits → canvas → decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from istar.clip_format import ClipEncoding
from istar.errors import CheckpointError, StateError
from istar.events import ClipReady, Event, GenerationResult, Note
from istar.file_settings import FileSettings
from istar.generation.until import DRAFT_SHARE, Until
from istar.inputs import Inputs
from istar.job import Job
from istar.memory_plan import MemoryChoice, MemoryPlan, choose_plans, decoding_plans
from istar.memory_use import NetworkSizes, Work
from istar.model_spec import ModelSpec
from istar.models.download_events import DownloadListener, ignore
from istar.models.find import FoundModel, find_model
from istar.network_files import NetworkFiles
from istar.networks import Networks
from istar.placement import Placement
from istar.replay import StepCheck, verify
from istar.request import (
    AUTO_MODEL,
    SECONDS_STEP,
    GenerationRequest,
    Mode,
    check_mode,
    check_seconds,
)
from istar.score import TakeScore, score
from istar.take import Take


class InfinityStarPipeline:
    """InfinityStar, loaded and ready: text to image and video, image to video, continuation.

    Attributes:
        networks: the loaded networks.
    """

    def __init__(self, networks: Networks) -> None:
        self.networks = networks

    @classmethod
    def from_pretrained(
        cls,
        name_or_dir: str | Path = AUTO_MODEL,
        *,
        mode: Mode = "t2v",
        resolution: str | None = None,
        seconds: float | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype | None = None,
        memory: MemoryChoice = "auto",
        on_event: DownloadListener = ignore,
    ) -> InfinityStarPipeline:
        """Load a model, fetching its files first if they are not there.

        `auto`, and a directory in the released layout, may stand for several models; `mode`,
        `resolution` and `seconds` choose among them. Of several that fit equally, `auto` takes one
        that is here before one that would have to be fetched.

        Args:
            name_or_dir: `auto`, a model's name (`720p`, `480p`, `interact`, `tiny`), a directory in
                the released layout or with an `istar.json`, or `owner/repo[@revision][:path]`.
            mode: what it is for.
            resolution: `192p`, `384p`, `480p`, `720p`, or the manifest's own.
            seconds: the length wanted.
            device: `auto`, `cuda`, `cuda:N` or `cpu`.
            dtype: `bf16`, `fp32`, `int8` or `fp8`; by default bf16 on CUDA and fp32 on the CPU.
            memory: the memory plan, `max`, `balanced`, `low` or `stream`, see
                `istar.memory_plan`; `auto` is the fastest that fits for `mode` and `seconds`.
            on_event: receives how far fetching and loading are.

        Raises:
            HubError: something cannot be fetched.
            UsageError: an unknown mode, device, dtype or memory plan, or seconds that are no
                length.
            DeviceError: the device is absent, the memory plan does not fit, or memory ran out.
            CheckpointError: a file or tensor is missing or malformed, or no model fits.
        """
        check_mode(mode)
        if seconds is not None:
            check_seconds(seconds, least=SECONDS_STEP)
        placement = Placement.choose(device, dtype)
        model = find_model(
            name_or_dir,
            mode=mode,
            resolution=resolution,
            seconds=seconds,
            dtype=placement.precision,
            on_event=on_event,
        )
        work = Work.usual(model.spec, mode, seconds)
        return cls.load(model, placement, work, memory=memory, on_event=on_event)

    @classmethod
    def load(
        cls,
        model: FoundModel,
        placement: Placement,
        work: Work,
        *,
        memory: MemoryChoice = "auto",
        anyway: bool = False,
        decodes_only: bool = False,
        on_plan: Callable[[MemoryPlan], None] = lambda plan: None,
        on_event: DownloadListener = ignore,
    ) -> InfinityStarPipeline:
        """Load a model that was found before, see `istar.models.find.find_model`.

        Args:
            model: what was found.
            placement: where it computes, and in which numbers.
            work: what is to be generated, for which memory has to suffice.
            memory: the memory plan, or `auto`.
            anyway: load it even if the plan does not fit.
            decodes_only: it is for `render`: the video tokenizer is loaded, and no more until more
                is asked for; the memory plan is not chosen.
            on_plan: receives the plan, before anything is loaded.
            on_event: receives how far fetching and loading are.

        Raises:
            HubError: something cannot be fetched.
            UsageError: an unknown memory plan.
            DeviceError: the memory plan does not fit, or memory ran out.
            CheckpointError: a file or tensor is missing or malformed.
        """
        try:
            files = model.files(on_event)
            sizes = NetworkSizes.of(files, model.spec, placement)
        except CheckpointError as error:
            error.remedies = error.remedies or model.if_damaged
            raise
        if decodes_only:
            plans = decoding_plans(sizes, work, placement)
        else:
            plans = choose_plans(memory, sizes, work, placement, anyway=anyway)
        on_plan(plans[0])
        loader = NetworkFiles(
            model.spec, files, placement, if_damaged=model.if_damaged, on_event=on_event
        )
        return cls(Networks.load(model.spec, loader, plans))

    @property
    def spec(self) -> ModelSpec:
        """The model in use."""
        return self.networks.spec

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self.networks.device

    def generate(
        self, request: GenerationRequest, inputs: Inputs | None = None
    ) -> GenerationResult:
        """Run a request and return the result; arguments and errors are those of `job`.

        Example:
            >>> request = GenerationRequest(mode="t2i", prompt="a lighthouse at dusk")
            >>> pipeline.generate(request).save("lighthouse.png")
        """
        return self._result(request, self.stream(request, inputs), self.metadata(request))

    def draft(
        self,
        request: GenerationRequest | Take,
        inputs: Inputs | None = None,
        *,
        until: Until = DRAFT_SHARE,
    ) -> Take:
        """Stop after a coarse scale of the first new clip; `finish` continues from there.

        Args:
            request: what to make, or a take that is continued.
            inputs: the request's picture or clip, where it was read before.
            until: a share of that clip's work, or a scale by its width and height in tokens, such
                as `(32, 18)`.

        Raises:
            UsageError: a scale that the model does not have, or no share.
            IstarError: as `job`.
        """
        job = self.job(request, inputs)
        for _ in job.run(until=job.stop(until)):
            pass
        return job.take()

    def finish(self, take: Take) -> GenerationResult:
        """Continue a take to its end; the result is that of a run that never stopped.

        Raises:
            StateError: another model or schedule made it, or what it holds does not fit together.
            DeviceError: memory ran out.
            GenerationError: the network's output is not a number.
        """
        job = self.job(take)
        return self._result(take.request, job.run(), self.metadata(job.take()))

    def render(self, take: Take) -> GenerationResult:
        """Decode what a take holds; of a clip under way what its steps so far give.

        Neither the transformer's blocks nor the text encoder are loaded for it.

        Raises:
            StateError: another model or schedule made the take, or it holds no picture yet.
            DeviceError: memory ran out.
        """
        metadata = self.metadata(take, unfinished=not take.finished)
        return self._result(take.request, self.rendering(take), metadata)

    def rendering(self, take: Take) -> Iterator[Event]:
        """The events of `render`, with the pictures as they are decoded."""
        job = Job.rendering(self.networks, take)
        if not job.plan.windows and not job.inputs.given_pictures:
            raise StateError("the take holds no picture yet: no step is taken")
        yield from job.run()
        if len(clip := job.preview()):
            yield ClipReady(frames=clip)

    def verify(self, take: Take) -> Iterator[StepCheck]:
        """Which of a take's bits this model would not have drawn here, see `istar.replay`.

        Raises:
            StateError: another model or schedule made the take.
            DeviceError: memory ran out.
            GenerationError: the network's output is not a number.
        """
        return verify(self.networks, take)

    def score(
        self, take: Take, on_step: Callable[[int, int], object] = lambda done, total: None
    ) -> TakeScore:
        """How likely a take's bits are, by scale and by place, see `istar.score`.

        Args:
            take: begun or finished.
            on_step: receives how many of the steps that were drawn are scored, and how many there
                are.

        Raises:
            StateError: another model or schedule made the take.
            DeviceError: memory ran out.
            GenerationError: the network's output is not a number.
        """
        return score(self.networks, take, on_step)

    def _result(
        self, request: GenerationRequest, stream: Iterator[Event], metadata: Mapping[str, str]
    ) -> GenerationResult:
        events = list(stream)
        return GenerationResult(
            request=request,
            model=self.spec.name,
            frames=torch.cat([event.frames for event in events if isinstance(event, ClipReady)]),
            notes=tuple(event.text for event in events if isinstance(event, Note)),
            metadata=metadata,
        )

    def metadata(
        self,
        made: GenerationRequest | Take,
        *,
        encoding: ClipEncoding | None = None,
        deadline: float | None = None,
        unfinished: bool = False,
    ) -> dict[str, str]:
        """What a file holds of how it was made, see `istar.file_settings`.

        Args:
            made: the request that this model makes it from, or the take that holds it.
            encoding: what was asked for of the clip's encoder.
            deadline, unfinished: see the attributes of `FileSettings`.
        """
        if isinstance(made, Take):
            request, device, dtype = made.request, made.model.device, made.model.dtype
        else:
            request, device, dtype = made, self.networks.device.type, self.networks.precision
        settings = FileSettings.of(
            request,
            self.spec,
            place=self.networks.place,
            device=device,
            dtype=dtype,
            encoding=encoding,
        )
        settings = replace(settings, deadline=deadline, unfinished=unfinished)
        if isinstance(made, Take):
            settings = replace(settings, varied=made.is_varied, seeds=made.seeds)
        return settings.texts()

    def stream(
        self,
        request: GenerationRequest | Take,
        inputs: Inputs | None = None,
        *,
        preview: bool = False,
    ) -> Iterator[Event]:
        """Run a request, or continue a take; report every step and hand over every finished clip.

        Inputs are read and checked when the first event is asked for; arguments and errors are
        those of `job`, `preview` is that of `Job.run`.
        """
        yield from self.job(request, inputs).run(preview=preview)

    def job(self, request: GenerationRequest | Take, inputs: Inputs | None = None) -> Job:
        """A running generation that takes a step at a time, see `istar.job.Job`.

        Args:
            request: what to make, or the take that is continued.
            inputs: the request's picture or clip, where it was read before; see
                `istar.inputs.read_inputs`.

        Raises:
            UsageError: the request does not fit its input.
            StateError: another model or schedule made the take.
            MediaError: an input cannot be read.
            CheckpointError: the model cannot do it.
            DeviceError: memory ran out.
            GenerationError: the network's output is not a number.
        """
        if isinstance(request, Take):
            return Job.from_take(self.networks, request)
        return Job.begin(self.networks, request, inputs)
