"""`istar prepare`: clips encoded by a tokenizer, shard by shard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from istar.errors import UsageError
from istar.shapes.world import random_scene
from istar.training.config import PrepareConfig, SetConfig
from istar.training.latents import shard_path, write_shard
from istar.training.pictures import picture_size, seed_of
from istar.video_tokenizer.model import VideoTokenizer
from istar.weights.load import load_video_tokenizer
from istar.weights.manifest import read_manifest


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A shard was written, or found.

    Attributes:
        clips: how many clips are done, of all sets.
        total: how many there will be.
        skipped: clips that could not be read.
        path: the shard.
    """

    clips: int
    total: int
    skipped: int
    path: Path


def prepare(config: PrepareConfig, device: torch.device) -> Iterator[Prepared]:
    """Encode every set of a configuration; shards that are there are left alone.

    Raises:
        CheckpointError: the tokenizer cannot be loaded.
        MediaError: a shard cannot be written.
    """
    spec = read_manifest(config.model)
    tokenizer = load_video_tokenizer(config.tokenizer, spec.tokenizer_config, device=device)
    total = sum(one.count for one in config.sets)
    done = 0
    for one in config.sets:
        for number, first in enumerate(range(0, one.count, config.shard)):
            count = min(config.shard, one.count - first)
            path = shard_path(config.output / one.name, number)
            if not path.exists():
                clips = [
                    _shapes_clip(one, config, picture_size(spec.pixel_budget, aspect), index)
                    for index in range(first, first + count)
                    for aspect in [one.aspects[index % len(one.aspects)]]
                ]
                latents = [_encoded(tokenizer, pictures, device) for pictures, _ in clips]
                captions = [texts for _, texts in clips]
                write_shard(config.output / one.name, number, latents, captions)
            done += count
            yield Prepared(clips=done, total=total, skipped=0, path=path)


def _shapes_clip(
    one: SetConfig, config: PrepareConfig, size: tuple[int, int], index: int
) -> tuple[Tensor, list[str]]:
    """A scene's pictures `(F, H, W, 3)` and captions."""
    if one.source != "shapes":
        raise UsageError(f"a set's source is shapes, not {one.source!r}")
    seed = seed_of(config.seed, one.name, index)
    scene = random_scene(seed)
    return scene.frames(one.length, *size), [scene.caption(seed + n) for n in range(one.captions)]


def _encoded(tokenizer: VideoTokenizer, pictures: Tensor, device: torch.device) -> Tensor:
    x = pictures.to(device).permute(3, 0, 1, 2).unsqueeze(0).float() / 127.5 - 1
    with torch.inference_mode():
        return tokenizer.encode(x)[0].cpu()
