"""`istar bench`, with a small model of random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from istar.bench.benchmark import counted
from istar.bench.report import BenchReport
from istar.cli.app import run

KEYS = {"peak_bytes", "flop", "passes", "moved_bytes", "memory", "seconds"}


def test_a_run_is_counted_on_tensors_without_values(
    checkpoint: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[BenchReport] = []

    def counted_once(*arguments: Any, **settings: Any) -> BenchReport:
        if not reports:
            reports.append(counted(*arguments, **settings))
        return reports[0]

    # It is counted once, and printed twice.
    monkeypatch.setattr("istar.bench.benchmark.counted", counted_once)
    command = ["bench", "--fake", "--model", str(checkpoint), "--mode", "i2v", "--seconds", "1"]
    assert run([*command, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert set(found) >= KEYS
    assert all({"name", *KEYS} <= set(stage) for stage in found["stages"])
    assert found["flop"] == sum(stage["flop"] for stage in found["stages"])
    assert found["peak_bytes"] == max(stage["peak_bytes"] for stage in found["stages"])
    assert sum(found["memory"].values()) == found["peak_bytes"]
    assert (found["device"], found["dtype"], found["weights"]) == ("cuda", "bf16", "none")
    assert found["seconds"] is None
    assert [stage["kind"] for stage in found["stages"]][:3] == ["load", "text", "encode"]
    assert run(command) == 0
    out, err = capfd.readouterr()
    assert "assumed to have 100 tokens" in out
    assert "clip 2, " in out
    assert " of 4 frames" in out
    assert err == ""


def test_a_run_is_measured(checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "--model", str(checkpoint), "--mode", "t2i", "--device", "cpu"]
    assert run([*command, "--repeats", "1", "--warm-up", "0", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert [stage["name"] for stage in found["stages"]][-1] == "write"
    assert found["seconds"] == pytest.approx(sum(one["seconds"] for one in found["stages"]))
    assert found["weights"] == "real"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fake", "--random"], "--fake has no weights"),
        (["--fake", "--device", "cpu"], "--fake counts a run on CUDA"),
        (["--repeats", "0"], "--repeats 1 or more"),
        (["--threads", "0"], "greater than or equal to 1"),
        (["--seconds", "0.3"], "multiple of 0.25"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(
    arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", "--model", "no-such/model", *arguments]) == 2
    assert message in capfd.readouterr().err
