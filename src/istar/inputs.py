"""A request's picture or clip, read, checked and fitted to the size that is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from istar.errors import StateError, UsageError
from istar.generation.schedule import TEMPLATES, Template, nearest_template
from istar.media import cover_and_crop, open_clip, read_picture
from istar.model_spec import ModelSpec
from istar.request import GenerationRequest
from istar.take import Take
from istar.take_directory import TAKE_SUFFIX
from istar.take_file import ClipFile
from istar.video_tokenizer.config import FRAMES_PER_SECOND, SPATIAL_STRIDE

_FAR_ASPECT = 0.85
"""Neighbours among the templates are nearer to what lies between them."""

_MUCH_CROPPED = 0.8
_MUCH_LARGER = 2


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """A request's picture or clip, and the size it was fitted to.

    Attributes:
        template: the ratio of the output.
        image: `(1, H, W, 3)`, uint8: the first picture.
        clip: `(F, H, W, 3)`, uint8, at 16 a second: the clip to continue.
        notes: what was noticed while reading.
        has_sound: the file of the clip has sound.
        take: the finished take to continue, in the place of a clip.
        clip_file: the file of the clip, where a take says it, which may hold its end alone.
        images: `(1, H, W, 3)`, uint8, by the index of a prompt of `interact`: the picture with
            which its clip begins a new shot.
    """

    template: Template
    image: Tensor | None
    clip: Tensor | None
    notes: tuple[str, ...]
    has_sound: bool = False
    take: Take | None = None
    clip_file: ClipFile | None = None
    images: Mapping[int, Tensor] = field(default_factory=dict)

    @classmethod
    def of_take(cls, take: Take) -> Inputs:
        """A take's, as the take holds them.

        Raises:
            StateError: the take is of an unknown ratio.
        """
        return cls(
            template=template_of(take),
            image=take.image,
            clip=take.clip,
            notes=(),
            take=take.before,
            clip_file=take.clip_file,
            images=take.images,
        )

    def image_of(self, window: int) -> Tensor | None:
        """The picture that a window which starts anew begins with."""
        return self.image if window == 0 and self.image is not None else self.images.get(window)

    def with_image(self, prompt: int, path: Path, spec: ModelSpec) -> Inputs:
        """The same with the picture of a prompt, and what was noticed while reading it.

        Raises:
            MediaError: it cannot be read.
        """
        picture = read_picture(path)
        size = picture_size(self.template, spec)
        own = (picture.pixels.shape[0], picture.pixels.shape[1])
        notes = (*picture.notes, *_fitting_notes(f"'{path}'", own, size))
        if not self.images and "i2v" not in spec.modes:
            notes += (f"the {spec.name} model was not trained to begin with a picture",)
        pixels = cover_and_crop(picture.pixels.unsqueeze(0), *size)
        return replace(self, images={**self.images, prompt: pixels}, notes=(*self.notes, *notes))

    @property
    def given_pictures(self) -> int:
        """How many pictures of a video there are to continue."""
        if self.take is not None:
            return self.take.pictures
        return 0 if self.clip is None else len(self.clip)

    @cached_property
    def clip_hash(self) -> str:
        """The sha256 of the clip's pixels; empty without a clip."""
        return "" if self.clip is None else pixels_hash(self.clip)


