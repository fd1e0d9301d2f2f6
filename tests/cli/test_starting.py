"""What a command imports before it does anything, and the time that takes."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pytest
import typer

from istar.cli.commands import ENTRIES, MainGroup
from media_files import texts_in

ISTAR = [sys.executable, "-m", "istar"]
HEAVY = {"torch", "numpy", "transformers", "huggingface_hub", "rich", "av", "PIL"}
TABLE_ALONE = [["--help"], ["--version"], ["--show-completion", "bash"]]
OF_COMMANDS = {f"istar.cli.{entry.place.partition(':')[0]}" for entry in ENTRIES.values()}


EVERY_LINE = """
import json, os, sys
from istar.__main__ import main
for arguments, environment in json.loads(os.environ["LINES"]):
    sys.argv[1:] = arguments
    os.environ.update(environment)
    try:
        main()
    except SystemExit as end:
        print(f"\\0{end.code or 0}", end="\\0")
print(*sys.modules, file=sys.stderr)
"""


class Line(NamedTuple):
    """A command line, and what is added to the environment."""

    arguments: Sequence[str]
    environment: Mapping[str, str] = {}


def completing(words: str) -> Line:
    """In which environment bash asks how the last of some words may end."""
    line = f"istar {words}"
    position = str(len(line.split(" ")) - 1)
    return Line(
        (), {"_ISTAR_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": position}
    )


def imported_by(
    lines: Sequence[Line], *, code: int = 0, typed: str = "", **environment: str
) -> tuple[set[str], list[str]]:
    """The modules that command lines import, one after another in a process of their own.

    Args:
        lines: each of which exits with `code`.
        typed: for stdin.
        environment: of the process.

    Returns:
        the modules, and what each line prints.
    """
    done = subprocess.run(
        [sys.executable, "-c", EVERY_LINE],
        capture_output=True,
        input=typed.encode(),
        env={**os.environ, "LINES": json.dumps(lines), **environment},
        check=True,
    )
    *printed, _ = os.fsdecode(done.stdout).split("\0")
    assert printed[1::2] == [str(code)] * len(lines), done.stderr
    return set(os.fsdecode(done.stderr).split()), printed[::2]


def test_help_and_version_import_no_command() -> None:
    imported, printed = imported_by([Line(arguments) for arguments in TABLE_ALONE])
    assert "istar.cli.commands" in imported
    assert all(printed)
    assert not imported & {*HEAVY, *OF_COMMANDS, "ssl", "urllib.request"}


def test_completing_the_first_word_imports_no_command() -> None:
    imported, printed = imported_by([completing(""), completing("--ver")])
    assert [words.split() for words in printed] == [list(ENTRIES), ["--version"]]
    assert not imported & {*HEAVY, *OF_COMMANDS, "pydantic_core", "ssl", "urllib.request"}


def test_completing_the_options_of_a_command_imports_nothing_heavy() -> None:
    groups = ("takes", "models", "train", "eval")
    lines = [completing(f"{name} {'' if name in groups else '--'}") for name in ENTRIES]
    imported, printed = imported_by(lines)
    assert all(printed)
    assert imported >= OF_COMMANDS
    assert not imported & {*HEAVY, "pydantic_core", "ssl", "urllib.request"}


def test_completing_values_imports_nothing_heavy(tmp_path: Path) -> None:
    values = {
        "t2v --model ti": "tiny",
        "t2v --aspect 16": "16:9",
        "config set takes": "takes-size",
        "config set memory st": "stream",
        "finish ": "",
    }
    imported, printed = imported_by(list(map(completing, values)), XDG_STATE_HOME=str(tmp_path))
    assert [text.strip() for text in printed] == list(values.values())
    heavier = {"istar.models.find", "istar.take", "tomlkit", "ssl", "urllib.request"}
    assert not imported & {*HEAVY, *heavier, "pydantic.main"}


def test_completing_leaves_out_options_that_were_given() -> None:
    lines = [completing("t2v --seed 4 --se"), completing("t2v --memory l")]
    assert [text.split() for text in imported_by(lines)[1]] == [["--seconds"], ["low"]]


def test_a_clip_is_made_in_a_plain_locale_with_one_text_encoder_and_nothing_for_other_tasks(
    brief_checkpoint: Path, tmp_path: Path
) -> None:
    """The interpreter decides with its start what names and texts become."""
    target = tmp_path / os.fsdecode("猫 ".encode() + b"\xff.mp4")
    arguments = f"t2v - --model {brief_checkpoint} --seconds 1 --seed 1 --no-take -o".split()
    line = Line([*arguments, str(target)])
    imported, printed = imported_by([line], typed="猫", LC_ALL="C", LANG="C")
    assert printed == [f"{target}\n"]
    assert texts_in(target)["title"] == "猫"
    assert {"torch", "av", "transformers.models.t5.modeling_t5"} <= imported
    assert not imported & {"torchao", "imageio", "torch._inductor.compile_fx"}
    families = {name.split(".")[2] for name in imported if name.startswith("transformers.models.")}
    assert families - {"auto", "encoder_decoder"} == {"byt5", "t5"}


def test_what_was_typed_is_checked_before_torch_is_imported() -> None:
    wrong = ("t2v x --seconds -1", "t2v x --tau 0", "t2v", "t2v x --model tinny", "i2v none.png x")
    imported, _ = imported_by([Line(line.split()) for line in wrong], code=2)
    assert not imported & {"torch", "transformers"}


@pytest.mark.parametrize(
    ("given", "policy"),
    [
        ({}, "passive"),
        ({"OMP_WAIT_POLICY": "active"}, "active"),
        ({"GOMP_SPINCOUNT": "100"}, "None"),
        ({"KMP_BLOCKTIME": "1"}, "None"),
    ],
)
def test_waiting_threads_sleep_unless_the_person_says_otherwise(
    given: dict[str, str], policy: str
) -> None:
    script = (
        "import atexit, os, sys; from istar.__main__ import main;"
        "assert 'torch' not in sys.modules;"
        "atexit.register(lambda: print(os.environ.get('OMP_WAIT_POLICY')));"
        "main()"
    )
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    others = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", script, "--version"],
        capture_output=True,
        text=True,
        check=True,
        env=others | given,
    )
    assert done.stdout.splitlines()[-1] == policy


def test_the_words_of_the_main_help_are_those_of_the_commands() -> None:
    group = typer.main.get_group(typer.Typer(cls=MainGroup, add_completion=False))
    context = group.make_context("istar", [], resilient_parsing=True)
    for name, entry in ENTRIES.items():
        command = group.get_command(context, name)
        assert command is not None
        first = inspect.cleandoc(command.help or "").partition("\n\n")[0].replace("\n", " ")
        assert entry.help == first, name


@pytest.mark.parametrize("name", ["takes", "models", "train", "eval"])
def test_the_help_of_a_group_cuts_no_sentence_short(name: str) -> None:
    group = typer.main.get_group(typer.Typer(cls=MainGroup, add_completion=False))
    context = group.make_context("istar", [], resilient_parsing=True)
    command = group.get_command(context, name)
    assert command is not None
    assert "..." not in command.get_help(context).partition("Commands:")[2]


def cpu_seconds(command: list[str], environment: dict[str, str]) -> float:
    """What a command takes of all cores together; how busy they are otherwise matters little."""
    pid = os.posix_spawn(
        command[0],
        command,
        {**os.environ, **environment},
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, used = os.wait4(pid, 0)
    assert status == 0
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
def test_help_version_and_completion_take_no_more_than_twice_as_long_as_typer() -> None:
    measured: dict[str, list[float]] = {}
    for _ in range(9):
        for name, command, environment in (
            ("typer", [sys.executable, "-c", "import typer"], {}),
            ("help", [*ISTAR, "--help"], {}),
            ("version", [*ISTAR, "--version"], {}),
            ("a command", ISTAR, completing("t").environment),
            ("an option", ISTAR, completing("t2v --").environment),
            ("a model", ISTAR, completing("t2v --model t").environment),
            ("a setting", ISTAR, completing("config set memory s").environment),
        ):
            measured.setdefault(name, []).append(cpu_seconds(command, environment))
    typer_alone, *ours = (median(times) for times in measured.values())
    assert max(ours) <= 2 * typer_alone


STEPS = """
import time
from istar import GenerationRequest, InfinityStarPipeline
pipeline = InfinityStarPipeline.from_pretrained("tiny")
request = GenerationRequest(mode="t2v", prompt="x", seconds=2, seed=1)
pipeline.generate(request)
begun = time.process_time()
pipeline.generate(request)
print(time.process_time() - begun)
"""


@pytest.mark.slow
def test_a_short_clip_takes_little_more_than_its_imports_and_its_steps(tmp_path: Path) -> None:
    one = {"OMP_NUM_THREADS": "1"}
    imports = (
        "import sys; sys.modules['torchao'] = None;import torch, transformers.models.t5.modeling_t5"
    )
    clip = f"t2v x --model tiny --seconds 2 --seed 1 --no-take --overwrite -o {tmp_path / 'a.mp4'}"
    libraries, clips, steps = [], [], []
    for _ in range(3):
        libraries.append(cpu_seconds([sys.executable, "-c", imports], one))
        clips.append(cpu_seconds([*ISTAR, *clip.split()], one))
        done = subprocess.run(
            [sys.executable, "-c", STEPS],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, **one},
        )
        steps.append(float(done.stdout))
    assert median(clips) <= 1.3 * median(libraries) + median(steps)
