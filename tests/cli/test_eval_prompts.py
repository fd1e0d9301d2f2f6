"""`istar eval prompts`, with a small model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from istar.cli.app import run
from istar.media import read_picture
from media_files import texts_in


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, brief_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISTAR_MODEL", str(brief_checkpoint))


def seed(path: Path) -> int:
    return int(json.loads(texts_in(path)["comment"])["istar"]["seed"])


def test_what_is_missing_is_made_and_counted(capfd: pytest.CaptureFixture[str]) -> None:
    entries = [{"prompt_en": "a cat", "dimension": ["color"], "refined_prompt": "a grey cat"}]
    Path("list.json").write_text(json.dumps([*entries, {"prompt_en": " ", "dimension": []}]))
    command = ["eval", "prompts", "vbench", "list.json", "-o", "made", "--seconds", "1"]
    assert run([*command, "--seed", "7"]) == 2
    assert "has no prompt_en" in capfd.readouterr().err
    Path("list.json").write_text(json.dumps(entries))
    assert run([*command, "--dry-run"]) == 0
    assert "missing" not in capfd.readouterr().err
    assert not Path("made").exists()
    assert run([*command, "--seed", "7"]) == 0
    out, err = capfd.readouterr()
    paths = [Path(line) for line in out.splitlines()]
    assert paths == [Path(f"made/a cat-{sample}.mp4") for sample in range(5)]
    assert [seed(path) for path in paths] == [7, 8, 9, 10, 11]
    assert texts_in(paths[0])["title"] == "a grey cat"
    assert err.endswith("istar: 5 files expected, 5 present, 0 missing\n")
    kept = paths[0].read_bytes()
    paths[3].unlink()
    Path("made/stray.gif").touch()
    assert run([*command, "--seed", "9"]) == 0
    out, err = capfd.readouterr()
    assert out == "made/a cat-3.mp4\n"
    assert paths[0].read_bytes() == kept
    assert "'made' holds what the scorer does not expect, such as 'stray.gif'" in err
    paths[3].unlink()
    paths[3].mkdir()
    assert run(command) == 1
    assert "5 files expected, 4 present, 1 missing" in capfd.readouterr().err


def test_a_directory_keeps_to_its_list(capfd: pytest.CaptureFixture[str]) -> None:
    line = '{"tag":  "colors", "prompt": "a red cup"}'
    Path("list.jsonl").write_text(line + "\n")
    command = ["eval", "prompts", "geneval", "list.jsonl", "-o", "made"]
    assert run(command) == 0
    found = sorted(str(path) for path in Path("made").rglob("*") if path.is_file())
    samples = [f"made/00000/samples/000{sample}.png" for sample in range(4)]
    assert found == ["made/00000/metadata.jsonl", *samples]
    assert Path(found[0]).read_text() == line
    assert [seed(Path(path)) for path in samples] == [0, 1, 2, 3]
    Path("list.jsonl").write_text('{"prompt": "two cups"}')
    capfd.readouterr()
    assert run(command) == 2
    assert "is of another list of prompts" in capfd.readouterr().err


def test_tiles_are_the_pictures_of_four_seeds(capfd: pytest.CaptureFixture[str]) -> None:
    Path("prompts").mkdir()
    Path("prompts/cup.txt").write_text("a red cup\n")
    command = ["eval", "prompts", "dpg", "prompts", "-o", "made"]
    assert run([*command, "--aspect", "16:9"]) == 2
    assert run([*command, "--seed", "3"]) == 0
    assert capfd.readouterr().out == "made/cup.png\n"
    grid = read_picture(Path("made/cup.png")).pixels
    assert run(["t2i", "a red cup", "--aspect", "1:1", "-n", "4", "--seed", "3", "-o", "s/"]) == 0
    tiles = [read_picture(path).pixels for path in sorted(Path("s").iterdir())]
    assert tiles[0].shape[0] == tiles[0].shape[1]
    rows = [torch.cat(tiles[:2], dim=1), torch.cat(tiles[2:], dim=1)]
    assert torch.equal(grid, torch.cat(rows, dim=0))


def test_a_directory_has_to_be_named(capfd: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["-o", "-"]):
        assert run(["eval", "prompts", "dpg", ".", *arguments]) == 2
        assert "name a directory with --output" in capfd.readouterr().err
    for named in (["~nobody-here/a", "-o", "a"], [".", "-o", "~nobody-here/a"]):
        assert run(["eval", "prompts", "dpg", *named]) == 2
        assert "names a home directory that is unknown" in capfd.readouterr().err
