"""What a file is at a glance, and the texts in it, whoever wrote it."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image, PngImagePlugin

from istar.errors import MediaError
from istar.media import probe_file, write_clip, write_picture
from media_files import encode, grey_clip

TEXTS = {"title": "猫 \N{CAT FACE}", "comment": json.dumps({"istar": {"seed": 2**64 - 1}})}
PICTURE = torch.full((32, 48, 3), 80, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [(".png", "PNG"), (".jpg", "JPEG"), (".jpeg", "JPEG"), (".webp", "WebP")],
)
def test_a_picture_tells_its_texts(tmp_path: Path, suffix: str, kind: str) -> None:
    path = write_picture(PICTURE, tmp_path / f"a{suffix}", metadata=TEXTS)
    found = probe_file(path)
    assert (found.kind, found.width, found.height) == (f"{kind} picture", 48, 32)
    assert (found.frames, found.seconds, found.is_cut) == (1, 0, False)
    assert found.texts == TEXTS


def test_a_clip_tells_its_texts(tmp_path: Path) -> None:
    path = write_clip(grey_clip(list(range(17))), tmp_path / "a.mp4", metadata=TEXTS)
    found = probe_file(path)
    assert (found.kind, found.width, found.height) == ("MP4 video", 48, 32)
    assert (found.frames, found.seconds) == (17, 17 / 16)
    assert found.texts.items() >= TEXTS.items()
    with path.open("rb") as file:
        assert probe_file(file).texts == found.texts


def test_a_jpeg_says_that_its_texts_were_cut(tmp_path: Path) -> None:
    long = {"title": "a", "comment": json.dumps({"prompt": "猫" * 70_000})}
    found = probe_file(write_picture(PICTURE, tmp_path / "a.jpg", metadata=long))
    assert found.is_cut
    assert found.texts.keys() == long.keys()
    assert not probe_file(write_picture(PICTURE, tmp_path / "a.webp", metadata=long)).is_cut


def test_what_others_wrote_is_named(tmp_path: Path) -> None:
    assert probe_file(encode(tmp_path / "a.webm", grey_clip([1] * 9), codec="libvpx-vp9")).kind == (
        "Matroska video"
    )
    Image.new("RGB", (5, 4)).save(tmp_path / "a.bmp")
    assert probe_file(tmp_path / "a.bmp").kind == "BMP picture"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(tmp_path: Path, data: bytes) -> Path:
    """A sound PNG with one more chunk after its head."""
    path = write_picture(PICTURE, tmp_path / "a.png", overwrite=True)
    whole = path.read_bytes()
    path.write_bytes(whole[:33] + data + whole[33:])
    return path


def texts_or_refusal(path: Path) -> dict[str, object]:
    """The texts in a file; those of one that is refused, in a line, are none."""
    try:
        return dict(probe_file(path).texts)
    except MediaError as error:
        lines = len(str(error).splitlines())
        return {} if lines == 1 else {"lines": lines}


def test_a_flood_of_text_is_not_unpacked(tmp_path: Path) -> None:
    bomb = zlib.compress(b"x" * 20_000_000, 9)
    for data in (
        chunk(b"zTXt", b"comment\0\0" + bomb),
        chunk(b"iTXt", b"comment\0\1\0\0\0" + bomb),
        struct.pack(">I", 2**31 - 1) + b"iTXtcomment\0\0\0\0\0",
    ):
        assert texts_or_refusal(png_with(tmp_path, data)) == {}


def test_more_text_than_anyone_writes_is_none(tmp_path: Path) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("comment", "x" * (2**24 + 1))
    Image.new("RGB", (5, 4)).save(tmp_path / "a.png", pnginfo=texts)
    assert probe_file(tmp_path / "a.png").texts == {}


@pytest.mark.parametrize("comment", [b"ASCII\0\0\0[1]", b"ASCII\0\0\0{", b"\xff" * 99, b"", 7])
@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_exif_of_others_is_no_text(tmp_path: Path, name: str, comment: bytes | int) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = comment
    Image.new("RGB", (5, 4)).save(tmp_path / name, exif=exif.tobytes())
    assert probe_file(tmp_path / name).texts == {}


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.mp4"])
def test_damaged_files_are_looked_at_or_refused_in_one_line(tmp_path: Path, name: str) -> None:
    if name == "a.mp4":
        path = write_clip(grey_clip([1, 2, 3]), tmp_path / name, metadata=TEXTS)
    else:
        path = write_picture(PICTURE, tmp_path / name, metadata=TEXTS)
    whole = path.read_bytes()
    generator = torch.Generator().manual_seed(1)
    for number in range(60):
        data = bytearray(whole)
        place, value = (
            int(torch.randint(bound, (), generator=generator))
            for bound in (min(len(whole), 1500), 256)
        )
        data[place] = value
        path.write_bytes(data if number % 3 else data[:place])
        assert all(isinstance(text, str) for text in texts_or_refusal(path).values())


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"hello, this is a text\n" * 99])
def test_what_is_no_picture_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(MediaError, match=r"a\.png"):
        probe_file(tmp_path / "a.png")
    with pytest.raises(MediaError, match="No such file"):
        probe_file(tmp_path / "b.png")
