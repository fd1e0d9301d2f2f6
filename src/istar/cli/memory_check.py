"""What a model takes of this machine's memory: said, and asked about before one is fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from istar.byte_size import readable_size
from istar.cli.console import asked_yes, say, voice
from istar.errors import DeviceError, Remedy

if TYPE_CHECKING:
    from istar.memory_plan import MemoryChoice, MemoryPlan
    from istar.memory_use import Work
    from istar.models.find import FoundModel
    from istar.placement import Placement


def check_memory(
    model: FoundModel, placement: Placement, work: Work, memory: MemoryChoice, *, yes: bool
) -> bool:
    """Before a released model is fetched that does not fit this machine, ask.

    Returns:
        it is to be run even if it does not fit.

    Raises:
        DeviceError: nobody agreed.
        HubError: the Hub does not say how large it is.
    """
    from istar.memory_plan import choose_plans
    from istar.memory_use import NetworkSizes
    from istar.placement import Placement

    # The sizes of others are known when their files are here.
    if yes or model.spec.source is None or not (size := model.bytes_to_fetch()):
        return yes

    def refusal(place: Placement, choice: MemoryChoice) -> DeviceError | None:
        sizes = NetworkSizes.of(None, model.spec, place)
        if size < sizes.whole / 2:
            return None  # other files than the published ones; their sizes show when they are here
        try:
            choose_plans(choice, sizes, work, place)
        except DeviceError as error:
            return error
        return None

    if (reason := refusal(placement, memory)) is None:
        return False
    name = f"the {model.spec.name} model"
    if asked_yes(f"{reason}; fetch {name}, {readable_size(size)}, nevertheless", yes=yes):
        return True
    helps = (remedy for remedy in reason.remedies if remedy != "run_anyway")
    remedies: tuple[Remedy, ...] = (*helps, "fetch_anyway")
    if placement.device.type != "cpu" and refusal(Placement.choose("cpu"), "auto") is None:
        remedies = ("cpu", *remedies)
    raise DeviceError(f"{name} was not fetched: {reason}", remedies=remedies)


def say_plan(plan: MemoryPlan) -> None:
    """Say what lies where, with `--verbose`."""
    if voice().verbose:
        say(plan.describe())
