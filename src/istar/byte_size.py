"""Numbers of bytes in readable units."""

from __future__ import annotations

import re

_UNITS = (("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1000))
_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,12})?) ?(GB|MB|KB)?", re.IGNORECASE | re.ASCII)


def readable_size(count: int) -> str:
    """A number of bytes in decimal units: `47.0 GB`, `1.5 kB`, `12 bytes`."""
    for unit, size in _UNITS:
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def bytes_of(text: str) -> int | None:
    """The number of bytes of a size such as `2GB`, `1.5 MB` or `1000`; None of another text."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        return None
    sizes = {unit.lower(): size for unit, size in _UNITS}
    return round(float(found[1]) * sizes.get((found[2] or "").lower(), 1))
