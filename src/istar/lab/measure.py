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
- Whole: in every picture where the subject is present, one connected region holds nine tenths of
  its pixels or more, those that belong to it by half. Otherwise it is torn or doubled. And no more
  than a tenth as many pixels differ from the background elsewhere, three pixels or more away from
  every subject: there is nothing else, of whatever colour.
- Kept: the subject is there in nine of ten pictures of the first, the middle and the last third of
  the clip, and has one colour and one shape in all three.

Two subjects of known colours are measured like one each. A pixel belongs to the one that it differs
less from, when that one is mixed with the background as far as fits best. They are apart if in less
than a tenth of the pictures pixels of one are beside pixels of the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import dist

import torch
from torch import Tensor
from torch.nn import functional as F

from istar.lab.motion import Movement, Trajectory, classify_motion
from istar.lab.outline import SYMMETRY, Outlines, compare
from istar.lab.regions import largest_share
from istar.lab.subject import COLOURS
from istar.video_tokenizer.config import FRAMES_PER_SECOND

LEAST_PICTURES = 3
"""A shorter clip cannot be measured."""

_LARGEST_SIDE = 96
_BORDER = 1 / 20
_LEAST_DISTANCE = 45.0
"""A nearer colour belongs to the background; named colours are 100 apart."""

_NOTHING, _WHOLLY = 0.25, 0.75
_LEAST_AREA = 0.01
_PRESENT = 0.9
_HALF = 0.5
_ONE_REGION = 0.9
_EDGE = 2
_OFTEN_TOUCHING = 0.1
_ROUNDS = 2


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a clip shows.

    Attributes:
        background: a colour's name.
        colour: of the subject; None without a subject.
        shape: of the subject; None without a subject or of no known shape.
        motion: of the subject; None if it is present in less than half of the clip, or does what
            no subject of the world does.
        kept: the subject is present, with one colour and one shape, in every third of the clip.
        whole: where the subject is present, it is one connected region, and there is nothing else.
        centre: of the subject in the first picture where it is present, as shares of the width
            and the height.
        speed: of its motion, as a share of the usual one.
        phase: with `bounces`, how much of its first bounce is over at the start.
    """

    background: str
    colour: str | None = None
    shape: str | None = None
    motion: str | None = None
    kept: bool = False
    whole: bool = False
    centre: tuple[float, float] | None = None
    speed: float | None = None
    phase: float | None = None


def measure(frames: Tensor) -> Measurement:
    """Measure a clip of one subject on a plain background.

    Args:
        frames: `(F, H, W, 3)` uint8, at 16 a second; three or more.
    """
    pixels = _downscaled(frames)
    behind = _border_colour(pixels)
    found = _subject(pixels, behind)
    if found is None:
        return Measurement(background=nearest_colour(behind))
    inside, share = found
    mask = _of_subject(share) > _HALF
    return _measured(pixels, behind, inside, share, _elsewhere(pixels, behind, mask))


def measure_two(
    frames: Tensor, colours: tuple[str, str]
) -> tuple[tuple[Measurement, Measurement], bool]:
    """Measure a clip of two subjects on a plain background.

    Args:
        frames: `(F, H, W, 3)` uint8, at 16 a second; three or more.
        colours: the names of those that the subjects should have.

    Returns:
        what each is; and whether they are apart.
    """
    pixels = _downscaled(frames)
    behind = _border_colour(pixels)
    shares = _separated(pixels, behind, [COLOURS[name] for name in colours])
    masks = shares > _HALF
    elsewhere = _elsewhere(pixels, behind, masks.any(dim=0))
    first, second = (
        _measured(pixels, behind, _inner(mask), share, elsewhere)
        if mask.any()
        else Measurement(background=nearest_colour(behind))
        for mask, share in zip(masks, shares, strict=True)
    )
    beside = F.max_pool2d(masks[0][:, None].float(), 3, stride=1, padding=1)[:, 0] > 0
    touching = (beside & masks[1]).flatten(1).any(dim=1)
    return (first, second), float(touching.float().mean()) < _OFTEN_TOUCHING


def nearest_colour(colour: Tensor) -> str:
    """The named colour that is nearest to red, green and blue `(3)`."""
    return min(COLOURS, key=lambda name: dist(COLOURS[name], colour.tolist()))


def trajectory_of(frames: Tensor) -> Trajectory | None:
    """Where the subject of a clip is, as `measure` finds it; None if it is in no picture.

    Args:
        frames: `(F, H, W, 3)` uint8, at 16 a second.
    """
    pixels = _downscaled(frames)
    found = _subject(pixels, _border_colour(pixels))
    if found is None:
        return None
    _, share = found
    trajectory, _, present = _track(_of_subject(share))
    return trajectory if present.any() else None


def _subject(pixels: Tensor, behind: Tensor) -> tuple[Tensor, Tensor] | None:
    """What differs from the background; None where nothing does.

    Args:
        pixels: `(F, 3, H, W)`.
        behind: the background's colour `(3)`.

    Returns:
        the subject's inner pixels, `(F, H, W)` booleans; and likewise each pixel's distance from
        the background in that of the subject.
    """
    distance = (pixels - behind[:, None, None]).norm(dim=1)
    inside = _inner(distance > _LEAST_DISTANCE)
    if not inside.any():
        return None
    return inside, distance / (_median_colour(pixels, inside) - behind).norm()


def _of_subject(share: Tensor) -> Tensor:
    """How far each pixel belongs to a subject, from 0 to 1, by its distance in the subject's."""
    return ((share - _NOTHING) / (_WHOLLY - _NOTHING)).clamp(0, 1)


