"""Run a generation stage by stage, and find what each stage costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from istar.bench.cost import Cost, Costs, Stage
from istar.bench.meter import Meter, tensors_in
from istar.bench.replay import replayed
from istar.events import ClipReady
from istar.generation.schedule import Step, nearest_template
from istar.generation.until import scale_name
from istar.inputs import Inputs, picture_size
from istar.job import Job
from istar.media import write_clip, write_picture
from istar.memory_use import Work
from istar.model_spec import ModelSpec
from istar.networks import Networks
from istar.plurals import counted
from istar.request import GenerationRequest, Mode
from istar.transformer.block import Block
from istar.transformer.rows import Row
from istar.transformer.streaming import StreamedBlocks
from istar.video_tokenizer.config import FRAMES_PER_SECOND
from istar.video_tokenizer.conv import CausalConv3d

LOAD = Stage("load", "load")
_GREY = 128


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is generated.

    Attributes:
        mode: of the request. `i2v` begins with a grey picture; `extend` and `interact` continue a
            grey clip of the model's full length, `interact` by one prompt.
        seconds: as those of a request.
        prompt: of the request.
    """

    mode: Mode = "t2v"
    seconds: float | None = None
    prompt: str = "a lighthouse at dusk, waves roll onto the beach"

    def request(self, spec: ModelSpec) -> tuple[GenerationRequest, Inputs]:
        """The request for a model, and its inputs.

        Raises:
            UsageError: a length that is not allowed.
        """
        template = nearest_template(spec.aspect)
        size = picture_size(template, spec)
        image = clip = None
        if self.mode == "i2v":
            image = torch.full((1, *size, 3), _GREY, dtype=torch.uint8)
        elif self.mode in ("extend", "interact"):
            pictures = spec.clip_seconds * FRAMES_PER_SECOND + 1
            clip = torch.full((pictures, *size, 3), _GREY, dtype=torch.uint8)
        request = GenerationRequest(
            mode=self.mode,
            prompt=(self.prompt,) if self.mode == "interact" else self.prompt,
            image=None if image is None else image[0],
            clip=clip,
            seconds=self.seconds,
        )
        return request, Inputs(template=template, image=image, clip=clip, notes=())

    def work(self, spec: ModelSpec) -> Work:
        """What the request computes, for a memory plan."""
        request, inputs = self.request(spec)
        given = inputs.image if inputs.clip is None else inputs.clip
        pictures = 0 if given is None else len(given)
        return Work.of_request(request, spec, inputs.template, pictures=pictures)


class Clock:
    """Measures wall time and, on CUDA, the memory that torch's allocator handed out."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._start = 0.0

    def restart(self) -> None:
        """Begin a stretch."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
        self._start = time.perf_counter()

    def read(self) -> Cost:
        """The cost of the stretch so far."""
        if self._device.type != "cuda":
            return Cost(seconds=time.perf_counter() - self._start)
        torch.cuda.synchronize(self._device)
        seconds = time.perf_counter() - self._start
        return Cost(seconds=seconds, peak_bytes=torch.cuda.max_memory_allocated(self._device))


def count(
    networks: Networks, workload: Workload, *, target: Path | None = None, replay: bool = False
) -> dict[Stage, Cost]:
    """Run a generation and count its operations and the memory of its tensors; nothing is timed.

    Args:
        networks: the model.
        workload: what is generated.
        target: a directory to write the result to; None where there is no result.
        replay: let the transformer's blocks compute once for every shape of their inputs; the
            tensors have no values.

    Raises:
        IstarError: as `Job.begin` and `Job.advance`.
    """
    meter = Meter(networks.device)
    costs = Costs(meter)
    with ExitStack() as stack:
        stack.enter_context(meter)
        stack.enter_context(_passes_counted(networks, meter))
        stack.enter_context(_history_assigned(networks, meter))
        if replay:
            stack.enter_context(replayed(Block, meter))
        with costs.stage(LOAD):
            _assign_weights(meter, networks)
        for job in _run(networks, workload, costs, target):
            _assign_weights(meter, networks)
            _assign_kept(meter, job)
    return costs.by_stage


def _assign_weights(meter: Meter, networks: Networks) -> None:
    """Tell weights, which may come while a generation runs, from what is computed with them."""
    for module in networks.present:
        meter.assign(module.parameters(), "weights")
        for part in module.modules():
            if isinstance(part, StreamedBlocks):
                meter.assign(part.memories, "weights")


