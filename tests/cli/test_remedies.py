from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import get_args

import istar
from istar.cli.remedies import WORDS, message
from istar.errors import DeviceError, Remedy

SOURCE = Path(istar.__file__).parent
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+|`istar [a-z]")
OTHER_PROGRAMS = re.compile(r"`(?:pip|hf) [^`]*`|--(?:query-gpu|format)=")


def test_every_remedy_has_words() -> None:
    assert set(WORDS) == set(get_args(Remedy))


def test_a_message_ends_in_what_to_type() -> None:
    error = DeviceError("memory ran out", remedies=("lower_resolution", "fewer_seconds", "cpu"))
    assert message(error) == (
        "memory ran out; choose a lower --res, choose fewer --seconds or compute with --device cpu"
    )
    assert message(DeviceError("no", remedies=("cpu",))) == "no; compute with --device cpu"
    assert message(DeviceError("no")) == "no"


def flags(source: str) -> list[str]:
    """The command-line flags and commands of istar's that a module's strings name."""
    strings = (
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    return [flag for text in strings for flag in FLAG.findall(OTHER_PROGRAMS.sub("", text))]


def test_below_the_command_line_no_text_names_a_flag() -> None:
    found = {
        str(path.relative_to(SOURCE)): flags(path.read_text(encoding="utf-8"))
        for path in SOURCE.rglob("*.py")
        if path.relative_to(SOURCE).parts[0] not in ("cli", "__main__.py")
    }
    assert {path: names for path, names in found.items() if names} == {}


def test_the_check_sees_flags() -> None:
    assert flags("raise X(f'{a} failed; try --device cpu, or `istar models`')") == [
        "--device",
        "`istar m",
    ]
    assert flags("'`pip install --force-reinstall av`, -- and a--b'") == []
