"""The contact sheet of a test in the world of shapes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from istar.lab.score import Outcome

MOST_CLIPS = 24
"""Clips of each mode on the sheet."""

_COLUMNS = 4
_LINE = 2
_GAP = 6
_PAPER, _RIGHT, _WRONG = (240, 240, 240), (0, 150, 0), (200, 0, 0)
_BETWEEN = (90, 90, 90)


def contact_sheet(found: Sequence[Outcome]) -> Tensor:
    """One picture `(H, W, 3)` uint8 of the first `MOST_CLIPS` clips of every mode.

    Each clip is shown by a few of its pictures, framed in green where all is right, else in red.
    The widest clips are four in a row. Every mode begins a new row, below a dark line.

    Args:
        found: one or more; those of one mode of one size.
    """
    cells: dict[str, list[Tensor]] = {}
    for outcome in found:
        own = cells.setdefault(outcome.record.mode, [])
        if len(own) < MOST_CLIPS:
            own.append(_cell(outcome))
    width = _COLUMNS * max(own[0].shape[1] for own in cells.values())
    line = _filled(_LINE, width, _BETWEEN)
    parts = [part for own in cells.values() for part in (line, _rows(own, width))]
    return torch.cat(parts[1:])


def _rows(cells: list[Tensor], width: int) -> Tensor:
    """Cells of one size, as many in a row as fit into a width, with paper around them."""
    height, own, _ = cells[0].shape
    columns = width // own
    rows = -(-len(cells) // columns)
    page = _filled(rows * height, width, _PAPER)
    for number, cell in enumerate(cells):
        top, left = number // columns * height, number % columns * own
        page[top : top + height, left : left + own] = cell
    return page


def _cell(outcome: Outcome) -> Tensor:
    """Pictures side by side in a coloured frame with paper around it."""
    count, height, width, _ = outcome.pictures.shape
    colour = _RIGHT if outcome.record.right["all"] else _WRONG
    framed = _filled(height + 2 * _LINE, count * (width + _LINE) + _LINE, colour)
    for number, picture in enumerate(outcome.pictures):
        left = _LINE + number * (width + _LINE)
        framed[_LINE:-_LINE, left : left + width] = picture
    cell = _filled(framed.shape[0] + _GAP, framed.shape[1] + _GAP, _PAPER)
    inset = _GAP // 2
    cell[inset:-inset, inset:-inset] = framed
    return cell


def _filled(height: int, width: int, colour: tuple[int, int, int]) -> Tensor:
    return torch.tensor(colour, dtype=torch.uint8).repeat(height, width, 1)
