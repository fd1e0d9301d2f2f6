"""Options whose values are texts of a form of their own."""

from __future__ import annotations

from math import isfinite

from istar.errors import UsageError


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
