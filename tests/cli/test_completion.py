from __future__ import annotations

import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from istar.cli.app import run
from istar.cli.completion import ASPECTS, MODELS
from istar.cli.parsing import parse_aspect
from istar.generation.schedule import TEMPLATES, nearest_template
from istar.models.bundled import NAME
from istar.models.manifest import MANIFEST_NAME
from istar.models.released import RELEASED_MODELS
from istar.request import AUTO_MODEL

READY = "ready> "
RATIO = ("--aspect", "16:9")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with a few files, a take in the store, and a model in the Hub's cache."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    takes = tmp_path / "state" / "istar" / "takes"
    takes.mkdir(parents=True)
    for name in ("20261129-t2v-7.take", ".half.tmp.take", "readme.txt"):
        (takes / name).touch()
    for name, file in (("models--me--mine", MANIFEST_NAME), ("models--me--other", "config.json")):
        snapshot = tmp_path / "hub" / name / "snapshots" / "1" / file
        snapshot.parent.mkdir(parents=True)
        snapshot.touch()
    here = tmp_path / "here"
    here.mkdir()
    (here / "boat one.jpg").touch()
    monkeypatch.chdir(here)
    return here


CASES = [
    ("mod", ["models"]),
    ("config un", ["unset"]),
    ("t2v --mem", ["--memory"]),
    ("t2v --model t", ["tiny"]),
    ("t2v --model me", ["me/mine"]),
    ("t2v --res 4", ["480p"]),
    ("t2v --aspect 16", ["16:9"]),
    ("t2v --device cu", ["cuda"]),
    ("t2v --preset very", ["veryfast", "veryslow"]),
    ("t2v 'a cat' --preset veryf", ["veryfast"]),
    ("finish 2026", ["20261129-t2v-7"]),
    ("render 2026", ["20261129-t2v-7"]),
    ("takes rm 2026", ["20261129-t2v-7"]),
    ("config set takes", ["takes-size"]),
    ("config set t2v.se", ["t2v.seconds"]),
    ("config set t2v.memory st", ["stream"]),
    ("config unset rewrite.t", ["rewrite.timeout"]),
    ("t2v --output bo", []),
    ("i2v bo", []),
]
"""Words of a line, and what its last one may be; where that is nothing, shells offer files."""


@pytest.mark.parametrize(("words", "names"), CASES, ids=[words for words, _ in CASES])
def test_names_are_offered_to_every_shell(
    words: str,
    names: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def printed(shell: str, **environment: str) -> str:
        with monkeypatch.context() as own:
            own.setenv("_ISTAR_COMPLETE", f"complete_{shell}")
            for name, value in environment.items():
                own.setenv(name, value)
            assert run([]) == 0
        return capfd.readouterr().out

    # In the form in which the shells' scripts ask: in bash a word a line, in the others as typed.
    line = f"istar {words}"
    pieces = re.findall(r"'[^']*'|\S+", line)
    position = str(len(pieces) - 1)
    bash = printed("bash", COMP_WORDS="\n".join(pieces), COMP_CWORD=position).splitlines()
    fish = printed("fish", _TYPER_COMPLETE_ARGS=line, _TYPER_COMPLETE_FISH_ACTION="get-args")
    zsh = printed("zsh", _TYPER_COMPLETE_ARGS=line)
    assert [one for one in bash if one] == names
    assert [one.partition("\t")[0] for one in fish.splitlines() if one] == names
    if names:
        offered = [one.replace("\\\\:", ":") for one in re.findall(r'^[^"]*"([^"]*)"', zsh, re.M)]
        assert offered == names
    else:
        assert zsh == "_files\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_what_is_said_of_a_name_is_one_line(
    shell: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in (
        ("_ISTAR_COMPLETE", f"complete_{shell}"),
        ("COMP_WORDS", "istar\nframe\n--\n"),
        ("COMP_CWORD", "2"),
        ("_TYPER_COMPLETE_ARGS", "istar frame --"),
        ("_TYPER_COMPLETE_FISH_ACTION", "get-args"),
        ("COLUMNS", "40"),
    ):
        monkeypatch.setenv(name, value)
    run([])
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) > 2
    assert all("--" in line for line in lines)


