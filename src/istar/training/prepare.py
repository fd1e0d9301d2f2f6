"""Prepare clips: encode them with a tokenizer, shard by shard."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import log
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from istar.checkpoint.read import load_video_tokenizer
from istar.errors import MediaError, UsageError
from istar.lab.captions import Content, canonical
from istar.lab.subject import CHANGE_SECONDS
from istar.lab.world import WHOLE_WORLD, WORLD_VERSION, Scene, random_scene
from istar.models.manifest import read_manifest
from istar.plurals import counted
from istar.training.clip_captions import ClipCaptions
from istar.training.clips import ListedClip, list_digest, read_list
from istar.training.distributed import Share
from istar.training.latents import (
    begin_set,
    clips_in,
    encoder_digest,
    remove_set,
    shard_path,
    skipped_in,
    write_shard,
)
from istar.training.pictures import size_of_aspect
from istar.training.prepare_config import PrepareConfig, SetConfig
from istar.training.seeds import seed_of
from istar.training.skipped import SKIPPED_NAME, FirstOfEachKind, SkippedLine, write_skipped
from istar.video_tokenizer.config import FRAMES_PER_SECOND
from istar.video_tokenizer.conv import lay_channels_last
from istar.video_tokenizer.model import VideoTokenizer, to_range

_PICTURES_AT_ONCE = 64
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
        notes: which clips and lines were skipped since the event before, and why: the first of each
            kind in a set, and the file that lists all of the set.
    """

    clips: int
    total: int
    skipped: int
    path: Path
    notes: tuple[str, ...]


class _LoadedClip(NamedTuple):
    """A clip to encode: pictures `(F, H, W, 3)`, uint8, and what is said of it."""

    pictures: Tensor
    captions: ClipCaptions


def prepare(config: PrepareConfig, device: torch.device, share: Share = _ALL) -> Iterator[Prepared]:
    """Encode every set of a configuration; existing shards are kept.

    Clips that cannot be read are skipped and counted, and listed in the set's `skipped.jsonl`; a
    set without any other is removed. Each of n processes takes every nth shard, of all sets.

    Raises:
        CheckpointError: the tokenizer cannot be loaded, or a shard's index cannot be read.
        UsageError: a list of clips cannot be read or has too few, or a set was prepared in another
            way.
        MediaError: a shard cannot be written, or no clip of a set can be read.
    """
    # 1. The sets and their shards, and the lines of their lists that list no clip.
    spec = read_manifest(config.model)
    tokenizer = load_video_tokenizer(config.tokenizer, spec.tokenizer_config, device=device)
    lay_channels_last(tokenizer)
    encoder = encoder_digest(tokenizer)
    shards: list[_Shard] = []
    skipped = 0
    notes: list[str] = []
    for one in config.sets:
        sizes = [size_of_aspect(spec.pixel_budget, aspect) for aspect in one.aspects]
        listed: list[ListedClip] = []
        invalid: list[SkippedLine] = []
        if one.list is not None:
            listed, invalid = read_list(one.list)
            if one.count > len(listed):
                raise UsageError(
                    f"sets: {one.name} has a count of {one.count}, more than the "
                    f"{counted(len(listed), 'clip')} of {one.list}"
                )
        directory = config.output / one.name
        clips = _Clips(one, config.seed, sizes, listed, spec.clip_seconds)
        firsts = range(0, len(clips), config.shard)
        origin = _origin(one, config, sizes, encoder, spec.clip_seconds)
        begin_set(directory, origin, shards=len(firsts))
        record = _SkippedOfSet(directory, invalid)
        if share.rank == 0:
            skipped += len(invalid)
            notes += record.notes(invalid)
        for number, first in enumerate(firsts):
            wanted = range(first, min(first + config.shard, len(clips)))
            path = shard_path(directory, number)
            shards.append(_Shard(clips, wanted, number, path, record))
    # 2. This process's shards: those that are missing are written, with what they skip.
    own = [shards[number] for number in share.of(len(shards))]
    total = sum(len(shard.wanted) for shard in own)
    done = 0
    for place, (clips, wanted, number, path, record) in enumerate(own):
        if path.exists():
            readable = len(clips_in(path))
        else:
            loader = DataLoader(clips, batch_size=None, sampler=wanted, num_workers=config.workers)
            content = _encoded(tokenizer, loader, device)
            write_shard(
                path.parent,
                number,
                content.latents,
                content.captions,
                skipped=content.skipped,
            )
            readable = len(content.latents)
            notes += record.notes(content.skipped)
        skipped += len(wanted) - readable
        done += len(wanted)
        last = place + 1 == len(own) or own[place + 1].record is not record
        written = record.write() if last or readable < len(wanted) else None
        if written and last and share.rank == 0:
            notes.append(f"{written} lists all that is skipped")
        yield Prepared(clips=done, total=total, skipped=skipped, path=path, notes=tuple(notes))
        notes = []
    # 3. A set of which nothing can be read is removed.
    for one in config.sets:
        paths = [shard.path for shard in shards if shard.clips.config is one]
        # Another process may still be writing it.
        if all(path.exists() for path in paths) and not any(map(clips_in, paths)):
            remove_set(config.output / one.name)
            raise MediaError(
                f"no clip of set {one.name} can be read; {config.output / one.name / SKIPPED_NAME} "
                "says why"
            )


