"""Who may import whom."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

import istar

SOURCE = Path(istar.__file__).parent

ROWS: tuple[tuple[str, ...], ...] = (
    ("istar.__main__",),
    ("istar.cli", "istar.cli.*"),
    (
        "istar.lab.score",
        "istar.lab.report",
        "istar.lab.sheet",
        "istar.lab.precision",
        "istar.training.*",
        "istar.bench.*",
    ),
    ("istar.pipeline", "istar.deadline", "istar.doctor"),
    ("istar.job", "istar.replay", "istar.score"),
    ("istar.window_pictures", "istar.outlook", "istar.previews"),
    ("istar.opening", "istar.resume", "istar.take_store"),
    (
        "istar.networks",
        "istar.events",
        "istar.inputs",
        "istar.take",
        "istar.take_file",
        "istar.checkpoint.convert",
        "istar.checkpoint.pack",
    ),
    ("istar.network_files", "istar.memory_plan"),
    ("istar.memory_use",),
    (
        "istar.generation.loop",
        "istar.generation.state",
        "istar.generation.variation",
        "istar.checkpoint.quantize",
        "istar.checkpoint.read",
        "istar.checkpoint.write",
        "istar.placement",
    ),
    (
        "istar.generation.canvas",
        "istar.generation.likelihood",
        "istar.generation.preview",
        "istar.generation.residual",
    ),
    (
        "istar.transformer.*",
        "istar.video_tokenizer.*",
        "istar.text_encoder",
        "istar.language_model",
        "istar.media",
        "istar.media.*",
        "istar.lab.*",
        "istar.checkpoint.names",
        "istar.checkpoint.infer",
        "istar.checkpoint.tensor_files",
    ),
    ("istar.models.find", "istar.models.store"),
    (
        "istar.plan",
        "istar.file_settings",
        "istar.rewriting",
        "istar.output_templates",
        "istar.evaluation_prompts",
    ),
    ("istar.models.*",),
    ("istar.model_spec",),
    (
        "istar.generation.guidance",
        "istar.generation.sampling",
        "istar.generation.flop",
        "istar.generation.until",
    ),
    (
        "istar.transformer.config",
        "istar.video_tokenizer.config",
        "istar.generation.schedule",
        "istar.request",
        "istar.output_names",
    ),
    (
        "istar.tables",
        "istar.checkpoint.files",
        "istar.checkpoint.encoder_files",
        "istar.files",
    ),
    ("istar.text_files", "istar.clip_format", "istar.take_directory"),
    ("istar.errors", "istar.byte_size", "istar.plurals", "istar.host_memory", "istar.pace"),
)
"""Top to bottom. A module imports from rows below its own, or from its own package."""

FENCES = {
    "huggingface_hub": "istar.models",
    "transformers": "istar.text_encoder",
    "torchao": "istar.transformer.eight_bit",
    "av": "istar.media",
    "PIL": "istar.media",
    "pillow_heif": "istar.media",
    "typer": "istar.cli",
    "rich": "istar.cli",
}
"""The only module or package that may import each of these."""

FACADES = {"istar.media"}
"""Packages whose own file gathers their modules' names, and so stands in a row like a module."""

LIGHT_ROWS = ROWS[next(i for i, row in enumerate(ROWS) if "istar.models.find" in row) :]
"""Rows that work without torch."""


def row_of(module: str, rows: tuple[tuple[str, ...], ...] = ROWS) -> int | None:
    """The row of a module, an exact name before a pattern."""
    for number, names in enumerate(rows):
        if module in names:
            return number
    for number, names in enumerate(rows):
        if any(fnmatchcase(module, name) for name in names):
            return number
    return None


def package_of(module: str) -> str:
    """The package right below istar, or istar itself."""
    parts = module.split(".")
    return ".".join(parts[:2]) if len(parts) > 2 or module in FACADES else parts[0]


def imports(source: str, module: str, known: set[str]) -> Iterator[str]:
    """Every module that a source names, first-party ones in full, wherever in it they stand.

    What is imported for type checking only counts if it is first-party.
    """
    tree = ast.parse(source)
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*module.split(".")[: -node.level], *filter(None, [node.module])])
            full = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if name in known else base for name in full]
        else:
            continue
        for name in names:
            if id(node) not in for_types or name.split(".")[0] == "istar":
                yield name


