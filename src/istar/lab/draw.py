"""Pictures of subjects: antialiased, from their signed distance functions."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, cos, floor, pi, sin

import torch
from torch import Tensor

from istar.lab.subject import COLOURS, SHAPES, Pose, Subject
from istar.video_tokenizer.config import FRAMES_PER_SECOND

_POINTS = {"square": (4, cos(pi / 4)), "triangle": (3, 0.5), "star": (5, 0.45)}
"""Of each shape with corners: how many, and its inner radius as a share of its outer one."""

_UPRIGHT = {"square": 1 / 8}
"""Turns by which a shape is shown that would otherwise stand on a corner."""


def draw(
    background: str,
    subjects: Sequence[Subject],
    *,
    count: int,
    height: int,
    width: int,
    first: int = 0,
) -> Tensor:
    """Pictures of subjects on a background, the later in front.

    Args:
        background: a name of `COLOURS`.
        subjects: what is shown.
        count: how many pictures.
        height: rows of a picture.
        width: columns of a picture.
        first: the number of the first picture, 16 a second.

    Returns:
        `(F, H, W, 3)` uint8.
    """
    frames = torch.tensor(COLOURS[background], dtype=torch.uint8).expand(count, height, width, 3)
    frames = frames.contiguous()
    for subject in subjects:
        poses = [subject.pose((first + frame) / FRAMES_PER_SECOND) for frame in range(count)]
        _paint(frames, subject, poses)
    return frames


def coverage(shape: str, rows: Tensor, columns: Tensor, radius: Tensor, turns: Tensor) -> Tensor:
    """How much of each pixel a shape covers.

    Args:
        shape: a name of `SHAPES`.
        rows: pixels' centres below the shape's centre, in pixels.
        columns: pixels' centres to the right of the shape's centre, in pixels.
        radius: the shape's size in pixels.
        turns: its rotation clockwise, in turns. All four broadcast.

    Returns:
        Shares from 0 to 1, exact along straight edges to first order.
    """
    distance = torch.sqrt(rows * rows + columns * columns)
    outer = radius * SHAPES[shape]
    if shape == "circle":
        return (0.5 + outer - distance).clamp(0, 1)
    points, ratio = _POINTS[shape]
    # Mirrored into half the wedge of one corner, a shape is what lies below one straight edge,
    # from its corner straight above the centre to its inner corner at `half` an angle.
    half = pi / points
    angle = torch.atan2(columns, -rows) - 2 * pi * (turns + _UPRIGHT.get(shape, 0.0))
    angle = ((angle + half) % (2 * half) - half).abs()
    edge_across, edge_up = ratio * sin(half), ratio * cos(half) - 1
    length = (edge_across**2 + edge_up**2) ** 0.5
    across, up = distance * angle.sin(), distance * angle.cos() - outer
    return (0.5 - (edge_across * up - edge_up * across) / length).clamp(0, 1)


def _paint(frames: Tensor, subject: Subject, poses: Sequence[Pose]) -> None:
    """Paint one subject over frames `(F, H, W, 3)`, within the box that it stays in."""
    _, height, width, _ = frames.shape
    side = min(height, width)
    reach = max(pose.size for pose in poses) * side * SHAPES[subject.shape] + 1
    ys, xs = [pose.y * height for pose in poses], [pose.x * width for pose in poses]
    top, bottom = max(floor(min(ys) - reach), 0), min(ceil(max(ys) + reach), height)
    left, right = max(floor(min(xs) - reach), 0), min(ceil(max(xs) + reach), width)
    if top >= bottom or left >= right:
        return

    def per_frame(values: Sequence[float]) -> Tensor:
        return torch.tensor(values)[:, None, None]

    share = coverage(
        subject.shape,
        torch.arange(top, bottom)[None, :, None] + 0.5 - per_frame(ys),
        torch.arange(left, right)[None, None, :] + 0.5 - per_frame(xs),
        per_frame([pose.size * side for pose in poses]),
        per_frame([pose.turns for pose in poses]),
    )[..., None]
    box = frames[:, top:bottom, left:right]
    colour = torch.tensor(COLOURS[subject.colour], dtype=torch.float32)
    box.copy_((box + (colour - box) * share).round())
