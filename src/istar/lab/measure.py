"""Measure what a clip of the world of shapes shows, by plain image analysis.

The rules:

- Background: the median colour of the border of all pictures; its name is the nearest named
  colour's.
- Subject: what differs from the background. A pixel belongs to it as far as its distance from the
  background's colour, after a 3 by 3 mean, is that of the subject's own colour: wholly from three
  quarters on, not at all up to a quarter. The subject is present in a picture where it covers at
  least a hundredth of the square of the shorter side.
- Colour: the nearest named colour to the median of the subject's inner pixels.
- Shape: the outline, normalised in place and area, against templates of every shape at every
  rotation, by intersection over union; see `istar.lab.outline`.
- Motion: see `istar.lab.motion`.
- Kept: the subject is there in nine of ten pictures of the first, the middle and the last third of
  the clip, and has one colour and one shape in all three.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import dist

import torch
from torch import Tensor
from torch.nn import functional as F

from istar.lab.motion import Trajectory, classify_motion
from istar.lab.outline import SYMMETRY, Outlines, compare
from istar.lab.subject import COLOURS
from istar.video_tokenizer.config import FRAMES_PER_SECOND

_LARGEST_SIDE = 96
_BORDER = 1 / 20
_LEAST_DISTANCE = 45.0
"""A nearer colour belongs to the background; named colours are 100 apart."""

_NOTHING, _WHOLLY = 0.25, 0.75
_LEAST_AREA = 0.01
_PRESENT = 0.9


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a clip shows.

    Attributes:
        background: a colour's name.
        colour: of the subject; None without a subject.
        shape: of the subject; None without a subject or of no known shape.
        motion: of the subject; None if it is present in less than half of the clip.
        kept: the subject is present, with one colour and one shape, in every third of the clip.
        centre: of the subject in the first picture where it is present, as shares of the width
            and the height.
    """

    background: str
    colour: str | None
    shape: str | None
    motion: str | None
    kept: bool
    centre: tuple[float, float] | None


def measure(frames: Tensor) -> Measurement:
    """Measure a clip of one subject on a plain background.

    Args:
        frames: `(F, H, W, 3)` uint8, at 16 a second; three or more.
    """
    pixels = _downscaled(frames)
    behind = _border_colour(pixels)
    distance = (pixels - behind[:, None, None]).norm(dim=1)  # F H W
    background = nearest_colour(behind)
    inside = _inner(distance > _LEAST_DISTANCE)
    if not inside.any():
        return Measurement(
            background=background, colour=None, shape=None, motion=None, kept=False, centre=None
        )
    colour = _median_colour(pixels, inside)
    share = (distance / (colour - behind).norm() - _NOTHING) / (_WHOLLY - _NOTHING)
    share = share.clamp(0, 1)
    trajectory, outlines, present = _track(share)
    shape = outlines.shape(present)
    thirds = [
        _third(pixels, inside, outlines, present, part)
        for part in torch.arange(len(frames)).tensor_split(3)
    ]
    return Measurement(
        background=background,
        colour=nearest_colour(colour),
        shape=shape,
        motion=_motion(trajectory, outlines, present, shape),
        kept=thirds[0] is not None and all(third == thirds[0] for third in thirds),
        centre=(float(trajectory.across[0]), float(trajectory.down[0])) if present.any() else None,
    )


def nearest_colour(colour: Tensor) -> str:
    """The named colour that is nearest to red, green and blue `(3)`."""
    return min(COLOURS, key=lambda name: dist(COLOURS[name], colour.tolist()))


def _downscaled(frames: Tensor) -> Tensor:
    """Pictures `(F, 3, H, W)` of no more than 96 on the shorter side, each pixel a 3 by 3 mean."""
    x = frames.permute(0, 3, 1, 2).float()
    scale = _LARGEST_SIDE / min(x.shape[-2:])
    if scale < 1:
        size = [round(side * scale) for side in x.shape[-2:]]
        x = F.interpolate(x, size=size, mode="area")
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def _border_colour(pixels: Tensor) -> Tensor:
    """The median colour `(3)` along the border of pictures `(F, 3, H, W)`."""
    height, width = pixels.shape[-2:]
    inset = max(1, round(min(height, width) * _BORDER))
    border = torch.ones(height, width, dtype=torch.bool)
    border[inset : height - inset, inset : width - inset] = False
    return pixels[:, :, border].movedim(1, 0).flatten(1).median(dim=1).values


def _inner(mask: Tensor) -> Tensor:
    """A mask `(F, H, W)` without its edge, unless nothing else is left of it."""
    eroded = 1 - F.max_pool2d(1 - mask[:, None].float(), 3, stride=1, padding=1)[:, 0]
    return eroded > 0.5 if (eroded > 0.5).any() else mask


def _median_colour(pixels: Tensor, mask: Tensor) -> Tensor:
    """The median colour `(3)` of pictures `(F, 3, H, W)` where a mask `(F, H, W)` holds."""
    return pixels.movedim(1, 0)[:, mask].median(dim=1).values


def _track(share: Tensor) -> tuple[Trajectory, Outlines, Tensor]:
    """The subject's trajectory and outlines, and the frames in which it is present.

    Args:
        share: `(F, H, W)`, how much of each pixel is the subject.

    Returns:
        the trajectory over the N frames where it is present; outlines of all F frames, those of
        the others without meaning; and `(F)` booleans.
    """
    _, height, width = share.shape
    areas = share.sum(dim=(1, 2))
    present = areas >= _LEAST_AREA * min(height, width) ** 2
    weight = areas.clamp(min=1)
    rows, columns = torch.arange(height) + 0.5, torch.arange(width) + 0.5
    down = (share.sum(dim=2) * rows).sum(dim=1) / weight
    across = (share.sum(dim=1) * columns).sum(dim=1) / weight
    outlines = compare(share, torch.stack((down, across), dim=1), weight)
    trajectory = Trajectory(
        seconds=torch.arange(len(share))[present] / FRAMES_PER_SECOND,
        across=across[present] / width,
        down=down[present] / height,
        areas=areas[present],
    )
    return trajectory, outlines, present


def _motion(
    trajectory: Trajectory, outlines: Outlines, present: Tensor, shape: str | None
) -> str | None:
    """The motion of a subject that is present in at least half of the clip."""
    if present.sum() * 2 < len(present) or present.sum() < 3:
        return None
    if shape not in SYMMETRY:
        return classify_motion(trajectory)
    return classify_motion(trajectory, outlines.turns(shape)[present], SYMMETRY[shape])


def _third(
    pixels: Tensor, inside: Tensor, outlines: Outlines, present: Tensor, part: Tensor
) -> tuple[str, str] | None:
    """Colour and shape in a part of a clip; None if the subject is absent or of no known shape."""
    if present[part].float().mean() < _PRESENT or not inside[part].any():
        return None
    chosen = torch.zeros_like(present)
    chosen[part] = present[part]
    shape = outlines.shape(chosen)
    if shape is None:
        return None
    return nearest_colour(_median_colour(pixels[part], inside[part])), shape
