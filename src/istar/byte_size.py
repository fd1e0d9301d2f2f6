"""Numbers of bytes in readable units."""

from __future__ import annotations


def readable_size(count: int) -> str:
    """A number of bytes in decimal units: `47.0 GB`, `1.5 kB`, `12 bytes`."""
    for unit, size in (("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1000)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
