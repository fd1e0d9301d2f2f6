"""A generation counted without values, against arithmetic by hand and against the real thing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from istar.bench.benchmark import Repeats, counted, measured
from istar.bench.fake import FAKE_DEVICE, fake_tensors
from istar.bench.made_up import Sizes, made_up_networks, no_values, random_weights, text_tokens
from istar.bench.report import BenchReport
from istar.bench.run import LOAD, Workload, count
from istar.generation.schedule import PixelBudget, needed_steps
from istar.memory_plan import WHOLE, PlanName, memory_plans
from istar.memory_use import NetworkSizes, Work
from istar.model_spec import ModelSpec
from istar.models.find import FoundModel, find_model
from istar.models.released import RELEASED_MODELS, WEIGHT_BYTES_ON_GPU
from istar.placement import Placement
from istar.plan import Plan, plan_request
from istar.request import Mode
from random_checkpoint import TRANSFORMER

GPU = Placement(device=FAKE_DEVICE, dtype=torch.bfloat16)
MODES: tuple[Mode, ...] = ("t2i", "t2v", "i2v", "extend", "interact")


def slow(*values: str) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> FoundModel:
    """With clips of a second, which take less time to decode."""
    found = find_model(checkpoint, mode="interact")
    return replace(found, spec=replace(found.spec, clip_frames=4))


def planned(spec: ModelSpec, mode: Mode) -> Plan:
    request, inputs = Workload(mode=mode).request(spec)
    given = 0 if inputs.clip is None else len(inputs.clip)
    return plan_request(request, spec, inputs.template, given_pictures=given)


def expected_passes(spec: ModelSpec, mode: Mode) -> int:
    """Rows that must pass: text, every step that is sampled, and every given one looked at."""
    plan = planned(spec, mode)
    (window,), steps = plan.windows, plan.steps(0)
    given_clips = 2 if window.given_seconds else int(mode == "i2v")
    given = {step.index for step in steps if step.clip < given_clips}
    passing = {step.index for step in steps} - given | needed_steps(steps, given)
    # The two blocks that an interactive window looks at are the same in both branches.
    return 2 * (1 + len(passing)) + (2 if window.interactive else 0)


@pytest.mark.parametrize(
    ("name", "mode", "passes"),
    [
        ("720p", "t2v", 172),
        ("480p", "t2v", 164),
        ("720p", "i2v", 84),
        ("480p", "extend", 84),
        ("interact", "interact", 82),
        ("720p", "t2i", 92),
    ],
)
def test_released_schedules_need_so_many_passes(name: str, mode: Mode, passes: int) -> None:
    spec = next(spec for spec in RELEASED_MODELS if spec.name == name)
    assert expected_passes(spec, mode) == passes


class Reports(dict[Mode, BenchReport]):
    """One for each mode, counted when it is asked for."""

    def __init__(self, model: FoundModel) -> None:
        super().__init__()
        self._model = model

    def __missing__(self, mode: Mode) -> BenchReport:
        return self.setdefault(mode, counted(self._model, Workload(mode=mode)))


@pytest.fixture(scope="module")
def reports(model: FoundModel) -> Reports:
    return Reports(model)


@pytest.mark.parametrize("mode", ["t2i", *map(slow, ("t2v", "i2v", "extend", "interact"))])
def test_no_pass_is_made_that_the_schedule_does_not_need(
    reports: Reports, model: FoundModel, mode: Mode
) -> None:
    assert reports[mode].total.passes == expected_passes(model.spec, mode)


@pytest.mark.parametrize("mode", ["t2i", slow("t2v")])
def test_arithmetic_is_what_the_sizes_say(reports: Reports, model: FoundModel, mode: Mode) -> None:
    spec, config, report = model.spec, TRANSFORMER, reports[mode]
    heads, shared = (n * config.head_size for n in (config.heads, config.key_value_heads))
    by_token = 2 * config.width * (2 * heads + 2 * shared + 3 * config.mlp_width)
    text = text_tokens(Sizes(transformer=config))
    steps = planned(spec, mode).steps(0)
    flop = 0
    for step in steps:
        own = step.grid.tokens
        seen = text + own + sum(steps[index].grid.tokens for index in step.looks_at)
        bits = config.bits_per_token(semantic=step.semantic)
        flop += 2 * config.depth * (own * by_token + 2 * heads * own * 2 * seen)
        flop += 2 * 2 * own * config.width * (config.latent_channels + 2 * bits)
    assert report.of("step").flop == flop


@pytest.mark.parametrize("mode", ["t2i", *(slow(one) for one in MODES if one != "t2i")])
def test_blocks_replayed_cost_what_they_cost_again(
    reports: Reports, model: FoundModel, mode: Mode
) -> None:
    sizes = Sizes.of(model)
    placement = Placement(device=FAKE_DEVICE, dtype=torch.bfloat16)
    with fake_tensors():
        networks = made_up_networks(model.spec, sizes, placement, no_values)
        assert reports[mode].stages == count(networks, Workload(mode=mode))


def test_a_decoder_in_strips_remembers_less(reports: Reports, model: FoundModel) -> None:
    placement = Placement(device=FAKE_DEVICE, dtype=torch.bfloat16)
    with fake_tensors():
        strips = replace(WHOLE, strip_rows=1)
        networks = made_up_networks(model.spec, Sizes.of(model), placement, no_values, (strips,))
        stages = count(networks, Workload(mode="t2i"), replay=True)
    whole = reports["t2i"].stages
    (decode,) = (stage for stage in whole if stage.kind == "decode")
    assert stages[decode].flop > whole[decode].flop
    assert stages[decode].memory["decoder"] < whole[decode].memory["decoder"]
    last = [stage for stage in whole if stage.kind == "step"][-1]
    assert stages[last] == whole[last]


@pytest.mark.slow
def test_what_is_counted_is_what_is_done(model: FoundModel) -> None:
    """On the CPU, with values, there are as many passes and as much arithmetic."""
    cpu = Placement.choose("cpu", "fp32")
    sizes = Sizes.of(model)
    for mode in MODES:
        networks = made_up_networks(model.spec, sizes, cpu, random_weights(cpu.device))
        done = count(networks, Workload(mode=mode))
        fake = counted(model, Workload(mode=mode), torch.float32).stages
        assert [*done] == [*fake]
        for stage, cost in done.items():
            assert (cost.flop, cost.passes) == (fake[stage].flop, fake[stage].passes), stage


def test_networks_that_come_later_are_loading(model: FoundModel) -> None:
    cpu = Placement.choose("cpu", "fp32")
    whole, later = (
        count(
            made_up_networks(
                model.spec,
                Sizes.of(model),
                cpu,
                random_weights(cpu.device),
                (replace(WHOLE, text_encoder_stays=stays),),
            ),
            Workload(mode="t2i"),
        )
        for stays in (True, False)
    )
    assert whole[LOAD].moved_bytes == 0 < later[LOAD].moved_bytes
    for stage, cost in whole.items():
        if stage != LOAD:
            assert (later[stage].flop, later[stage].moved_bytes) == (cost.flop, cost.moved_bytes)


@pytest.mark.slow
def test_real_weights_are_measured(model: FoundModel) -> None:
    cpu = Placement.choose("cpu", "fp32")
    repeats = Repeats(warm_up=0, measured=2)
    for is_random, mode in ((False, "t2v"), (True, "t2i")):
        report = measured(model, Workload(mode=mode), cpu, repeats, is_random=is_random)
        kinds = [stage.kind for stage in report.stages]
        assert (kinds[0], kinds[1], kinds[-1]) == ("load", "text", "write")
        assert all(cost.seconds and cost.seconds > 0 for cost in report.stages.values())
        assert report.of("decode").peak_bytes > report.of("load").peak_bytes > 0
        assert report.text_tokens == (100 if is_random else None)


def few_scales(spec: ModelSpec, sides: tuple[int, ...]) -> ModelSpec:
    """A model of full size with a short schedule."""
    once = (1,) * len(sides)
    budget = PixelBudget(name="few", sides=sides, resolution=spec.pixel_budget.resolution)
    return replace(
        spec,
        pixel_budget=budget,
        semantic_scales=1,
        image_repeats=once,
        video_repeats=once,
    )


def released(name: str) -> ModelSpec:
    return next(spec for spec in RELEASED_MODELS if spec.name == name)


def test_a_released_model_is_as_large_as_is_said() -> None:
    assert NetworkSizes.of(None, released("720p"), GPU).whole == WEIGHT_BYTES_ON_GPU


@pytest.mark.slow
def test_a_released_model_is_counted_at_full_size() -> None:
    spec = few_scales(released("720p"), (4, 60))
    report = counted(FoundModel(spec=spec, files=pytest.fail), Workload(mode="t2i"))
    assert report.of("load").peak_bytes == WEIGHT_BYTES_ON_GPU
    assert report.total.passes == 2 * 3
    last = next(
        cost for stage, cost in report.stages.items() if stage.name.endswith("80x45 of 1 frame")
    )
    # 8.46 B weights in the blocks; scores and sums of 3,600 tokens that see 3,700.
    blocks = 36 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 16384)
    attention = 36 * 2 * 4096 * 3600 * 3700
    assert last.flop == pytest.approx(2 * (2 * 3600 * blocks + 2 * attention), rel=1e-3)


BOUNDS = [
    # seconds, numbers, plan; most GB on the device, and kept between steps
    ("720p", 5, "bf16", "low", 24, 1.2),
    ("480p", 5, "bf16", "low", 20, 0.6),
    ("720p", 5, "int8", "low", 14, 1.2),
    ("480p", 5, "int8", "low", 11, 0.6),
    ("720p", 5, "bf16", "stream", 8, 1.2),
    ("480p", 5, "bf16", "stream", 6, 0.6),
    ("480p", 10, "bf16", "balanced", 30, 10),
    ("480p", 10, "bf16", "low", 24, 0.6),
]
COSTS = {  # passes, floating-point operations, bytes moved
    ("720p", 5): (172, 18.5e15, 6e12),
    ("480p", 5): (164, 8.78e15, 4e12),
    ("480p", 10): (242, 22.48e15, 8.4e12),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "seconds", "dtype", "plan", "peak", "context"), BOUNDS)
def test_a_video_takes_no_more_than_it_needs(
    name: str, seconds: float, dtype: str, plan: PlanName, peak: float, context: float
) -> None:
    model = FoundModel(spec=released(name), files=pytest.fail)
    report = counted(model, Workload(seconds=seconds), dtype, memory=plan)
    passes, flop, moved = COSTS[name, seconds]
    assert report.total.passes == passes
    assert 0.99 * flop <= report.of("step").flop <= 1.01 * flop
    assert report.total.peak_bytes <= peak * 1e9
    assert report.context_bytes <= context * 1e9
    # The plan's own prediction is no lower, and not much higher.
    placement = Placement.on(FAKE_DEVICE, dtype)
    sizes = NetworkSizes.of(None, model.spec, placement)
    plans = memory_plans(sizes, Work.usual(model.spec, "t2v", seconds), placement)
    (predicted,) = (one for one in plans if one.name == plan)
    if dtype == "bf16":  # 8-bit weights are multiplied out again and again
        # Streamed weights cross the bus once a step, for both branches.
        steps, streamed = (passes - 2) / 2, sizes.config.depth if plan == "stream" else 0
        assert report.of("step").moved_bytes <= moved + steps * streamed * sizes.block
    assert 1 <= predicted.device_bytes / report.total.peak_bytes <= 1.1


@pytest.mark.parametrize(
    ("plan", "mode"),
    [
        ("low", "t2i"),
        ("stream", "t2i"),
        *(slow(plan, mode) for plan in ("low", "stream") for mode in ("i2v", "interact")),
        slow("stream", "t2v"),
    ],
)
def test_no_plan_passes_or_computes_more(
    reports: Reports, model: FoundModel, mode: Mode, plan: PlanName
) -> None:
    report, whole = counted(model, Workload(mode=mode), memory=plan), reports[mode]
    assert report.total.passes == whole.total.passes
    assert report.of("step").flop == whole.of("step").flop
    if plan == "stream":
        assert report.total.memory["weights"] < whole.total.memory["weights"]
