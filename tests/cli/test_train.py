"""`istar train`, by the command that a person types."""

from __future__ import annotations

from pathlib import Path

import pytest

from istar.cli.app import run
from istar.media import write_picture
from istar.shapes.world import random_scene
from small_training import write_manifest


def test_lines_that_make_no_sense_are_said_before_the_first_step(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_picture(random_scene(1).frames(1, 32, 32)[0], tmp_path / "whole.png")
    clips, config = tmp_path / "list.jsonl", tmp_path / "run.toml"
    clips.write_text(
        '{"path": "whole.png", "caption": "a shape"}\nno line of a list\n{"caption": "no path"}\n'
    )
    config.write_text(
        f'model = "{write_manifest(tmp_path)}"\n'
        '[run]\noutput = "out"\nsteps = 1\n'
        "[quantizer]\ndrop_most = 0\n"
        '[data]\nsource = "list"\nlist = "list.jsonl"\n'
        "lengths = [1]\naspects = [1.0]\npictures = 1\n"
    )
    assert run(["train", "tokenizer", str(config)]) == 0
    out, err = capfd.readouterr()
    assert out == f"{tmp_path / 'out' / 'model'}\n"
    said, first, *_ = err.splitlines()
    assert said == f"istar: {clips}: 2 of its lines skipped: they make no sense"
    assert first.startswith("istar: step 1 of 1: ")
