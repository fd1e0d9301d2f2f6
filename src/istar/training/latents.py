"""Prepared latents: clips encoded once, read many times.

A prepared set is a directory of safetensors shards, each with an index of a line a clip: its
captions and the shape of its latent, or why it is skipped. A shard is written whole or not at all,
so that an interrupted command continues at the first missing one; `set.json` records what the
latents depend on, so that it never continues with anything else, and how many shards there will be.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from istar.checkpoint.write import save_tensors
from istar.errors import CheckpointError, UsageError
from istar.files import write_text
from istar.text_files import LIST_BYTES, read_json, read_text
from istar.training.clip_captions import ClipCaptions
from istar.training.skipped import SKIPPED_NAME, SkippedLine, skipped_from_json
from istar.video_tokenizer.model import VideoTokenizer

MAKE_LATENTS = ("encoder.", "project_in.", "latent_scales")
"""The parts of a tokenizer that make latents; the others make pictures of them."""

_SHARD = "latents-{:05d}"
_ORIGIN = "set.json"
_SHARDS = "shards"
_SHARDS_OPEN = 128


@dataclass(frozen=True, kw_only=True)
class PreparedClip:
    """One clip of a prepared set.

    Attributes:
        shard: its file.
        name: of its tensor.
        frames, height, width: of its latent.
        captions: what is said of it.
    """

    shard: Path
    name: str
    frames: int
    height: int
    width: int
    captions: ClipCaptions

    def latent(self) -> Tensor:
        """`(C, T, h, w)`, float32, before quantization.

        Raises:
            CheckpointError: the file cannot be read.
        """
        try:
            found = self.shard.stat()
            shard = _opened(self.shard, found.st_mtime_ns, found.st_size)
            value: Tensor = shard.get_tensor(self.name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{self.shard} cannot be read: {error}") from error
        return value.float()


@lru_cache(maxsize=_SHARDS_OPEN)
def _opened(shard: Path, changed: int, size: int) -> Any:
    """A shard, its header read, as long as it stays as it is.

    Opening it takes longer than reading a clip.
    """
    return safe_open(shard, framework="pt")


def shard_path(directory: Path, number: int) -> Path:
    """Where a shard lies."""
    return directory / f"{_SHARD.format(number)}.safetensors"


def write_shard(
    directory: Path,
    number: int,
    latents: Sequence[Tensor],
    captions: Sequence[ClipCaptions],
    *,
    skipped: Sequence[SkippedLine] = (),
) -> None:
    """Write latents `(C, T, h, w)` and their captions; the tensors' file comes last.

    Args:
        directory: the set's.
        number: the shard's.
        latents, captions: of its clips.
        skipped: the clips that it would hold too, could they be read.

    Raises:
        MediaError: a file cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = shard_path(directory, number)
    index: list[dict[str, Any]] = []
    for n, (latent, texts) in enumerate(zip(latents, captions, strict=True)):
        perhaps = {
            "clip_captions": texts.by_clip,
            "short_captions": texts.short,
            "ending": texts.ending,
        }
        line = {"name": str(n), "shape": list(latent.shape[1:]), "captions": texts.whole}
        index.append(line | {key: value for key, value in perhaps.items() if value})
    index += [{"skipped": one.to_json()} for one in skipped]
    lines = "".join(json.dumps(line) + "\n" for line in index)
    write_text(path.with_suffix(".jsonl"), lines, overwrite=True)
    save_tensors(path, {str(n): latent.half().contiguous() for n, latent in enumerate(latents)})


