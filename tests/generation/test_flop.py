"""The arithmetic of a step, against what is counted while it is computed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from istar.bench.benchmark import counted
from istar.bench.made_up import Sizes, made_up_networks, random_weights, text_tokens
from istar.bench.run import Workload, count, step_name
from istar.generation.flop import step_flop, window_flop
from istar.generation.schedule import ContextKind
from istar.model_spec import ModelSpec
from istar.models.find import FoundModel, find_model
from istar.models.released import RELEASED_MODELS
from istar.placement import Placement
from istar.plan import plan_request
from istar.request import Mode
from istar.transformer.config import TransformerConfig


def by_stage(spec: ModelSpec, workload: Workload, sizes: Sizes) -> dict[str, int]:
    """The operations of all steps of each scale of each clip, under the bench's names."""
    request, inputs = workload.request(spec)
    given_pictures = 0 if inputs.clip is None else len(inputs.clip)
    plan = plan_request(request, spec, inputs.template, given_pictures=given_pictures)
    (window,), steps = plan.windows, plan.steps(0)
    given_clips = 2 if window.given_seconds else int(workload.mode == "i2v")
    flop = window_flop(
        sizes.transformer,
        steps,
        {step.index for step in steps if step.clip < given_clips},
        texts=(text_tokens(sizes),) * 2,
        conditions=workload.work(spec).steps[0].shared,
    )
    result: Counter[str] = Counter()
    for step, own in zip(steps, flop, strict=True):
        result[step_name(step)] += own
    return dict(result)


@pytest.mark.parametrize(
    ("mode", "context"),
    [("t2v", "sparse"), ("extend", "sparse"), ("interact", "sparse"), ("extend", "full")],
)
def test_every_scale_takes_what_is_counted(
    checkpoint: Path, mode: Mode, context: ContextKind
) -> None:
    found = find_model(checkpoint, mode="interact")
    interact = None if context == "full" else found.spec.interact
    spec = replace(
        found.spec, clip_frames=4, video_repeats=(2, 3), context=context, interact=interact
    )
    workload, sizes = Workload(mode=mode), Sizes.of(replace(found, spec=spec))
    cpu = Placement.choose("cpu", "fp32")
    stages = count(made_up_networks(spec, sizes, cpu, random_weights(cpu.device)), workload)
    counts = {stage.name: cost.flop for stage, cost in stages.items() if stage.kind == "step"}
    assert by_stage(spec, workload, sizes) == counts


@pytest.mark.slow
@pytest.mark.parametrize("name", ["720p", "interact"])
def test_every_scale_of_a_released_model_takes_what_is_counted(name: str) -> None:
    (spec,) = (spec for spec in RELEASED_MODELS if spec.name == name)
    workload = Workload(mode="interact" if spec.interact else "t2v")
    stages = counted(FoundModel(spec=spec, files=pytest.fail), workload).stages
    counts = {stage.name: cost.flop for stage, cost in stages.items() if stage.kind == "step"}
    assert by_stage(spec, workload, Sizes()) == pytest.approx(counts, rel=0.01)


def test_a_step_takes_more_where_it_sees_more() -> None:
    (spec,) = (spec for spec in RELEASED_MODELS if spec.name == "720p")
    request, inputs = Workload().request(spec)
    steps = plan_request(request, spec, inputs.template).steps(0)
    config, last = TransformerConfig(), steps[-1]
    plain = step_flop(config, last, steps)
    assert step_flop(config, last, steps, texts=(100,)) > plain
    assert step_flop(config, last, steps, texts=(0, 0)) == 2 * plain
    given = step_flop(config, last, steps, sampled=False)
    assert 0.9 * plain < given < plain
