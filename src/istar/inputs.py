"""A request's picture or clip, read, checked and fitted to the size that is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from istar.errors import UsageError
from istar.generation.schedule import Template, nearest_template
from istar.media import cover_and_crop, read_clip, read_picture
from istar.request import GenerationRequest
from istar.video_tokenizer.config import SPATIAL_STRIDE
from istar.weights.registry import ModelSpec

_WIDE_SCREEN = 9 / 16


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a request starts from.

    Attributes:
        template: the ratio of what is made.
        image: `(1, H, W, 3)`, uint8: the first picture.
        clip: `(F, H, W, 3)`, uint8, at 16 a second: what is to be continued.
        notes: what was noticed while reading.
    """

    template: Template
    image: Tensor | None
    clip: Tensor | None
    notes: tuple[str, ...]


def read_inputs(request: GenerationRequest, spec: ModelSpec) -> Inputs:
    """Read and fit what a request brings along.

    The template is the one asked for, else the nearest to the input, else 16:9.

    Raises:
        UsageError: pixels given directly have the wrong shape or dtype.
        MediaError: a file cannot be read.
    """
    pixels, notes = _read(request)
    if request.aspect is not None:
        aspect = request.aspect
    elif pixels is not None:
        aspect = pixels.shape[1] / pixels.shape[2]
    else:
        aspect = _WIDE_SCREEN
    template = nearest_template(aspect)
    if pixels is not None:
        pixels = cover_and_crop(pixels, *picture_size(template, spec))
    return Inputs(
        template=template,
        image=pixels if request.mode == "i2v" else None,
        clip=pixels if request.mode != "i2v" else None,
        notes=notes,
    )


def picture_size(template: Template, spec: ModelSpec) -> tuple[int, int]:
    """Height and width in pixels of what a model makes in a ratio."""
    height, width = spec.pixel_budget.scales(template)[-1]
    return height * SPATIAL_STRIDE, width * SPATIAL_STRIDE


def _read(request: GenerationRequest) -> tuple[Tensor | None, tuple[str, ...]]:
    """Pictures `(F, H, W, 3)` of the input, and what was noticed."""
    if request.image is not None:
        if isinstance(request.image, Path):
            picture = read_picture(request.image)
            return picture.pixels.unsqueeze(0), picture.notes
        return _checked(request.image.unsqueeze(0), "an image (H, W, 3)"), ()
    if isinstance(request.clip, Path):
        clip = read_clip(request.clip)
        return clip.frames, clip.notes
    if request.clip is not None:
        return _checked(request.clip, "a clip (F, H, W, 3)"), ()
    return None, ()


def _checked(pixels: Tensor, what: str) -> Tensor:
    fits = pixels.ndim == 4 and pixels.shape[-1] == 3 and min(pixels.shape) > 0
    if not fits or pixels.dtype != torch.uint8:
        raise UsageError(f"{what} must be uint8 pixels, not {tuple(pixels.shape)} {pixels.dtype}")
    return pixels.cpu()
