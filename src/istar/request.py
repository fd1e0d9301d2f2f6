"""What to make: one validated description, from which everything else follows."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from math import inf, isfinite
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from istar.errors import UsageError
from istar.files import expanded
from istar.take_directory import TAKE_SUFFIX

if TYPE_CHECKING:
    from torch import Tensor

AUTO_MODEL = "auto"
"""The name of whatever model fits the request."""

Mode = Literal["t2i", "t2v", "i2v", "extend", "interact"]

SECONDS_STEP = 0.25
"""One latent frame after the first, four pictures: lengths are multiples of it."""

LAST_SEED = 2**64 - 1
MAX_PROMPT_CHARACTERS = 100_000
MAX_SECONDS = 3600
EXTREME = 1e6
"""The largest guidance and temperature, and the inverse of the least: logits stay in float32."""


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """A picture or a video to make.

    Attributes:
        mode: `t2i`, `t2v`, `i2v`, `extend` or `interact`.
        prompt: what to show. For `interact` one text for every full clip; for `i2v` and
            `extend` it may be empty.
        image: `i2v`: a file, or pixels `(H, W, 3)` uint8.
        clip: `extend`, `interact`: a file, or frames `(F, H, W, 3)` uint8 at 16 a second. A file
            whose name ends in `.take` is a finished take, whose tokens are used as they are.
        seconds: `t2v`, `i2v`: the video's length; `extend`: the length to add. A
            multiple of 0.25, at least 0.25 to add and at least 1 for a whole video; None for one
            clip of the model, in the released ones 5.
        aspect: height divided by width, mapped to the nearest template; None follows the input,
            or is 9/16 without one.
        seed: 0 to 2⁶⁴-1.
        negative_prompt: what to steer away from; takes the place of the learned unconditional.
        guidance_scale: None for the model's own; 1 for none, which also halves the work. A request
            without a prompt and a negative prompt is not guided.
        images: `interact`: for every prompt the file of the picture with which its clip begins a
            new shot, or None to continue what is before; those that are missing at the end
            continue. The first prompt continues a clip, where there is one.
        tau_image: sampling temperature of image clips; None for the model's own.
        tau_video: sampling temperature of video clips; None for the model's own.
        suffix: add the model's own suffix to the prompt.
        keeps_sound: `extend`: a video has the sound of the clip's file, which is copied.
        typed_prompt: what a person typed, where `prompt` was rewritten from it; nothing else
            depends on it. For `interact` one text for every prompt, if any was rewritten. None
            where they are the same.

    Raises:
        UsageError: anything above does not hold.
    """

    mode: Mode
    prompt: str | tuple[str, ...] = ""
    image: str | Path | Tensor | None = None
    clip: str | Path | Tensor | None = None
    seconds: float | None = None
    aspect: float | None = None
    seed: int = 0
    negative_prompt: str = ""
    guidance_scale: float | None = None
    tau_image: float | None = None
    tau_video: float | None = None
    suffix: bool = True
    typed_prompt: str | tuple[str, ...] | None = None
    images: tuple[Path | None, ...] = ()
    keeps_sound: bool = False

    def __post_init__(self) -> None:
        for name in ("seconds", "aspect", "seed", "guidance_scale", "tau_image", "tau_video"):
            object.__setattr__(self, name, _plain_number(getattr(self, name)))
        check_mode(self.mode)
        if not isinstance(self.prompt, tuple if self.mode == "interact" else str):
            raise UsageError("interact takes a tuple of prompts, the other modes take one prompt")
        if self.mode == "interact" and not self.prompts:
            raise UsageError("interact needs at least one prompt")
        for prompt in self.prompts:
            check_prompt(prompt, may_be_empty=self.mode in ("i2v", "extend"))
        check_prompt(self.negative_prompt, name="negative prompt", may_be_empty=True, longest=None)
        self._settle_typed_prompt()
        for name in ("image", "clip"):
            if isinstance(value := getattr(self, name), str):
                object.__setattr__(self, name, expanded(value))
        images = (None if one is None else expanded(one) for one in self.images)
        object.__setattr__(self, "images", tuple(images))
        self._check_inputs()
        if self.seconds is not None:
            check_seconds(self.seconds, least=SECONDS_STEP if self.mode == "extend" else 1)
        check_seed(self.seed)
        for name in ("suffix", "keeps_sound"):
            if not isinstance(value := getattr(self, name), bool):
                raise UsageError(f"{name} is true or false, not {value!r}")
        if self.keeps_sound and self.sound is None:
            raise UsageError("only extend keeps sound, and only that of a video's file")
        scale = self.guidance_scale
        if scale is not None and not (_is_number(scale) and abs(scale) <= EXTREME):
            raise UsageError(f"guidance must be a number up to {EXTREME:.0f}, not {scale!r}")
        for name, value in (("image", self.tau_image), ("video", self.tau_video)):
            if value is not None and not (_is_number(value) and is_temperature(value)):
                raise UsageError(
                    f"tau ({name}) must be a number from {1 / EXTREME:.6f} to {EXTREME:.0f}, "
                    f"not {value!r}"
                )
        aspect = self.aspect
        if aspect is not None and not (_is_number(aspect) and isfinite(aspect) and aspect > 0):
            raise UsageError(f"aspect must be a positive number, not {aspect!r}")

    def _settle_typed_prompt(self) -> None:
        typed = self.typed_prompt
        if typed == self.prompt:
            object.__setattr__(self, "typed_prompt", typed := None)
        if typed is not None:
            if not isinstance(typed, type(self.prompt)) or (
                len(self.typed_prompts) != len(self.prompts)
            ):
                raise UsageError("there is one typed prompt for each prompt")
            for one in self.typed_prompts:
                check_prompt(one, name="typed prompt")

    def _check_inputs(self) -> None:
        if (self.image is not None) != (self.mode == "i2v"):
            raise UsageError("only i2v takes an image, and it needs one")
        if self.clip is None and self.mode == "extend":
            raise UsageError("extend needs a clip")
        if self.clip is not None and self.mode not in ("extend", "interact"):
            raise UsageError("a clip is for extend and interact only")
        if self.images and (self.mode != "interact" or len(self.images) > len(self.prompts)):
            raise UsageError("images are for the prompts of interact, one for each or none")
        if self.clip is not None and self.image_of(0) is not None:
            raise UsageError("the first prompt continues the clip, and begins with no picture")
        for name, value in (("image", self.image), ("clip", self.clip)):
            if (
                value is not None
                and not isinstance(value, Path)
                and not hasattr(value, "unsqueeze")
            ):
                raise UsageError(
                    f"the {name} is a file or a torch tensor, not {type(value).__name__}"
                )

    def to_json(self) -> str:
        """The request as JSON; pixels given directly are left out."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("image", "clip"):
            values[name] = str(values[name]) if isinstance(values[name], Path) else None
        values["images"] = [None if one is None else str(one) for one in self.images]
        return json.dumps(values)

    @classmethod
    def from_json(
        cls, text: str, *, image: Tensor | None = None, clip: Tensor | None = None
    ) -> GenerationRequest:
        """The request that `to_json` wrote.

        Args:
            text: the JSON.
            image: pixels that were given directly.
            clip: pixels that were given directly.

        Raises:
            UsageError: not JSON, an unknown field, or a value that is not allowed.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise UsageError(f"a request is a JSON object: {error}") from error
        known = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or not known.issuperset(values):
            raise UsageError(f"a request is an object of {', '.join(sorted(known))}")
        for name in ("prompt", "typed_prompt"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        if not isinstance(images := values.get("images", []), list) or not all(
            one is None or isinstance(one, str) for one in images
        ):
            raise UsageError(f"images are names of files, not {images!r:.80}")
        for name, pixels in (("image", image), ("clip", clip)):
            if values.get(name) is None:
                values[name] = pixels
        if "mode" not in values:
            raise UsageError("a request lacks its mode")
        return cls(**values)

    @property
    def prompts(self) -> tuple[str, ...]:
        """All prompts: one, or in `interact` one for every full clip."""
        return (self.prompt,) if isinstance(self.prompt, str) else self.prompt

    @property
    def typed_prompts(self) -> tuple[str, ...]:
        """All prompts as they were typed, before any was rewritten."""
        typed = self.typed_prompt
        return self.prompts if typed is None else (typed,) if isinstance(typed, str) else typed

    @property
    def sound(self) -> Path | None:
        """The file whose sound is kept; None where none is."""
        clip = self.clip
        if not self.keeps_sound or self.mode != "extend" or not isinstance(clip, Path):
            return None
        return None if clip.suffix.lower() == TAKE_SUFFIX else clip

    def image_of(self, prompt: int) -> Path | None:
        """`interact`: the picture with which the clip of a prompt, by its index, begins."""
        return self.images[prompt] if prompt < len(self.images) else None


def check_mode(mode: str) -> None:
    """Refuse an unknown mode.

    Raises:
        UsageError: none of the modes.
    """
    if mode not in get_args(Mode):
        raise UsageError(f"mode is one of {', '.join(get_args(Mode))}, not {mode!r}")


def check_prompt(
    prompt: str,
    *,
    name: str = "prompt",
    may_be_empty: bool = False,
    longest: int | None = MAX_PROMPT_CHARACTERS,
) -> None:
    """Refuse what no text encoder should be given.

    Raises:
        UsageError: no text, empty, too long, or not encodable as UTF-8.
    """
    if not isinstance(prompt, str):
        raise UsageError(f"a {name} must be a string, not {prompt!r:.80}")
    if not may_be_empty and not prompt.strip():
        raise UsageError(f"the {name} is empty: say what to show")
    if longest is not None and len(prompt) > longest:
        raise UsageError(f"the {name} has {len(prompt)} characters; at most {longest} are taken")
    if "\0" in prompt:
        raise UsageError(f"the {name} holds a NUL character")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"the {name} is not valid UTF-8 text") from error


def check_seconds(seconds: float, *, least: float) -> None:
    """Refuse lengths that are not whole latent frames.

    Raises:
        UsageError: no number, not finite, too short, or not a multiple of a quarter second.
    """
    if not _is_number(seconds):
        raise UsageError(f"seconds must be a number, not {seconds!r}")
    if not least <= seconds <= MAX_SECONDS:
        raise UsageError(f"seconds must be {least:g} to {MAX_SECONDS}, not {seconds:g}")
    if seconds % SECONDS_STEP:
        raise UsageError(
            f"seconds must be a multiple of {SECONDS_STEP} (four pictures), not {seconds:g}"
        )


def check_seed(seed: Any) -> None:
    """Refuse a value that is not a seed.

    Raises:
        UsageError: it is no whole number from 0 to 2⁶⁴-1.
    """
    whole = isinstance(seed, int) and not isinstance(seed, bool)
    if not whole or not 0 <= seed <= LAST_SEED:
        raise UsageError(f"a seed is a whole number from 0 to {LAST_SEED}, not {seed!r}")


def is_temperature(value: float) -> bool:
    """Whether logits can be divided by a number: neither too small nor too large."""
    return 1 / EXTREME <= value <= EXTREME


def _plain_number(value: Any) -> Any:
    """A number of any library as Python's int or float; anything else as it is."""
    if not _is_number(value):
        return value
    try:
        near = float(value)
    except OverflowError:
        return inf
    return int(value) if isinstance(value, Integral) else near


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
