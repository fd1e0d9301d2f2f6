"""Memory plans change nothing that is made, and a run whose memory runs out steps down."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from asking import frames_of, pictures, request
from istar import DeviceError, GenerationRequest, Note
from istar import networks as networks_module
from istar.events import Event, Loading
from istar.job import Job
from istar.lab.precision import traced
from istar.memory_plan import WHOLE, MemoryPlan, memory_plans
from istar.memory_use import NetworkSizes, Work
from istar.models.find import find_model
from istar.network_files import NetworkFiles
from istar.networks import Networks
from istar.placement import Placement
from istar.text_encoder import TextEncoder
from istar.transformer import block
from istar.transformer.attention import attend as attend_as_ever

CPU = Placement(device=torch.device("cpu"), dtype=torch.float32)
GPU = Placement(device=torch.device("cuda", 0), dtype=torch.bfloat16)
PLANS = ("max", "balanced", "low", "stream")
REQUESTS = {
    "t2i": request("t2i", seconds=None),
    "t2v": request("t2v", negative_prompt="grey"),
    "i2v": request("i2v", image=pictures(1)[0]),
    "extend": request("extend", clip=pictures(17), seconds=2),
    "interact": request("interact", prompt=("one", "two"), seconds=None),
}


class Model:
    """Weights in files, run with clips of a second: several windows are quickly made."""

    def __init__(self, name_or_dir: str | Path) -> None:
        found = find_model(name_or_dir)
        self.spec = replace(found.spec, clip_frames=4, max_seconds=2)
        self._files = found.files(lambda event: None)
        self._whole: dict[str, tuple[list[Event], list[Tensor]]] = {}
        # Those of a GPU: on the CPU blocks only move from memory to memory, but they do.
        sizes = NetworkSizes.of(self._files, self.spec, CPU)
        self.plans = memory_plans(sizes, Work.usual(self.spec, "t2v"), GPU)
        # Strips and contexts on the host also where so little needs none.
        self.forced = tuple(
            plan
            if plan.strip_rows is plan.host_contexts_from is None
            else replace(plan, strip_rows=1, host_contexts_from=1)
            for plan in self.plans
        )

    def source(self) -> NetworkFiles:
        return NetworkFiles(self.spec, self._files, CPU)

    def networks(self, plans: Iterable[MemoryPlan], source: NetworkFiles | None = None) -> Networks:
        return Networks.load(self.spec, source or self.source(), tuple(plans))

    def job(self, mode: str, networks: Networks) -> Job:
        return Job.begin(networks, self.request(mode))

    def request(self, mode: str) -> GenerationRequest:
        return replace(REQUESTS[mode], aspect=self.spec.aspect)

    def whole(self, mode: str) -> tuple[list[Event], list[Tensor]]:
        """What is made where everything lies on the device all the time, undisturbed."""
        if mode not in self._whole:
            self._whole[mode] = finished(self.job(mode, self.networks([WHOLE])))
        return self._whole[mode]

    def planned(self, name: str, **changes: Any) -> Networks:
        (plan,) = (plan for plan in self.forced if plan.name == name)
        return self.networks([replace(plan, **changes)])


@pytest.fixture(scope="module")
def models(checkpoint: Path) -> dict[str, Model]:
    return {"random": Model(checkpoint), "bundled": Model("tiny")}


@pytest.fixture(scope="module")
def model(models: dict[str, Model]) -> Model:
    return models["random"]


def bits_of(job: Job) -> list[Tensor]:
    return [bits for window in job.state.windows for bits in window.bits.values()]


def finished(job: Job) -> tuple[list[Event], list[Tensor]]:
    events = list(job.run())
    return events, bits_of(job)


def assert_same_bits(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


def assert_same_pictures(ours: Iterable[Event], theirs: Iterable[Event]) -> None:
    """Strips differ in the last bits of a float32, which may be a level."""
    levels = frames_of(ours).int() - frames_of(theirs).int()
    assert levels.abs().max() <= 1
    assert (levels != 0).float().mean() < 1e-3


# --- Every plan -----------------------------------------------------------------------------------

USUAL = {
    *(("random", mode, "stream") for mode in REQUESTS),
    *(("random", "t2v", name) for name in PLANS[1:]),
    *(("bundled", "t2i", name) for name in ("balanced", "stream")),
}
"""What is tested without `slow`."""


@pytest.mark.parametrize(
    ("weights", "mode", "name"),
    [
        pytest.param(*case, marks=() if case in USUAL else pytest.mark.slow)
        for case in (
            (w, mode, name) for w in ("random", "bundled") for mode in REQUESTS for name in PLANS
        )
    ],
)
def test_every_plan_makes_the_same(
    weights: str, mode: str, name: str, models: dict[str, Model]
) -> None:
    model = models[weights]
    events, bits = model.whole(mode)
    ours, our_bits = finished(model.job(mode, model.planned(name)))
    assert_same_bits(our_bits, bits)
    if name in ("max", "balanced"):
        assert torch.equal(frames_of(ours), frames_of(events))
    else:
        assert_same_pictures(ours, events)


def test_no_plan_computes_other_numbers_of_rows_at_once(model: Model) -> None:
    """It changes the last bits of a float32, and with them now and then what is drawn."""
    assert {plan.rows_at_once for plan in model.plans} == {WHOLE.rows_at_once}


@pytest.mark.parametrize("resident", [0, 1])
def test_some_blocks_may_be_resident(resident: int, model: Model) -> None:
    networks = model.planned("stream", resident_blocks=resident)
    assert_same_bits(finished(model.job("t2v", networks))[1], model.whole("t2v")[1])


def test_the_text_encoder_goes_before_the_blocks_come(model: Model) -> None:
    networks = model.planned("low")
    job = model.job("t2v", networks)
    assert networks._transformer.blocks[0].attention.query.weight.is_meta
    assert not any(isinstance(event, Loading) for event in job.advance())
    assert job.advance() == (Loading(part="text encoder"),)
    assert job.advance() == (Loading(part="transformer"),)
    assert networks._text_encoder is None
    assert networks._transformer.blocks[0].attention.query.weight.is_meta
    job.advance()
    assert not networks._transformer.blocks[0].attention.query.weight.is_meta
    assert not any(isinstance(event, Loading) for event in job.run())


def test_a_prompt_that_comes_later_is_read(model: Model) -> None:
    job = Job.begin(model.planned("low"), replace(model.request("interact"), prompt=("one",)))
    list(job.run())
    job.add_prompt("two")
    events = list(job.run())
    assert [event.part for event in events if isinstance(event, Loading)] == ["text encoder"]
    assert_same_bits(bits_of(job), model.whole("interact")[1])


# --- Memory that runs out -------------------------------------------------------------------------


class Exhausted:
    """Lets one call of a function fail as an allocation does."""

    def __init__(self, function: Callable[..., Any], at: int, error: BaseException) -> None:
        self.calls, self._function, self._at, self._error = 0, function, at, error

    @property
    def failed(self) -> bool:
        return self.calls >= self._at

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


def plan_notes(events: Iterable[Event]) -> list[str]:
    texts = (event.text for event in events if isinstance(event, Note))
    return [text for text in texts if "memory plan" in text]


@pytest.mark.parametrize(
    ("weights", "mode"),
    [
        ("random", "i2v"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                *(("random", mode) for mode in REQUESTS if mode != "i2v"),
                ("bundled", "i2v"),
            )
        ),
    ],
)
def test_everything_that_takes_memory_may_fail_once_in_every_step(
    weights: str, mode: str, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one run: each failure leads to the next plan, and after the last comes the first."""
    model = models[weights]
    source = model.source()
    networks = model.networks(model.forced * 100, source)
    failed: list[str] = []

    def failing(name: str, function: Callable[..., Any], at: int) -> Callable[..., Any]:
        """The function, whose call of a number fails."""
        numbers = count(1)

        def called(*arguments: Any, **settings: Any) -> Any:
            if next(numbers) != at:
                return function(*arguments, **settings)
            failed.append(name)
            raise ERRORS[tuple(ERRORS)[len(failed) % len(ERRORS)]]

        return called

    job, ours = model.job(mode, networks), []
    while not job.finished:
        with monkeypatch.context() as patch:
            for owner, name, at in (
                (block, "attend", networks.config.depth),
                (TextEncoder, "encode", 1),
                (networks_module, "_to_bytes", 1),
                (networks.tokenizer, "encode", 1),
                (source, "load_blocks", 1),
                (source, "text_encoder", 1),
            ):
                patch.setattr(owner, name, failing(name, getattr(owner, name), at))
            while True:
                before, number = job.state, len(failed)
                events = job.advance()
                if len(failed) > number:
                    assert len(plan_notes(events)) == len(events) == 1
                    assert job.state.windows is before.windows
                    continue
                ours += events
                if not any(isinstance(event, Loading) for event in events):
                    break
    whole, bits = model.whole(mode)
    assert_same_bits(bits_of(job), bits)
    assert_same_pictures(ours, whole)
    assert {"attend", "encode", "_to_bytes", "load_blocks", "text_encoder"} == set(failed)
    assert failed.count("attend") >= len(bits) / 2


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("weights", "mode"),
    [
        ("random", "t2i"),
        pytest.param("random", "i2v", marks=pytest.mark.slow),
        *(pytest.param("bundled", mode, marks=pytest.mark.slow) for mode in REQUESTS),
    ],
)
def test_memory_that_runs_out_at_any_step_loses_nothing(
    weights: str, mode: str, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models[weights]
    events, bits = model.whole(mode)
    depth = model.networks([WHOLE]).config.depth
    for number in count(1):
        networks = model.networks(model.plans)
        error = ERRORS[tuple(ERRORS)[number % len(ERRORS)]]
        attend = Exhausted(attend_as_ever, number * depth, error)
        with monkeypatch.context() as patch:
            patch.setattr("istar.transformer.block.attend", attend)
            ours, our_bits = finished(model.job(mode, networks))
        assert_same_bits(our_bits, bits)
        assert torch.equal(frames_of(ours), frames_of(events))
        if not attend.failed:
            assert plan_notes(ours) == []
            break
        assert networks.plan.name == "balanced"
        (note,) = plan_notes(ours)
        assert "the memory plan balanced" in note
    assert number > len(bits) / 2


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_a_run_steps_down_as_far_as_it_must(
    failures: int, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, bits = model.whole("t2v")
    networks = model.networks(model.plans)
    job = model.job("t2v", networks)
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
    assert_same_bits(bits_of(job), bits)
    assert len(frames_of(ours)) == len(frames_of(events))


def test_memory_that_runs_out_while_decoding_or_loading_steps_down_too(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = model.source()
    monkeypatch.setattr(source, "load_blocks", Exhausted(source.load_blocks, 1, MemoryError()))
    networks = model.networks(model.plans, source)
    assert networks.plan.name == "balanced"
    decode = Exhausted(networks.tokenizer.decode_pieces, 1, MemoryError())
    monkeypatch.setattr(networks.tokenizer, "decode_pieces", decode)
    ours = list(model.job("t2v", networks).run())
    assert networks.plan.name == "low"
    assert torch.equal(frames_of(ours), frames_of(model.whole("t2v")[0]))


def test_predictions_that_are_traced_step_down_too(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = list(traced(model.networks([WHOLE]), model.request("t2v")))
    networks = model.networks(model.plans)
    attend = Exhausted(attend_as_ever, 7 * networks.config.depth, ERRORS["device"])
    monkeypatch.setattr(block, "attend", attend)
    ours = list(traced(networks, model.request("t2v")))
    assert networks.plan.name == "balanced"
    for one, other in zip(ours, exact, strict=True):
        assert one.step == other.step
        assert_same_bits([*one.logits, one.bits], [*other.logits, other.bits])


def test_a_failure_leaves_nothing_of_its_step_in_memory(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = model.job("t2v", model.planned("max"))
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
