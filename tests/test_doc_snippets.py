"""What the pages show can be typed, and examples print what is shown."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from istar.cli.app import app, run
from istar.models import bundled
from processes import run_warm

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TINY = bundled.DIRECTORY
ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.usefixtures("quick_tiny")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Their examples run: those with the bundled model, and those on files that earlier ones made.
LIVELY = [
    "docs/takes.md",
    "docs/batches.md",
    "docs/tutorial.md",
    "docs/stories.md",
    "docs/index.md",
    "README.md",
]
# Other programs that a page may name.
OTHERS = {"pip", "python", "python3", ".", "jq", "ffplay", "tensorboard", "printf"}


def blocks(path: Path, language: str) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def examples(path: Path) -> Iterator[tuple[str, list[str]]]:
    """The command lines of a page, each with what it is shown to print."""
    for block in blocks(path, "console"):
        assert block.startswith("$ "), block
        for example in block.removeprefix("$ ").split("\n$ "):
            line, *shown = example.splitlines()
            if "[OPTIONS]" not in line:  # a command's usage, in the reference
                yield line, shown


def words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|<>")
    lexer.whitespace_split = True
    return list(lexer)


def programs(line: str) -> Iterator[list[str]]:
    """The words of every program in a pipe, without redirections and variables."""
    for part in " ".join(shlex.quote(word) for word in words(line)).split(" '|' "):
        kept = shlex.split(part)
        for sign in "<>":
            if sign in kept:
                at = kept.index(sign)
                del kept[at : at + 2]
        while re.match(r"\w+=", kept[0]):
            del kept[0]
        yield kept


def parse(arguments: list[str]) -> None:
    """As the command line does, up to where a command would begin."""
    command: Any = get_command(app)
    context = command.make_context("istar", arguments)
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        context = command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_that_are_shown_exist(path: Path) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    for line, _ in examples(path):
        for program, *arguments in programs(line):
            name = program.rpartition("/")[2]
            if name == "torchrun":
                name, arguments = "istar", arguments[arguments.index("istar") + 1 :]
            if name == "istar":
                parse(arguments)
            elif name == "make":
                assert arguments[0] in targets, line
            else:
                assert name in OTHERS, line
                scripts = [word for word in arguments if word.endswith(".py")]
                assert all((ROOT / script).is_file() for script in scripts), line


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]]]:
    """A directory that all pages' examples share, and what those that ran have printed."""
    return tmp_path_factory.mktemp("desk"), {}


@pytest.mark.parametrize("name", LIVELY)
def test_examples_print_what_is_shown(
    name: str,
    desk: tuple[Path, dict[str, list[str]]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    directory, printed = desk
    monkeypatch.chdir(directory)
    text = (ROOT / name).read_text(encoding="utf-8")
    files = re.findall(r'^```(?:text|toml) title="(.*?)"\n(.*?)^```', text, re.M | re.S)
    for file, content in files:
        Path(file).write_text(content, encoding="utf-8")
    ran = 0
    for line, shown in examples(ROOT / name):
        program, command, *arguments = [*words(line), ""]
        with_tiny = ("--model", "tiny") in pairwise(arguments)
        on_a_file = bool(arguments[0]) and Path(arguments[0].partition(":")[0]).exists()
        if not program.endswith("istar") or not (with_tiny or on_a_file):
            continue
        if line not in printed:
            with monkeypatch.context() as patch:
                if "--check" in arguments:  # of which some numbers are of the model's sizes
                    patch.setattr(bundled, "DIRECTORY", TINY)
                assert run([command, *arguments[:-1]]) == 0, line
            printed[line] = capfd.readouterr().out.splitlines()
            if command != "info" and "--check" not in arguments:
                assert all(Path(path).is_file() for path in printed[line]), line
        ran += 1
        if shown and shown[-1] == "…":
            assert printed[line][: len(shown) - 1] == shown[:-1], line
        elif shown:
            assert printed[line] == shown, line
    assert ran > 1


def test_pipelines_give_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line, shown in examples(ROOT / "docs" / "pipelines.md"):
        piped = b""
        for program, *arguments in programs(line):
            done = (
                run_warm(*arguments, input=piped)
                if program == "istar"
                else subprocess.run([program, *arguments], capture_output=True, check=True)
            )
            assert done.returncode == 0, done.stderr
            piped = done.stdout
        if ">" in (parts := words(line)):
            Path(parts[-1]).write_bytes(piped)
            shown = parts[-1:]
        else:
            assert piped.decode().splitlines() == shown, line
        assert all(Path(path).stat().st_size for path in shown), line


def test_the_clip_on_the_first_page_is_of_the_command_above_it(
    capfd: pytest.CaptureFixture[str],
) -> None:
    line, _ = next(examples(ROOT / "docs" / "index.md"))
    assert run(["info", "--json", str(ROOT / "docs" / "circle.webp")]) == 0
    made = json.loads(capfd.readouterr().out)["istar"]
    shown = (
        f'istar {made["mode"]} "{made["prompt"]}" --model {made["model"]} --seed {made["seed"]} '
    )
    assert line.startswith(shown)


@pytest.mark.parametrize(
    "names", [("README.md",), ("docs/python-api.md",), ("docs/takes.md", "docs/scores.md")]
)
def test_python_snippets_run(
    names: tuple[str, ...], brief_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in names:
        snippets = blocks(ROOT / name, "python")
        assert snippets
        # A small model stands in for the one that the snippets name.
        code = re.sub('"(480p|tiny)"', repr(str(brief_checkpoint)), "\n".join(snippets))
        code = code.replace("seconds=5", "seconds=1")
        exec(compile(code, name, "exec"), {"__name__": "snippet"})
    assert (tmp_path / "waves.mp4").is_file()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_python_and_settings_that_are_shown_can_be_read(path: Path) -> None:
    for code in blocks(path, "python"):
        compile(code, path.name, "exec")
    for text in blocks(path, r"toml(?: title=\".*?\")?"):
        tomllib.loads(text)
    for text in blocks(path, "json"):
        json.loads(text)
