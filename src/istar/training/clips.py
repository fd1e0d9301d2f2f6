"""Local clips and pictures listed in a JSON-lines file, one object a line::

    {"path": "boat.mp4", "caption": "a boat leaves the harbour", "begin": 1.5, "end": 6.5}

`begin` and `end` are seconds and may be left out; `captions` may list several wordings; paths are
relative to the list. `clip_captions` may describe the first clip of the model's length, the next
one and so on, each by a text or a list of wordings; `short_captions` and `ending` are those of
`istar.training.clip_captions`. A PNG, JPEG or WebP file is a picture: a clip of one. Lines of the
released code's lists are read too (`istar.training.released_lines`), and all the lists below a
directory.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor

from istar.errors import MediaError, UsageError
from istar.media import cover_and_crop, open_clip, probe_clip, read_picture, read_piece
from istar.models.manifest import file_hash
from istar.output_names import PICTURE_SUFFIXES
from istar.text_files import LIST_BYTES, read_text
from istar.training.clip_captions import ClipCaptions
from istar.training.released_lines import is_released_line, own_line
from istar.training.skipped import SkippedLine
from istar.video_tokenizer.config import FRAMES_PER_SECOND

_PICTURE = 1 / FRAMES_PER_SECOND
"""Seconds."""

_MISSING = _PICTURE + 1e-6
"""Seconds that a piece may lack: one picture, and a rounding error as of 217/24 - 97/24."""

_LATEST_SECOND = 1_000_000
_HALF_PAIR = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class ListedClip:
    """A piece of a local video, or a picture, with its captions.

    Attributes:
        path: the video or picture.
        captions: what is said of it.
        begin, end: the piece, in seconds; without an end to the end of the video.
        list: the file that lists it.
        line: its number there, from 1.
    """

    path: Path
    captions: ClipCaptions
    begin: float = 0.0
    end: float | None = None
    list: Path
    line: int = 1

    @property
    def still(self) -> bool:
        """Whether its name is a picture's."""
        return self.path.suffix.lower() in PICTURE_SUFFIXES

    def may_hold(self, count: int) -> bool:
        """Whether it may have `count` pictures, by its name, `begin` and `end` alone."""
        if self.still:
            return count == 1
        return self.end is None or self._spare(count, self.end) >= -_MISSING

    def skipped(self, error: MediaError) -> SkippedLine:
        """Its line, which is skipped because of an error."""
        return SkippedLine(self.list, self.line, str(error))

    def opens(self) -> bool:
        """Whether its file can be opened; if not, none of its pictures can be read."""
        try:
            if self.still:
                read_picture(self.path)
            else:
                with open_clip(self.path) as clip:
                    return min(clip.size) > 0
        except MediaError:
            return False
        return True

    def seconds(self) -> float:
        """How long its video is.

        Raises:
            MediaError: it cannot be read.
        """
        return probe_clip(self.path).seconds

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

    def first_picture(
        self, count: int, generator: torch.Generator | None = None, *, seconds: float | None = None
    ) -> int:
        """The number in its video, at 16 a second, of the first of some of its pictures.

        Args:
            count: how many.
            generator: chooses the first picture where the piece is longer; without one it is the
                one at `begin`.
            seconds: how long its video is; read from the file where it is needed and absent.

        Raises:
            MediaError: the file cannot be read, or more than one picture is missing.
        """
        if self.still:
            if count > 1:
                raise MediaError(f"'{self.path}' is one picture, not {count}")
            return 0
        begin, end = self.begin, self.end
        if end is None and generator is not None:
            end = self.seconds() if seconds is None else seconds
        if end is not None:
            spare = self._spare(count, end)
            if spare < -_MISSING:
                raise MediaError(
                    f"'{self.path}': {begin:g} to {end:g} s do not hold {count} pictures"
                )
            if generator is not None:
                begin += max(0.0, spare) * float(torch.rand((), generator=generator))
        return round(begin * FRAMES_PER_SECOND)

    def pictures(self, count: int, height: int, width: int, *, first: int | None = None) -> Tensor:
        """Some of its pictures `(F, height, width, 3)`, uint8, at 16 a second.

        Where only one is missing, as n seconds are 16n pictures and models make 16n + 1, the
        first counts twice.

        Args:
            count: how many.
            height, width: each is scaled to cover this and cropped at the centre.
            first: the number of the first one, see `first_picture`; by default the one at `begin`.

        Raises:
            MediaError: it cannot be read, or more than one picture is missing.
        """
        if first is None:
            first = self.first_picture(count)
        if self.still:
            return cover_and_crop(read_picture(self.path).pixels[None], height, width)
        begin, size = first * _PICTURE, (height, width)
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


