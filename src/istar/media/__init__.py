"""Pictures and clips, in and out of files.

Pixels are torch uint8 tensors in RGB: `(H, W, 3)` for a picture, `(F, H, W, 3)` for a clip at
16 frames a second. Files are local only; an output appears under its name once it is whole.
"""

from __future__ import annotations

from istar.media.clip_reader import (
    Clip,
    ClipInfo,
    ClipReader,
    open_clip,
    probe_clip,
    read_clip,
    read_piece,
)
from istar.media.clip_writer import ClipWriter, open_clip_writer, write_clip
from istar.media.file_info import FileInfo, probe_file
from istar.media.numbered_pictures import NumberedPicturesWriter
from istar.media.picture_writer import encode_png, texts_that_fit, write_picture
from istar.media.pictures import Picture, cover_and_crop, read_picture, stretch
from istar.media.sound import check_holds_sound, check_sound

__all__ = [
    "Clip",
    "ClipInfo",
    "ClipReader",
    "ClipWriter",
    "FileInfo",
    "NumberedPicturesWriter",
    "Picture",
    "check_holds_sound",
    "check_sound",
    "cover_and_crop",
    "encode_png",
    "open_clip",
    "open_clip_writer",
    "probe_clip",
    "probe_file",
    "read_clip",
    "read_picture",
    "read_piece",
    "stretch",
    "texts_that_fit",
    "write_clip",
    "write_picture",
]
