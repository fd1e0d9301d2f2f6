from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

import istar

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent


def test_every_module_imports() -> None:
    names = [m.name for m in pkgutil.walk_packages(istar.__path__, "istar.")]
    assert len(names) > 30
    for name in names:
        if name != "istar.__main__":
            importlib.import_module(name)


def test_public_names_are_sorted_and_importable() -> None:
    assert istar.__all__ == sorted(istar.__all__)
    assert set(istar.__all__) == set(istar._HOME)
    for name in istar.__all__:
        assert getattr(istar, name) is not None
    assert set(istar.__all__) <= set(dir(istar))


def test_version_is_the_changelogs() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(\d[^]]*)\]", changelog, re.MULTILINE)
    assert newest is not None
    assert newest[1] == istar.__version__
    assert f'version = "{istar.__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_the_lowest_versions_are_the_ones_that_are_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    admitted = project["dependencies"] + extras["heif"] + extras["train"]
    pins = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()
    floors = [line.replace("==", ">=") for line in pins if not line.startswith("#")]
    lowest, tested = (
        {one.name: one.specifier for one in map(Requirement, lines)} for lines in (admitted, floors)
    )
    assert lowest.pop("torch") != tested.pop("torch")  # the file says why
    assert lowest == tested


def test_importing_and_asking_for_help_load_no_torch() -> None:
    code = """
import istar, sys
from istar.cli.app import run
run(['t2v', '--help'])
run(['t2v', 'x', '--seconds', '0', '--model', 'x'])
sys.exit('torch' in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_touches_nothing_and_loads_torch_without_its_compiler(tmp_path: Path) -> None:
    code = "import sys, istar.pipeline, istar.cli.app; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={
            "HOME": str(tmp_path),
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(Path(istar.__file__).parents[1]),
        },
    )
    assert list(tmp_path.iterdir()) == []
    loaded = done.stdout.split()
    assert "torch" in loaded
    assert "torch._dynamo" not in loaded
