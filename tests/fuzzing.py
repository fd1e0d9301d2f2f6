"""Bytes that are almost a file, the same for a seed; how many are tried, and which.

The suite tries a few. `make fuzz` sets `FUZZ_CASES` and `FUZZ_SEED` for more and for others.
"""

from __future__ import annotations

import os
from random import Random

SEED = int(os.environ.get("FUZZ_SEED", 0))
_NUMBERS = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_HEAD = 2000


def cases(usual: int) -> int:
    """How many files to try: `usual` in the suite."""
    return int(os.environ.get("FUZZ_CASES", usual))


def mutated_bytes(content: bytes, chance: Random) -> bytes:
    """Bytes that were cut, added, removed, doubled, replaced or flipped, as often in the head."""
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        reach = min(len(content), _HEAD) if chance.random() < 0.5 else len(content)
        place = chance.randrange(max(1, reach))
        before, after = content[:place], content[place:]
        length = chance.choice((1, 2, 4, 8, 64, 1024))
        match chance.randrange(7):
            case 0:
                content = before
            case 1:
                content = before + chance.randbytes(length) + after
            case 2:
                content = before + after[length:]
            case 3:
                content = before + after[:length] + after
            case 4:
                content = before + chance.randbytes(length) + after[length:]
            case 5:
                width = chance.choice((1, 2, 4))
                number = chance.choice(_NUMBERS) % 256**width
                order = chance.choice(("big", "little"))
                content = before + number.to_bytes(width, order) + after[width:]
            case _:
                flipped = bytearray(content or b"\0")
                for number in range(chance.randrange(1, 5)):
                    flipped[(place + number) % len(flipped)] ^= 1 << chance.randrange(8)
                content = bytes(flipped)
    return content
