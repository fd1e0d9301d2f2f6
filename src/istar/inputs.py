"""A request's picture or clip, read, checked and fitted to the size that is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from istar.errors import UsageError
from istar.generation.schedule import Template, nearest_template
from istar.media import cover_and_crop, open_clip, read_picture
from istar.model_spec import ModelSpec
from istar.request import GenerationRequest
from istar.video_tokenizer.config import FRAMES_PER_SECOND, SPATIAL_STRIDE


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """A request's picture or clip, and the size it was fitted to.

    Attributes:
        template: the ratio of the output.
        image: `(1, H, W, 3)`, uint8: the first picture.
        clip: `(F, H, W, 3)`, uint8, at 16 a second: the clip to continue.
        notes: what was noticed while reading.
    """

    template: Template
    image: Tensor | None
    clip: Tensor | None
    notes: tuple[str, ...]


def check_length(pictures: int, request: GenerationRequest, spec: ModelSpec) -> None:
    """Refuse a clip that is too short to be continued.

    Raises:
        UsageError: below one second, or for `interact` below the model's full clip.
    """
    least = spec.clip_seconds if request.mode == "interact" else 1
    if pictures < least * FRAMES_PER_SECOND:
        raise UsageError(
            f"the clip has {pictures / FRAMES_PER_SECOND:.4g} s and {request.mode} needs {least} s "
            "or more",
            remedies=("extend_first",) if request.mode == "interact" else (),
        )


def read_inputs(request: GenerationRequest, spec: ModelSpec) -> Inputs:
    """Read and fit what a request brings along.

    The template is the one asked for, else the nearest to the input, else the model's own.

    Raises:
        UsageError: pixels given directly have the wrong shape or dtype; a clip is too short.
        MediaError: a file cannot be read.
    """
    if isinstance(request.clip, Path):
        with open_clip(request.clip) as clip:
            template = _template(request, clip.info.height / clip.info.width)
            read = clip.read(size=picture_size(template, spec))
        check_length(len(read.frames), request, spec)
        return Inputs(template=template, image=None, clip=read.frames, notes=read.notes)
    if isinstance(request.image, Path):
        picture = read_picture(request.image)
        pixels, notes = picture.pixels.unsqueeze(0), picture.notes
    elif request.image is not None and not isinstance(request.image, str):
        pixels, notes = _checked(request.image.unsqueeze(0), "an image (H, W, 3)"), ()
    elif request.clip is not None and not isinstance(request.clip, str):
        pixels, notes = _checked(request.clip, "a clip (F, H, W, 3)"), ()
        check_length(len(pixels), request, spec)
    else:
        return Inputs(template=_template(request, spec.aspect), image=None, clip=None, notes=())
    template = _template(request, pixels.shape[1] / pixels.shape[2])
    pixels = cover_and_crop(pixels, *picture_size(template, spec))
    if request.clip is None:
        return Inputs(template=template, image=pixels, clip=None, notes=notes)
    return Inputs(template=template, image=None, clip=pixels, notes=notes)


def _template(request: GenerationRequest, own: float) -> Template:
    """The template asked for, else the one nearest to the input's `own` ratio."""
    return nearest_template(own if request.aspect is None else request.aspect)


def picture_size(template: Template, spec: ModelSpec) -> tuple[int, int]:
    """Height and width in pixels of what a model makes in a ratio."""
    height, width = spec.pixel_budget.scales(template)[-1]
    return height * SPATIAL_STRIDE, width * SPATIAL_STRIDE


def _checked(pixels: Tensor, what: str) -> Tensor:
    fits = pixels.ndim == 4 and pixels.shape[-1] == 3 and min(pixels.shape) > 0
    if not fits or pixels.dtype != torch.uint8:
        raise UsageError(f"{what} must be uint8 pixels, not {tuple(pixels.shape)} {pixels.dtype}")
    return pixels.cpu()
