"""Which of the codecs that clips need the installed PyAV has."""

from __future__ import annotations

from typing import Literal

from av import Codec


def has_h264(mode: Literal["r", "w"]) -> bool:
    """Whether H.264 can be read (`r`), or written (`w`) with the encoder that `write_clip` uses."""
    try:
        Codec("h264" if mode == "r" else "libx264", mode)
    except ValueError:
        return False
    return True
