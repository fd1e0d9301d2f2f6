"""Random numbers that depend on a run's seed, the step and a number alone."""

from __future__ import annotations

from hashlib import sha256

import torch


def seed_of(*numbers: int | str) -> int:
    """A seed from numbers and names, the same on every machine."""
    digest = sha256("/".join(map(str, numbers)).encode()).digest()
    return int.from_bytes(digest[:6], "big")


def draw(below: int, generator: torch.Generator) -> int:
    """A whole number from 0 up to, not including, `below`."""
    return int(torch.randint(below, (), generator=generator))