def lists_of(path: Path) -> list[Path]:
    """The list `path`, or every `.jsonl` file below the directory `path`, in order.

    The released code splits its lists into `000001/0001_0010_000000100.jsonl` and so on below a
    directory, from which it trains (its `split_jsonls_for_training.py`).

    Raises:
        UsageError: the directory holds no list.
    """
    if not path.is_dir():
        return [path]
    if not (found := sorted(one for one in path.rglob("*.jsonl") if one.is_file())):
        raise UsageError(f"{path} holds no .jsonl files")
    return found


def list_digest(path: Path) -> str:
    """The sha256 of a list, or of the names and contents of those below a directory, in hex."""
    if not path.is_dir():
        return file_hash(path)
    lines = [f"{file_hash(one)} {one.relative_to(path).as_posix()}\n" for one in lists_of(path)]
    return sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def read_list(path: Path) -> tuple[list[ListedClip], list[SkippedLine]]:
    """The clips of a list, or of all lists below a directory, and the lines that list no clip.

    Raises:
        UsageError: a list cannot be read, or no line is valid.
    """
    clips, skipped = [], []
    for file in lists_of(path):
        for number, line in enumerate(read_text(file, limit=LIST_BYTES).split("\n"), start=1):
            if not line.strip():
                continue
            try:
                clips.append(_clip(line, number, file))
            except UsageError as error:
                skipped.append(SkippedLine(file, number, str(error)))
    if not clips:
        raise UsageError(
            f'{path} lists no clips: a line is {{"path": "boat.mp4", "caption": "a boat leaves"}}'
            + "".join(f"; {one}" for one in skipped[:1])
        )
    return clips, skipped


def _clip(line: str, number: int, file: Path) -> ListedClip:
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
    if is_released_line(entry):
        entry = own_line(entry)
    path = entry.get("path")
    captions = entry["captions"] if "captions" in entry else [entry.get("caption")]
    short, ending = entry.get("short_captions", []), entry.get("ending", "")
    begin, end = entry.get("begin", 0.0), entry.get("end")
    if not _is_text(path) or "\0" in path:
        raise UsageError("its path is not the name of a file")
    if not isinstance(captions, list):
        raise UsageError("its captions are not a list; a single text is called caption")
    if not captions or not all(map(_is_text, captions)):
        raise UsageError("it has no caption, or one that is not a text")
    if not isinstance(short, list) or not all(map(_is_text, short)):
        raise UsageError("its short_captions are not a list of texts")
    if ending != "" and not _is_text(ending):
        raise UsageError("its ending is not a text")
    if not _is_time(begin) or not (end is None or _is_time(end)):
        raise UsageError(
            f"its begin or end is not a number of seconds from 0 to {_LATEST_SECOND:,}"
        )
    if end is not None and end <= begin:
        raise UsageError("its end does not come after its begin")
    try:
        found = file.parent / Path(path).expanduser()
    except RuntimeError:
        raise UsageError("its path names a home directory that is unknown") from None
    return ListedClip(
        path=found,
        captions=ClipCaptions(
            whole=tuple(captions),
            by_clip=_clip_captions(entry.get("clip_captions", [])),
            short=tuple(short),
            ending=ending,
        ),
        begin=begin,
        end=end,
        list=file,
        line=number,
    )


def _clip_captions(value: object) -> tuple[tuple[str, ...], ...]:
    """The wordings for each clip of a line's `clip_captions`.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(value, list):
        raise UsageError("its clip_captions are not a list, with an entry for each clip")
    clips = [one if isinstance(one, list) else [one] for one in value]
    if not all(wordings and all(map(_is_text, wordings)) for wordings in clips):
        raise UsageError("one of its clip_captions is neither a text nor a list of texts")
    return tuple(tuple(wordings) for wordings in clips)


def _is_text(value: object) -> TypeGuard[str]:
    """Whether a value is a text with something in it, all of it characters."""
    # Half a surrogate pair, which JSON allows, is no character.
    return isinstance(value, str) and bool(value.strip()) and not _HALF_PAIR.search(value)


def _is_time(value: object) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value <= _LATEST_SECOND