def _elsewhere(pixels: Tensor, behind: Tensor, subjects: Tensor) -> Tensor:
    """How many pixels of each picture differ from the background and are no subject's: `(F)`.

    Args:
        pixels: `(F, 3, H, W)`.
        behind: the background's colour `(3)`.
        subjects: `(F, H, W)` booleans; what is near them is their edge.
    """
    far = (pixels - behind[:, None, None]).norm(dim=1) > _LEAST_DISTANCE
    size = 2 * _EDGE + 1
    near = F.max_pool2d(subjects[:, None].float(), size, stride=1, padding=_EDGE)[:, 0] > 0
    return (far & ~near).sum(dim=(1, 2))


def _measured(
    pixels: Tensor, behind: Tensor, inside: Tensor, share: Tensor, elsewhere: Tensor
) -> Measurement:
    """What one subject is.

    Args:
        pixels: `(F, 3, H, W)`.
        behind: the background's colour `(3)`.
        inside: `(F, H, W)` booleans, the subject's inner pixels; not empty.
        share: `(F, H, W)`, each pixel's distance from the background in that of the subject.
        elsewhere: `(F)`, how many pixels are neither the background nor any subject.
    """
    share = _of_subject(share)
    trajectory, outlines, present = _track(share)
    shape = outlines.shape(present)
    thirds = [
        _third(pixels, inside, outlines, present, part)
        for part in torch.arange(len(pixels)).tensor_split(3)
    ]
    movement = _movement(trajectory, outlines, present, shape)
    masks = share > _HALF
    alone = elsewhere[present] <= (1 - _ONE_REGION) * masks[present].sum(dim=(1, 2))
    regions = largest_share(masks[present])
    return Measurement(
        background=nearest_colour(behind),
        colour=nearest_colour(_median_colour(pixels, inside)),
        shape=shape,
        motion=movement.motion if movement else None,
        kept=thirds[0] is not None and all(third == thirds[0] for third in thirds),
        whole=bool(present.any() and alone.all()) and float(regions.min()) >= _ONE_REGION,
        centre=(float(trajectory.across[0]), float(trajectory.down[0])) if present.any() else None,
        speed=movement.speed if movement else None,
        phase=movement.phase if movement else None,
    )


def _separated(pixels: Tensor, behind: Tensor, named: list[tuple[int, int, int]]) -> Tensor:
    """How much of each pixel is which of two subjects: `(2, F, H, W)`, from 0 to 1.

    Args:
        pixels: `(F, 3, H, W)`.
        behind: the background's colour `(3)`.
        named: red, green and blue that the subjects should have; their own are then found.
    """
    colours = [torch.tensor(colour).float() for colour in named]
    difference = pixels - behind[:, None, None]
    for _ in range(_ROUNDS):
        parts, errors = [], []
        for colour in colours:
            step = (colour - behind)[:, None, None]
            part = (difference * step).sum(dim=1) / step.square().sum().clamp(min=1)
            parts.append(part.clamp(0, 1))
            error = (difference - parts[-1][:, None] * step).norm(dim=1, keepdim=True)
            errors.append(F.avg_pool2d(error, 3, stride=1, padding=1)[:, 0])
        of_first = errors[0] <= errors[1]
        shares = torch.stack((parts[0] * of_first, parts[1] * ~of_first))
        wholly = shares > _WHOLLY
        colours = [
            _median_colour(pixels, _inner(mask)) if mask.any() else colour
            for mask, colour in zip(wholly, colours, strict=True)
        ]
    return shares


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


def _movement(
    trajectory: Trajectory, outlines: Outlines, present: Tensor, shape: str | None
) -> Movement | None:
    """What a subject does that is present in at least half of the clip."""
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
