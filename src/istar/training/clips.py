"""Local clips and pictures listed in a JSON-lines file, one object a line::

    {"path": "boat.mp4", "caption": "a boat leaves the harbour", "begin": 1.5, "end": 6.5}

`begin` and `end` are seconds and may be left out; `captions` may list several wordings; paths are
relative to the list. A PNG, JPEG or WebP file is a picture: a clip of one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from istar.errors import MediaError, UsageError
from istar.files import PICTURE_SUFFIXES
from istar.media import cover_and_crop, probe_clip, read_picture, read_piece
from istar.video_tokenizer.config import FRAMES_PER_SECOND

_PICTURE = 1 / FRAMES_PER_SECOND
"""Seconds, of which one may be missing."""


@dataclass(frozen=True, kw_only=True)
class ListedClip:
    """A piece of a local video, or a picture, with its captions.

    Attributes:
        path: the video or picture.
        captions: one or more wordings.
        begin, end: the piece, in seconds; without an end to the end of the video.
    """

    path: Path
    captions: tuple[str, ...]
    begin: float = 0.0
    end: float | None = None

    @property
    def still(self) -> bool:
        """Whether its name is a picture's."""
        return self.path.suffix.lower() in PICTURE_SUFFIXES

    def may_hold(self, count: int) -> bool:
        """Whether it may have `count` pictures, by its name, `begin` and `end` alone."""
        if self.still:
            return count == 1
        return self.end is None or self._spare(count, self.end) >= -_PICTURE

    def aspect(self) -> float:
        """Height divided by width of its pictures.

        Raises:
            MediaError: it cannot be read.
        """
        if self.still:
            height, width, _ = read_picture(self.path).pixels.shape
            return height / width
        info = probe_clip(self.path)
        return info.height / info.width

    def pictures(
        self, count: int, height: int, width: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Some of its pictures `(F, height, width, 3)`, uint8, at 16 a second.

        Where only one is missing, as n seconds are 16n pictures and models make 16n + 1, the
        first counts twice.

        Args:
            count: how many.
            height, width: each is scaled to cover this and cropped at the centre.
            generator: chooses the first picture where the piece is longer; without one it is the
                one at `begin`.

        Raises:
            MediaError: it cannot be read, or more than one picture is missing.
        """
        if self.still:
            if count > 1:
                raise MediaError(f"{self.path} is one picture, not {count}")
            return cover_and_crop(read_picture(self.path).pixels[None], height, width)
        begin, end = self.begin, self.end
        if end is None and generator is not None:
            end = probe_clip(self.path).seconds
        if end is not None:
            spare = self._spare(count, end)
            if spare < -_PICTURE:
                raise MediaError(
                    f"{self.path}: {begin:g} to {end:g} s do not hold {count} pictures"
                )
            if generator is not None:
                begin += max(0.0, spare) * float(torch.rand((), generator=generator))
        size = height, width
        try:
            return read_piece(self.path, begin=begin, pictures=count, size=size)
        except MediaError as error:
            if count == 1:
                raise
            try:
                others = read_piece(self.path, begin=begin, pictures=count - 1, size=size)
            except MediaError:
                raise error from None
            return torch.cat((others[:1], others))

    def _spare(self, count: int, end: float) -> float:
        """Seconds from `begin` to `end` beyond `count` pictures."""
        return end - self.begin - count * _PICTURE


def read_list(path: Path) -> tuple[list[ListedClip], int]:
    """The clips of a list, and how many of its lines are invalid.

    Raises:
        UsageError: the list cannot be read, or no line of it is valid.
    """
    clips, skipped = [], 0
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is not a readable list of clips: {error}") from error
    for line in filter(str.strip, lines):
        try:
            clips.append(_clip(json.loads(line), path.parent))
        except (LookupError, TypeError, ValueError, OverflowError, RuntimeError):
            skipped += 1
    if not clips:
        raise UsageError(
            f'{path} lists no clips: a line is {{"path": "boat.mp4", "caption": "a boat leaves"}}'
        )
    return clips, skipped


def _clip(entry: Any, base: Path) -> ListedClip:
    captions = entry["captions"] if "captions" in entry else [entry["caption"]]
    path, begin, end = entry["path"], entry.get("begin", 0.0), entry.get("end")
    if not captions or not all(isinstance(text, str) and text.strip() for text in captions):
        raise ValueError("captions")
    for text in (path, *captions):
        text.encode()  # half a surrogate pair, which JSON allows, cannot be
    if "\0" in path:
        raise ValueError("path")
    if not isfinite(begin) or begin < 0 or not (end is None or begin < end < float("inf")):
        raise ValueError("begin and end")
    return ListedClip(
        path=base / Path(path).expanduser(), captions=tuple(captions), begin=begin, end=end
    )
