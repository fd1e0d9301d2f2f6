"""Write the tables of plans in `docs/performance.md`; `make docs` calls it, a test checks it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import torch

from istar.memory_plan import MemoryPlan, Room, memory_plans
from istar.memory_use import NetworkSizes, Work
from istar.models.released import RELEASED_MODELS
from istar.placement import Placement

TARGET = Path(__file__).with_name("performance.md")
GB = 10**9
# As they are sold, in 2³⁰ bytes.
CARDS = (8, 12, 16, 24, 48, 80, 141)
VIDEOS = (("720p", 5), ("480p", 5), ("480p", 10))
_DTYPES = ("bf16", "int8")
# What a desktop, the driver and CUDA's own context leave of a card.
FREE = 0.94


def generated() -> str:
    """The page with its tables as they should be."""
    page = TARGET.read_text(encoding="utf-8")
    for name, lines in (("plans", _plans()), ("cards", _cards())):
        table = "\n".join(lines)
        page = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)",
            lambda found, table=table: f"{found[1]}{table}\n{found[2]}",
            page,
            flags=re.DOTALL,
        )
    return page


def _plans() -> Iterator[str]:
    yield "| predicted GB, GPU / host | max | balanced | low | stream |"
    yield "|---|---|---|---|---|"
    for name, seconds in VIDEOS:
        for dtype in _DTYPES:
            cells = [
                f"{plan.device_bytes / GB:.1f} / {plan.host_bytes / GB:.1f}"
                for plan in _of(name, seconds, dtype)
            ]
            yield f"| {name}, {seconds} s, {dtype} | {' | '.join(cells)} |"


def _cards() -> Iterator[str]:
    titles = [f"{name}, {seconds} s, {dtype}" for name, seconds in VIDEOS for dtype in _DTYPES]
    yield f"| card | {' | '.join(titles)} |"
    yield f"|---|{'---|' * len(titles)}"
    for card in CARDS:
        cells = [
            _chosen(name, seconds, dtype, int(card * FREE * 2**30))
            for name, seconds in VIDEOS
            for dtype in _DTYPES
        ]
        yield f"| {card} GB | {' | '.join(cells)} |"


def _chosen(name: str, seconds: float, dtype: str, room: int) -> str:
    """What `auto` takes, with as much host memory as it needs."""
    for plan in _of(name, seconds, dtype, room):
        if not Room(room, None).lacking(plan):
            host = f", {plan.host_bytes / GB:.0f} GB of the host's"
            blocks = f", {plan.resident_blocks} blocks resident" if plan.resident_blocks else ""
            return plan.name + (f"{blocks}{host}" if plan.name == "stream" else "")
    return "no"


def _of(name: str, seconds: float, dtype: str, room: int | None = None) -> tuple[MemoryPlan, ...]:
    (spec,) = (spec for spec in RELEASED_MODELS if spec.name == name)
    placement = Placement.on(torch.device("cuda", 0), dtype)
    sizes = NetworkSizes.of(None, spec, placement)
    return memory_plans(sizes, Work.usual(spec, "t2v", seconds), placement, room=room)


if __name__ == "__main__":
    TARGET.write_text(generated(), encoding="utf-8")