def pixels_hash(pixels: Tensor) -> str:
    """The sha256 of pixels, uint8."""
    return sha256(pixels.contiguous().numpy().tobytes()).hexdigest()


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

    The template is the one asked for, else the nearest to what the video begins with, else the
    model's own. A clip whose name ends in `.take` is a take.

    Raises:
        UsageError: pixels given directly have the wrong shape or dtype; a clip is too short; a
            take has another ratio.
        MediaError: a file cannot be read.
        StateError: a take cannot be read, or is not finished.
    """
    inputs = _read_start(request, spec)
    for prompt, path in enumerate(request.images):
        if path is not None:
            inputs = inputs.with_image(prompt, path, spec)
    return inputs


def _read_start(request: GenerationRequest, spec: ModelSpec) -> Inputs:
    """What a video begins with; of `interact` not the pictures of its prompts."""
    if isinstance(request.clip, Path) and request.clip.suffix.lower() == TAKE_SUFFIX:
        return _read_take(request.clip, request, spec)
    if isinstance(request.clip, Path):
        with open_clip(request.clip) as clip:
            template = _template(request, clip.info.height / clip.info.width)
            size = picture_size(template, spec)
            notes = _fitting_notes("the clip", (clip.info.height, clip.info.width), size)
            notes += _aspect_notes(request.aspect, template, size)
            read = clip.read(size=size)
        check_length(len(read.frames), request, spec)
        return Inputs(
            template=template,
            image=None,
            clip=read.frames,
            notes=read.notes + notes,
            has_sound=clip.info.has_sound,
        )
    if isinstance(request.image, Path):
        picture = read_picture(request.image)
        pixels, notes = picture.pixels.unsqueeze(0), picture.notes
    elif request.image is not None and not isinstance(request.image, str):
        pixels, notes = _checked(request.image.unsqueeze(0), "an image (H, W, 3)"), ()
    elif request.clip is not None and not isinstance(request.clip, str):
        pixels, notes = _checked(request.clip, "a clip (F, H, W, 3)"), ()
        check_length(len(pixels), request, spec)
    else:
        own, first = spec.aspect, request.image_of(0)
        if first is not None and request.aspect is None:
            height, width, _ = read_picture(first).pixels.shape
            own = height / width
        template = _template(request, own)
        notes = _aspect_notes(request.aspect, template, picture_size(template, spec))
        return Inputs(template=template, image=None, clip=None, notes=notes)
    template = _template(request, pixels.shape[1] / pixels.shape[2])
    size = picture_size(template, spec)
    what = "the picture" if request.clip is None else "the clip"
    notes += _fitting_notes(what, (pixels.shape[1], pixels.shape[2]), size)
    notes += _aspect_notes(request.aspect, template, size)
    pixels = cover_and_crop(pixels, *size)
    if request.clip is None:
        return Inputs(template=template, image=pixels, clip=None, notes=notes)
    return Inputs(template=template, image=None, clip=pixels, notes=notes)


def _read_take(path: Path, request: GenerationRequest, spec: ModelSpec) -> Inputs:
    take = Take.load(path)
    if not take.finished:
        raise StateError(f"the take '{path}' is not finished", remedies=("finish",))
    check_length(take.pictures, request, spec)
    template = template_of(take)
    if request.aspect is not None and nearest_template(request.aspect) != template:
        height, width = picture_size(template, spec)
        raise UsageError(
            f"the take '{path}' is {width}×{height} and is continued as it is, in no other aspect"
        )
    return Inputs(template=template, image=None, clip=None, notes=(), take=take)


def template_of(take: Take) -> Template:
    """The template of a take.

    Raises:
        StateError: its name is unknown.
    """
    template = next((one for one in TEMPLATES if one.name == take.template), None)
    if template is None:
        raise StateError(f"the take is of an unknown ratio, {take.template!r:.40}")
    return template


def _template(request: GenerationRequest, own: float) -> Template:
    """The template asked for, else the one nearest to the input's `own` ratio."""
    return nearest_template(own if request.aspect is None else request.aspect)


def _aspect_notes(
    aspect: float | None, template: Template, size: tuple[int, int]
) -> tuple[str, ...]:
    """A sentence if a template, of pictures of `size`, is far from the aspect asked for."""
    height, width = size
    if aspect is None or _alike(aspect, float(template.name)) > _FAR_ASPECT:
        return ()
    return (f"no model makes that aspect; the nearest is made, {width}×{height}",)


def _fitting_notes(what: str, own: tuple[int, int], size: tuple[int, int]) -> tuple[str, ...]:
    """A sentence if an input of height and width `own` loses much or is blown up to fill `size`."""
    height, width = size
    scale = max(height / own[0], width / own[1])
    kept = _alike(own[0] / own[1], height / width)
    changes = []
    if scale > _MUCH_LARGER:
        changes.append(f"enlarged {scale:.3g} times")
    if kept < _MUCH_CROPPED:
        changes.append(f"cropped to {max(kept, 0.01):.0%} of its area")
    if not changes:
        return ()
    return (f"{what} is {own[1]}×{own[0]}; it is {' and '.join(changes)} to fill {width}×{height}",)


def _alike(one: float, other: float) -> float:
    """The smaller of two ratios divided by the larger."""
    return min(one, other) / max(one, other)


def picture_size(template: Template, spec: ModelSpec) -> tuple[int, int]:
    """Height and width in pixels of what a model makes in a ratio."""
    height, width = spec.pixel_budget.scales(template)[-1]
    return height * SPATIAL_STRIDE, width * SPATIAL_STRIDE


def _checked(pixels: Tensor, what: str) -> Tensor:
    fits = pixels.ndim == 4 and pixels.shape[-1] == 3 and min(pixels.shape) > 0
    if not fits or pixels.dtype != torch.uint8:
        raise UsageError(f"{what} must be uint8 pixels, not {tuple(pixels.shape)} {pixels.dtype}")
    return pixels.cpu()
