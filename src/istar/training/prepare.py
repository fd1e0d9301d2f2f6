"""Prepare clips: encode them with a tokenizer, shard by shard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from istar.checkpoint.read import load_video_tokenizer
from istar.errors import MediaError
from istar.lab.world import random_scene
from istar.models.manifest import file_hash, read_manifest
from istar.training.clips import ListedClip, read_list, skipped_notes
from istar.training.config import PrepareConfig, SetConfig
from istar.training.distributed import Share
from istar.training.latents import (
    begin_set,
    clips_in,
    encoder_digest,
    remove_set,
    shard_path,
    write_shard,
)
from istar.training.pictures import picture_size
from istar.training.seeds import seed_of
from istar.video_tokenizer.conv import lay_channels_last
from istar.video_tokenizer.model import VideoTokenizer, to_range

_PICTURES_AT_ONCE = 64
_MOST_FAILURES_SAID = 10
_ALL = Share()


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A shard was written, or was there already.

    Attributes:
        clips: how many clips of this process's share are done, those skipped included.
        total: how many there will be.
        skipped: those that could not be read, and the lists' invalid lines, which the first process
            counts.
        path: the shard.
        notes: which clips and lines were skipped since the event before, and why; of clips that
            cannot be read the first few.
    """

    clips: int
    total: int
    skipped: int
    path: Path
    notes: tuple[str, ...]


class _LoadedClip(NamedTuple):
    """A clip to encode: pictures `(F, H, W, 3)`, uint8, and captions; or why it is unreadable."""

    pictures: Tensor | None
    captions: tuple[str, ...]
    failure: str = ""


def prepare(config: PrepareConfig, device: torch.device, share: Share = _ALL) -> Iterator[Prepared]:
    """Encode every set of a configuration; existing shards are kept.

    Clips that cannot be read are skipped and counted; a set without any other is removed. Each of
    n processes takes every nth shard, of all sets.

    Raises:
        CheckpointError: the tokenizer cannot be loaded, or a shard's index cannot be read.
        UsageError: a list of clips cannot be read, or a set was prepared in another way.
        MediaError: a shard cannot be written, or no clip of a set can be read.
    """
    spec = read_manifest(config.model)
    tokenizer = load_video_tokenizer(config.tokenizer, spec.tokenizer_config, device=device)
    lay_channels_last(tokenizer)
    encoder = encoder_digest(tokenizer)
    shards: list[_Shard] = []
    skipped = 0
    notes: list[str] = []
    failures = 0
    for one in config.sets:
        sizes = [picture_size(spec.pixel_budget, aspect) for aspect in one.aspects]
        listed: list[ListedClip] = []
        if one.list is not None:
            listed, invalid = read_list(one.list)
            if share.rank == 0:
                skipped += len(invalid)
                notes += skipped_notes(one.list, invalid)
        begin_set(config.output / one.name, _origin(one, config, sizes, encoder))
        clips = _Clips(one, config.seed, sizes, listed)
        for number, first in enumerate(range(0, len(clips), config.shard)):
            wanted = range(first, min(first + config.shard, len(clips)))
            path = shard_path(config.output / one.name, number)
            shards.append(_Shard(clips, wanted, number, path))
    own = [shards[number] for number in share.of(len(shards))]
    total = sum(len(shard.wanted) for shard in own)
    done = 0
    for clips, wanted, number, path in own:
        if path.exists():
            readable = len(clips_in(path))
        else:
            loader = DataLoader(clips, batch_size=None, sampler=wanted, num_workers=config.workers)
            latents, captions, unreadable = _encoded(tokenizer, loader, device)
            write_shard(path.parent, number, latents, captions)
            readable = len(latents)
            notes += unreadable[: max(0, _MOST_FAILURES_SAID - failures)]
            failures += len(unreadable)
        skipped += len(wanted) - readable
        done += len(wanted)
        yield Prepared(clips=done, total=total, skipped=skipped, path=path, notes=tuple(notes))
        notes = []
    for one in config.sets:
        paths = [shard.path for shard in shards if shard.clips.config is one]
        # Another process may still be writing it.
        if all(path.exists() for path in paths) and not any(map(clips_in, paths)):
            remove_set(config.output / one.name)
            raise MediaError(f"no clip of set {one.name} can be read; is its list right?")


def _origin(
    one: SetConfig, config: PrepareConfig, sizes: Sequence[tuple[int, int]], encoder: str
) -> dict[str, Any]:
    """Everything that a set's shards depend on."""
    return {
        "tokenizer": encoder,
        "list": None if one.list is None else file_hash(one.list),
        "seed": config.seed,
        "shard": config.shard,
        "count": one.count,
        "length": one.length,
        "sizes": [list(size) for size in sizes],
        "captions": one.captions,
    }


class _Clips(Dataset[_LoadedClip]):
    """The clips of a set, by number; worker processes decode them ahead."""

    def __init__(
        self,
        config: SetConfig,
        seed: int,
        sizes: Sequence[tuple[int, int]],
        listed: Sequence[ListedClip],
    ) -> None:
        self.config = config
        self._seed = seed
        self._sizes = sizes
        self._listed = listed

    def __len__(self) -> int:
        return self.config.count or len(self._listed)

    def __getitem__(self, index: int) -> _LoadedClip:
        if self.config.source == "shapes":
            seed = seed_of(self._seed, self.config.name, index)
            scene = random_scene(seed)
            captions = tuple(scene.caption(seed + n) for n in range(self.config.captions))
            size = self._sizes[index % len(self._sizes)]
            return _LoadedClip(scene.frames(self.config.length, *size), captions)
        clip = self._listed[index % len(self._listed)]
        try:
            size = min(self._sizes, key=lambda size: abs(log(size[0] / size[1] / clip.aspect())))
            return _LoadedClip(clip.pictures(self.config.length, *size), clip.captions)
        except MediaError as error:
            failure = f"{self.config.list}: line {clip.line} is skipped: {error}"
            return _LoadedClip(None, clip.captions, failure)


class _Shard(NamedTuple):
    """A shard to write: the clips `wanted` of a set, its number in that set, and its file."""

    clips: _Clips
    wanted: range
    number: int
    path: Path


def _encoded(
    tokenizer: VideoTokenizer, clips: Iterable[_LoadedClip], device: torch.device
) -> tuple[list[Tensor], list[tuple[str, ...]], list[str]]:
    """Latents `(C, T, h, w)` and captions of the readable clips, and why others are skipped."""
    latents: list[Tensor] = []
    captions: list[tuple[str, ...]] = []
    failures: list[str] = []
    waiting: dict[torch.Size, list[_LoadedClip]] = {}

    def encode(batch: list[_LoadedClip]) -> None:
        pictures = torch.stack([one.pictures for one in batch if one.pictures is not None])
        with torch.inference_mode():
            latents.extend(tokenizer.encode(to_range(pictures.to(device))).cpu())
        captions.extend(one.captions for one in batch)

    for one in clips:
        if one.pictures is None:
            failures.append(one.failure)
            continue
        batch = waiting.setdefault(one.pictures.shape, [])
        batch.append(one)
        if len(batch) * len(one.pictures) >= _PICTURES_AT_ONCE:
            encode(waiting.pop(one.pictures.shape))
    for batch in waiting.values():
        encode(batch)
    return latents, captions, failures
