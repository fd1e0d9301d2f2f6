"""`istar prepare`: one process or several, by the commands that a person types."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from istar.cli.app import run
from istar.lab.world import random_scene
from istar.media import write_picture
from processes import run_warm
from small_training import files, write_manifest, write_tokenizer


def settings(directory: Path, output: str, sets: str) -> Path:
    path = directory / f"{output}.toml"
    path.write_text(
        f'model = "{write_manifest(directory)}"\ntokenizer = "{write_tokenizer(directory)}"\n'
        f'output = "{output}"\nshard = 2\n{sets}'
    )
    return path


def test_two_processes_prepare_what_one_does_and_name_it_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sets = '[[sets]]\nname = "pictures"\ncount = 5\nlength = 1\n'
    assert run(["prepare", str(settings(tmp_path, "one", sets))]) == 0
    assert capfd.readouterr().out == f"{tmp_path / 'one'}\n"
    path = str(settings(tmp_path, "two", sets))

    def prepared(rank: str) -> subprocess.CompletedProcess[bytes]:
        of_torchrun = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}
        return run_warm("prepare", path, environment={**os.environ, **of_torchrun})

    with ThreadPoolExecutor() as pool:
        one, two = pool.map(prepared, ("0", "1"))
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    assert (one.stdout + two.stdout).decode() == f"{tmp_path / 'two'}\n"
    assert b"3 of 3 clips of process 1" in one.stderr
    assert b"2 of 2 clips of process 2" in two.stderr
    assert files(tmp_path / "two") == files(tmp_path / "one")


def test_skipped_clips_are_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_picture(random_scene(1).frames(1, 32, 32)[0], tmp_path / "whole.png")
    (tmp_path / "list.jsonl").write_text(
        '{"path": "whole.png", "caption": "a shape"}\n'
        '{"path": "missing.png", "caption": "nothing"}\n'
        "no line of a list\n"
    )
    sets = '[[sets]]\nname = "own"\nsource = "list"\nlist = "list.jsonl"\nlength = 1\n'
    assert run(["prepare", str(settings(tmp_path, "own", sets))]) == 0
    err = capfd.readouterr().err
    assert "2 of 2 clips, 2 skipped" in err
    assert f"istar: {tmp_path / 'list.jsonl'}: line 3 is skipped: it is not JSON\n" in err
    assert "list.jsonl: line 2 is skipped: cannot read " in err


def test_a_set_made_of_other_things_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sets = '[[sets]]\nname = "pictures"\ncount = 2\nlength = 1\n'
    path = settings(tmp_path, "out", sets)
    assert run(["prepare", str(path)]) == 0
    kept = files(tmp_path / "out")
    path.write_text(path.read_text().replace("shard = 2", "shard = 2\nseed = 5"))
    capfd.readouterr()
    assert run(["prepare", str(path)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "was prepared with another seed; give another output" in err
    assert files(tmp_path / "out") == kept
