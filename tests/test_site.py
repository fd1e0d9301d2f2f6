"""The documentation as a site: every page is there, and every link on it leads somewhere."""

from __future__ import annotations

import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("zensical", reason="make docs-site installs it")

ROOT = Path(__file__).parent.parent
PAGES = sorted(path.stem for path in (ROOT / "docs").glob("*.md"))


class Page(HTMLParser):
    """What a page refers to, and what can be referred to on it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.loaded: set[str] = set()
        self.names: set[str] = set()
        self.headings = 0
        self.pictures_without_words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.names |= {found[name] for name in ("id", "name") if name in found}
        self.headings += tag == "h1"
        if tag == "a" and "href" in found:
            self.targets.add(found["href"])
        elif tag in ("img", "script", "link", "video", "source"):
            self.loaded |= {found[name] for name in ("src", "href") if name in found}
        if tag == "img" and not found.get("alt"):
            self.pictures_without_words.append(found["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", directory / "docs")
    shutil.copy(ROOT / "mkdocs.yml", directory)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory / "out" / "site"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def test_every_page_is_in_the_navigation_and_nothing_else_is_published(
    site: Path, pages: dict[Path, Page]
) -> None:
    first = site / "index.html"
    reached = {(site / target).resolve() for target in pages[first].targets if ":" not in target}
    for name in PAGES:
        if name != "index":
            assert (site / name) in reached, name
    published = {path.name for path in site.iterdir()}
    assert not {path.name for path in (ROOT / "docs").iterdir()} & published - {
        path.name for pattern in ("*.webp", "*.svg") for path in (ROOT / "docs").glob(pattern)
    }


def test_links_pictures_and_anchors_are_there(site: Path, pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        if path.name == "404.html":
            continue  # its links begin at the site's address, which it does not know
        for target in page.targets | page.loaded:
            parts = urlsplit(target)
            if parts.scheme in ("http", "https"):
                # Fonts, scripts and styles are the site's own.
                assert target not in page.loaded, (path, target)
                continue
            file = path
            if parts.path:
                file = (path.parent / unquote(parts.path)).resolve()
                assert file.is_relative_to(site.resolve()), (path, target)
                file = file / "index.html" if file.is_dir() else file
            assert file.is_file(), (path, target)
            if parts.fragment and file.suffix == ".html":
                named = pages[file].names | {"__skip"}
                assert unquote(parts.fragment) in named, (path, target)


def test_every_page_has_one_title_and_words_for_its_pictures(pages: dict[Path, Page]) -> None:
    assert len(pages) > len(PAGES)
    for path, page in pages.items():
        assert page.headings == 1, path
        assert not page.pictures_without_words, path
