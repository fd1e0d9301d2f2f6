"""`--dry-run`: what would be done."""

from __future__ import annotations

from pathlib import Path

from istar.byte_size import readable_size
from istar.cli.console import emit, print_lines, printable, voice
from istar.cli.json_events import plan_event
from istar.inputs import picture_size
from istar.memory_plan import MemoryChoice, choose_plans, decoding_plans
from istar.memory_use import NetworkSizes, Work
from istar.models.find import FoundModel
from istar.placement import Placement
from istar.plan import Plan
from istar.plurals import counted
from istar.request import GenerationRequest


def print_plan(
    plan: Plan,
    request: GenerationRequest,
    model: FoundModel,
    placement: Placement,
    work: Work,
    memory: MemoryChoice,
    target: Path | None,
    *,
    taken: int = 0,
) -> None:
    """Print what would be done for a request; nothing is fetched or loaded.

    Args:
        plan: of the request.
        request: what would be made.
        model: that would make it.
        placement: where.
        work: what it computes.
        memory: the memory plan, as typed.
        target: the output; None where it is not known.
        taken: how many steps a take that is continued has already. Where it has all, it is only
            decoded, and a fitting plan for that is chosen.

    Raises:
        DeviceError: no memory plan fits.
        HubError: the Hub does not say how large the model is.
    """
    missing = model.bytes_to_fetch()
    steps = sum(len(schedule.steps) for schedule in plan.schedules)
    sizes, memory_plan = NetworkSizes.of_found(model, placement), None
    if sizes is not None and taken == steps:
        memory_plan, *_ = decoding_plans(sizes, work, placement)
    elif sizes is not None:
        memory_plan, *_ = choose_plans(memory, sizes, work, placement)
    height, width = picture_size(plan.template, plan.spec)
    if voice().as_json:
        emit(
            plan_event(
                model=model.spec.name,
                bytes_to_fetch=missing,
                device=str(placement.device),
                dtype=placement.precision,
                memory=memory_plan.name if memory_plan else None,
                device_bytes=memory_plan.device_bytes if memory_plan else None,
                host_bytes=memory_plan.host_bytes if memory_plan else None,
                width=width,
                height=height,
                steps=steps - taken,
                seed=request.seed,
                path=target,
            )
        )
        return
    fetched = f"{readable_size(missing)} would be fetched" if missing else "nothing is fetched"
    some = f"{steps - taken} of {counted(steps, 'step')} left" if taken else counted(steps, "step")
    lines = [
        f"model {model.spec.name} in {placement.precision} on {placement.device}; {fetched}",
        memory_plan.describe() if memory_plan else "the memory plan depends on the model's files",
        f"{some} to {width}x{height}, seed {request.seed}",
    ]
    if target is not None:
        lines.append(f"output {target}")
    print_lines(map(printable, lines))