def _origin(
    one: SetConfig,
    config: PrepareConfig,
    sizes: Sequence[tuple[int, int]],
    encoder: str,
    clip_seconds: int,
) -> dict[str, Any]:
    """Everything that a set's shards depend on."""
    of_shapes = {"clip_seconds": clip_seconds, "version of the world": WORLD_VERSION}
    return {
        "tokenizer": encoder,
        "list": None if one.list is None else list_digest(one.list),
        "seed": config.seed,
        "shard": config.shard,
        "count": one.count,
        "length": one.length,
        "sizes": [list(size) for size in sizes],
        "captions": one.captions,
        **(of_shapes if one.source == "shapes" else {}),
        **_restrictions(one),
    }


def _restrictions(one: SetConfig) -> dict[str, Any]:
    """How scenes and captions differ from the usual; sets had no record of that once."""
    found: dict[str, Any] = {} if one.wording == "varied" else {"wording": one.wording}
    if one.world != WHOLE_WORLD:
        found["world"] = json.loads(json.dumps(asdict(one.world)))  # as it is read back
    if one.held_out:
        found["held_out"] = True
    return found


class _SkippedOfSet:
    """What a set skips: its list's invalid lines, and what the indexes of its shards name.

    An index is read once. All processes write the record; the shards are theirs together.

    Attributes:
        notes: of some of them, the first of each kind.
    """

    def __init__(self, directory: Path, invalid: Sequence[SkippedLine]) -> None:
        self._directory = directory
        self._invalid = tuple(invalid)
        self._found: dict[Path, list[SkippedLine]] = {}
        self.notes = FirstOfEachKind()

    def write(self) -> Path | None:
        """Write it, if there is anything in it."""
        path, written = None, 0
        # Another process may have finished a shard, and overwritten the record, in the meantime.
        while (skipped := self._all()) and len(skipped) > written:
            path, written = write_skipped(self._directory, skipped), len(skipped)
        return path

    def _all(self) -> list[SkippedLine]:
        for shard in self._directory.glob("latents-*.safetensors"):
            if shard not in self._found:
                self._found[shard] = skipped_in(shard)
        return [*self._invalid, *(one for part in self._found.values() for one in part)]


