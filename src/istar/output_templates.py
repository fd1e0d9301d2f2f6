"""Names of outputs that say what is in them, such as `{seed}-{prompt:.40}.mp4`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

from istar.errors import UsageError
from istar.files import LONGEST_NAME, expanded
from istar.output_names import SLASHES

NUMBERS = ("seed", "number")
TEXTS = ("prompt", "mode", "model", "size")

_SPECS = {
    NUMBERS: (re.compile(r"(?:0[0-9]{1,2})?"), "{seed:06}"),
    TEXTS: (re.compile(r"(?:\.[1-9][0-9]{0,2})?"), "{prompt:.40}"),
}
_UNSAFE = frozenset('<>:"/\\|?*%')
_UNSAFE_FIRST = ".-~"
_SPLIT = re.compile("|".join(map(re.escape, SLASHES)))


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """A text as it stands, and behind it a field with how it is written."""

    literal: str
    field: str | None
    spec: str


@dataclass(frozen=True, kw_only=True)
class NameTemplate:
    """A file's name with fields in it, maybe in directories with fields in theirs.

    Attributes:
        root: the directory that the text names before its first field; nothing is outside it.
        parts: of every directory below it, and of the file, the pieces.
    """

    root: Path
    parts: tuple[tuple[_Piece, ...], ...]

    @classmethod
    def parse(cls, text: str, *, suffix: str) -> NameTemplate:
        """The template that a text describes.

        Args:
            text: a path in which `{field}` stands for a value and `{{` for a brace.
            suffix: for a name that has none.

        Raises:
            UsageError: no such field, a field that is not written in that way, or a brace alone.
        """
        try:
            found = list(Formatter().parse(text))
        except ValueError as error:
            raise UsageError(f"'{text}': {error}; write {{{{ for a brace") from error
        parts: list[list[_Piece]] = [[]]
        for literal, field, spec, conversion in found:
            *directories, last = _SPLIT.split(literal)
            for directory in directories:
                parts[-1].append(_Piece(literal=directory, field=None, spec=""))
                parts.append([])
            if field is not None:
                _check_field(text, field, spec or "", conversion)
            parts[-1].append(_Piece(literal=last, field=field, spec=spec or ""))
        literals = [
            None if any(piece.field for piece in part) else "".join(p.literal for p in part)
            for part in parts
        ]
        first = literals.index(None) if None in literals else len(parts) - 1
        if ".." in literals[first:]:
            raise UsageError(f"'{text}' leads out of the directory that it names")
        end = parts[-1][-1]
        if not end.literal and end.field is None and len(parts[-1]) == 1:
            raise UsageError(f"'{text}' names a directory; name a file in it")
        if end.field is not None or not Path("x" + end.literal).suffix:
            parts[-1].append(_Piece(literal=suffix, field=None, spec=""))
        root = expanded("".join(f"{name}{os.sep}" for name in literals[:first]))
        return cls(root=root, parts=tuple(map(tuple, parts[first:])))

    @property
    def fields(self) -> frozenset[str]:
        """The fields that it has."""
        return frozenset(piece.field for part in self.parts for piece in part if piece.field)

    @property
    def suffix(self) -> str:
        """What the file's name ends in."""
        return Path("x" + self.parts[-1][-1].literal).suffix

    def path(self, values: Mapping[str, Callable[[], str | int]]) -> Path:
        """The file's path for some values.

        What names cannot hold is replaced by an underscore. Where a name would be too long, the
        prompt in it is cut.

        Args:
            values: gives the value of each field; asked only for those that it has.
        """
        known = {field: values[field]() for field in self.fields}
        return self.root.joinpath(*(_filled(part, known) for part in self.parts))


def is_template(text: str) -> bool:
    """Whether a path is one with fields, or with braces that are doubled."""
    return "{" in text or "}" in text


def safe_text(text: str) -> str:
    """A text as a part of a name, on any system; control characters and the like are replaced."""
    line = " ".join(text.split()) or "_"
    kept = "".join("_" if c in _UNSAFE or not c.isprintable() else c for c in line)
    bare = kept.lstrip(_UNSAFE_FIRST)
    return "_" * (len(kept) - len(bare)) + bare


def _filled(part: tuple[_Piece, ...], values: Mapping[str, str | int]) -> str:
    """A name, its prompt cut until the system takes it."""
    texts = {field: safe_text(str(value)) for field, value in values.items()}
    texts["prompt"] = texts.get("prompt", "")[:LONGEST_NAME]
    while True:
        name = "".join(
            piece.literal + _written(piece, values, texts) if piece.field else piece.literal
            for piece in part
        )
        if len(os.fsencode(name)) <= LONGEST_NAME or not texts["prompt"]:
            return name or "_"
        texts["prompt"] = texts["prompt"][:-1]


def _written(piece: _Piece, values: Mapping[str, str | int], texts: Mapping[str, str]) -> str:
    assert piece.field is not None
    if piece.field in NUMBERS:
        return format(values[piece.field], piece.spec)
    return format(texts[piece.field], piece.spec).strip()


def _check_field(text: str, field: str, spec: str, conversion: str | None) -> None:
    kind = next((kind for kind in _SPECS if field in kind), None)
    if kind is None:
        fields = ", ".join((*TEXTS, *NUMBERS))
        raise UsageError(f"'{text}': {{{field}}} is no field; there are {fields}")
    allowed, example = _SPECS[kind]
    if conversion or not allowed.fullmatch(spec):
        sign = f"!{conversion}" if conversion else f":{spec}"
        raise UsageError(f"'{text}': {{{field}{sign}}} cannot be written; an example is {example}")
