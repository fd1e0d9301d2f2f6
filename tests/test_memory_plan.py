"""Memory plans: what they predict, and which one is chosen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from istar import DeviceError
from istar.generation.schedule import nearest_template
from istar.host_memory import HostMemory, host_memory
from istar.memory_plan import MemoryPlan, Room, choose_plans, memory_plans
from istar.memory_use import NetworkSizes, Work
from istar.models.released import RELEASED_MODELS
from istar.placement import Placement
from istar.request import GenerationRequest

GB = 10**9
GPU = Placement(device=torch.device("cuda", 0), dtype=torch.bfloat16)
PLANS = ("max", "balanced", "low", "stream")


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


def test_room_is_left_for_another_prompt() -> None:
    (spec,) = (one for one in RELEASED_MODELS if "interact" in one.modes)
    once, twice = (
        Work.of_request(
            GenerationRequest(mode="interact", prompt=("a", "b")[:count]),
            spec,
            nearest_template(spec.aspect),
            pictures=0,
        )
        for count in (1, 2)
    )
    assert set(once.steps) == set(twice.steps)
    assert replace(once, steps=()) == replace(twice, steps=())


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
