"""A take: a generation as tokens, in memory and in a file.

The bits of every step, the request, the model's identity and the random generator: all that a
picture or video follows from. Keys and values, latents and pictures are computed again from the
bits where a later step needs them. The file's layout is described in `docs/take-format.md`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from istar.errors import IstarError, MediaError, StateError, UsageError
from istar.files import PendingFile, writing_failed
from istar.generation.likelihood import Score, total
from istar.generation.schedule import ClipPlan, ContextKind, Schedule, Step
from istar.generation.state import Position, TakeWindow
from istar.generation.until import scale_number
from istar.generation.variation import Part, frames_within, varied
from istar.model_spec import Precision
from istar.request import GenerationRequest, Mode
from istar.tables import decode, encode

TAKE_SUFFIX = ".take"
FORMAT = "istar-take-1"

_MOST_STEPS = 1_000_000
_MOST_BITS = 1024


@dataclass(frozen=True, kw_only=True)
class ModelIdentity:
    """Which weights made a take.

    Attributes:
        name: of the model.
        fingerprint: a hash of weights, see `istar.networks.Networks.fingerprint`.
        settings: a hash of the model's settings, see `istar.model_spec.ModelSpec.settings_hash`.
        dtype: of the transformer.
        device: the kind of device where it computed.
        repository: the Hub's `owner/name`, of a published model.
        revision: the commit of its transformer there.
    """

    name: str
    fingerprint: str
    settings: str
    dtype: Precision
    device: str
    repository: str | None = None
    revision: str | None = None


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
class Take:
    """A generation as tokens: not begun, under way or finished.

    Attributes:
        request: what is made.
        template: name of the ratio.
        model: what makes it.
        semantic_bits: bits of a token on semantic scales.
        detail_bits: on detail scales.
        windows: those that are begun.
        taken: how many steps of the last of these are final.
        total: how many windows the request has.
        generator: the state of the CPU generator from which the next step draws.
        image: `(1, H, W, 3)`, uint8: the request's picture as it was fitted.
        clip: `(F, H, W, 3)`, uint8: the request's clip likewise; of a file the last pictures, as
            many as are read.
        clip_file: the file that the clip came from.

    Example:
        >>> take = pipeline.draft(request)
        >>> take.save("waves.take")
        >>> pipeline.finish(Take.load("waves.take")).save("waves.mp4")
    """

    request: GenerationRequest
    template: str
    model: ModelIdentity
    semantic_bits: int
    detail_bits: int
    windows: tuple[TakeWindow, ...]
    taken: int
    total: int
    generator: Tensor
    image: Tensor | None = None
    clip: Tensor | None = None
    clip_file: ClipFile | None = None

    @property
    def position(self) -> Position:
        """The window under way, and the next step in it."""
        return Position(max(len(self.windows) - 1, 0), self.taken)

    @property
    def finished(self) -> bool:
        """Every step of the request is taken."""
        if len(self.windows) < self.total:
            return False
        return not self.total or self.taken == len(self.windows[-1].schedule.steps)

    @property
    def score(self) -> Score:
        """How likely the bits of all its steps are; of windows without scores nothing counts."""
        return total(one for window in self.windows for one in window.scores)

    @property
    def last_step(self) -> Step | None:
        """The last final step of the last window; None before its first."""
        return self.windows[-1].schedule.steps[self.taken - 1] if self.taken else None

    def varied(
        self,
        *,
        keep: tuple[int, int] | None = None,
        seed: int,
        prompt: str | None = None,
        seconds: tuple[float, float] | None = None,
        region: tuple[int, int, int, int] | None = None,
    ) -> Take:
        """A take of which some tokens stay and the others are drawn anew, before its first step.

        Of a longer video only the first window stays. Pixels near what is drawn anew can change.

        Args:
            keep: the scale up to which everything stays, by its width and height in tokens.
            seed: of the new draws.
            prompt: in place of the take's; of an interactive video, of its first prompt.
            seconds: from when to when tokens are drawn anew; outside they stay. None: at all times.
            region: the left, top, width and height in pixels in which tokens are drawn anew;
                outside they stay. None: everywhere.

        Raises:
            UsageError: nothing would stay or nothing would be drawn anew; a scale, time or region
                that the take does not have.
        """
        if not self.windows:
            raise UsageError("the take has no steps that could stay")
        if keep is None and seconds is None and region is None:
            raise UsageError("a variation keeps a scale, or what is outside a part")
        window, mode = self.windows[0], self.request.mode
        schedule, generator = window.schedule, torch.Generator().manual_seed(seed).get_state()
        # 1. What is drawn anew.
        part = None
        if seconds is not None or region is not None:
            pictures = 0 if self.clip is None else len(self.clip)
            if self.clip_file is not None:
                pictures = self.clip_file.pictures
            frames = seconds and frames_within(schedule, mode, pictures, seconds)
            part = Part.of(schedule, frames, region)
        # 2. What stays.
        window = varied(
            window,
            generator,
            keep=-1 if keep is None else scale_number(schedule.steps, keep),
            part=part,
            input_clips={"i2v": 1, "extend": 2}.get(mode, 0),
        )
        # 3. The request, of which later windows are made as ever.
        request = replace(self.request, seed=seed)
        if prompt is not None:
            prompts = (prompt, *request.prompts[1:])
            request = replace(request, prompt=prompts if mode == "interact" else prompt)
        return replace(self, request=request, windows=(window,), taken=0, generator=generator)

    def save(
        self,
        path: Path | str,
        *,
        overwrite: bool = False,
        numbered: bool = False,
        synced: bool = True,
    ) -> Path:
        """Write the file; under its name it is whole or not there at all.

        Args:
            path: usually ends in `.take`.
            overwrite: a file of that name may be replaced.
            numbered: beside a file of that name it gets a numbered name.
            synced: wait until it is on the disk, where it outlasts the power too.

        Returns:
            the file's name.

        Raises:
            StateError: it cannot be written.
        """
        target = Path(path).expanduser()
        tensors = _tensors(self)
        header = encode(_header(self))
        header["sha256"] = _digest(tensors, header)
        try:
            with PendingFile(
                target, overwrite=overwrite, numbered=numbered, synced=synced
            ) as pending:
                pending.temporary.write_bytes(save(tensors, metadata={"take": json.dumps(header)}))
        except MediaError as error:
            raise StateError(str(error), remedies=error.remedies) from error
        except (OSError, SafetensorError, ValueError) as error:
            raise StateError(str(writing_failed(target, error))) from error
        return pending.target

    @classmethod
    def load(cls, path: Path | str) -> Take:
        """Read a file.

        Nothing is made larger than the file says and holds; a file that was changed is refused.

        Raises:
            StateError: it is missing, damaged, of another version, or no take.
        """
        source = Path(path).expanduser()
        metadata, tensors = _read(source)
        with _damage_named(source):
            if metadata.pop("sha256", None) != _digest(tensors, metadata):
                raise StateError("its bytes have changed")
            return _take(decode(_Header, metadata, name="its header", error=StateError), tensors)


@dataclass(frozen=True, kw_only=True)
class TakeSummary:
    """What the header of a take's file says, unchecked: for lists.

    Attributes:
        mode: of the request.
        prompts: of the request.
        seed: of the request.
        model: the name of the model.
        share: of the request's steps that are final, windows counted alike; 1 when it is finished.
    """

    mode: Mode
    prompts: tuple[str, ...]
    seed: int
    model: str
    share: float

    @classmethod
    def read(cls, path: Path) -> TakeSummary:
        """That of a file, of which no more than the header is read.

        Raises:
            StateError: it is missing, of another version, or no take.
        """
        metadata, _ = _read(path, with_tensors=False)
        metadata.pop("sha256", None)
        with _damage_named(path):
            header = decode(_Header, metadata, name="its header", error=StateError)
            request = json.loads(header.request)
            prompts = request["prompt"]
            done = float(max(len(header.windows) - 1, 0))
            if header.windows:
                last = header.windows[-1]
                done += len(last.seconds) / sum(sum(clip.repeats) for clip in last.clips)
            return cls(
                mode=request["mode"],
                prompts=(prompts,) if isinstance(prompts, str) else tuple(prompts),
                seed=request["seed"],
                model=header.model.name,
                share=done / header.total,
            )


# --- The file ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _WindowHeader:
    """What a header says of a window."""

    clips: tuple[ClipPlan, ...]
    scales: tuple[tuple[int, int], ...]
    semantic_scales: int
    context: ContextKind
    given: tuple[int, ...]
    seconds: tuple[float, ...]
    scores: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Header:
    """A file's JSON header, without the hash of everything."""

    format: str
    request: str
    template: str
    model: ModelIdentity
    semantic_bits: int
    detail_bits: int
    windows: tuple[_WindowHeader, ...]
    taken: int
    total: int
    clip_file: ClipFile | None = None