class _Clips(Dataset["_LoadedClip | SkippedLine"]):
    """The clips of a set, by number; worker processes decode them ahead."""

    def __init__(
        self,
        config: SetConfig,
        seed: int,
        sizes: Sequence[tuple[int, int]],
        listed: Sequence[ListedClip],
        clip_seconds: int,
    ) -> None:
        self.config = config
        self._seed = seed
        self._sizes = sizes
        self._listed = listed
        self._clip_seconds = clip_seconds

    def __len__(self) -> int:
        return self.config.count or len(self._listed)

    def __getitem__(self, index: int) -> _LoadedClip | SkippedLine:
        length = self.config.length
        if self.config.source == "shapes":
            seed = seed_of(self._seed, self.config.name, index)
            scene = random_scene(seed, held_out=self.config.held_out, world=self.config.world)
            seeds = range(seed, seed + self.config.captions)
            size = self._sizes[index % len(self._sizes)]
            pictures = scene.frames(length, *size)
            if self.config.wording == "plain":
                plain = ClipCaptions(whole=(plain_caption(scene, length),))
                return _LoadedClip(pictures, plain)
            return _LoadedClip(pictures, scene_captions(scene, length, seeds, self._clip_seconds))
        clip = self._listed[index]
        try:
            size = min(self._sizes, key=lambda size: abs(log(size[0] / size[1] / clip.aspect())))
            return _LoadedClip(clip.pictures(length, *size), clip.captions)
        except MediaError as error:
            return clip.skipped(error)


def scene_captions(
    scene: Scene, length: int, seeds: Sequence[int], clip_seconds: int
) -> ClipCaptions:
    """Captions of a scene's first `length` pictures, and of each of its clips.

    Half of a picture's leave out the motion. A motion that changes later is not named. Only what
    shows a change has captions by clip: both motions in order where one clip shows both.
    """
    if length == 1:
        contents: tuple[Content, Content] = ("any", "picture")
        texts = (scene.caption(s, clip=0, content=contents[n % 2]) for n, s in enumerate(seeds))
        return ClipCaptions(whole=tuple(texts))
    whole = _is_whole(length)
    captions = tuple(scene.caption(seed, clip=None if whole else 0) for seed in seeds)
    clips = (length - 1) // (clip_seconds * FRAMES_PER_SECOND)
    if not whole or clips < 2:
        return ClipCaptions(whole=captions)
    begins = range(0, clips * clip_seconds, clip_seconds)
    parts = [_part_of_motion(begin, begin + clip_seconds) for begin in begins]
    by_clip = (tuple(scene.caption(seed, clip=part) for seed in seeds) for part in parts)
    return ClipCaptions(whole=captions, by_clip=tuple(by_clip))


def plain_caption(scene: Scene, length: int) -> str:
    """The plainest caption of a scene's first `length` pictures."""
    return canonical(
        scene.background,
        scene.subjects,
        clip=None if _is_whole(length) else 0,
        content="picture" if length == 1 else "all",
    )


def _part_of_motion(begin: float, end: float) -> int | None:
    """The motion, of those before and after the change, that some seconds show; None: both."""
    if end <= CHANGE_SECONDS:
        return 0
    return 1 if begin >= CHANGE_SECONDS else None


def _is_whole(length: int) -> bool:
    """Whether so many pictures show a motion after it changes, too."""
    return length > CHANGE_SECONDS * FRAMES_PER_SECOND + 1


class _Shard(NamedTuple):
    """A shard to write: the clips `wanted` of a set, its number in that set, and its file."""

    clips: _Clips
    wanted: range
    number: int
    path: Path
    record: _SkippedOfSet


class _Encoded(NamedTuple):
    """What a shard holds, see `write_shard`."""

    latents: list[Tensor]
    captions: list[ClipCaptions]
    skipped: list[SkippedLine]


def _encoded(
    tokenizer: VideoTokenizer, clips: Iterable[_LoadedClip | SkippedLine], device: torch.device
) -> _Encoded:
    """Latents `(C, T, h, w)` and captions of the readable clips, and why others are skipped."""
    done = _Encoded([], [], [])
    waiting: dict[torch.Size, list[_LoadedClip]] = {}

    def encode(batch: list[_LoadedClip]) -> None:
        pictures = torch.stack([one.pictures for one in batch])
        with torch.inference_mode():
            done.latents.extend(tokenizer.encode(to_range(pictures.to(device))).cpu())
        done.captions.extend(one.captions for one in batch)

    for one in clips:
        if isinstance(one, SkippedLine):
            done.skipped.append(one)
            continue
        batch = waiting.setdefault(one.pictures.shape, [])
        batch.append(one)
        if len(batch) * len(one.pictures) >= _PICTURES_AT_ONCE:
            encode(waiting.pop(one.pictures.shape))
    for batch in waiting.values():
        encode(batch)
    return done
