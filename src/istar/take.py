"""A take: a generation as tokens, in memory and in a file.

The bits of every step, the request, the model's identity and the random generator: all that a
picture or video follows from. Keys and values, latents and pictures are computed again from the
bits where a later step needs them. The file's layout is described in `docs/take-format.md`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from istar.errors import MediaError, StateError, UsageError
from istar.files import PendingFile, expanded, writing_failed
from istar.generation.likelihood import Score, total
from istar.generation.schedule import Step
from istar.generation.state import Position, TakeWindow, seed_in, seeded_state
from istar.generation.until import scale_number
from istar.generation.variation import Part, frames_within, varied
from istar.request import GenerationRequest
from istar.tables import decode, encode
from istar.take_file import (
    FORMAT,
    ClipFile,
    ModelIdentity,
    TakeHeader,
    WindowHeader,
    damage_named,
    digest,
    generator_state,
    levels,
    read_file,
    read_window,
    request_of,
    window_tensors,
)
from istar.video_tokenizer.config import SPATIAL_STRIDE, TEMPORAL_STRIDE

_MOST_STEPS = 1_000_000
_MOST_BITS = 1024
_INPUT_CLIPS = {"i2v": 1, "extend": 2}
"""How many clips of the first window show the input, by mode."""
_IMAGE = "image."
"""How names of pictures begin that start new shots, before the index of a prompt."""
_BEFORE = "before."
"""How names of tensors of the take that another continues begin."""


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
        total: how many windows the request has.
        generator: the state of the CPU generator from which the next step draws.
        image: `(1, H, W, 3)`, uint8: the request's picture as it was fitted.
        clip: `(F, H, W, 3)`, uint8: the request's clip likewise; of a file the last pictures, as
            many as are read.
        clip_file: the file that the clip came from.
        before: the finished take that this one continues, in the place of a clip.
        images: `(1, H, W, 3)`, uint8, by the index of a prompt: the pictures that start new shots
            of an interactive video.

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
    total: int
    generator: Tensor
    image: Tensor | None = None
    clip: Tensor | None = None
    clip_file: ClipFile | None = None
    before: Take | None = None
    images: Mapping[int, Tensor] = field(default_factory=dict)

    @property
    def taken(self) -> int:
        """How many steps of the last window are final."""
        return len(self.windows[-1].seconds) if self.windows else 0

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
    def is_varied(self) -> bool:
        """Some of its tokens are another take's, which the request alone does not give."""
        if not self.windows:
            return False
        window, clips = self.windows[0], self._input_clips
        steps = window.schedule.steps
        return bool(window.masks) or any(steps[index].clip >= clips for index in window.given)

    @property
    def seeds(self) -> tuple[int, ...] | None:
        """Of an interactive video the seed of every prompt, where one is not the request's."""
        if self.request.mode != "interact":
            return None
        states = [window.generator for window in self.windows]
        states += [self.generator] * (self.total - len(states))
        seeds = tuple(seed_in(state) for state in states)
        return None if set(seeds) <= {self.request.seed} else seeds

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
        schedule, generator = window.schedule, seeded_state(seed)
        # 1. What is drawn anew.
        part = None
        if seconds is not None or region is not None:
            frames = seconds and frames_within(schedule, mode, self.given_pictures, seconds)
            part = Part.of(schedule, frames, region)
        # 2. What stays.
        window = varied(
            window,
            generator,
            keep=-1 if keep is None else scale_number(schedule.steps, keep),
            part=part,
            input_clips=self._input_clips,
        )
        # 3. The request, of which later windows are made as ever.
        request = replace(self.request, seed=seed)
        if prompt is not None:
            many = mode == "interact"
            request = replace(
                request,
                prompt=(prompt, *request.prompts[1:]) if many else prompt,
                typed_prompt=(prompt, *request.typed_prompts[1:]) if many else None,
            )
        return replace(self, request=request, windows=(window,), generator=generator)

    @property
    def _input_clips(self) -> int:
        """How many clips of the first window show the input."""
        return 1 if 0 in self.images else _INPUT_CLIPS.get(self.request.mode, 0)

    @property
    def given_pictures(self) -> int:
        """How many pictures it continues; 0 of a new video and of one that a picture begins."""
        if self.before is not None:
            return self.before.pictures
        if self.clip_file is not None:
            return self.clip_file.pictures
        return 0 if self.clip is None else len(self.clip)

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of its pictures in pixels; None before its first window."""
        if not self.windows:
            return None
        height, width = self.windows[-1].schedule.scales[-1]
        return height * SPATIAL_STRIDE, width * SPATIAL_STRIDE

    @property
    def pictures(self) -> int:
        """How many pictures its windows make, with those that it continues."""
        count = self.given_pictures
        for number, window in enumerate(self.windows):
            clips = window.schedule.clips
            if number in self.images or (number == 0 and not count):
                # A new shot's first latent frame is one picture.
                count += 1 + TEMPORAL_STRIDE * (sum(clip.frames for clip in clips) - 1)
            else:
                count += TEMPORAL_STRIDE * clips[-1].frames
        return count

    def without_last_prompt(self) -> Take:
        """The take of an interactive video, as it was before the last prompt was added.

        Raises:
            UsageError: the take is of another mode, or has one prompt.
        """
        if self.request.mode != "interact" or len(self.request.prompts) < 2:
            raise UsageError("the last prompt is the only one, and cannot be taken back")
        count = self.total - 1
        windows = self.windows[:count]
        generator = self.generator
        # After a finished window the last prompt may have begun with a seed of its own.
        if windows and windows[-1].is_whole:
            generator = windows[-1].generator_after(self.semantic_bits, self.detail_bits)
        return replace(
            self,
            request=replace(
                self.request,
                prompt=self.request.prompts[:-1],
                typed_prompt=self.request.typed_prompts[:-1],
                images=self.request.images[:count],
            ),
            windows=windows,
            total=count,
            generator=generator,
            images={number: image for number, image in self.images.items() if number < count},
        )

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
        target = expanded(path)
        try:
            tensors = _tensors(self)
            header = encode(_header(self))
            header["sha256"] = digest(tensors, header)
            with PendingFile(
                target, overwrite=overwrite, numbered=numbered, synced=synced
            ) as pending:
                pending.temporary.write_bytes(save(tensors, metadata={"take": json.dumps(header)}))
        except MediaError as error:
            raise StateError(str(error), remedies=error.remedies) from error
        except RecursionError as error:
            raise StateError("the take continues too many takes, one after another") from error
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
        source = expanded(path)
        metadata, tensors = read_file(source)
        with damage_named(source):
            if metadata.pop("sha256", None) != digest(tensors, metadata):
                raise StateError("its bytes have changed")
            header = decode(TakeHeader, metadata, name="its header", error=StateError)
            if sum(window.size for own in levels(header) for window in own.windows) > _MOST_STEPS:
                raise StateError("it has too many steps")
            return _take(header, tensors)


# --- The file ------------------------------------------------------------------------------------


def _header(take: Take) -> TakeHeader:
    return TakeHeader(
        format=FORMAT,
        request=take.request.to_json(),
        template=take.template,
        model=take.model,
        semantic_bits=take.semantic_bits,
        detail_bits=take.detail_bits,
        windows=tuple(map(WindowHeader.of, take.windows)),
        taken=take.taken,
        total=take.total,
        clip_file=take.clip_file,
        before=None if take.before is None else _header(take.before),
    )


def _tensors(take: Take) -> dict[str, Tensor]:
    tensors = {"generator": take.generator}
    for number, window in enumerate(take.windows):
        tensors |= window_tensors(number, window)
    for name, pictures in (("image", take.image), ("clip", take.clip)):
        if pictures is not None:
            tensors[name] = pictures
    tensors |= {f"{_IMAGE}{number}": image for number, image in take.images.items()}
    if take.before is not None:
        tensors |= {_BEFORE + name: tensor for name, tensor in _tensors(take.before).items()}
    # Cloned: safetensors refuses tensors that share memory.
    return {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}


def _take(header: TakeHeader, tensors: dict[str, Tensor]) -> Take:
    """What a file holds, every tensor accounted for.

    Raises:
        IstarError: something does not fit.
        RuntimeError: torch refuses a generator's state.
    """
    if not 0 < header.semantic_bits <= header.detail_bits <= _MOST_BITS:
        raise StateError("its tokens have no bits, or too many")
    before = None
    if header.before is not None:
        names = [name for name in tensors if name.startswith(_BEFORE)]
        own = {name.removeprefix(_BEFORE): tensors.pop(name) for name in names}
        before = _take(header.before, own)
        if not before.finished:
            raise StateError("it continues a take that is not finished")
    pictures = {name: tensors.pop(name, None) for name in ("image", "clip")}
    image, clip = pictures.values()
    images = {
        int(name.removeprefix(_IMAGE)): tensors.pop(name)
        for name in sorted(tensors)
        if name.startswith(_IMAGE)
    }
    windows = tuple(
        read_window(
            window,
            number,
            tensors,
            semantic_bits=header.semantic_bits,
            detail_bits=header.detail_bits,
            last=number == len(header.windows) - 1,
        )
        for number, window in enumerate(header.windows)
    )
    generator = generator_state(tensors.pop("generator"))
    if tensors:
        raise StateError(f"it holds something unknown, {min(tensors)!r:.80}")
    take = Take(
        request=request_of(header, image, clip, images),
        template=header.template,
        model=header.model,
        semantic_bits=header.semantic_bits,
        detail_bits=header.detail_bits,
        windows=windows,
        total=header.total,
        generator=generator,
        image=image,
        clip=clip,
        clip_file=header.clip_file,
        before=before,
        images=images,
    )
    if header.taken != take.taken or len(windows) > take.total:
        raise StateError("it says of itself how far it is, and is not")
    return take
