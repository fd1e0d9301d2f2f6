"""Lists of prompts: a prompt a line, or a JSON object a line with settings of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from istar.cli.inputs import input_file, is_stdin, read_stdin
from istar.errors import UsageError
from istar.request import Mode
from istar.text_files import LIST_BYTES, read_text

_KEYS = ("prompt", "negative", "seed", "aspect", "guidance", "tau", "output")
_OWN_KEYS: dict[Mode, tuple[str, ...]] = {
    "t2v": ("seconds",),
    "i2v": ("seconds", "image"),
    "extend": ("seconds", "clip"),
}
_SHOWN = 80
_NUMBERS = ("seconds", "guidance")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked for: by the command itself, or by a line of a list, which then counts more.

    Attributes:
        prompt: None for that of `--from`.
        image, clip: as typed.
        seconds: None for the model's own.
        negative, aspect, guidance, tau: None for those of the command.
        seed: None for those of the command.
        output: the file's name; None for one that the command gives.
    """

    prompt: str | None = None
    image: Path | None = None
    clip: Path | None = None
    seconds: float | None = None
    negative: str | None = None
    aspect: str | None = None
    guidance: float | None = None
    tau: str | None = None
    seed: int | None = None
    output: str | None = None

    def with_line(self, text: str, mode: Mode) -> Asked:
        """The same with what a line of a list says.

        Raises:
            UsageError: it begins with a brace and is not one JSON object with a prompt or other
                settings of the mode.
        """
        if not text.startswith("{"):
            return replace(self, prompt=text)
        try:
            settings = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"it begins with a brace and is not JSON: {error}") from error
        known = (*_KEYS, *_OWN_KEYS.get(mode, ()))
        for name, value in settings.items():
            if name not in known:
                raise UsageError(f"{name!r} is no setting of {mode}; there are {', '.join(known)}")
            if name == "tau":
                settings[name] = _tau_text(value)
            elif name == "seed":
                if type(value) is not int:
                    raise UsageError(f"seed is a whole number, not {_shown(value)}")
            elif name in _NUMBERS:
                if not _is_number(value):
                    raise UsageError(f"{name} is a number, not {_shown(value)}")
            elif not isinstance(value, str):
                raise UsageError(f"{name} is a text, not {_shown(value)}")
        for name in ("image", "clip"):
            if name in settings:
                settings[name] = Path(settings[name])
        return replace(self, **settings)


class ListLine(NamedTuple):
    """A line of a list, counted from 1."""

    number: int
    text: str


def read_lines(path: Path, source: Path | None) -> list[ListLine]:
    """The lines of a list of prompts that are not blank; `-` is stdin.

    Args:
        path: as typed.
        source: the file beside it, see `istar.cli.inputs.input_file`.

    Raises:
        UsageError: it is not there, no UTF-8 text, or has no such line.
    """
    if is_stdin(path):
        text = read_stdin("the list of prompts", source, limit=LIST_BYTES)
    else:
        text = read_text(input_file(path), limit=LIST_BYTES)
    lines = list(_lines(text))
    if not lines:
        raise UsageError(f"{path} holds no prompts")
    return lines


def _lines(text: str) -> Iterator[ListLine]:
    for number, line in enumerate(text.split("\n"), 1):
        if stripped := line.strip():
            yield ListLine(number, stripped)


def _tau_text(value: Any) -> str:
    """Temperatures as one types them."""
    if isinstance(value, str):
        return value
    values = value if isinstance(value, list) else [value]
    if not all(map(_is_number, values)):
        raise UsageError(f"tau is a number or a list of two, not {_shown(value)}")
    return ",".join(map(repr, values))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
