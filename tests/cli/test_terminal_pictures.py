"""Pictures on a terminal, read back from what was written to it."""

from __future__ import annotations

import pytest
import torch
from rich.console import Console

from istar.cli.terminal_pictures import (
    CellSize,
    TerminalPicture,
    cell_size,
    cells_of,
    picture_protocol,
)
from istar.media import stretch
from terminal import half_block_pictures, iterm_pictures, kitty_pictures, written_to_terminal


def shown(rows: int, columns: int, encoding: str = "utf-8", **environment: str) -> bytes:
    """What a terminal of 40 rows and 60 columns gets for a picture, and for a word below it."""

    def show(terminal: int) -> None:
        with open(terminal, "w", encoding=encoding, closefd=False) as file:
            settings = {"LINES": "40", "COLUMNS": "60", **environment}
            console = Console(file=file, force_terminal=True, _environ=settings)
            protocol = picture_protocol(console, environment)
            if protocol:
                console.print(TerminalPicture(drawn(rows, columns), protocol, cell_size(terminal)))
            console.print("below")

    return written_to_terminal(show, rows=40, columns=60, pixels=(800, 600))


def drawn(rows: int, columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (rows, columns, 3), dtype=torch.uint8, generator=generator)


def test_half_blocks_hold_the_picture() -> None:
    written = shown(32, 48, TERM="xterm-256color", COLORTERM="truecolor")
    (picture,) = half_block_pictures(written)
    # Half of 40 rows are 20, of two pixels each; 48 by 32 then takes 60 columns.
    assert torch.equal(picture, stretch(drawn(32, 48), 40, 60))
    assert written.endswith(b"\x1b[0m\r\nbelow\r\n")


def test_half_blocks_in_256_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    # GNU screen does not know the 24-bit colours that the terminal around it knows.
    in_screen = {"TERM": "screen-256color", "COLORTERM": "truecolor", "STY": "1.tty"}
    for environment in ({"TERM": "xterm-256color"}, in_screen):
        monkeypatch.setenv("STY", environment.get("STY", ""))
        written = shown(32, 48, **environment)
        assert b"\x1b[38;5;" in written
        assert b";2;" not in written.replace(b"38;5;", b"").replace(b"48;5;", b"")


def test_kitty_gets_a_png_in_chunks() -> None:
    written = shown(128, 192, TERM="xterm-kitty")
    ((keys, picture),) = kitty_pictures(written)
    assert torch.equal(picture, drawn(128, 192))
    assert written.count(b"\x1b_G") > 1
    # It answers nothing (q), leaves the cursor (C) and is 20 rows high.
    assert keys == {b"a": b"T", b"f": b"100", b"q": b"2", b"C": b"1", b"r": b"20", b"m": b"1"}
    assert written.startswith(b"\r\n" * 20 + b"\x1b[20A\x1b7\x1b_G")
    assert written.endswith(b"\x1b\\\x1b8\x1b[20Bbelow\r\n")


def test_a_picture_has_no_more_pixels_than_are_shown() -> None:
    ((keys, picture),) = kitty_pictures(shown(1280, 1920, TERM="xterm-kitty"))
    # 20 rows of 20 pixels, and 60 columns of 10.
    assert picture.shape == (400, 600, 3)
    assert keys[b"r"] == b"20"


def test_iterm_gets_a_png() -> None:
    written = shown(32, 48, TERM="xterm-256color", TERM_PROGRAM="iTerm.app")
    ((arguments, picture),) = iterm_pictures(written)
    assert torch.equal(picture, drawn(32, 48))
    assert (arguments[b"width"], arguments[b"height"]) == (b"60", b"20")
    assert arguments[b"inline"] == b"1"
    assert written.endswith(b"\x07\x1b8\x1b[20Bbelow\r\n")


@pytest.mark.parametrize(
    ("environment", "protocol"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1", "TERM_PROGRAM": "vscode"}, "half"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm"),
        ({"TERM": "tmux-256color", "TMUX": "/tmp/1,2,3", "KITTY_WINDOW_ID": "1"}, "half"),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/1,2,3"}, "half"),
        ({"TERM": "screen-256color", "LC_TERMINAL": "iTerm2"}, "half"),
        ({"TERM": "xterm-kitty", "ZELLIJ": "0"}, "half"),
        ({"TERM": "xterm-256color"}, "half"),
        ({"TERM": "linux"}, "half"),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, None),
        ({"TERM": "xterm-kitty", "NO_COLOR": "1"}, "kitty"),
        ({"TERM": "dumb"}, None),
    ],
)
def test_which_terminal_gets_what(environment: dict[str, str], protocol: str | None) -> None:
    console = Console(force_terminal=True, _environ=environment)
    found = picture_protocol(console, environment)
    assert found == {"half": "half_blocks"}.get(protocol or "", protocol)


def test_no_half_blocks_where_they_cannot_be_written() -> None:
    for environment in ({"TERM": "xterm", "encoding": "ascii"}, {"TERM": "dumb"}):
        assert shown(32, 48, **environment) == b"below\r\n"


def test_cells_of_a_terminal_that_does_not_say_are_twice_as_high_as_wide() -> None:
    found = []
    for pixels in ((0, 0), (8, 8), (720, 540)):
        written_to_terminal(
            lambda terminal: found.append(cell_size(terminal)), rows=40, columns=60, pixels=pixels
        )
    assert found == [(10, 20), (10, 20), (9, 18)]


@pytest.mark.parametrize("cell", [CellSize(10, 20), CellSize(9, 20), CellSize(1, 1)])
@pytest.mark.parametrize(
    ("height", "width"), [(480, 832), (832, 480), (64, 64), (1, 5000), (5000, 1)]
)
def test_a_picture_fits_and_keeps_its_proportions(height: int, width: int, cell: CellSize) -> None:
    for limit in ((12, 80), (30, 200), (1, 1), (0, 20)):
        rows, columns = cells_of(height, width, rows=limit[0], columns=limit[1], cell=cell)
        assert 1 <= rows <= max(1, limit[0])
        assert 1 <= columns <= limit[1]
        exact = width * cell.height * rows / (height * cell.width)
        assert rows == 1 or columns == 1 or abs(columns - exact) <= 0.5
        # One more row would be too high or too wide.
        wider = width * cell.height * (rows + 1) / (height * cell.width)
        assert rows + 1 > limit[0] or wider > limit[1]
