"""The bench of a model: counted without it, or measured with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from istar.bench.fake import FAKE_DEVICE, fake_tensors
from istar.bench.made_up import Sizes, made_up_networks, no_values, random_weights, text_tokens
from istar.bench.report import BenchReport, joined
from istar.bench.run import LOAD, Clock, Workload, count, measure
from istar.memory_plan import MemoryChoice, PlanName, choose_plans, memory_plans
from istar.memory_use import NetworkSizes
from istar.models.download_events import DownloadListener, ignore
from istar.models.find import FoundModel
from istar.pipeline import InfinityStarPipeline
from istar.placement import Placement


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """How often a generation is run after the first time, when it is counted.

    Attributes:
        warm_up: runs that are not measured.
        measured: runs whose seconds' median and whose highest peak are reported.
    """

    warm_up: int = 1
    measured: int = 3


def counted(
    model: FoundModel,
    workload: Workload,
    dtype: str | torch.dtype | None = None,
    *,
    memory: PlanName = "max",
    on_event: DownloadListener = ignore,
) -> BenchReport:
    """Count a generation on a GPU that is not there, with weights that have no values.

    Args:
        model: whose sizes count; of one that was not released the files are looked at.
        workload: what is generated.
        dtype: of the transformer, see `Placement.choose`.
        memory: the memory plan.
        on_event: receives download events.

    Raises:
        DeviceError: this build of torch cannot do it.
        IstarError: as `Sizes.of` and `Job.begin`.
    """
    sizes = Sizes.of(model, on_event)
    placement = Placement.on(FAKE_DEVICE, dtype)
    files = None if model.spec.source is not None else model.files(on_event)
    plans = memory_plans(
        NetworkSizes.of(files, model.spec, placement), workload.work(model.spec), placement
    )
    plan = next(plan for plan in plans if plan.name == memory)
    with fake_tensors():
        networks = made_up_networks(model.spec, sizes, placement, no_values, (plan,))
        stages = count(networks, workload, replay=True)
    return BenchReport(
        model=model.spec.name,
        mode=workload.mode,
        seconds=workload.seconds,
        device=FAKE_DEVICE.type,
        dtype=placement.precision,
        weights="none",
        text_tokens=text_tokens(sizes),
        peak_of="bytes of live tensors",
        memory=plan.name,
        stages=stages,
    )


def measured(
    model: FoundModel,
    workload: Workload,
    placement: Placement,
    repeats: Repeats,
    *,
    is_random: bool = False,
    memory: MemoryChoice = "auto",
    anyway: bool = False,
    on_event: DownloadListener = ignore,
) -> BenchReport:
    """Run a generation, once to count it and then to time it.

    Loading is timed once, with all that a memory plan lets come later.

    Args:
        model: to load.
        workload: what is generated.
        placement: where the networks go.
        repeats: how often it runs.
        is_random: draw weights of the model's sizes instead of loading its files.
        memory: the memory plan.
        anyway: load it even if the plan does not fit.
        on_event: receives download events.

    Raises:
        IstarError: as `InfinityStarPipeline.load`, `Sizes.of`, `Job.begin` and `Job.advance`.
    """
    on_cuda = placement.device.type == "cuda"
    clock, tokens = Clock(placement.device), None
    sizes = Sizes.of(model, on_event) if is_random else None
    clock.restart()
    if sizes is None:
        networks = InfinityStarPipeline.load(
            model,
            placement,
            workload.work(model.spec),
            memory=memory,
            anyway=anyway,
            on_event=on_event,
        ).networks
    else:
        tokens = text_tokens(sizes)
        fill = random_weights(placement.device)
        files = None if model.spec.source is not None else model.files(on_event)
        plans = choose_plans(
            memory,
            NetworkSizes.of(files, model.spec, placement),
            workload.work(model.spec),
            placement,
            anyway=anyway,
        )
        networks = made_up_networks(model.spec, sizes, placement, fill, plans)
    networks.bring()
    loading = clock.read()
    with TemporaryDirectory(prefix="istar-") as name:
        directory = Path(name)
        counts = count(networks, workload, target=directory)
        for _ in range(repeats.warm_up):
            measure(networks, workload, directory)
        timed = [measure(networks, workload, directory) for _ in range(repeats.measured)]
    stages = joined(counts, [{**one, LOAD: loading} for one in timed])
    return BenchReport(
        model=model.spec.name,
        mode=workload.mode,
        seconds=workload.seconds,
        device=str(placement.device),
        dtype=placement.precision,
        weights="random" if is_random else "real",
        text_tokens=tokens,
        peak_of="bytes that torch's allocator handed out" if on_cuda else "bytes of live tensors",
        memory=networks.plan.name,
        stages=stages,
    )
