"""Contact sheets: many clips on one picture, or as one clip in which all of them move.

Pixels are `(…, H, W, 3)`, uint8, RGB.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from math import ceil, log
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from istar.errors import MediaError
from istar.media.file_info import probe_file

Colour = tuple[int, int, int]

PAPER: Colour = (240, 240, 240)
_INK: Colour = (40, 40, 40)

_CLIP_PIXELS = 384 * 216
_SHEET_PIXELS = 1920 * 1080
_PICTURES = 5
_LINE = 2
_GAP = 6
_LETTERS = 16
_LABEL_ROWS = 22
_TAKES = "takes"
_SHAPE = 1.6
"""Width over height of a sheet, about that of a screen."""


class ContactSheet:
    """Clips of one size under their labels.

    A clip is made small when it is added, so many large ones do not fill memory.

    Args:
        clips: how many there will be.
        height, width: of their pictures.
    """

    def __init__(self, clips: int, height: int, width: int) -> None:
        scale = (min(_CLIP_PIXELS, _SHEET_PIXELS / clips) / (height * width)) ** 0.5
        # Enlarged pictures keep their pixels.
        scale = int(scale) if scale >= 1 else scale
        self._size = (max(1, round(height * scale)), max(1, round(width * scale)))
        self._clips: list[tuple[str, Tensor]] = []

    def add(self, label: str, frames: Tensor) -> None:
        """Add a clip `(F, H, W, 3)`; of a picture F is 1."""
        self._clips.append((label, _resized(frames, self._size)))

    def keep(self, clips: Mapping[int, str]) -> None:
        """Show only some of the clips added so far, by their numbers from 0, under other labels."""
        self._clips = [(label, self._clips[number][1]) for number, label in clips.items()]

    def still(self) -> Tensor:
        """One picture `(H, W, 3)` with a few pictures of every clip, from its first to its last."""
        return self._laid_out(lambda frames: row(a_few(frames, _PICTURES), line=_LINE))

    def moving(self) -> Tensor:
        """One clip `(F, H, W, 3)` of even size; the last picture of a shorter one stays."""
        longest = max(len(frames) for _, frames in self._clips)
        return self._laid_out(
            lambda frames: frames[torch.arange(longest).clamp(max=len(frames) - 1)]
        )

    def _laid_out(self, shown: Callable[[Tensor], Tensor]) -> Tensor:
        """What is shown of each clip, under its label, on one sheet of even size."""
        cells = [_labelled(label, shown(frames)) for label, frames in self._clips]
        height, width = cells[0].shape[-3:-1]

        def distance(columns: int) -> float:
            rows = ceil(len(cells) / columns)
            return abs(log(columns * width / (rows * height) / _SHAPE))

        sheet = page(cells, min(range(1, len(cells) + 1), key=distance))
        height, width = sheet.shape[-3:-1]
        return _on_paper(sheet, (height + height % 2, width + width % 2))


def with_takes(metadata: Mapping[str, str], takes: Sequence[Path]) -> dict[str, str]:
    """The texts of a sheet's file with the names of the takes that it shows, in their order."""
    return {**metadata, _TAKES: json.dumps([take.name for take in takes])}


def takes_on(sheet: Path) -> tuple[Path, ...]:
    """The takes that a sheet, still or moving, shows: files beside it, in their order.

    Raises:
        MediaError: it is no sheet of takes, or cannot be read.
    """
    names = take_names(probe_file(sheet).texts)
    if names is None:
        raise MediaError(f"'{sheet}' is no sheet of takes")
    return tuple(sheet.parent / name for name in names)


def take_names(texts: Mapping[str, str]) -> tuple[str, ...] | None:
    """The names of the takes that a sheet shows, in the texts of its file; None of other files."""
    try:
        names = json.loads(texts.get(_TAKES, "null"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(names, list) or not all(isinstance(n, str) and _is_name(n) for n in names):
        return None
    return tuple(names)


def _is_name(text: str) -> bool:
    """Whether a text names a file in its own directory, on any system."""
    return text not in ("", ".", "..") and not any(letter in text for letter in "/\\:\0")


def a_few(frames: Tensor, count: int) -> Tensor:
    """At most `count` of some pictures `(F, H, W, 3)`, evenly from the first to the last."""
    return frames[torch.linspace(0, len(frames) - 1, min(count, len(frames))).long()]


def row(pictures: Tensor, *, line: int = 0, colour: Colour = PAPER) -> Tensor:
    """Pictures `(F, H, W, 3)` side by side, with lines of a colour between and around them."""
    count, height, width, _ = pictures.shape
    made = filled((height + 2 * line, count * (width + line) + line), colour)
    for number, picture in enumerate(pictures):
        left = line + number * (width + line)
        made[line : line + height, left : left + width] = picture
    return made


def page(cells: Sequence[Tensor], columns: int) -> Tensor:
    """Cells `(…, H, W, 3)` in rows, from the left and the top, each with room for the largest."""
    height, width = (max(cell.shape[axis] for cell in cells) for axis in (-3, -2))
    size = (ceil(len(cells) / columns) * height, columns * width)
    made = filled((*cells[0].shape[:-3], *size), PAPER)
    for number, cell in enumerate(cells):
        top, left = number // columns * height, number % columns * width
        made[..., top : top + cell.shape[-3], left : left + cell.shape[-2], :] = cell
    return made


def filled(size: tuple[int, ...], colour: Colour) -> Tensor:
    """Pixels `(*size, 3)` of one colour."""
    return torch.tensor(colour, dtype=torch.uint8).expand(*size, 3).clone()


def _labelled(label: str, pictures: Tensor) -> Tensor:
    """Pictures `(…, H, W, 3)` with a line of text above them and paper around."""
    *frames, height, width, _ = pictures.shape
    made = filled((*frames, _LABEL_ROWS + height + _GAP, width + 2 * _GAP), PAPER)
    bar = Image.new("RGB", (width, _LABEL_ROWS), PAPER)
    ImageDraw.Draw(bar).text((0, 2), label, _INK, ImageFont.load_default(_LETTERS))
    made[..., :_LABEL_ROWS, _GAP : _GAP + width, :] = torch.from_numpy(np.array(bar))
    made[..., _LABEL_ROWS : _LABEL_ROWS + height, _GAP : _GAP + width, :] = pictures
    return made


def _resized(frames: Tensor, size: tuple[int, int]) -> Tensor:
    x = frames.movedim(-1, 1)
    if size[0] >= frames.shape[1]:
        return F.interpolate(x, size=size, mode="nearest").movedim(1, -1)
    x = F.interpolate(x.float(), size=size, mode="bilinear", antialias=True)
    return x.round().to(torch.uint8).movedim(1, -1)


def _on_paper(sheet: Tensor, size: tuple[int, int]) -> Tensor:
    made = filled((*sheet.shape[:-3], *size), PAPER)
    made[..., : sheet.shape[-3], : sheet.shape[-2], :] = sheet
    return made