def violations(sources: dict[str, str]) -> list[str]:
    """What is wrong with a set of modules, a line for each."""
    wrong = []
    for module, source in sources.items():
        row = row_of(module)
        if row is None:
            wrong.append(f"{module} has no row: place it in tests/test_architecture.py")
            continue
        for name in imports(source, module, set(sources)):
            top = name.split(".")[0]
            fence = FENCES.get(top)
            if fence and module != fence and not module.startswith(f"{fence}."):
                wrong.append(f"{module} imports {name}, which only {fence} may")
            if name.split(".")[0] != "istar" or name == "istar":
                continue
            other = row_of(name)
            if other is None:
                wrong.append(f"{module} imports {name}, which has no row")
            elif other < row or (other == row and package_of(name) != package_of(module)):
                wrong.append(f"{module} imports {name}, which is not below it")
    return wrong


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(("istar", *(part for part in parts if part != "__init__")))


def modules() -> dict[str, str]:
    """All modules, of the packages' own files only the facades."""
    return {
        module_name(path): path.read_text(encoding="utf-8")
        for path in sorted(SOURCE.rglob("*.py"))
        if path.name != "__init__.py" or module_name(path) in FACADES
    }


def test_no_module_imports_upward_or_across_a_fence() -> None:
    assert violations(modules()) == []


@pytest.mark.parametrize(
    ("module", "source", "said"),
    [
        ("istar.errors", "import istar.request", "istar.request, which is not below"),
        ("istar.request", "from istar.models import released", "released, which is not below"),
        ("istar.transformer.rope", "from istar.generation.loop import start", "not below"),
        ("istar.transformer.rope", "from istar.video_tokenizer.conv import x", "not below"),
        ("istar.generation.canvas", "from . import loop", "istar.generation.loop, which is not"),
        ("istar.generation.canvas", "from .loop import start", "istar.generation.loop, which is"),
        ("istar.media", "def f():\n    from istar import pipeline", "istar.pipeline, which is"),
        (
            "istar.media",
            "if TYPE_CHECKING:\n    from istar.pipeline import x",
            "istar.pipeline, which is not below",
        ),
        ("istar.media", "from istar.nowhere import x", "istar.nowhere, which has no row"),
        ("istar.nowhere", "", "istar.nowhere has no row"),
        ("istar.checkpoint.read", "import huggingface_hub", "only istar.models may"),
        (
            "istar.checkpoint.read",
            "def f():\n    from PIL.Image import open",
            "only istar.media may",
        ),
        ("istar.pipeline", "import rich.console", "only istar.cli may"),
        ("istar.doctor", "def f():\n    from av import Codec", "only istar.media may"),
        ("istar.checkpoint.read", "import torchao.quantization", "only istar.transformer.eight"),
    ],
)
def test_such_imports_are_found(module: str, source: str, said: str) -> None:
    others = dict.fromkeys(("istar.generation.loop", "istar.models.released", "istar.pipeline"), "")
    (wrong,) = violations({**others, module: source})
    assert said in wrong


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("istar.pipeline", "from istar.generation.loop import start"),
        ("istar.generation.loop", "from istar.generation.state import Branch"),
        ("istar.transformer.block", "from .rope import rotate"),
        ("istar.cli.app", "import typer, rich.table\nfrom istar.cli.options import x"),
        ("istar.models.hub", "from huggingface_hub import snapshot_download"),
        ("istar.checkpoint.read", "if TYPE_CHECKING:\n    import huggingface_hub"),
    ],
)
def test_other_imports_are_allowed(module: str, source: str) -> None:
    assert violations({module: source, "istar.transformer.rope": ""}) == []


def loaded_by(names: list[str]) -> set[str]:
    """Modules that are loaded after importing some in a fresh interpreter."""
    script = f"import sys, {', '.join(names)}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_packages_settings_and_schedules_load_nothing_heavy() -> None:
    packages = {module_name(path) for path in SOURCE.rglob("__init__.py")} - FACADES
    assert {"istar", "istar.models"} <= packages
    light = [module for module in modules() if (row_of(module) or 0) >= len(ROWS) - len(LIGHT_ROWS)]
    assert "istar.generation.schedule" in light
    assert not loaded_by([*sorted(packages), *light]) & {"torch", "numpy", *FENCES}


def test_the_page_lists_the_rows_in_order() -> None:
    page = (Path(__file__).parent.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\d+\. (`.*|the rest of .*)$", page, re.MULTILINE)
    rows = [
        {row_of(f"istar.{name}") or row_of(f"istar.{name}.any") or 0 for name in names}
        for names in (re.findall(r"`([\w.]+)`", line) for line in lines)
    ]
    assert rows == [{0, 1}, *({number} for number in range(2, len(ROWS)))]
