"""`istar train`, by the command that a person types."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from istar.cli.app import run
from istar.cli.display import TrainingDisplay
from istar.lab.world import random_scene
from istar.media import write_picture
from istar.training.events import StepDone
from istar.training.log import LOG_NAME
from processes import await_line, started_warm
from small_training import prepared, write_manifest


def test_the_time_left_counts_hours_beyond_a_day(capfd: pytest.CaptureFixture[str]) -> None:
    done = StepDone(step=1, total=100_001, measures={"loss": 1.0}, seconds=2.0)
    with TrainingDisplay() as display:
        display.show(done)
    assert capfd.readouterr().err == (
        "istar: step 1 of 100001: loss 1; 0.50 steps/s, 55:33:20 left\n"
    )


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
    *skipped, first = err.splitlines()[:4]
    assert skipped == [
        f"istar: {clips}: line 2 is skipped: it is not JSON",
        f"istar: {clips}: line 3 is skipped: its path is not the name of a file",
        f"istar: {tmp_path / 'out' / 'skipped.jsonl'} lists all that is skipped",
    ]
    assert first.startswith("istar: step 1 of 1: ")


def test_validation_is_said_with_its_step(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    prepared(tmp_path, count=2)
    config = tmp_path / "run.toml"
    config.write_text(
        f'model = "{write_manifest(tmp_path)}"\ntokenizer = "start.safetensors"\n'
        'run = {output = "out", steps = 2, save_every = 9, sample_every = 9}\n'
        'data = {sets = ["latents/clips"], mix = [{seconds = 1}], rows = [128], tokens = 128}\n'
        "text = {layers = 1, heads = 2, mlp_width = 32}\n"
        'validation = {sets = ["latents/long"], every = 1, rows = 1}\n'
        'samples = {prompts = ["a boat"], clips = 1}\n'
    )
    assert run(["train", "transformer", str(config), "--device", "cpu"]) == 0
    lines = capfd.readouterr().err.splitlines()
    number = r"0\.\d+"
    said = (
        rf"istar: validation after step (\d): loss {number}, right {number}, right_0 {number}, "
        rf"right_1 {number}"
    )
    found = [match[1] for line in lines if (match := re.fullmatch(said, line))]
    assert found == ["1", "2"]
    samples = tmp_path / "out" / "samples"
    assert lines[-2:] == [
        f"istar: samples: {samples / name}"
        for name in ("step-00000002.png", "validation-00000002.png")
    ]


@pytest.mark.signals
def test_a_run_killed_after_its_first_checkpoint_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_manifest(tmp_path)
    recipe = """
        model = "istar.json"
        [run]
        output = "{output}"
        steps = 5
        warmup = 2
        save_every = 2
        log_every = 1
        [data]
        lengths = [1]
        pictures = 2
        [quantizer]
        drop_most = 1
    """

    def command(output: str) -> list[str]:
        config = tmp_path / f"{output}.toml"
        config.write_text(recipe.format(output=output))
        return ["train", "tokenizer", str(config), "--device", "cpu", "--threads", "1"]

    def finish(output: str) -> str:
        assert run(command(output)) == 0
        return capfd.readouterr().err

    finish("whole")
    with started_warm(*command("killed")) as killed:
        await_line(killed, b"step 3 of 5")
        killed.send_signal(signal.SIGKILL)
        code, _ = killed.ended()
    assert code == -signal.SIGKILL
    assert (tmp_path / "killed" / "checkpoints" / "step-00000002").is_dir()
    assert not (tmp_path / "killed" / "checkpoints" / "step-00000005").exists()
    assert re.search(r"continuing from step [24]\n", finish("killed"))
    one, other = ((tmp_path / name / LOG_NAME).read_bytes() for name in ("whole", "killed"))
    assert one == other
    assert [json.loads(line)["step"] for line in one.splitlines()] == [*range(1, 6)]
    files = [tmp_path / name / "model" / "tokenizer.safetensors" for name in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()