def _read(path: Path, *, with_tensors: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
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
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise StateError(f"'{path}' is not a readable take: {error}") from error
    version = metadata.get("format") if isinstance(metadata, dict) else None
    if version != FORMAT:
        other = f" of the version {version!r:.40}" if version else ""
        raise StateError(f"'{path}' is no take{other} that this istar reads")
    return metadata, tensors


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
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


def _header(take: Take) -> _Header:
    return _Header(
        format=FORMAT,
        request=take.request.to_json(),
        template=take.template,
        model=take.model,
        semantic_bits=take.semantic_bits,
        detail_bits=take.detail_bits,
        windows=tuple(
            _WindowHeader(
                clips=window.schedule.clips,
                scales=window.schedule.scales,
                semantic_scales=window.schedule.semantic_scales,
                context=window.schedule.context,
                given=tuple(sorted(window.given)),
                seconds=tuple(round(seconds, 6) for seconds in window.seconds),
                scores=window.scores,
            )
            for window in take.windows
        ),
        taken=take.taken,
        total=take.total,
        clip_file=take.clip_file,
    )


def _tensors(take: Take) -> dict[str, Tensor]:
    tensors = {"generator": take.generator}
    for number, window in enumerate(take.windows):
        tensors[f"generator.{number}"] = window.generator
        tensors |= {f"bits.{number}.{step}": _packed(bits) for step, bits in window.bits.items()}
        tensors |= {f"mask.{number}.{step}": _packed(mask) for step, mask in window.masks.items()}
    for name, pictures in (("image", take.image), ("clip", take.clip)):
        if pictures is not None:
            tensors[name] = pictures
    # Cloned: safetensors refuses tensors that share memory.
    return {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}


def _take(header: _Header, tensors: dict[str, Tensor]) -> Take:
    """What a file holds, every tensor accounted for.

    Raises:
        IstarError: something does not fit.
        RuntimeError: a generator's state is none.
    """
    if not 0 < header.semantic_bits <= header.detail_bits <= _MOST_BITS:
        raise StateError("its tokens have no bits, or too many")
    for window in header.windows:
        _check_size(window)
    if sum(_size(window) for window in header.windows) > _MOST_STEPS:
        raise StateError("it has too many steps")
    pictures = {name: tensors.pop(name, None) for name in ("image", "clip")}
    image, clip = pictures.values()
    windows = tuple(
        _window(header, number, tensors, last=number == len(header.windows) - 1)
        for number in range(len(header.windows))
    )
    taken = len(windows[-1].seconds) if windows else 0
    if header.taken != taken or not len(windows) <= header.total:
        raise StateError("it says of itself how far it is, and is not")
    generator = _generator(tensors.pop("generator"))
    if tensors:
        raise StateError(f"it holds something unknown, {min(tensors)!r:.80}")
    return Take(
        request=_request(header, image, clip),
        template=header.template,
        model=header.model,
        semantic_bits=header.semantic_bits,
        detail_bits=header.detail_bits,
        windows=windows,
        taken=taken,
        total=header.total,
        generator=generator,
        image=image,
        clip=clip,
        clip_file=header.clip_file,
    )


def _check_size(window: _WindowHeader) -> None:
    """Refuse numbers that no window has, before anything is made of them."""
    numbers = [size for scale in window.scales for size in scale]
    numbers += [number for clip in window.clips for number in (clip.frames, *clip.repeats)]
    if not (window.clips and window.scales and all(0 < number < 2**20 for number in numbers)):
        raise StateError("a window has no clips, no scales, or sizes that cannot be")


def _size(window: _WindowHeader) -> int:
    """How much there is to a window's steps: each, and what each looks at."""
    looks = len(window.clips) * len(window.scales) if window.context == "full" else 1
    return looks * sum(sum(clip.repeats) for clip in window.clips)


def _window(header: _Header, number: int, tensors: dict[str, Tensor], *, last: bool) -> TakeWindow:
    """One window, whose tensors are taken out of `tensors`."""
    own = header.windows[number]
    schedule = Schedule(
        clips=own.clips,
        scales=own.scales,
        semantic_scales=own.semantic_scales,
        context=own.context,
    )
    bits: dict[int, Tensor] = {}
    masks: dict[int, Tensor] = {}
    for step in schedule.steps:
        width = header.semantic_bits if step.semantic else header.detail_bits
        tokens = step.grid.tokens
        if (packed := tensors.pop(f"bits.{number}.{step.index}", None)) is not None:
            bits[step.index] = _unpacked(packed, tokens, width)
        if (packed := tensors.pop(f"mask.{number}.{step.index}", None)) is not None:
            masks[step.index] = _unpacked(packed, tokens, 1).squeeze(1)
    final = len(own.seconds)
    if final > len(schedule.steps) or (not last and final < len(schedule.steps)):
        raise StateError(f"window {number} is not complete")
    if len(own.scores) not in (0, final):
        raise StateError(f"window {number} has scores of other steps than those it has taken")
    if missing := {*range(final), *own.given, *masks}.difference(bits):
        raise StateError(f"the bits of step {min(missing)} of window {number} are missing")
    return TakeWindow(
        schedule=schedule,
        generator=_generator(tensors.pop(f"generator.{number}")),
        bits=bits,
        given=frozenset(own.given),
        masks=masks,
        seconds=own.seconds,
        scores=tuple(Score(*score) for score in own.scores),
    )


def _request(header: _Header, image: Tensor | None, clip: Tensor | None) -> GenerationRequest:
    """The request, its pixels given where it names no file."""
    for name, pictures, least in (("image", image, 1), ("clip", clip, 1)):
        if pictures is not None and (
            pictures.dtype != torch.uint8
            or pictures.ndim != 4
            or pictures.shape[3] != 3
            or len(pictures) < least
        ):
            raise StateError(f"its {name} is not made of pictures")
    request = GenerationRequest.from_json(
        header.request, image=None if image is None else image[0], clip=clip
    )
    for name, pictures in (("image", image), ("clip", clip)):
        if (getattr(request, name) is None) != (pictures is None):
            raise StateError(f"its {name} is missing")
    if header.clip_file and not isinstance(request.clip, Path):
        raise StateError("the file of its clip has no name")
    return request


def _generator(state: Tensor) -> Tensor:
    """A generator's state, refused if it is none.

    Raises:
        RuntimeError: it is none.
    """
    generator = torch.Generator()
    generator.set_state(state)
    return generator.get_state()


def _digest(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """The sha256 of all tensors, in order of their names, and of a header."""
    digest = sha256(json.dumps(header, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def pictures_hash(pictures: Tensor) -> str:
    """The sha256 of pictures `(F, H, W, 3)`, uint8."""
    return sha256(pictures.contiguous().numpy().tobytes()).hexdigest()


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
