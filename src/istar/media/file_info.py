"""What a picture or video file is, at a glance, and the texts that it holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer
from av.video.stream import VideoStream
from PIL import ExifTags, Image

from istar.errors import MediaError
from istar.media.animation_texts import texts_of_png
from istar.media.clip_container import open_container
from istar.media.picture_writer import CUT_MARK, JSON_COMMENT
from istar.media.pictures import opened_picture, still_kind
from istar.media.sources import open_source, source_name

_TEXT_CHARACTERS = 2**24
_NAMES = {"WEBP": "WebP", "mov": "MP4", "matroska": "Matroska", "mpegts": "MPEG-TS"}
"""What people call formats by their names in libraries; capitals stand for the others."""


_ANIMATIONS = {"GIF": "GIF animation", "PNG": "APNG animation", "WEBP": "WebP animation"}


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """What a file's head says; no pixel is decoded.

    Attributes:
        kind: `PNG picture`, `MP4 video`, `GIF animation` and the like.
        width, height: of its pictures, as they are stored.
        frames: how many there are; 0 where the head does not say.
        seconds: how long it lasts; 0 for a picture, and where the head does not say.
        texts: those that it holds by name, as `write_picture` and `ClipWriter` take them.
        is_cut: they did not fit, and the longest of them were cut.
    """

    kind: str
    width: int
    height: int
    frames: int
    seconds: float
    texts: Mapping[str, str]
    is_cut: bool = False


def probe_file(source: Path | BinaryIO) -> FileInfo:
    """Look at a picture or a video.

    Args:
        source: a local file, or an open binary file read from its start.

    Raises:
        MediaError: missing, neither a picture nor a video, or its head is damaged.
    """
    name = source_name(source)
    with open_source(source) as file:
        kind = still_kind(file, name)
        if kind is None and (animation := _animation(file, name)):
            return animation
        if kind is not None:
            with opened_picture(file, name) as picture:
                texts = _bounded(_picture_texts(picture))
                return FileInfo(
                    kind=f"{_NAMES.get(kind, kind)} picture",
                    width=picture.width,
                    height=picture.height,
                    frames=1,
                    seconds=0,
                    is_cut=texts.pop(CUT_MARK, "") != "",
                    texts=texts,
                )
        try:
            with open_container(file, name) as (container, stream):
                return _of_clip(container, stream)
        except MediaError as error:
            raise MediaError(
                f"{name} is neither a picture nor a video that can be read, or it is damaged"
            ) from error


def _animation(file: BinaryIO, name: str) -> FileInfo | None:
    """What an animated GIF, PNG or WebP is; None of anything else."""
    with suppress(MediaError), opened_picture(file, name) as picture:
        kind = str(picture.format)
        if kind not in _ANIMATIONS:
            return None
        comment = picture.info.get("comment", b"")
        if kind == "PNG":
            texts = texts_of_png(file)
        elif kind == "GIF":
            texts = _texts_of_json(comment if isinstance(comment, bytes) else b"")
        else:
            texts = _picture_texts(picture)
        return FileInfo(
            kind=_ANIMATIONS[kind],
            width=picture.width,
            height=picture.height,
            frames=getattr(picture, "n_frames", 0),
            seconds=0,
            texts=_bounded(texts),
        )
    return None


def _of_clip(container: InputContainer, stream: VideoStream) -> FileInfo:
    kind = container.format.name.partition(",")[0]
    texts = container.metadata
    if kind == "matroska":  # which has capitals for its names
        texts = {key.lower(): text for key, text in texts.items()}
    return FileInfo(
        kind=f"{_NAMES.get(kind, kind.upper())} video",
        width=stream.width,
        height=stream.height,
        frames=stream.frames,
        seconds=(container.duration or 0) / av.time_base,
        texts=_bounded(texts),
    )


def _picture_texts(picture: Image.Image) -> dict[str, str]:
    """The texts of a PNG's chunks, or those that are JSON in an EXIF comment."""
    if picture.format == "PNG":
        return {str(key): text for key, text in picture.info.items() if isinstance(text, str)}
    with suppress(Exception):  # the EXIF block is free-form bytes; anything may come of it
        comment = picture.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
        if isinstance(comment, bytes) and comment.startswith(JSON_COMMENT):
            return _texts_of_json(comment[len(JSON_COMMENT) :])
    return {}


def _texts_of_json(data: bytes) -> dict[str, str]:
    """The texts in a JSON object; none in anything else."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    pairs = found.items() if isinstance(found, dict) else ()
    return {key: text for key, text in pairs if isinstance(text, str)}


def _bounded(texts: Mapping[str, str]) -> dict[str, str]:
    """No texts where there is more of them than anyone writes."""
    length = sum(len(key) + len(text) for key, text in texts.items())
    return dict(texts) if length <= _TEXT_CHARACTERS else {}
