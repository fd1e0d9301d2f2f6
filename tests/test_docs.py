from __future__ import annotations

import json
import re
import runpy
import shlex
from pathlib import Path

import pytest

from istar.cli.app import run
from istar.models.manifest import read_manifest

ROOT = Path(__file__).parent.parent
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", ["README.md", "docs/python-api.md", "docs/takes.md"])
def test_python_snippets_run(
    name: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    snippets = blocks(ROOT / name, "python")
    assert snippets
    # The snippets name the released 480p model; a small one stands in for it.
    code = "\n".join(snippets).replace('"480p"', repr(str(checkpoint)))
    code = code.replace("seconds=5", "seconds=1")
    exec(compile(code, name, "exec"), {"__name__": "snippet"})
    assert (tmp_path / "waves.mp4").is_file()


def test_the_examples_of_takes_print_what_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(ROOT / "docs" / "takes.md", "console"):
        for example in block.removeprefix("$ ").split("\n$ "):
            command, *shown = example.splitlines()
            _, *arguments = shlex.split(command)
            assert run(arguments) == 0, command
            printed = capfd.readouterr().out.splitlines()
            assert shown in ([], printed)
            assert all((tmp_path / path).is_file() for path in printed)


def test_the_manifest_that_is_shown_can_be_read(tmp_path: Path) -> None:
    (shown,) = blocks(ROOT / "docs" / "checkpoints.md", "json")
    (tmp_path / "istar.json").write_text(shown, encoding="utf-8")
    spec = read_manifest(tmp_path / "istar.json")
    assert spec.name == json.loads(shown)["name"]


def test_the_command_reference_is_what_the_commands_say() -> None:
    module = runpy.run_path(str(ROOT / "docs" / "generate_cli.py"))
    assert module["generated"]() == (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")


def test_the_tables_of_memory_plans_are_what_the_plans_say() -> None:
    module = runpy.run_path(str(ROOT / "docs" / "generate_performance.py"))
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert module["generated"]() == page
    assert "| 24 GB |" in page


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


def test_every_source_file_is_described_in_the_architecture() -> None:
    described = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for entry in sorted((ROOT / "src" / "istar").iterdir()):
        if entry.name.startswith("__") or entry.name == "py.typed":
            continue
        assert entry.name in described, entry.name
