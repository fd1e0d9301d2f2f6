"""Pictures with numbers laid over them as colours: red above 0, blue below."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

_PAPER, _INK, _PLAIN = (240, 240, 240), (40, 40, 40), 160
_BELOW, _ABOVE = (30, 90, 230), (220, 40, 20)
_MOST = 0.85
"""How much of a picture the strongest colour covers."""

_GREY_FROM, _GREY_RANGE = 70, 0.6
_WIDTH = 1600
_LEAST_WIDTH, _MOST_WIDTH = 120, 384
_GAP = 6
_TEXT_ROWS, _LETTERS = 24, 16
_BAR, _NUMBERS = 160, 160
_USUAL = 0.98


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Numbers to lay over pictures.

    Attributes:
        title: what they are.
        values: `(h, w)` for every picture, of any size.
    """

    title: str
    values: Sequence[Tensor]

    @property
    def reach(self) -> float:
        """The distance from 0 at which colours are strongest: few numbers are farther away."""
        distances = torch.cat([value.abs().flatten() for value in self.values]).double()
        return max(float(distances.quantile(_USUAL)), 1e-9)

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest number that has a colour of its own; 0 if none is beyond."""
        return (
            -self.reach if any((value < 0).any() for value in self.values) else 0.0,
            self.reach if any((value > 0).any() for value in self.values) else 0.0,
        )


def heat_map(pictures: Iterable[Tensor], labels: Sequence[str], layers: Sequence[Layer]) -> Tensor:
    """One picture: others in their order, and below each of them the layers over it.

    Args:
        pictures: `(H, W, 3)`, uint8, of one size; each is made small at once.
        labels: what is written above each.
        layers: their numbers are of all pictures.

    Returns:
        `(H, W, 3)`, uint8.
    """
    # 1. As many pictures side by side as there is room for.
    columns = max(1, min(len(labels), (_WIDTH - _GAP) // (_LEAST_WIDTH + _GAP)))
    width = min(_MOST_WIDTH, (_WIDTH - _GAP) // columns - _GAP)
    small = [_resized(picture, width) for picture in pictures]
    height = small[0].shape[0]
    # 2. Bands of them, each with a line of pictures and one for every layer.
    titles = [ImageFont.load_default(_LETTERS).getlength(layer.title) for layer in layers]
    room = [int(title) + _BAR + _NUMBERS for title in titles]
    wide = max([columns * (width + _GAP) + _GAP, *room])
    line = _TEXT_ROWS + height + _GAP
    starts = range(0, len(small), columns)
    page = Image.new("RGB", (wide, len(starts) * (1 + len(layers)) * line), _PAPER)
    for band, start in enumerate(starts):
        shown = range(start, min(start + columns, len(small)))
        for row in range(1 + len(layers)):
            top = (band * (1 + len(layers)) + row) * line
            if row:
                _write_title(page, layers[row - 1], top)
            for column, number in enumerate(shown):
                left = _GAP + column * (width + _GAP)
                cell = small[number]
                if row:
                    cell = _tinted(cell, layers[row - 1], number)
                else:
                    _write(page, labels[number], left, top)
                page.paste(_image(cell), (left, top + _TEXT_ROWS))
    return torch.from_numpy(np.array(page))


def _write(page: Image.Image, text: str, left: int, top: int) -> int:
    """Write text; the place behind it."""
    font = ImageFont.load_default(_LETTERS)
    ImageDraw.Draw(page).text((left, top + 3), text, _INK, font)
    return left + int(font.getlength(text)) + _GAP


def _write_title(page: Image.Image, layer: Layer, top: int) -> None:
    """A layer's title, and a bar of its colours between their numbers."""
    low, high = layer.ends
    strengths = torch.linspace(low, high, _BAR).expand(_TEXT_ROWS - 2 * _GAP, _BAR) / layer.reach
    bar = _coloured(torch.full((*strengths.shape, 3), float(_PLAIN)), strengths)
    left = _write(page, f"{layer.title}:   {low:.2g}", _GAP, top)
    page.paste(_image(bar), (left, top + _GAP))
    _write(page, f"{high:.2g}", left + _BAR + _GAP, top)


def _tinted(picture: Tensor, layer: Layer, number: int) -> Tensor:
    """A picture `(H, W, 3)` in grey under the colours of a layer's numbers."""
    grey = _GREY_FROM + _GREY_RANGE * picture.mean(dim=2, keepdim=True).expand(-1, -1, 3)
    scaled = (layer.values[number] / layer.reach).clamp(-1, 1).float()[None, None]
    return _coloured(grey, F.interpolate(scaled, size=grey.shape[:2], mode="bilinear")[0, 0])


def _coloured(grey: Tensor, strengths: Tensor) -> Tensor:
    """Pixels `(H, W, 3)` under the colours of numbers `(H, W)` from -1 to 1."""
    colours = torch.tensor((_BELOW, _ABOVE), dtype=torch.float32)[(strengths > 0).long()]
    cover = (_MOST * strengths.abs()).unsqueeze(2)
    return grey * (1 - cover) + colours * cover


def _resized(picture: Tensor, width: int) -> Tensor:
    """A picture `(H, W, 3)` as float32, so wide; pixels of a small one stay squares."""
    size = (max(1, round(picture.shape[0] * width / picture.shape[1])), width)
    x = picture.permute(2, 0, 1)[None].float()
    if width >= picture.shape[1]:
        return F.interpolate(x, size=size, mode="nearest")[0].permute(1, 2, 0)
    return F.interpolate(x, size=size, mode="bilinear", antialias=True)[0].permute(1, 2, 0)


def _image(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.round().clamp(0, 255).to(torch.uint8).contiguous().numpy())