def test_the_names_are_those_that_istar_knows() -> None:
    assert (AUTO_MODEL, *(spec.name for spec in RELEASED_MODELS), NAME) == MODELS
    ratios = [parse_aspect(text) for text in ASPECTS]
    assert {nearest_template(ratio or 0) for ratio in ratios} == set(TEMPLATES)
    for ratio in ratios:
        assert nearest_template(ratio or 0).ratio == pytest.approx(ratio, rel=1e-3)


@contextmanager
def shell_in_terminal(*command: str) -> Iterator[int]:
    """A shell at its first prompt; gives the person's side of its terminal."""
    person, terminal = pty.openpty()
    process = subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    )
    os.close(terminal)
    try:
        yield person
    finally:
        process.kill()
        process.wait()
        os.close(person)


def typed(terminal: int, keys: str) -> str:
    """What a terminal shows until its shell is ready again; first what is typed."""
    os.write(terminal, keys.encode())
    shown = b""
    while READY.encode() not in shown:
        shown += os.read(terminal, 65536)
    return shown.decode()


def scripted(shell: str, directory: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """Lines that set completion up in a shell, where `istar` prints its words when it is run."""
    program = directory / "istar"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m istar "$@"\n')
    program.chmod(0o755)
    assert run(["--show-completion", shell]) == 0
    script = directory / f"completion.{shell}"
    script.write_text(capfd.readouterr().out)
    return f"PATH={shlex.quote(str(directory))}:$PATH; . {shlex.quote(str(script))}"


def test_bash_completes_what_is_typed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PS1", "")
    monkeypatch.setenv("INPUTRC", os.devnull)
    monkeypatch.setenv("TERM", "dumb")
    setup = scripted("bash", tmp_path, capfd)
    with shell_in_terminal("bash", "--norc", "--noprofile", "-i") as terminal:
        # The words as they reach a program; only what is completed is one's own.
        show = "istar() { printf '[%s]' \"$@\"; echo; }"
        typed(terminal, f"{setup}; {show}; PS1='rea''dy> '\n")
        for keys, words in (
            ("t2v --model ti\t", ["t2v", "--model", "tiny"]),
            ("t2v --aspect 16\t", ["t2v", *RATIO]),
            ("t2v --aspect 16:\t", ["t2v", *RATIO]),
            ("t2v 'a cat' --aspect 16:9 --res=4\t", ["t2v", "a cat", *RATIO, "--res=480p"]),
            ("i2v bo\t", ["i2v", "boat one.jpg"]),
            ("t2v -o bo\t", ["t2v", "-o", "boat one.jpg"]),
            ("finish 2\t", ["finish", "20261129-t2v-7"]),
        ):
            shown = typed(terminal, f"istar {keys}\n")
            assert "".join(f"[{word}]" for word in words) in shown


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not here")
def test_zsh_completes_what_is_typed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    setup = scripted("zsh", tmp_path, capfd)
    with shell_in_terminal("zsh", "-f", "-i") as terminal:
        show = "istar() { printf '[%s]' \"$@\"; echo; }"
        typed(terminal, f"autoload -Uz compinit; compinit -D; {setup}; {show}; PS1='rea''dy> '\n")
        for keys, words in (
            ("t2v --model ti\t", ["t2v", "--model", "tiny"]),
            ("t2v --aspect 16\t", ["t2v", *RATIO]),
            ("i2v bo\t", ["i2v", "boat one.jpg"]),
        ):
            shown = typed(terminal, f"istar {keys}\n")
            assert "".join(f"[{word}]" for word in words) in shown


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not here")
def test_fish_completes_what_is_typed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scripted("fish", tmp_path, capfd)
    for words, offered in (
        ("t2v --model ti", "tiny"),
        ("t2v --aspect 16", "16:9"),
        ("i2v bo", "boat one.jpg"),
    ):
        done = subprocess.run(
            [
                "fish",
                "--no-config",
                "-c",
                f"source {tmp_path}/completion.fish; complete -C 'istar {words}'",
            ],
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        )
        assert [line.partition("\t")[0] for line in done.stdout.splitlines()] == [offered]
