from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest

import istar
from istar.models.manifest import read_manifest

ROOT = Path(__file__).parent.parent
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_manifest_that_is_shown_can_be_read(tmp_path: Path) -> None:
    (shown,) = blocks(ROOT / "docs" / "checkpoints.md", "json")
    (tmp_path / "istar.json").write_text(shown, encoding="utf-8")
    spec = read_manifest(tmp_path / "istar.json")
    assert spec.name == json.loads(shown)["name"]


def test_the_command_reference_is_what_the_commands_say() -> None:
    module = runpy.run_path(str(ROOT / "docs" / "generate_cli.py"))
    assert module["generated"]() == (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")


def test_the_chart_shows_the_rates_of_the_table() -> None:
    module = runpy.run_path(str(ROOT / "docs" / "generate_chart.py"))
    assert module["generated"]() == (ROOT / "docs" / "tiny.svg").read_text(encoding="utf-8")
    assert f"{module['measured']()['shape'].share:.1%}" == "71.5%"
    for page in ("index.md", "tiny.md"):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        assert f"are right in {module['SCENES']} videos](tiny.svg)" in text
        assert module["TABLE"] in " ".join(text.split())


def test_the_tables_of_memory_plans_are_what_the_plans_say() -> None:
    module = runpy.run_path(str(ROOT / "docs" / "generate_performance.py"))
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert module["generated"]() == page
    assert "| 24 GB |" in page


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^):]+)\)|<img src=\"([^\"]+)\"", text):
        file, _, heading = "".join(target).partition("#")
        linked = path.parent / file if file else path
        assert linked.is_file(), target
        assert not heading or heading in anchors(linked), target


def anchors(path: Path) -> set[str]:
    """Of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


def test_the_site_has_every_page() -> None:
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"^ +- .+: (\S+\.md)$", settings, re.MULTILINE)
    assert sorted(listed) == [path.name for path in DOCS[1:]]


def test_the_python_page_names_everything_public() -> None:
    page = (ROOT / "docs" / "python-api.md").read_text(encoding="utf-8")
    for name in istar.__all__:
        assert re.search(rf"`{name}`|\b{name}[.(]", page), name


def test_every_source_file_is_described_in_the_architecture() -> None:
    described = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for entry in sorted((ROOT / "src" / "istar").iterdir()):
        if entry.name.startswith("__") or entry.name == "py.typed":
            continue
        assert entry.name in described, entry.name