def encoder_digest(tokenizer: VideoTokenizer) -> str:
    """A short digest of the weights that make latents.

    They are rounded to half precision, so that a packed tokenizer has the same.
    """
    digest = sha256()
    for name, value in sorted(tokenizer.state_dict().items()):
        if name.startswith(MAKE_LATENTS):
            digest.update(name.encode())
            digest.update(value.detach().cpu().half().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def begin_set(directory: Path, origin: Mapping[str, Any], *, shards: int) -> None:
    """Record the origin of a set, or check it against the recorded one.

    Args:
        directory: the set's.
        origin: by name, everything that its latents depend on, as JSON values.
        shards: how many the set will have, which follows from the origin.

    Raises:
        UsageError: there are latents of another origin, or of an unrecorded one.
        MediaError: it cannot be written.
    """
    if not (directory / _ORIGIN).exists() and not any(directory.glob("latents-*")):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / SKIPPED_NAME).unlink(missing_ok=True)  # of a set that was removed
        text = json.dumps({**origin, _SHARDS: shards}, indent=2) + "\n"
        write_text(directory / _ORIGIN, text, overwrite=True)
    found = origin_of(directory)
    found.pop(_SHARDS, None)
    differ = [name for name in {**origin, **found} if found.get(name) != origin.get(name)]
    if differ:
        raise UsageError(
            f"{directory} was prepared with another {', '.join(differ)}; give another output, or "
            "remove it first"
        )


def remove_set(directory: Path) -> None:
    """Remove the prepared files of a set, and its directory unless other files are in it.

    What was skipped, and why, stays to be read.
    """
    for path in (*directory.glob("latents-*"), directory / _ORIGIN):
        path.unlink(missing_ok=True)
    with suppress(OSError):
        directory.rmdir()


def origin_of(directory: Path) -> dict[str, Any]:
    """The recorded origin of a set.

    Raises:
        UsageError: there is no record of it.
    """
    try:
        origin = read_json(directory / _ORIGIN)
    except UsageError:
        origin = None
    if not isinstance(origin, dict):
        raise UsageError(f"{directory} has no record of how it was prepared", remedies=("prepare",))
    return origin


def read_prepared(directory: Path) -> list[PreparedClip]:
    """Every clip of a prepared set.

    Raises:
        CheckpointError: nothing was prepared there or not all of it, or an index is malformed.
        UsageError: there is no record of how it was prepared.
    """
    shards = sorted(directory.glob("latents-*.safetensors"))
    clips = [clip for shard in shards for clip in clips_in(shard)]
    if not clips:
        raise CheckpointError(f"{directory} holds no prepared clips", remedies=("prepare",))
    # Sets had no record of their number of shards once.
    wanted = origin_of(directory).get(_SHARDS, len(shards))
    if len(shards) < wanted:
        raise CheckpointError(
            f"{directory} holds {len(shards)} of its {wanted} shards",
            remedies=("finish_preparing",),
        )
    return clips


def clips_in(shard: Path) -> list[PreparedClip]:
    """Every clip of a shard.

    Raises:
        CheckpointError: its index is malformed.
    """
    return [clip for clip in _index(shard) if isinstance(clip, PreparedClip)]


def skipped_in(shard: Path) -> list[SkippedLine]:
    """The clips that a shard would hold too, could they be read.

    Raises:
        CheckpointError: its index is malformed.
    """
    return [line for line in _index(shard) if isinstance(line, SkippedLine)]


def _index(shard: Path) -> list[PreparedClip | SkippedLine]:
    index = shard.with_suffix(".jsonl")
    try:
        lines = read_text(index, limit=LIST_BYTES).splitlines()
        return [_line(shard, json.loads(line)) for line in lines]
    except (UsageError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{index} is not the index of prepared clips") from error


def _line(shard: Path, entry: Any) -> PreparedClip | SkippedLine:
    """A line of an index."""
    if "skipped" in entry:
        return skipped_from_json(entry["skipped"])
    name, captions, by_clip = entry["name"], entry["captions"], entry.get("clip_captions", [])
    short, ending = entry.get("short_captions", []), entry.get("ending", "")
    frames, height, width = entry["shape"]
    numbers = all(type(size) is int and size > 0 for size in (frames, height, width))
    lists = isinstance(by_clip, list) and all(map(_are_texts, (captions, *by_clip)))
    texts = lists and (short == [] or _are_texts(short)) and isinstance(ending, str)
    if not numbers or not texts or not isinstance(name, str):
        raise ValueError("name, shape or captions")
    return PreparedClip(
        shard=shard,
        name=name,
        frames=frames,
        height=height,
        width=width,
        captions=ClipCaptions(
            whole=tuple(captions),
            by_clip=tuple(map(tuple, by_clip)),
            short=tuple(short),
            ending=ending,
        ),
    )


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(t, str) for t in value)
