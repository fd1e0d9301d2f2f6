"""Memory plans: what they predict, that they change nothing, and that a run steps down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from asking import frames_of, pictures, request
from istar import DeviceError, InfinityStarPipeline, Note
from istar.events import Event, Loading
from istar.host_memory import HostMemory, host_memory
from istar.job import Job
from istar.memory_plan import MemoryPlan, Room, choose_plans, memory_plans
from istar.memory_use import NetworkSizes, Work
from istar.models.find import find_model
from istar.models.released import RELEASED_MODELS
from istar.network_files import NetworkFiles
from istar.networks import Networks
from istar.placement import Placement
from istar.transformer.attention import attend as attend_as_ever

GB = 10**9
CPU = Placement(device=torch.device("cpu"), dtype=torch.float32)
GPU = Placement(device=torch.device("cuda", 0), dtype=torch.bfloat16)
REQUESTS = {
    "t2i": request("t2i", seconds=None),
    "t2v": request("t2v", negative_prompt="grey"),
    "i2v": request("i2v", image=pictures(1)[0]),
    "extend": request("extend", clip=pictures(17), seconds=2),
}
PLANS = ("max", "balanced", "low", "stream")


def sized(checkpoint: Path) -> tuple[NetworkSizes, Work]:
    found = find_model(checkpoint)
    files = found.files(lambda event: None)
    return NetworkSizes.of(files, found.spec, CPU), Work.usual(found.spec, "t2v")


def all_plans(checkpoint: Path) -> tuple[MemoryPlan, ...]:
    """Those of a GPU: on the CPU blocks only move from memory to memory, but they do."""
    return memory_plans(*sized(checkpoint), GPU)


def planned(checkpoint: Path, name: str, **changes: Any) -> InfinityStarPipeline:
    """A pipeline whose plan is forced, strips and host contexts included."""
    found = find_model(checkpoint)
    (plan,) = (plan for plan in all_plans(checkpoint) if plan.name == name)
    if name in ("low", "stream"):
        changes = {"strip_rows": 1, "host_contexts_from": 1, "rows_at_once": 3} | changes
    files = NetworkFiles(found.spec, found.files(lambda event: None), CPU)
    return InfinityStarPipeline(Networks.load(found.spec, files, (replace(plan, **changes),)))


@pytest.fixture(scope="module")
def pipeline(checkpoint: Path) -> InfinityStarPipeline:
    return InfinityStarPipeline.from_pretrained(checkpoint, device="cpu", memory="max")


def bits_of(job: Job) -> list[Tensor]:
    return [bits for window in job.state.windows for bits in window.bits.values()]


def finished(job: Job) -> tuple[list[Event], list[Tensor]]:
    events = list(job.run())
    return events, bits_of(job)


@pytest.mark.parametrize("name", PLANS[1:])
@pytest.mark.parametrize("mode", REQUESTS)
def test_every_plan_makes_the_same(
    name: str, mode: str, checkpoint: Path, pipeline: InfinityStarPipeline
) -> None:
    events, bits = finished(pipeline.job(REQUESTS[mode]))
    ours, our_bits = finished(planned(checkpoint, name).job(REQUESTS[mode]))
    assert all(map(torch.equal, our_bits, bits))
    if name == "balanced":
        assert torch.equal(frames_of(ours), frames_of(events))
    else:  # strips differ in the last bits of a float32, which may be a level
        levels = frames_of(ours).int() - frames_of(events).int()
        assert levels.abs().max() <= 1
        assert (levels != 0).float().mean() < 1e-3


@pytest.mark.parametrize("resident", [0, 1])
def test_some_blocks_may_be_resident(
    resident: int, checkpoint: Path, pipeline: InfinityStarPipeline
) -> None:
    streamed = planned(checkpoint, "stream", resident_blocks=resident)
    _, bits = finished(pipeline.job(REQUESTS["t2v"]))
    _, ours = finished(streamed.job(REQUESTS["t2v"]))
    assert all(map(torch.equal, ours, bits))


def test_the_text_encoder_goes_before_the_blocks_come(checkpoint: Path) -> None:
    networks = planned(checkpoint, "low").networks
    job = Job.begin(networks, REQUESTS["t2v"])
    assert networks._transformer.blocks[0].attention.query.weight.is_meta
    assert not any(isinstance(event, Loading) for event in job.advance())
    assert job.advance() == (Loading(part="text encoder"),)
    assert job.advance() == (Loading(part="transformer"),)
    assert networks._text_encoder is None
    assert networks._transformer.blocks[0].attention.query.weight.is_meta
    job.advance()
    assert not networks._transformer.blocks[0].attention.query.weight.is_meta
    assert not any(isinstance(event, Loading) for event in job.run())


def test_a_prompt_that_comes_later_is_read() -> None:
    wanted = request("interact", prompt=("a red circle",), seconds=None)
    whole = InfinityStarPipeline.from_pretrained("tiny", device="cpu", memory="max")
    low = InfinityStarPipeline.from_pretrained("tiny", device="cpu", memory="low")
    jobs = [Job.begin(pipeline.networks, wanted) for pipeline in (whole, low)]
    for job in jobs:
        list(job.run())
        job.add_prompt("it stops")
    events = [list(job.run()) for job in jobs]
    assert [event.part for event in events[1] if isinstance(event, Loading)] == ["text encoder"]
    assert all(map(torch.equal, *map(bits_of, jobs)))


class Exhausted:
    """Lets one call of a function fail as an allocation does."""

    def __init__(self, function: Callable[..., Any], at: int, error: BaseException) -> None:
        self.calls, self._function, self._at, self._error = 0, function, at, error

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        self.calls += 1
        if self.calls == self._at:
            raise self._error
        return self._function(*arguments, **settings)


ERRORS = {
    "device": torch.OutOfMemoryError("CUDA out of memory"),
    "host": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 1 bytes"),
    "python": MemoryError(),
    "pinned": RuntimeError("CUDA error: out of memory"),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
}


def test_memory_that_runs_out_at_any_step_loses_nothing(
    checkpoint: Path, pipeline: InfinityStarPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = REQUESTS["i2v"]
    _, bits = finished(pipeline.job(wanted))
    found = find_model(checkpoint)
    plans = all_plans(checkpoint)
    count = 0
    for number in range(1, 100):
        files = NetworkFiles(found.spec, found.files(lambda event: None), CPU)
        networks = Networks.load(found.spec, files, plans)
        job = Job.begin(networks, wanted)
        with monkeypatch.context() as patch:
            attend = Exhausted(
                attend_as_ever,
                number * len(networks._transformer.blocks),
                ERRORS[tuple(ERRORS)[number % len(ERRORS)]],
            )
            patch.setattr("istar.transformer.block.attend", attend)
            events, ours = finished(job)
        notes = [
            event.text
            for event in events
            if isinstance(event, Note) and "memory plan" in event.text
        ]
        assert all(map(torch.equal, ours, bits))
        if number * len(networks._transformer.blocks) > attend.calls:
            assert notes == []
            break
        count += 1
        assert networks.plan.name == "balanced"
        assert len(notes) == 1
        assert "the memory plan balanced" in notes[0]
    assert count > len(bits) / 2


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_a_run_steps_down_as_far_as_it_must(
    failures: int,
    checkpoint: Path,
    pipeline: InfinityStarPipeline,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events, bits = finished(pipeline.job(REQUESTS["t2v"]))
    found = find_model(checkpoint)
    files = NetworkFiles(found.spec, found.files(lambda event: None), CPU)
    networks = Networks.load(found.spec, files, all_plans(checkpoint))
    job = Job.begin(networks, REQUESTS["t2v"])
    ours = [event for _ in range(5) for event in job.advance()]

    def failing(*_: object, **__: object) -> None:
        raise ERRORS["device"]

    with monkeypatch.context() as patch:
        patch.setattr("istar.transformer.block.attend", failing)
        for _ in range(failures):
            (note,) = job.advance()
            assert isinstance(note, Note)
        assert networks.plan.name == PLANS[failures]
        if failures == len(PLANS) - 1:
            with pytest.raises(DeviceError, match="the GPU's memory ran out while generating"):
                job.advance()
    ours += job.run()
    assert all(map(torch.equal, bits_of(job), bits))
    assert len(frames_of(ours)) == len(frames_of(events))


def test_memory_that_runs_out_while_decoding_or_loading_steps_down_too(
    checkpoint: Path, pipeline: InfinityStarPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, _ = finished(pipeline.job(REQUESTS["t2v"]))
    found = find_model(checkpoint)
    plans = all_plans(checkpoint)
    files = NetworkFiles(found.spec, found.files(lambda event: None), CPU)
    loads = Exhausted(files.load_blocks, 1, MemoryError())
    monkeypatch.setattr(files, "load_blocks", loads)
    networks = Networks.load(found.spec, files, plans)
    assert networks.plan.name == "balanced"
    decoded = Exhausted(networks.tokenizer.decode_pieces, 1, MemoryError())
    monkeypatch.setattr(networks.tokenizer, "decode_pieces", decoded)
    job = Job.begin(networks, REQUESTS["t2v"])
    ours = list(job.run())
    assert networks.plan.name == "low"
    assert torch.equal(frames_of(ours), frames_of(events))


def test_a_failure_leaves_nothing_of_its_step_in_memory(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gc
    import weakref

    job = Job.begin(planned(checkpoint, "max").networks, REQUESTS["t2v"])
    for _ in range(4):
        job.advance()
    held: list[weakref.ref[Tensor]] = []

    def failing(queries: Tensor, *_: object, **__: object) -> None:
        held.append(weakref.ref(queries))
        raise ERRORS["device"]

    monkeypatch.setattr("istar.transformer.block.attend", failing)
    gc.disable()
    try:
        with pytest.raises(DeviceError) as failure:
            job.advance()
        assert failure.value.remedies
        assert held[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("model", "seconds", "plan", "most"),
    [
        ("720p", 5, "low", 24),
        ("480p", 5, "low", 20),
        ("720p", 5, "stream", 8),
        ("480p", 5, "stream", 6),
        ("480p", 10, "balanced", 30),
        ("480p", 10, "low", 24),
    ],
)
def test_what_the_released_models_take(model: str, seconds: float, plan: str, most: float) -> None:
    (spec,) = (spec for spec in RELEASED_MODELS if spec.name == model)
    plans = memory_plans(NetworkSizes.of(None, spec, GPU), Work.usual(spec, "t2v", seconds), GPU)
    (found,) = (one for one in plans if one.name == plan)
    assert found.device_bytes <= most * GB
    assert found.host_bytes <= 20 * GB + (9.5 * GB if seconds > 5 else 0)


def rooms(monkeypatch: pytest.MonkeyPatch, device: float, host: float) -> None:
    free = int(device * GB)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (free, free))
    memory = HostMemory(int(host * GB), int(host * GB))
    monkeypatch.setattr("istar.memory_plan.host_memory", lambda: memory)


def chosen(choice: Any, **settings: Any) -> tuple[MemoryPlan, ...]:
    spec = RELEASED_MODELS[0]
    sizes, work = NetworkSizes.of(None, spec, GPU), Work.usual(spec, "t2v")
    return choose_plans(choice, sizes, work, GPU, **settings)


@pytest.mark.parametrize(
    ("device", "host", "name"),
    [(140, 64, "max"), (25.5, 64, "balanced"), (23.5, 64, "low"), (16, 64, "stream")],
)
def test_auto_is_the_fastest_that_fits(
    device: float, host: float, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms(monkeypatch, device, host)
    plans = chosen("auto")
    # At the end is the one that takes least: no block lies on the device.
    assert list(dict.fromkeys(plan.name for plan in plans)) == [*PLANS[PLANS.index(name) :]]
    assert plans[-1].resident_blocks == 0
    assert not Room(int(device * GB), int(host * GB)).lacking(plans[0])
    if name == "stream":  # as many blocks as fit, and no more
        resident = plans[0].resident_blocks
        assert resident
        more = replace(plans[0], device_bytes=plans[0].device_bytes + 490_000_000)
        assert Room(int(device * GB), None).lacking(more)


def test_what_cannot_fit_is_refused_with_numbers_and_what_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rooms(monkeypatch, 24, 64)
    with pytest.raises(
        DeviceError, match=r"max takes 2\d\.\d GB of the GPU's.*24\.0 GB"
    ) as refusal:
        chosen("max")
    assert refusal.value.remedies[0] == "auto_memory"
    assert chosen("max", anyway=True)[0].name == "max"
    rooms(monkeypatch, 7, 10)
    with pytest.raises(DeviceError, match=r"stream takes \S+ GB of memory, of which 10\.0 GB"):
        chosen("stream")
    rooms(monkeypatch, 3, 64)
    with pytest.raises(DeviceError, match="stream takes") as refusal:
        chosen("auto")
    assert "lower_resolution" in refusal.value.remedies


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 800 kB\n")
    monkeypatch.setattr("istar.host_memory.MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr("istar.host_memory.CGROUP", tmp_path)
    monkeypatch.setattr("istar.host_memory.OWN_CGROUP", tmp_path / "nothing")
    assert host_memory() == HostMemory(1024_000, 819_200)
    (tmp_path / "memory.max").write_text("max\n")
    assert host_memory() == HostMemory(1024_000, 819_200)
    (tmp_path / "memory.max").write_text("500000\n")
    assert host_memory() == HostMemory(500_000, 500_000)
    (tmp_path / "memory.current").write_text("300000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 40000\nactive_file 60000\n")
    assert host_memory() == HostMemory(500_000, 300_000)
    # A limit of a group between the process's own and the root counts, too.
    (tmp_path / "job" / "step").mkdir(parents=True)
    (tmp_path / "job" / "memory.max").write_text("200000\n")
    (tmp_path / "self").write_text("0::/job/step\n")
    monkeypatch.setattr("istar.host_memory.OWN_CGROUP", tmp_path / "self")
    assert host_memory() == HostMemory(200_000, 200_000)
