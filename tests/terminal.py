"""A terminal for tests: what is written to one, and the pictures in it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
from base64 import standard_b64decode
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from threading import Thread

import numpy as np
import torch
from PIL import Image
from torch import Tensor

_COLOUR = rb"2;(\d+);(\d+);(\d+)"
_CELL = re.compile(rb"\x1b\[38;" + _COLOUR + rb";48;" + _COLOUR + rb"m((?:\xe2\x96\x80)+)\x1b\[0m")
_KITTY = re.compile(rb"\x1b_G([^;]*);([^\x1b]*)\x1b\\")
_ITERM = re.compile(rb"\x1b]1337;File=([^:]*):([A-Za-z0-9+/=]*)\x07")


def written_to_terminal(
    write: Callable[[int], object],
    *,
    rows: int = 24,
    columns: int = 80,
    pixels: tuple[int, int] = (0, 0),
) -> bytes:
    """All that is written to a terminal.

    Args:
        write: writes to the terminal, whose descriptor it gets and does not close.
        rows, columns: of the terminal.
        pixels: its height and width, as far as it says.
    """
    person, terminal = pty.openpty()
    size = struct.pack("HHHH", rows, columns, pixels[1], pixels[0])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)
    pieces: list[bytes] = []

    def read() -> None:
        # A read fails when nobody has the terminal open any more.
        with suppress(OSError):
            while piece := os.read(person, 65536):
                pieces.append(piece)

    reader = Thread(target=read)
    reader.start()
    try:
        write(terminal)
    finally:
        os.close(terminal)
        reader.join()
        os.close(person)
    return b"".join(pieces)


def half_block_pictures(written: bytes) -> list[Tensor]:
    """The pictures `(2 × rows, columns, 3)` that are drawn in half blocks, with 24-bit colours."""
    pictures: list[list[Tensor]] = [[]]
    for line in written.replace(b"\r", b"").split(b"\n"):
        cells = [
            (tuple(map(int, colours[:3])), tuple(map(int, colours[3:])))
            for *colours, blocks in _CELL.findall(line)
            for _ in range(len(blocks) // 3)
        ]
        if cells:
            pictures[-1].append(torch.tensor(cells, dtype=torch.uint8).transpose(0, 1))
        elif pictures[-1]:
            pictures.append([])
    return [torch.cat(lines) for lines in pictures if lines]


def kitty_pictures(written: bytes) -> list[tuple[dict[bytes, bytes], Tensor]]:
    """The keys and the pixels `(H, W, 3)` of every picture in Kitty's protocol."""
    pictures = []
    for keys, chunk in _KITTY.findall(written):
        named = dict(key.split(b"=") for key in keys.split(b","))
        assert len(chunk) <= 4096
        if set(named) != {b"m"}:
            pictures.append((named, b""))
        assert named[b"m"] == b"0" or len(chunk) % 4 == 0
        pictures[-1] = (pictures[-1][0], pictures[-1][1] + chunk)
    return [(keys, _decoded(data)) for keys, data in pictures]


def iterm_pictures(written: bytes) -> list[tuple[dict[bytes, bytes], Tensor]]:
    """The arguments and the pixels `(H, W, 3)` of every picture in iTerm2's protocol."""
    return [
        (dict(one.split(b"=") for one in arguments.split(b";")), _decoded(data))
        for arguments, data in _ITERM.findall(written)
    ]


def _decoded(data: bytes) -> Tensor:
    return torch.from_numpy(np.array(Image.open(BytesIO(standard_b64decode(data)))))
