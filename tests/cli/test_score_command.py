"""`istar score`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asking import request
from istar import InfinityStarPipeline
from istar.cli.app import run
from istar.generation.state import Position
from istar.media import read_picture

pytestmark = pytest.mark.usefixtures("quick_tiny")
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def made(quick_tiny: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A take of a picture, by the small model."""
    pipeline = InfinityStarPipeline.from_pretrained("tiny", device="cpu")
    job = pipeline.job(request("t2i", prompt="a red ring", aspect=1))
    for _ in job.run():
        pass
    return job.take().save(tmp_path_factory.mktemp("takes") / "ring.take")


def test_a_take_is_scored(made: Path, tmp_path: Path, capfd: Captured) -> None:
    picture = tmp_path / "heat.png"
    assert run(["score", str(made), "--heatmap", str(picture)]) == 0
    first, whole, _, titles, *rows, every, last = capfd.readouterr().out.splitlines()
    assert first == f"{made}: 7,424 drawn bits"
    assert titles.split()[:4] == ["window", "clip", "scale", "bits"]
    assert [row.split()[2] for row in rows] == ["1x1", "2x2", "3x3", "5x5"]
    assert last == str(picture)
    shown = read_picture(picture).pixels
    # A picture, and below it two lines of as large ones.
    assert shown.shape[0] > 3 * 384 - 30
    nats = float(whole.split()[2].replace(",", ""))
    assert every.split()[:2] == ["all", "7,424"]
    assert nats / 7424 == pytest.approx(float(every.split()[2]), abs=1e-4)


def test_scores_as_json_are_those_in_the_take(made: Path, capfd: Captured) -> None:
    assert run(["score", str(made), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["file"] == str(made)
    assert "heatmap" not in found
    assert sum(one["bits"] for one in found["scales"]) == found["bits"] == 7424
    for name in ("drawn", "conditional", "explained"):
        for parts in ("scales", "frames"):
            assert sum(one[name] for one in found[parts]) == pytest.approx(found[name], abs=0.01)


def test_a_heat_map_never_replaces_a_file_unasked(
    made: Path, tmp_path: Path, capfd: Captured
) -> None:
    picture = tmp_path / "heat.png"
    picture.write_text("mine", encoding="utf-8")
    assert run(["score", str(made), "--heatmap", str(picture), "--json"]) == 0
    assert picture.read_text(encoding="utf-8") == "mine"
    assert json.loads(capfd.readouterr().out)["heatmap"] == str(tmp_path / "heat-1.png")
    assert run(["score", str(made), "--heatmap", str(picture), "--overwrite"]) == 0
    assert read_picture(picture).pixels.shape[2] == 3
    assert run(["score", str(made), "--heatmap", str(tmp_path / "heat.mp4")]) == 2


def test_what_has_no_bits_yet_has_no_score(tmp_path: Path, capfd: Captured) -> None:
    pipeline = InfinityStarPipeline.from_pretrained("tiny", device="cpu")
    job = pipeline.job(request("t2i", aspect=1))
    for _ in job.run(until=Position(0, 0)):
        pass
    path = job.take().save(tmp_path / "a.take")
    assert run(["score", str(path), "--heatmap", str(tmp_path / "heat.png")]) == 0
    assert capfd.readouterr().out == f"{path}: 0 drawn bits\n"
    assert not (tmp_path / "heat.png").exists()
