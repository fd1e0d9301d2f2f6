"""Files that are almost what they should be, the same for a seed, and kept where they fail.

`FUZZ_CASES` and `FUZZ_SEED` in the environment say how many, and which.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

SEED = int(os.environ.get("FUZZ_SEED", 0))
KEPT = Path("out/fuzz").absolute()
_NUMBERS = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def cases(usual: int) -> int:
    """How many files to try: `usual`, unless the environment says another number."""
    return int(os.environ.get("FUZZ_CASES", usual))


def mutated_bytes(content: bytes, chance: Random) -> bytes:
    """Bytes of which a few were flipped, set, cut, added, moved or doubled; mostly in the head."""
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        head = chance.random() < 0.5
        place = chance.randrange(max(1, min(len(content), 2000) if head else len(content)))
        length = chance.choice((1, 2, 4, 8, 64, 1024))
        before, after = content[:place], content[place:]
        match chance.randrange(7):
            case 0:
                content = before
            case 1:
                content = before + chance.randbytes(length) + after
            case 2:
                content = before + after[length:]
            case 3:
                content = before + after[:length] * 2 + after[length:]
            case 4:
                width = chance.choice((1, 2, 4))
                number = chance.choice(_NUMBERS) & (256**width - 1)
                order = chance.choice(("big", "little"))
                content = before + number.to_bytes(width, order) + after[width:]
            case 5:
                content = before + chance.randbytes(length) + after[length:]
            case _:
                flipped = bytearray(content or b"\0")
                for number in range(chance.randrange(1, 5)):
                    flipped[(place + number) % len(flipped)] ^= 1 << chance.randrange(8)
                content = bytes(flipped)
    return content


@contextmanager
def kept_if_it_fails(path: Path) -> Iterator[None]:
    """Copy a file to `out/fuzz` where the block fails."""
    try:
        yield
    except BaseException as error:
        KEPT.mkdir(parents=True, exist_ok=True)
        kept = shutil.copy(path, KEPT)
        error.add_note(f"the file is kept as {kept}")
        raise
