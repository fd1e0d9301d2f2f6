"""The contact sheet of a test in the world of shapes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from istar.lab.score import Outcome
from istar.media.sheet import PAPER, filled, page, row

MOST_CLIPS = 24
"""Clips of each mode on the sheet."""

_COLUMNS = 4
_LINE = 2
_GAP = 6
_RIGHT, _WRONG = (0, 150, 0), (200, 0, 0)
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
    line = filled((_LINE, width), _BETWEEN)
    parts = [part for own in cells.values() for part in (line, _rows(own, width))]
    return torch.cat(parts[1:])


def _rows(cells: list[Tensor], width: int) -> Tensor:
    """Cells of one size, as many in a row as fit into a width, with paper around them."""
    rows = page(cells, width // cells[0].shape[1])
    made = filled((rows.shape[0], width), PAPER)
    made[:, : rows.shape[1]] = rows
    return made


def _cell(outcome: Outcome) -> Tensor:
    """Pictures side by side in a coloured frame with paper around it."""
    colour = _RIGHT if outcome.record.right["all"] else _WRONG
    framed = row(outcome.pictures, line=_LINE, colour=colour)
    cell = filled((framed.shape[0] + _GAP, framed.shape[1] + _GAP), PAPER)
    inset = _GAP // 2
    cell[inset:-inset, inset:-inset] = framed
    return cell
