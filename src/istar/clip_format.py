"""The files that clips are written as: what each of them can hold, and how it is encoded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from pathlib import Path

from istar.errors import UsageError

_SLOWEST, _FASTEST = 1, 60
_FINEST_RATE = 1001
_NUMBER = re.compile(r"%(?:0([1-9]))?d")


class Preset(str, Enum):
    """How long an encoder looks for a smaller file of the same quality."""

    ULTRAFAST = "ultrafast"
    SUPERFAST = "superfast"
    VERYFAST = "veryfast"
    FASTER = "faster"
    FAST = "fast"
    MEDIUM = "medium"
    SLOW = "slow"
    SLOWER = "slower"
    VERYSLOW = "veryslow"


@dataclass(frozen=True, kw_only=True)
class ClipFormat:
    """A kind of file.

    Attributes:
        name: as people call it.
        worst_crf: the largest constant rate factor of its encoder; None if it has none.
        sounds: the codecs of sound that it can hold, by libav's names.
        fastest: pictures a second at most.
        continues: pictures can be added behind those of a finished file, which stay as they are.
        even: height and width must be even.
    """

    name: str
    worst_crf: int | None = None
    sounds: frozenset[str] = frozenset()
    fastest: int = _FASTEST
    continues: bool = False
    even: bool = False


CLIP_FORMATS = {
    ".mp4": ClipFormat(
        name="MP4",
        worst_crf=51,
        sounds=frozenset({"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"}),
        continues=True,
        even=True,
    ),
    ".webm": ClipFormat(
        name="WebM",
        worst_crf=63,
        sounds=frozenset({"opus", "vorbis"}),
        continues=True,
        even=True,
    ),
    # Delays are hundredths of a second, and below two of them players take their own.
    ".gif": ClipFormat(name="GIF", fastest=50),
    ".webp": ClipFormat(name="animated WebP"),
    ".apng": ClipFormat(name="APNG"),
}
"""By suffix; the first is the usual one."""

STREAMED_SUFFIX = ".mp4"
"""Of a clip that is written where nothing can be written again, such as to a pipe."""

NUMBERED_SUFFIX = ".png"
"""Of pictures whose names hold a number, as in `boat/%04d.png`."""

_NUMBERED = ClipFormat(name="a directory of pictures")


def is_numbered(target: Path) -> bool:
    """Whether a name stands for numbered pictures: `%d`, or `%04d` with zeros, before `.png`."""
    return target.suffix.lower() == NUMBERED_SUFFIX and bool(_NUMBER.search(target.name))


def picture_name(target: Path, number: int) -> str:
    """The name of one of the pictures that `target` stands for."""
    return _NUMBER.sub(lambda found: f"{number:0{found[1] or 1}}", target.name, count=1)


def number_in(name: str, target: Path) -> int | None:
    """The number of a picture of the name that `target` stands for; None of any other name."""
    sign = _NUMBER.search(target.name)
    if sign is None:
        return None
    before, after = target.name[: sign.start()], target.name[sign.end() :]
    digits = name[len(before) : len(name) - len(after)]
    fits = name.startswith(before) and name.endswith(after) and digits.isascii()
    return int(digits) if fits and digits.isdigit() else None


def clip_format(target: Path) -> ClipFormat:
    """The format that a name stands for.

    Raises:
        UsageError: none.
    """
    if is_numbered(target):
        return _NUMBERED
    try:
        return CLIP_FORMATS[target.suffix.lower()]
    except KeyError:
        suffixes = " or ".join(CLIP_FORMATS)
        raise UsageError(
            f"cannot write '{target}': its name must end in {suffixes}, "
            f"or hold a number, such as frames/%04d{NUMBERED_SUFFIX}"
        ) from None


@dataclass(frozen=True, kw_only=True)
class ClipEncoding:
    """How a clip is encoded; None leaves it to the format.

    Attributes:
        crf: the constant rate factor; less is better and larger.
        preset: how long the encoder looks.
        fps: pictures a second when it is played; the pictures are the same.

    Raises:
        UsageError: a number out of range.
    """

    crf: int | None = None
    preset: Preset | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        if self.fps is not None and not _SLOWEST <= self.fps <= _FASTEST:
            raise UsageError(
                f"a clip plays {_SLOWEST} to {_FASTEST} pictures a second, not {self.fps:g}"
            )

    def rate(self, made: int) -> Fraction:
        """Pictures a second, of a clip that is made at `made`."""
        if self.fps is None:
            return Fraction(made)
        return Fraction(self.fps).limit_denominator(_FINEST_RATE)

    def check(self, target: Path) -> None:
        """Refuse what the format of a file does not know.

        Raises:
            UsageError: a setting that does not apply, or the name has no known suffix.
        """
        known = clip_format(target)
        if known.worst_crf is None and (self.crf is not None or self.preset is not None):
            setting = "rate factor (crf)" if self.crf is not None else "preset"
            encoded = [one.name for one in CLIP_FORMATS.values() if one.worst_crf is not None]
            raise UsageError(f"'{target}': {known.name} has no {setting}; {_joined(encoded)} do")
        if known.worst_crf is not None and self.crf not in (None, *range(1, known.worst_crf + 1)):
            raise UsageError(
                f"the rate factor (crf) of {known.name} is 1 to {known.worst_crf}, not {self.crf}"
            )
        if self.fps is not None and known is _NUMBERED:
            raise UsageError(f"'{target}': {known.name} has no speed")
        if self.fps is not None and self.fps > known.fastest:
            raise UsageError(
                f"{known.name} plays {known.fastest} pictures a second at most, not {self.fps:g}"
            )


def _joined(names: list[str]) -> str:
    return " and ".join(names)
