"""Numbers of things for people."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """A number and its noun: `1 file`, `2 files`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
