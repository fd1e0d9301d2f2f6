"""Options whose values are texts of a form of their own."""

from __future__ import annotations

import re
from math import isfinite

from istar.errors import UsageError

_SECONDS = re.compile(r"([0-9]{1,9}(?:\.[0-9]*)?)s?")


def parse_aspect(text: str | None) -> float | None:
    """Height over width of `W:H`."""
    if text is None:
        return None
    width, _, height = text.partition(":")
    try:
        ratio = float(height) / float(width)
    except (ValueError, ZeroDivisionError):
        ratio = 0.0
    if not (isfinite(ratio) and ratio > 0 and float(width) > 0):
        raise UsageError(f"--aspect is width:height, such as 16:9, not {text!r}")
    return ratio


def parse_tau(text: str | None) -> tuple[float | None, float | None]:
    """Temperatures of the image and the video clips of `X` or `X,Y`; of an empty one None."""
    if text is None:
        return None, None
    image, comma, video = text.partition(",")
    if not comma:
        video = image
    try:
        if not image and not video:
            raise ValueError
        return float(image) if image else None, float(video) if video else None
    except ValueError as error:
        raise UsageError(f"--tau is one number or two, such as 1,0.4, not {text!r}") from error


def parse_deadline(text: str | None) -> float | None:
    """How many seconds a generation may take, as typed; None for as long as it takes.

    Raises:
        UsageError: no number of seconds.
    """
    if text is None:
        return None
    found = _SECONDS.fullmatch(text)
    if found is None or not float(found[1]):
        raise UsageError(f"--deadline is a number of seconds, such as 20s, not {text!r}")
    return float(found[1])
