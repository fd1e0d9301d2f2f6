"""A terminal for tests: what a program writes to one, and the pictures in it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from base64 import standard_b64decode
from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

_COLOUR = rb"2;(\d+);(\d+);(\d+)"
_CELL = re.compile(rb"\x1b\[38;" + _COLOUR + rb";48;" + _COLOUR + rb"m((?:\xe2\x96\x80)+)\x1b\[0m")
_KITTY = re.compile(rb"\x1b_G([^;]*);([^\x1b]*)\x1b\\")
_ITERM = re.compile(rb"\x1b]1337;File=([^:]*):([A-Za-z0-9+/=]*)\x07")


def written_to_terminal(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    rows: int = 24,
    columns: int = 80,
    pixels: tuple[int, int] = (0, 0),
    timeout: float = 120,
) -> bytes:
    """All that a command writes to stderr where that is a terminal; the rest goes nowhere.

    Args:
        command: ends well.
        environment: besides this process's own, less what says something of its terminal.
        rows, columns: of the terminal.
        pixels: its height and width, as far as it says.
        timeout: seconds after which the command is killed.
    """
    of_terminals = ("COLORTERM", "TERM", "TERM_PROGRAM", "TMUX", "STY", "ZELLIJ", "NO_COLOR")
    of_terminals += ("KITTY_WINDOW_ID", "LC_TERMINAL", "COLUMNS", "LINES", "FORCE_COLOR")
    plain = {name: value for name, value in os.environ.items() if name not in of_terminals}
    person, terminal = pty.openpty()
    size = struct.pack("HHHH", rows, columns, pixels[1], pixels[0])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=terminal,
        env={**plain, **environment},
    )
    os.close(terminal)
    written = b""
    try:
        while True:
            try:
                piece = os.read(person, 65536)
            except OSError:  # the last one who had it open is gone
                break
            if not piece:
                break
            written += piece
        assert process.wait(timeout) == 0, written
    finally:
        process.kill()
        process.wait()
        os.close(person)
    return written


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
