"""Local clips and pictures listed in a JSON-lines file, one object a line::

    {"path": "boat.mp4", "caption": "a boat leaves the harbour", "begin": 1.5, "end": 6.5}

`begin` and `end` are seconds and may be left out; `captions` may list several wordings; paths are
relative to the list. A PNG, JPEG or WebP file is a picture: a clip of one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor

from istar.errors import MediaError, UsageError
from istar.files import PICTURE_SUFFIXES
from istar.media import cover_and_crop, probe_clip, read_picture, read_piece
from istar.text_files import LIST_BYTES, read_text
from istar.video_tokenizer.config import FRAMES_PER_SECOND

_PICTURE = 1 / FRAMES_PER_SECOND
"""Seconds, of which one may be missing."""

_LATEST_SECOND = 1_000_000
_HALF_PAIR = re.compile("[\ud800-\udfff]")


class SkippedLine(NamedTuple):
    """The number of a list's line that lists no clip, from 1, and the reason."""

    number: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class ListedClip:
    """A piece of a local video, or a picture, with its captions.

    Attributes:
        path: the video or picture.
        captions: one or more wordings.
        begin, end: the piece, in seconds; without an end to the end of the video.
        line: its number in the list, from 1.
    """

    path: Path
    captions: tuple[str, ...]
    begin: float = 0.0
    end: float | None = None
    line: int = 1

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


def read_list(path: Path) -> tuple[list[ListedClip], list[SkippedLine]]:
    """The clips of a list, and the lines that list none.

    Raises:
        UsageError: the list cannot be read, or no line of it is valid.
    """
    clips, skipped = [], []
    for number, line in enumerate(read_text(path, limit=LIST_BYTES).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            clips.append(_clip(line, number, path.parent))
        except UsageError as error:
            skipped.append(SkippedLine(number, str(error)))
    if not clips:
        raise UsageError(
            f'{path} lists no clips: a line is {{"path": "boat.mp4", "caption": "a boat leaves"}}'
            + "".join(f"; line {number}: {reason}" for number, reason in skipped[:1])
        )
    return clips, skipped


def skipped_notes(path: Path, skipped: Sequence[SkippedLine]) -> tuple[str, ...]:
    """A sentence for every reason for which lines of the list `path` are skipped."""
    by_reason: dict[str, list[int]] = {}
    for number, reason in skipped:
        by_reason.setdefault(reason, []).append(number)
    return tuple(
        f"{path}: line {first} is skipped: {reason}"
        + (f"; so {'are' if others[1:] else 'is'} {len(others)} more" if others else "")
        for reason, (first, *others) in by_reason.items()
    )


def _clip(line: str, number: int, base: Path) -> ListedClip:
    """The clip of a line.

    Raises:
        UsageError: why the line lists no clip.
    """
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        raise UsageError("it is not JSON") from None
    if not isinstance(entry, dict):
        raise UsageError("it is not a JSON object")
    path = entry.get("path")
    captions = entry["captions"] if "captions" in entry else [entry.get("caption")]
    begin, end = entry.get("begin", 0.0), entry.get("end")
    if not _is_text(path) or "\0" in path:
        raise UsageError("its path is not the name of a file")
    if not isinstance(captions, list):
        raise UsageError("its captions are not a list; a single text is called caption")
    if not captions or not all(map(_is_text, captions)):
        raise UsageError("it has no caption, or one that is not a text")
    if not _is_time(begin) or not (end is None or _is_time(end)):
        raise UsageError(f"its begin or end is no number of seconds from 0 to {_LATEST_SECOND:,}")
    if end is not None and end <= begin:
        raise UsageError("its end does not come after its begin")
    try:
        file = base / Path(path).expanduser()
    except RuntimeError:
        raise UsageError("its path names a home directory that is unknown") from None
    return ListedClip(path=file, captions=tuple(captions), begin=begin, end=end, line=number)


def _is_text(value: object) -> TypeGuard[str]:
    """Whether a value is a text with something in it, all of it characters."""
    # Half a surrogate pair, which JSON allows, is no character.
    return isinstance(value, str) and bool(value.strip()) and not _HALF_PAIR.search(value)


def _is_time(value: object) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value <= _LATEST_SECOND
