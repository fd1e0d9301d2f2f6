"""Pictures on a terminal: graphics where it says that it shows them, else coloured half blocks.

What a terminal can do is read off the environment. Asking the terminal itself would mean reading
the answer from its keyboard, where it mixes with what the person types, and waiting for terminals
that do not answer.

Sources: the Kitty graphics protocol (sw.kovidgoyal.net/kitty/graphics-protocol), iTerm2's inline
images (iterm2.com/documentation-images.html).
"""

from __future__ import annotations

import os
import struct
from base64 import standard_b64encode
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, NamedTuple

from rich.color import Color, ColorSystem
from rich.segment import ControlType, Segment
from rich.style import Style

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from torch import Tensor

PictureProtocol = Literal["kitty", "iterm", "half_blocks"]

_KITTY_TERMINALS = ("xterm-kitty", "xterm-ghostty")
_ITERM_PROGRAMS = ("iTerm.app", "WezTerm")
_MULTIPLEXERS = ("TMUX", "STY", "ZELLIJ")  # tmux, GNU screen, zellij
_CHUNK = 4096  # characters of Base64 in one sequence, at most
_SHARE_OF_HEIGHT = 0.5
_UPPER_HALF = "▀"


class CellSize(NamedTuple):
    """Pixels of one character cell."""

    width: int
    height: int


_USUAL_CELL = CellSize(10, 20)


def picture_protocol(
    console: Console, environment: Mapping[str, str] = os.environ
) -> PictureProtocol | None:
    """How a terminal shows pictures; None if it cannot.

    In a terminal multiplexer that is half blocks: it draws its own screen, and graphics are lost
    in it or stay where they do not belong.

    Args:
        console: of a terminal.
        environment: what the terminal says of itself.
    """
    name, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM")
    is_multiplexed = name.startswith(("screen", "tmux")) or any(
        environment.get(one) for one in _MULTIPLEXERS
    )
    if not is_multiplexed:
        if name in _KITTY_TERMINALS or program == "ghostty":
            return "kitty"
        # Sent on by ssh, where the program's name is not.
        if program in _ITERM_PROGRAMS or environment.get("LC_TERMINAL") == "iTerm2":
            return "iterm"
        # Programs that Kitty started, other terminals among them, have this too.
        if environment.get("KITTY_WINDOW_ID") and program is None:
            return "kitty"
    if console.no_color or console.color_system is None or console.options.ascii_only:
        return None
    return "half_blocks"


class TerminalPicture:
    """A picture that rich prints, as wide as the terminal or half as high, whichever is less.

    Args:
        pixels: `(H, W, 3)` uint8.
        protocol: how.
        cell: the terminal's.
    """

    def __init__(self, pixels: Tensor, protocol: PictureProtocol, cell: CellSize) -> None:
        self._pixels = pixels
        self._protocol = protocol
        self._cell = cell

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The segments that draw it; the cursor ends at the start of the line below."""
        rows, columns = cells_of(
            self._pixels.shape[0],
            self._pixels.shape[1],
            rows=int(console.height * _SHARE_OF_HEIGHT),
            columns=console.width,
            cell=self._cell,
        )
        if self._protocol == "half_blocks":
            yield from _half_blocks(self._pixels, rows, columns)
            return
        png = self._png(rows, columns)
        sequence = _kitty(png, rows) if self._protocol == "kitty" else _iterm(png, rows, columns)
        # The lines are made first, so that the picture scrolls nothing and the cursor is known.
        below = "\n" * rows
        drawn = f"{below}\x1b[{rows}A\x1b7{sequence}\x1b8\x1b[{rows}B"
        # To rich it is a control code, which it neither measures nor cuts to the width.
        yield Segment(drawn, None, [(ControlType.CARRIAGE_RETURN,)])

    def _png(self, rows: int, columns: int) -> bytes:
        """A PNG with no more pixels than the terminal shows."""
        from istar.media import encode_png, stretch

        height, width = self._pixels.shape[:2]
        most = (rows * self._cell.height, columns * self._cell.width)
        share = min(1.0, most[0] / height, most[1] / width)
        size = (max(1, round(height * share)), max(1, round(width * share)))
        return encode_png(stretch(self._pixels, *size))


def cells_of(
    height: int, width: int, *, rows: int, columns: int, cell: CellSize
) -> tuple[int, int]:
    """The largest rows and columns, within limits, in which a picture keeps its proportions."""
    across = width * cell.height / (height * cell.width)  # columns that go with one row
    fitting = max(1, min(rows, int(columns / across)))
    return fitting, max(1, min(columns, round(fitting * across)))


def cell_size(descriptor: int) -> CellSize:
    """The pixels of a terminal's cells; of one that does not say, the usual proportions."""
    with suppress(ImportError, OSError):
        import fcntl
        import termios

        answer = fcntl.ioctl(descriptor, termios.TIOCGWINSZ, bytes(8))
        rows, columns, width, height = struct.unpack("HHHH", answer)
        if rows and columns and width >= columns and height >= rows:
            return CellSize(width // columns, height // rows)
    return _USUAL_CELL


def _kitty(png: bytes, rows: int) -> str:
    """Send a PNG and show it on so many rows, as wide as it is; the terminal does not answer."""
    data = standard_b64encode(png).decode("ascii")
    chunks = [data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK)]
    keys = [f"a=T,f=100,q=2,C=1,r={rows},", *[""] * (len(chunks) - 1)]
    more = [*[1] * (len(chunks) - 1), 0]
    return "".join(
        f"\x1b_G{key}m={m};{chunk}\x1b\\" for key, m, chunk in zip(keys, more, chunks, strict=True)
    )


def _iterm(png: bytes, rows: int, columns: int) -> str:
    data = standard_b64encode(png).decode("ascii")
    return f"\x1b]1337;File=inline=1;size={len(png)};width={columns};height={rows}:{data}\x07"


def _half_blocks(pixels: Tensor, rows: int, columns: int) -> Iterator[Segment]:
    """Two pixels a cell: the colour of a character that fills its upper half, and that behind."""
    from istar.media import stretch

    # GNU screen reads 24-bit colours as other things, whatever its own terminal has said.
    is_limited = bool(os.environ.get("STY"))
    for upper, lower in stretch(pixels, 2 * rows, columns).reshape(rows, 2, columns, 3).tolist():
        for above, below in zip(upper, lower, strict=True):
            colours = [Color.from_rgb(*colour) for colour in (above, below)]
            if is_limited:
                colours = [colour.downgrade(ColorSystem.EIGHT_BIT) for colour in colours]
            yield Segment(_UPPER_HALF, Style(color=colours[0], bgcolor=colours[1]))
        yield Segment.line()