def _assign_kept(meter: Meter, job: Job) -> None:
    """Tell what a job keeps between steps from what a step makes."""
    generation = job.state.generation
    meter.release("context")
    meter.assign(tensors_in(() if generation is None else generation.branches), "context")


def measure(networks: Networks, workload: Workload, target: Path) -> dict[Stage, Cost]:
    """Run a generation and time it.

    Raises:
        IstarError: as `Job.begin` and `Job.advance`.
    """
    networks.read_texts(())  # those of the run before are forgotten
    costs = Costs(Clock(networks.device))
    for _ in _run(networks, workload, costs, target):
        pass
    return costs.by_stage


def _run(
    networks: Networks, workload: Workload, costs: Costs, target: Path | None
) -> Iterator[Job]:
    """A generation, stage by stage; gives the job before each of its steps."""
    request, inputs = workload.request(networks.spec)
    job = Job.begin(networks, request, inputs)
    frames: list[Tensor] = []
    with _loading_apart(networks, costs), _encoding_apart(networks, costs):
        while not job.finished:
            yield job
            with costs.stage(_next_stage(job)):
                events = job.advance()
            frames += [event.frames for event in events if isinstance(event, ClipReady)]
    if target is not None:
        with costs.stage(Stage("write", "write")):
            if workload.mode == "t2i":
                write_picture(frames[-1][0], target / "bench.png", overwrite=True)
            else:
                write_clip(torch.cat(frames), target / "bench.mp4", overwrite=True)


def _next_stage(job: Job) -> Stage:
    """The part of the generation that the job does next."""
    state = job.state
    window = f"window {state.window + 1}, " if len(job.plan.windows) > 1 else ""
    if state.generation is None:
        return Stage("text", f"{window}text")
    if state.decodes_next:
        return Stage("decode", f"{window}decode clip {state.decoded + 1}")
    return Stage("step", window + step_name(state.generation.next_step))


def step_name(step: Step) -> str:
    """The clip and the scale of a step."""
    scale = scale_name(step.grid.width, step.grid.height)
    return f"clip {step.clip + 1}, {scale} of {counted(step.grid.frames, 'frame')}"


# What a generation does not report by itself is seen by hooks of its modules.


@contextmanager
def _passes_counted(networks: Networks, meter: Meter) -> Iterator[None]:
    """Count the rows that pass the transformer."""

    transformer = networks.present[0]

    def counting(method: Callable[..., Any]) -> Callable[..., Any]:
        def counted(rows: Sequence[Row], **settings: Any) -> Any:
            meter.passes += sum(len(row.x) for row in rows)
            return method(rows, **settings)

        return counted

    own = vars(transformer)
    for name in ("forward", "keys_values"):
        own[name] = counting(getattr(transformer, name))
    try:
        yield
    finally:
        for name in ("forward", "keys_values"):
            del own[name]


@contextmanager
def _history_assigned(networks: Networks, meter: Meter) -> Iterator[None]:
    """Count the frames that the decoder's convolutions remember as the decoder's."""

    def left(_: nn.Module, arguments: tuple[Any, ...], result: Any) -> None:
        meter.assign(tensors_in(arguments[1]), "decoder")

    convolutions = [
        module
        for module in networks.tokenizer.decoder.modules()
        if isinstance(module, CausalConv3d)
    ]
    handles = [module.register_forward_hook(left) for module in convolutions]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _loading_apart(networks: Networks, costs: Costs) -> Iterator[None]:
    """Count networks that come while a generation runs as loading."""
    if networks.source is None:
        yield
        return

    def loading(method: Callable[..., Any]) -> Callable[..., Any]:
        def loaded(*arguments: Any, **settings: Any) -> Any:
            with costs.stage(LOAD):
                return method(*arguments, **settings)

        return loaded

    own = vars(networks.source)
    for name in ("load_blocks", "text_encoder"):
        own[name] = loading(getattr(networks.source, name))
    try:
        yield
    finally:
        for name in ("load_blocks", "text_encoder"):
            del own[name]


@contextmanager
def _encoding_apart(networks: Networks, costs: Costs) -> Iterator[None]:
    """Make the encoder's work a stage of its own, wherever it happens."""
    own, encode = vars(networks.tokenizer), networks.tokenizer.encode

    def encoded(pictures: Tensor) -> Tensor:
        with costs.stage(Stage("encode", "encode")):
            return encode(pictures)

    own["encode"] = encoded
    try:
        yield
    finally:
        del own["encode"]
