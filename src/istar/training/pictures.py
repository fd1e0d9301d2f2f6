"""Batches of clips to train a tokenizer on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from istar.errors import MediaError, UsageError
from istar.generation.schedule import PixelBudget, nearest_template
from istar.lab.world import Scene, random_scene
from istar.training.clips import ListedClip, read_list
from istar.training.config import ClipsConfig
from istar.training.distributed import Share
from istar.training.seeds import draw, seed_of
from istar.training.skipped import SkippedLine
from istar.video_tokenizer.config import FRAMES_PER_SECOND, SPATIAL_STRIDE

_DRAWS = 20
_LATEST_START = 48
_LARGEST_CROP = 1.6


def size_of_aspect(budget: PixelBudget, aspect: float) -> tuple[int, int]:
    """Height and width in pixels of a budget's pictures of an aspect, height divided by width."""
    height, width = budget.scales(nearest_template(aspect))[-1]
    return SPATIAL_STRIDE * height, SPATIAL_STRIDE * width


class ClipSource:
    """The clips to train a tokenizer on.

    Attributes:
        config: which clips.
        budget: the size of the pictures.
        skipped: the lines of the list that list no clip.

    Raises:
        UsageError: a list of clips cannot be read or has no clip of one of the lengths, or a window
            is larger than the pictures.
    """

    def __init__(self, config: ClipsConfig, budget: PixelBudget) -> None:
        self.config = config
        self.budget = budget
        self.skipped: list[SkippedLine] = []
        self._listed: dict[int, list[ListedClip]] = {}
        self._remembered = _Remembered()
        if config.list is not None:
            listed, self.skipped = read_list(config.list)
            for length in config.lengths:
                self._listed[length] = [clip for clip in listed if clip.may_hold(length)]
                if not self._listed[length]:
                    raise UsageError(f"data: no clip of {config.list} has {length} pictures")
        for aspect in config.aspects:
            height, width = size_of_aspect(budget, aspect)
            if config.window > min(height, width):
                raise UsageError(
                    f"data: a window of {config.window} does not fit into {width} by {height} "
                    "pixels"
                )

    def batch(self, seed: int, step: int, share: Share) -> tuple[Tensor, list[SkippedLine]]:
        """This process's clips of one step's batch, and those that could not be read.

        All clips of a batch have one length and size; every process has at least one. A clip that
        cannot be read is replaced by another.

        Returns:
            `(B, F, H, W, 3)`, uint8, and the lines of the clips that were replaced.

        Raises:
            MediaError: no clip can be read.
        """
        config = self.config
        generator = torch.Generator().manual_seed(seed_of(seed, "batch", step))
        length = config.lengths[draw(len(config.lengths), generator)]
        aspect = config.aspects[draw(len(config.aspects), generator)]
        count = max(share.processes, config.pictures // length)
        height, width = size_of_aspect(self.budget, aspect)
        clips: list[Tensor] = []
        skipped: list[SkippedLine] = []
        for number in share.of(count):
            own = seed_of(seed, step, number)
            if config.source == "shapes":
                clips.append(_shapes_clip(own, length, height, width, config))
            else:
                clips.append(self._listed_clip(own, length, height, width, skipped))
        return torch.stack(clips), skipped

    def _listed_clip(
        self, seed: int, length: int, height: int, width: int, skipped: list[SkippedLine]
    ) -> Tensor:
        """A piece of a listed clip; others that could not be read before it go to `skipped`.

        Every attempt has random numbers of its own: which clip replaces a broken one must not
        depend on whether that one was opened or is remembered.
        """
        listed = self._listed[length]
        for clip, generator in _tries(listed, seed):
            try:
                first = self._remembered.first_picture(clip, length, generator)
                return self._remembered.pictures(clip, length, height, width, first)
            except MediaError as error:
                skipped.append(clip.skipped(error))
        raise MediaError(
            f"no clip of {self.config.list} can be read, the last: {skipped[-1].reason}"
        )


def _tries(listed: Sequence[ListedClip], seed: int) -> Iterator[tuple[ListedClip, torch.Generator]]:
    """Clips to try with random numbers for each: some at random, then all in random order."""
    for attempt in range(_DRAWS):
        generator = torch.Generator().manual_seed(seed_of(seed, attempt) if attempt else seed)
        yield listed[draw(len(listed), generator)], generator
    generator = torch.Generator().manual_seed(seed_of(seed, _DRAWS))
    order = torch.randperm(len(listed), generator=generator).tolist()
    for attempt, number in enumerate(order, start=_DRAWS + 1):
        yield listed[number], torch.Generator().manual_seed(seed_of(seed, attempt))


class _Remembered:
    """What is known of listed files in this process.

    A file that cannot be opened and a piece that cannot be decoded are not tried again; other
    pieces of that file are, since they may be whole. Only what follows from the file, the length
    and the first picture is remembered. It saves time and changes no batch: a run that was resumed
    remembers nothing, and chooses the same clips.
    """

    def __init__(self) -> None:
        self._seconds: dict[Path, float | str] = {}
        self._closed: dict[Path, str] = {}
        self._failures: dict[tuple[Path, int, int], str] = {}

    def first_picture(self, clip: ListedClip, length: int, generator: torch.Generator) -> int:
        """`ListedClip.first_picture`."""
        if clip.still or clip.end is not None:
            return clip.first_picture(length, generator)
        known = self._seconds.get(clip.path)
        if known is None:
            try:
                known = clip.seconds()
            except MediaError as error:
                known = str(error)
            self._seconds[clip.path] = known
        if isinstance(known, str):
            raise MediaError(known)
        return clip.first_picture(length, generator, seconds=known)

    def pictures(
        self, clip: ListedClip, length: int, height: int, width: int, first: int
    ) -> Tensor:
        """`ListedClip.pictures`."""
        piece = clip.path, length, first
        known = self._closed.get(clip.path) or self._failures.get(piece)
        if known is not None:
            raise MediaError(known)
        try:
            return clip.pictures(length, height, width, first=first)
        except MediaError as error:
            if clip.opens():
                self._failures[piece] = str(error)
            else:
                self._closed[clip.path] = str(error)
            raise


def _shapes_clip(seed: int, length: int, height: int, width: int, config: ClipsConfig) -> Tensor:
    """A piece of a scene, perhaps cut out of a larger picture, from any moment of it."""
    generator = torch.Generator().manual_seed(seed)
    scene = random_scene(seed, world=config.world)
    first = draw(_LATEST_START, generator)
    if torch.rand((), generator=generator) < config.crop:
        larger = 1 + (_LARGEST_CROP - 1) * float(torch.rand((), generator=generator))
        frames = scene.frames(length, int(height * larger), int(width * larger), first=first)
    else:
        frames = scene.frames(length, height, width, first=first)
    if config.window:
        return _around_subject(scene, frames, first, config.window, generator)
    top = draw(frames.shape[1] - height + 1, generator)
    left = draw(frames.shape[2] - width + 1, generator)
    return frames[:, top : top + height, left : left + width]


def _around_subject(
    scene: Scene, frames: Tensor, first: int, window: int, generator: torch.Generator
) -> Tensor:
    """A square of a clip's pictures around a subject at half time, at random off its centre."""
    count, height, width = frames.shape[:3]
    subject = scene.subjects[draw(len(scene.subjects), generator)]
    pose = subject.pose((first + count // 2) / FRAMES_PER_SECOND)
    corner = []
    for centre, extent in ((pose.y, height), (pose.x, width)):
        shift = draw(window // 2 + 1, generator) - window // 4
        corner.append(min(max(round(centre * extent) - window // 2 + shift, 0), extent - window))
    top, left = corner
    return frames[:, top : top + window, left : left + window]
