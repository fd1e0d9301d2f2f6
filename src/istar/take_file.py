"""The file of a take: its header, its windows, and reading it without trusting it.

The layout is described in `docs/take-format.md`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from istar.errors import IstarError, StateError
from istar.generation.likelihood import Score
from istar.generation.schedule import ClipPlan, ContextKind, Schedule
from istar.generation.state import TakeWindow
from istar.model_spec import Precision
from istar.request import GenerationRequest, Mode
from istar.tables import decode
from istar.video_tokenizer.config import FRAMES_PER_SECOND, TEMPORAL_STRIDE

FORMAT = "istar-take-1"


@dataclass(frozen=True, kw_only=True)
class ModelIdentity:
    """Which weights made a take.

    Attributes:
        name: of the model.
        fingerprint: a hash of weights, see `istar.networks.Networks.fingerprint`.
        settings: a hash of the model's settings, see `istar.model_spec.ModelSpec.settings_hash`.
        dtype: of the transformer.
        device: the kind of device where it computed.
        repository: where on the Hub its files are from; None where that is not known.
        revision: the commit there, of its transformer.
        folder: its directory there; None at the top.
    """

    name: str
    fingerprint: str
    settings: str
    dtype: Precision
    device: str
    repository: str | None = None
    revision: str | None = None
    folder: str | None = None


@dataclass(frozen=True, kw_only=True)
class ClipFile:
    """The file of a clip that is continued, of which a take holds the last pictures only.

    Attributes:
        pictures: how many it gave, at 16 a second.
        sha256: of all of them, as they were fitted.
    """

    pictures: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class WindowHeader:
    """What a header says of a window, see `docs/take-format.md`."""

    clips: tuple[ClipPlan, ...]
    scales: tuple[tuple[int, int], ...]
    semantic_scales: int
    context: ContextKind
    given: tuple[int, ...]
    seconds: tuple[float, ...]
    scores: tuple[tuple[float, float, float], ...] = ()

    @classmethod
    def of(cls, window: TakeWindow) -> WindowHeader:
        """That of a window."""
        return cls(
            clips=window.schedule.clips,
            scales=window.schedule.scales,
            semantic_scales=window.schedule.semantic_scales,
            context=window.schedule.context,
            given=tuple(sorted(window.given)),
            seconds=tuple(round(seconds, 6) for seconds in window.seconds),
            scores=window.scores,
        )

    @property
    def size(self) -> int:
        """How much there is to its steps: each, and what each looks at.

        Raises:
            StateError: it has numbers that no window has, and nothing should be made of it.
        """
        numbers = [size for scale in self.scales for size in scale]
        numbers += [number for clip in self.clips for number in (clip.frames, *clip.repeats)]
        if not (self.clips and self.scales and all(0 < number < 2**20 for number in numbers)):
            raise StateError("a window has no clips, no scales, or sizes that cannot be")
        looks = len(self.clips) * len(self.scales) if self.context == "full" else 1
        return looks * sum(sum(clip.repeats) for clip in self.clips)


@dataclass(frozen=True, kw_only=True)
class TakeHeader:
    """A file's JSON header without the hash of everything, see `docs/take-format.md`."""

    format: str
    request: str
    template: str
    model: ModelIdentity
    semantic_bits: int
    detail_bits: int
    windows: tuple[WindowHeader, ...]
    taken: int
    total: int
    clip_file: ClipFile | None = None
    before: TakeHeader | None = None


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What a summary says of a request; its pixels, where it has some, are not read."""

    mode: Mode
    prompt: str | tuple[str, ...]
    seed: int
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class TakeSummary:
    """What the header of a take's file says, for lists; whether it is so is not checked.

    Attributes:
        mode: of the request.
        prompts: of the request.
        seed: of the request.
        model: the name of the model.
        seconds: how much is made of it; 0 of a picture, None where that is not known yet.
        share: of the request's steps that are final, windows counted alike; 1 when it is finished.
    """

    mode: Mode
    prompts: tuple[str, ...]
    seed: int
    model: str
    seconds: float | None
    share: float

    @classmethod
    def read(cls, path: Path) -> TakeSummary:
        """That of a file, of which no more than the header is read.

        Raises:
            StateError: it is missing, of another version, or no take.
        """
        metadata, _ = read_file(path, with_tensors=False)
        metadata.pop("sha256", None)
        with damage_named(path):
            header = decode(TakeHeader, metadata, name="its header", error=StateError)
            request = json.loads(header.request)
            asked = decode(
                _Asked,
                {name: request[name] for name in ("mode", "prompt", "seed", "seconds")},
                name="its request",
                error=StateError,
            )
            done = float(max(len(header.windows) - 1, 0))
            if header.windows:
                last = header.windows[-1]
                done += len(last.seconds) / sum(sum(clip.repeats) for clip in last.clips)
            return cls(
                mode=asked.mode,
                prompts=(asked.prompt,) if isinstance(asked.prompt, str) else asked.prompt,
                seed=asked.seed,
                model=header.model.name,
                seconds=_seconds(asked, header),
                share=done / header.total,
            )


def _seconds(asked: _Asked, header: TakeHeader) -> float | None:
    """How many seconds a request makes; where it does not say, one clip of the model a window."""
    if asked.mode == "t2i":
        return 0
    if asked.mode != "interact" and asked.seconds is not None:
        return asked.seconds
    if not header.windows:
        return None
    clips = header.windows[-1].clips
    # With one pyramid a new video's first frame is of the same clip.
    frames = clips[-1].frames - (len(clips) == 1 and asked.mode == "t2v")
    return header.total * frames * TEMPORAL_STRIDE / FRAMES_PER_SECOND


def levels(header: TakeHeader) -> Iterator[TakeHeader]:
    """A header, and those of the takes before."""
    level: TakeHeader | None = header
    while level is not None:
        yield level
        level = level.before


def read_file(path: Path, *, with_tensors: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header of a file, and its tensors, as they are.

    Raises:
        StateError: it is missing, of another version, or no take.
    """
    try:
        # A pipe would be waited for.
        if path.exists() and not path.is_file():
            raise ValueError("it is no plain file")
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = json.loads((file.metadata() or {}).get("take", "null"))
            names = list(file.keys()) if with_tensors else []
            tensors = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise StateError(f"'{path}' is no take, or it was cut short") from error
    except (OSError, ValueError, RecursionError) as error:
        raise StateError(f"'{path}' is not a readable take: {error}") from error
    version = metadata.get("format") if isinstance(metadata, dict) else None
    if version != FORMAT:
        other = f" of the version {version!r:.40}" if version else ""
        raise StateError(f"'{path}' is no take{other} that this istar reads")
    return metadata, tensors


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Whatever does not fit in a file, as one error."""
    try:
        yield
    except (
        IstarError,
        ArithmeticError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise StateError(f"'{path}' is a damaged take: {error}") from error


def digest(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """The sha256 of all tensors, in order of their names, and of a header."""
    hashed = sha256(json.dumps(header, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        hashed.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hashed.update(tensor.numpy().tobytes())
    return hashed.hexdigest()


def window_tensors(number: int, window: TakeWindow) -> dict[str, Tensor]:
    """The tensors of a window in a file, by name."""
    tensors = {f"generator.{number}": window.generator}
    tensors |= {f"bits.{number}.{step}": _packed(bits) for step, bits in window.bits.items()}
    tensors |= {f"mask.{number}.{step}": _packed(mask) for step, mask in window.masks.items()}
    return tensors


def read_window(
    header: WindowHeader,
    number: int,
    tensors: dict[str, Tensor],
    *,
    semantic_bits: int,
    detail_bits: int,
    last: bool,
) -> TakeWindow:
    """One window, whose tensors are taken out of `tensors`.

    Args:
        header: of a size that was checked.
        number: which window.
        tensors: of the file, by name.
        semantic_bits, detail_bits: of a token.
        last: it is the last, and need not be complete.

    Raises:
        LookupError: something is missing.
        StateError: something does not fit.
        RuntimeError: torch refuses the generator's state.
    """
    schedule = Schedule(
        clips=header.clips,
        scales=header.scales,
        semantic_scales=header.semantic_scales,
        context=header.context,
    )
    bits: dict[int, Tensor] = {}
    masks: dict[int, Tensor] = {}
    for step in schedule.steps:
        width = semantic_bits if step.semantic else detail_bits
        tokens = step.grid.tokens
        if (packed := tensors.pop(f"bits.{number}.{step.index}", None)) is not None:
            bits[step.index] = _unpacked(packed, tokens, width)
        if (packed := tensors.pop(f"mask.{number}.{step.index}", None)) is not None:
            masks[step.index] = _unpacked(packed, tokens, 1).squeeze(1)
    final = len(header.seconds)
    if final > len(schedule.steps) or (not last and final < len(schedule.steps)):
        raise StateError(f"window {number} is not complete")
    if len(header.scores) not in (0, final):
        raise StateError(f"window {number} has scores of other steps than those it has taken")
    if missing := {*range(final), *header.given, *masks}.difference(bits):
        raise StateError(f"the bits of step {min(missing)} of window {number} are missing")
    return TakeWindow(
        schedule=schedule,
        generator=generator_state(tensors.pop(f"generator.{number}")),
        bits=bits,
        given=frozenset(header.given),
        masks=masks,
        seconds=header.seconds,
        scores=tuple(Score(*score) for score in header.scores),
    )


def generator_state(state: Tensor) -> Tensor:
    """A generator's state, once torch has taken it.

    Raises:
        RuntimeError: torch refuses it.
    """
    generator = torch.Generator()
    generator.set_state(state)
    return generator.get_state()


def _packed(bits: Tensor) -> Tensor:
    """Booleans of any shape as bytes."""
    return torch.from_numpy(np.packbits(bits.cpu().numpy().ravel()))


def _unpacked(packed: Tensor, tokens: int, bits: int) -> Tensor:
    """Booleans `(tokens, bits)` that `_packed` made bytes.

    Raises:
        StateError: too few bytes or too many.
    """
    count = tokens * bits
    if packed.dtype != torch.uint8 or packed.shape != (-(-count // 8),):
        raise StateError(f"{tuple(packed.shape)} {packed.dtype} does not hold {count} bits")
    unpacked = np.unpackbits(packed.numpy(), count=count).astype(bool)
    return torch.from_numpy(unpacked).reshape(tokens, bits)


def request_of(
    header: TakeHeader, image: Tensor | None, clip: Tensor | None, images: Mapping[int, Tensor]
) -> GenerationRequest:
    """The request of a take, its pixels given where it names no file.

    Args:
        header: of its file.
        image: `(1, H, W, 3)`, uint8: the picture that it begins with.
        clip: `(F, H, W, 3)`, uint8: the clip that it continues.
        images: like `image`, by the index of the prompt that begins with it.

    Raises:
        StateError: they do not fit together.
    """
    shots = (("image", picture) for picture in images.values())
    for name, pictures in (("image", image), ("clip", clip), *shots):
        if pictures is not None and (
            pictures.dtype != torch.uint8
            or pictures.ndim != 4
            or pictures.shape[3] != 3
            or min(pictures.shape) < 1
        ):
            raise StateError(f"its {name} is not made of pictures")
    request = GenerationRequest.from_json(
        header.request, image=None if image is None else image[0], clip=clip
    )
    for name, held in (("image", image), ("clip", header.before or clip)):
        if (getattr(request, name) is None) != (held is None):
            raise StateError(f"its {name} is missing")
    if images.keys() != {number for number, one in enumerate(request.images) if one is not None}:
        raise StateError("its images are not those of its prompts")
    if header.before is not None and clip is not None:
        raise StateError("it continues both a clip and a take")
    if header.clip_file and not isinstance(request.clip, Path):
        raise StateError("the file of its clip has no name")
    return request
