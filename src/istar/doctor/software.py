"""What is installed: versions, which devices torch was built for, codecs."""

from __future__ import annotations

import ast
import platform
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from istar import __version__

Build = Literal["cpu", "cuda", "rocm", "xpu", "unknown"]

_ENCODER, _DECODER = "libx264", "h264"


@dataclass(frozen=True, kw_only=True)
class Software:
    """Versions; None for what is not installed.

    Attributes:
        istar: of this package.
        python: of the interpreter.
        executable: the interpreter's file.
        platform: the operating system.
        torch: of torch.
        torch_build: the devices that torch was built for; None without torch.
        torch_build_version: of the platform it was built for, such as `12.8` for CUDA.
        transformers: of transformers.
        huggingface_hub: of the Hub's client.
        av: of PyAV.
    """

    istar: str
    python: str
    executable: str
    platform: str
    torch: str | None
    torch_build: Build | None
    torch_build_version: str | None
    transformers: str | None
    huggingface_hub: str | None
    av: str | None


@dataclass(frozen=True, kw_only=True)
class Codecs:
    """What PyAV can do with H.264.

    Attributes:
        importable: PyAV itself works.
        encoder: videos can be written.
        decoder: such videos can be read.
        problem: why PyAV cannot be imported.
    """

    importable: bool
    encoder: bool
    decoder: bool
    problem: str | None


def read_software() -> Software:
    """The versions of everything that matters; nothing of it is imported."""
    torch = _version("torch")
    build, build_version = _torch_build(torch) if torch else (None, None)
    return Software(
        istar=__version__,
        python=platform.python_version(),
        executable=sys.executable,
        platform=platform.platform(),
        torch=torch,
        torch_build=build,
        torch_build_version=build_version,
        transformers=_version("transformers"),
        huggingface_hub=_version("huggingface-hub"),
        av=_version("av"),
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _torch_build(torch: str) -> tuple[Build, str | None]:
    """What torch was built for, by the constants of its `version.py`, else by its version."""
    constants: dict[str, object] = {}
    with suppress(ImportError, OSError, ValueError, SyntaxError):
        spec = find_spec("torch")
        if spec and spec.origin:
            constants = _constants(Path(spec.origin).with_name("version.py"))
    builds: tuple[tuple[str, Build], ...] = (
        ("cuda", "cuda"),
        ("hip", "rocm"),
        ("rocm", "rocm"),
        ("xpu", "xpu"),
    )
    for name, build in builds:
        value = constants.get(name)
        if isinstance(value, str):
            return build, value
    local = torch.partition("+")[2]
    if "cuda" in constants or local == "cpu":
        return "cpu", None
    if local.startswith("cu"):
        return "cuda", None
    return ("rocm" if local.startswith("rocm") else "unknown"), None


def _constants(file: Path) -> dict[str, object]:
    """The constants that a module assigns, read without running it."""
    found: dict[str, object] = {}
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        target = (
            statement.targets[0]
            if isinstance(statement, ast.Assign)
            else statement.target
            if isinstance(statement, ast.AnnAssign)
            else None
        )
        value = getattr(statement, "value", None)
        if isinstance(target, ast.Name) and isinstance(value, ast.Constant):
            found[target.id] = value.value
    return found


def read_codecs() -> Codecs:
    """Which of the codecs that istar needs PyAV brings."""
    try:
        from av import Codec
    except Exception as error:
        # A broken library of FFmpeg's may raise anything.
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Codecs(importable=False, encoder=False, decoder=False, problem=reason)
    return Codecs(
        importable=True,
        encoder=_has(lambda: Codec(_ENCODER, "w")),
        decoder=_has(lambda: Codec(_DECODER, "r")),
        problem=None,
    )


def _has(find: Callable[[], object]) -> bool:
    try:
        find()
    except ValueError:
        return False
    return True
