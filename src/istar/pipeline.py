"""The pipeline: a request in, events and finished clips out.

Data flows one way: request → schedule → text → loop → transformer → bits → canvas → decoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from istar.errors import CheckpointError
from istar.events import ClipReady, Event, GenerationResult, Note, settings
from istar.interaction import InteractiveSession
from istar.model_spec import ModelSpec
from istar.models.find import AUTO, locate
from istar.models.hub import Listener, ignore
from istar.networks import Networks
from istar.placement import choose_device, choose_dtype, dtype_name, explained_memory_errors
from istar.request import SECONDS_STEP, GenerationRequest, Mode, check_mode, check_seconds
from istar.take import Take
from istar.windows import make_windows


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
        name_or_dir: str | Path = AUTO,
        *,
        mode: Mode = "t2v",
        resolution: str | None = None,
        seconds: float | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype | None = None,
        on_event: Listener = ignore,
    ) -> InfinityStarPipeline:
        """Load a model, fetching its files first if they are not there.

        `auto`, and a directory in the released layout, may stand for several models; `mode`,
        `resolution` and `seconds` choose among them.

        Args:
            name_or_dir: `auto`, a model's name (`720p`, `480p`, `interact`, `tiny`), a directory in
                the released layout or with an `istar.json`, or `owner/repo[@revision][:path]`.
            mode: what it is for.
            resolution: `192p`, `384p`, `480p`, `720p`, or the manifest's own.
            seconds: the length wanted.
            device: `auto`, `cuda`, `cuda:N` or `cpu`.
            dtype: `bf16` or `fp32`; by default bf16 on CUDA and fp32 on the CPU.
            on_event: told what is fetched.

        Raises:
            HubError: something cannot be fetched.
            UsageError: an unknown mode, device or dtype, or seconds that are no length.
            DeviceError: the device is absent, or memory ran out.
            CheckpointError: a file or tensor is missing or malformed, or no model fits.
        """
        check_mode(mode)
        if seconds is not None:
            check_seconds(seconds, least=SECONDS_STEP)
        place = choose_device(device)
        number_type = choose_dtype(dtype, place)
        spec, files = locate(
            name_or_dir,
            mode=mode,
            resolution=resolution,
            seconds=seconds,
            dtype=dtype_name(number_type),
            on_event=on_event,
        )
        return cls(Networks.load(spec, files, place, number_type))

    @property
    def spec(self) -> ModelSpec:
        """The model in use."""
        return self.networks.spec

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self.networks.transformer.device

    def generate(self, request: GenerationRequest) -> GenerationResult:
        """Make what is asked for and return all of it; raises as `stream` does."""
        events = list(self.stream(request))
        return GenerationResult(
            request=request,
            model=self.spec.name,
            frames=torch.cat([event.frames for event in events if isinstance(event, ClipReady)]),
            notes=tuple(event.text for event in events if isinstance(event, Note)),
            metadata=settings(request, self.spec),
        )

    def stream(self, request: GenerationRequest) -> Iterator[Event]:
        """Make what is asked for, telling of every step and handing over every finished clip.

        Inputs are read and checked when the first event is asked for.

        Raises:
            UsageError: the request does not fit its input.
            MediaError: an input cannot be read.
            CheckpointError: the model cannot do it.
            DeviceError: memory ran out.
            GenerationError: the network's output is not a number.
        """
        self.spec.check_possible(request.mode, request.seconds)
        if request.mode == "interact":
            session = self.interact(request)
            for prompt in request.prompts:
                yield from session.say(prompt)
            return
        with explained_memory_errors("generating"):
            take = Take.begin(self.networks, request)
            yield from (Note(text=text) for text in take.notes())
            yield from make_windows(take)

    def interact(self, request: GenerationRequest) -> InteractiveSession:
        """A session that goes on from prompt to prompt, with a request's clip and settings.

        The prompts of the request itself are not used: say each to the session.

        Raises:
            UsageError: the clip to go on from is shorter than a full clip.
            CheckpointError: the model cannot interact.
            MediaError: the clip cannot be read.
        """
        if self.spec.interact is None:
            raise CheckpointError(f"the {self.spec.name} model cannot interact")
        return InteractiveSession(Take.begin(self.networks, request))
