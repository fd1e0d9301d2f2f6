"""Pictures of every common kind, read, fitted and written."""

from __future__ import annotations

import struct
import sys
import zlib
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from istar.errors import MediaError, UsageError
from istar.media import cover_and_crop, read_picture, write_picture
from media_files import psnr, smooth_clip

DATA = Path(__file__).parent / "data"


def gradient(height: int = 40, width: int = 60) -> Tensor:
    return smooth_clip(1, height, width)[0]


@pytest.mark.parametrize(
    ("suffix", "least"), [(".png", float("inf")), (".jpg", 40), (".JPEG", 40), (".webp", 35)]
)
def test_pictures_come_back(tmp_path: Path, suffix: str, least: float) -> None:
    pixels = gradient()
    path = write_picture(pixels, tmp_path / f"picture{suffix}")
    picture = read_picture(path)
    assert psnr(picture.pixels, pixels) >= least
    assert (picture.pixels.dtype, picture.notes) == (torch.uint8, ())
    assert torch.equal(read_picture(BytesIO(path.read_bytes())).pixels, picture.pixels)
    again = write_picture(pixels, tmp_path / f"again{suffix}")
    assert again.read_bytes() == path.read_bytes()


def test_wrong_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="uint8"):
        write_picture(torch.zeros(4, 4, 3), tmp_path / "picture.png")
    with pytest.raises(UsageError):
        write_picture(gradient(), tmp_path / "picture.bmp")
    wide = torch.zeros(1, 70_000, 3, dtype=torch.uint8)
    with pytest.raises(MediaError, match="cannot write"):
        write_picture(wide, tmp_path / "picture.jpg")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = gradient(40, 60).numpy()
    # Storing undoes what the tag asks the reader to do (EXIF 2.3, tag 0x0112).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "picture.jpg"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, quality=98, exif=exif)
    assert psnr(read_picture(path).pixels, torch.from_numpy(upright)) > 38


def test_transparency_is_laid_on_white_and_hides_no_colours(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2] = (255, 0, 0, 255)
    pixels[2:] = (0, 200, 0, 0)
    pixels[3] = (0, 0, 0, 51)
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    picture = read_picture(tmp_path / "alpha.png")
    expected = [[255, 0, 0], [255, 0, 0], [255, 255, 255], [204, 204, 204]]
    assert picture.pixels[:, 0].tolist() == expected
    assert "transparent" in picture.notes[0]
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(tmp_path / "opaque.png")
    assert read_picture(tmp_path / "opaque.png").notes == ()


def test_other_modes_become_rgb(tmp_path: Path) -> None:
    grey = Image.new("L", (3, 2), 77)
    palette = Image.new("P", (3, 2), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    with_alpha = Image.new("LA", (3, 2), (0, 0))
    cases = {
        "grey.png": (grey, {}, (77, 77, 77)),
        "bits.png": (Image.new("1", (3, 2), 1), {}, (255, 255, 255)),
        "hidden_bits.png": (Image.new("1", (3, 2), 0), {"transparency": 0}, (255, 255, 255)),
        "palette.png": (palette, {}, (10, 20, 30)),
        "holes.png": (palette, {"transparency": 1}, (255, 255, 255)),
        "alpha.png": (with_alpha, {}, (255, 255, 255)),
        "grey.bmp": (grey, {}, (77, 77, 77)),
        "grey.tiff": (grey, {}, (77, 77, 77)),
        "palette.gif": (palette, {}, (10, 20, 30)),
        "rgb.avif": (Image.new("RGB", (16, 16), (10, 20, 30)), {"quality": 100}, (10, 20, 30)),
    }
    for name, (image, options, expected) in cases.items():
        image.save(tmp_path / name, **options)
        pixels = read_picture(tmp_path / name).pixels
        assert pixels.shape[-1] == 3
        assert (pixels.int() - torch.tensor(expected)).abs().max() <= 1, name


def test_cmyk_jpegs_have_their_colours(tmp_path: Path) -> None:
    for colour in ((255, 0, 0), (0, 255, 0), (255, 255, 255), (0, 0, 0)):
        path = tmp_path / "cmyk.jpg"
        Image.new("RGB", (16, 16), colour).convert("CMYK").save(path, quality=100)
        with Image.open(path) as image:
            assert image.mode == "CMYK"
        assert (read_picture(path).pixels.int() - torch.tensor(colour)).abs().max() <= 4


def png_chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png_bytes(
    depth: int, colour_type: int, rows: bytes, width: int, *, extra: bytes = b""
) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colour_type, 0, 0, 0))
    body = extra + png_chunk(b"IDAT", zlib.compress(b"\0" + rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


def test_16_bit_png_is_divided_by_257(tmp_path: Path) -> None:
    values = [0, 128, 129, 257, 32_768, 65_406, 65_407, 65_535]
    path = tmp_path / "deep.png"
    path.write_bytes(png_bytes(16, 0, struct.pack(">8H", *values), len(values)))
    expected = [(value + 128) // 257 for value in values]
    assert read_picture(path).pixels[0, :, 0].tolist() == expected
    path.write_bytes(png_bytes(16, 2, struct.pack(">6H", 0, 32_768, 65_535, 257, 514, 771), 2))
    assert read_picture(path).pixels[0].tolist() == [[0, 128, 255], [1, 2, 3]]
    hole = png_chunk(b"tRNS", struct.pack(">H", 1000))
    path.write_bytes(png_bytes(16, 0, struct.pack(">2H", 1000, 1001), 2, extra=hole))
    picture = read_picture(path)
    assert picture.pixels[0, :, 0].tolist() == [255, 4]
    assert "transparent" in picture.notes[0]
    path = tmp_path / "deep.tiff"
    Image.fromarray(np.array([values], np.uint16)).save(path)
    assert read_picture(path).pixels[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("name", "first", "last", "note"),
    [
        ("p3.png", (255, 0, 0), (0, 128, 255), ""),
        ("p3.jpg", (255, 0, 0), (0, 128, 255), ""),
        ("pq.png", (128, 128, 128), (128, 128, 128), "HDR"),
        ("gama1.png", (55, 55, 55), (55, 55, 55), "gamma of 1"),
        ("bigicc.png", (200, 30, 30), (200, 30, 30), "extra data"),
        ("badcrc.png", (200, 30, 30), (200, 30, 30), "extra data"),
        ("g2_trns.png", (255, 255, 255), (255, 255, 255), "transparent"),
        ("g4_trns.png", (255, 255, 255), (255, 255, 255), "transparent"),
        ("rgb16_trns.png", (255, 255, 255), (255, 255, 255), "transparent"),
    ],
)
def test_awkward_pictures_have_their_colours_or_a_note(
    name: str, first: tuple[int, int, int], last: tuple[int, int, int], note: str
) -> None:
    picture = read_picture(DATA / name)
    assert (picture.pixels[0, 0].int() - torch.tensor(first)).abs().max() <= 2
    assert (picture.pixels[-1, -1].int() - torch.tensor(last)).abs().max() <= 5
    assert len(picture.notes) == bool(note)
    assert all(note in said for said in picture.notes)


@pytest.mark.parametrize(
    "options", [{"icc_profile": b"no profile"}, {"exif": b"Exif\0\0II*\0\xff\xff"}]
)
def test_a_damaged_profile_or_exif_block_does_not_cost_the_picture(
    tmp_path: Path, options: dict[str, bytes]
) -> None:
    path = tmp_path / "picture.jpg"
    Image.fromarray(gradient().numpy()).save(path, quality=95, **options)
    assert psnr(read_picture(path).pixels, gradient()) > 30


def test_the_first_of_several_pictures_is_used(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    for name in ("moving.gif", "moving.webp", "moving.png", "pages.tiff"):
        options = {"lossless": True} if name.endswith("webp") else {}
        first.save(tmp_path / name, save_all=True, append_images=[second], **options)
        picture = read_picture(tmp_path / name)
        assert picture.pixels[0, 0].tolist() == [255, 0, 0]
        assert "2 pictures" in picture.notes[0]


@pytest.mark.parametrize(
    ("primaries", "transfer", "is_said"),
    [(1, 13, False), (2, 2, False), (12, 13, True), (9, 16, True), (1, 18, True)],
)
def test_colours_that_are_not_converted_are_said(
    tmp_path: Path, primaries: int, transfer: int, is_said: bool
) -> None:
    image = Image.fromarray(gradient().numpy())
    image.save(tmp_path / "picture.avif")
    image.save(tmp_path / "picture.png")
    coded = (tmp_path / "picture.avif").read_bytes()
    at = coded.index(b"colrnclx") + 8
    numbers = struct.pack(">HH", primaries, transfer)
    (tmp_path / "picture.avif").write_bytes(coded[:at] + numbers + coded[at + 4 :])
    plain = (tmp_path / "picture.png").read_bytes()
    chunk = png_chunk(b"cICP", bytes((primaries, transfer, 0, 1)))
    (tmp_path / "picture.png").write_bytes(plain[:33] + chunk + plain[33:])
    for name in ("picture.avif", "picture.png"):
        notes = read_picture(tmp_path / name).notes
        assert any("HDR or of a wide gamut" in note for note in notes) == is_said


def test_the_largest_page_of_a_tiff_is_used(tmp_path: Path) -> None:
    small, large = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (20, 10), "blue")
    small.save(tmp_path / "picture.tiff", save_all=True, append_images=[large, small])
    picture = read_picture(tmp_path / "picture.tiff")
    assert picture.pixels.shape == (10, 20, 3)
    assert picture.pixels[0, 0].tolist() == [0, 0, 255]
    assert "3 pictures; number 2, the largest, is used" in picture.notes[0]
    small.save(tmp_path / "raw.dng", "TIFF", tiffinfo={254: 1})
    assert "its preview of 8×8" in read_picture(tmp_path / "raw.dng").notes[0]


def test_a_damaged_page_behind_the_first_does_not_cost_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "picture.tiff"
    Image.fromarray(gradient().numpy()).save(path)
    data = bytearray(path.read_bytes())
    (directory,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, directory)
    for following in (len(data) + 1000, len(data) // 2, len(data) - 3):
        struct.pack_into("<I", data, directory + 2 + 12 * entries, following)
        path.write_bytes(data)
        assert torch.equal(read_picture(path).pixels, gradient())


def test_heic_without_its_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(MediaError, match="needs the Python package pillow-heif; install it"):
        read_picture(DATA / "corners.heic")


def test_heic_is_read() -> None:
    pytest.importorskip("pillow_heif")
    picture = read_picture(DATA / "corners.heic")
    colours = picture.pixels[[8, 8, -8, -8], [8, -8, 8, -8]].int()
    expected = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]])
    assert (colours - expected).abs().max() < 4
    layered = read_picture(DATA / "alpha.heic")
    assert layered.pixels[8, 8].tolist() == [255, 255, 255]
    assert "transparent" in layered.notes[0]


@pytest.mark.parametrize("length", [0, 3, 2**31 - 1])
def test_a_broken_chunk_of_extra_data_does_not_cost_the_picture(
    tmp_path: Path, length: int
) -> None:
    exif = Image.Exif()
    exif[0x112] = 3
    Image.fromarray(gradient().numpy()).save(tmp_path / "picture.png", exif=exif)
    data = (tmp_path / "picture.png").read_bytes()
    broken = struct.pack(">I", length) + b"tEXt" + b"IDAT and more"
    (tmp_path / "picture.png").write_bytes(data[:33] + broken + data[33:])
    picture = read_picture(tmp_path / "picture.png")
    assert torch.equal(picture.pixels, gradient().flip(0, 1))
    assert any("only its pixels are used" in note for note in picture.notes)


@pytest.mark.parametrize("marker", [0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE])
@pytest.mark.parametrize(
    "body", [b"JFIF\0", b"ICC_PROFILE\0", b"Photoshop 3.0\x008BIM\x03\xed\1", b"Adobe", b""]
)
def test_broken_application_data_does_not_cost_the_picture(
    tmp_path: Path, marker: int, body: bytes
) -> None:
    path = tmp_path / "picture.jpg"
    exif = Image.Exif()
    exif[0x112] = 3
    Image.fromarray(gradient().numpy()).save(path, exif=exif, quality=95)
    data = path.read_bytes()
    broken = bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body
    path.write_bytes(data[:2] + broken + data[2:])
    assert psnr(read_picture(path).pixels, gradient().flip(0, 1)) > 30


def test_pixels_that_do_not_fit_their_checksum_are_said(tmp_path: Path) -> None:
    data = bytearray(write_picture(gradient(), tmp_path / "picture.png").read_bytes())
    data[-13] ^= 1  # the last byte before the end chunk
    (tmp_path / "picture.png").write_bytes(data)
    assert "some of its pixels may be wrong" in read_picture(tmp_path / "picture.png").notes[0]


def test_what_is_no_picture_is_refused_in_one_line(tmp_path: Path) -> None:
    Image.new("F", (2, 2), 0.5).save(tmp_path / "float.tiff")
    Image.new("I", (2, 2), 70_000).save(tmp_path / "integer.tiff")
    Image.new("RGB", (20, 20)).save(tmp_path / "drawing.eps")
    Image.new("RGB", (20, 20)).save(tmp_path / "drawing.pdf")
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    cases = {
        "float.tiff": "white is unknown",
        "integer.tiff": "white is unknown",
        "drawing.eps": "is not a picture",
        "drawing.pdf": "is not a picture",
        "text.png": "is not a picture",
        "empty.png": "is empty",
        "missing.png": "No such file",
    }
    for kind in ("png", "jpg", "webp"):
        data = write_picture(gradient(), tmp_path / f"whole.{kind}").read_bytes()
        for name, length in ((f"half.{kind}", len(data) // 2), (f"end.{kind}", len(data) - 40)):
            (tmp_path / name).write_bytes(data[:length])
            cases[name] = "cut short|is not a picture"
    for name, reason in cases.items():
        with pytest.raises(MediaError, match=reason) as caught:
            read_picture(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)
    with pytest.raises(MediaError, match="Is a directory"):
        read_picture(tmp_path)


@pytest.mark.parametrize("side", [9_800, 10_100, 20_000, 60_000])
def test_the_pixel_cap_comes_before_decoding_and_without_warnings(
    tmp_path: Path, side: int
) -> None:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 9) + b"IDAT" + b"123456789")
    # Below the cap, but above Pillow's warning, the missing data is what is wrong.
    reason = "cut short" if side == 9_800 else "million pixels"
    with pytest.raises(MediaError, match=reason):
        read_picture(path)


def test_the_right_size_is_left_alone() -> None:
    pixels = gradient()
    assert cover_and_crop(pixels, 40, 60) is pixels


def test_covering_crops_the_centre() -> None:
    columns = torch.arange(90).div(30, rounding_mode="floor").mul(100).to(torch.uint8)
    wide = columns[None, :, None].repeat(30, 1, 3)
    assert torch.equal(cover_and_crop(wide, 30, 30), wide[:, 30:60])
    tall = wide.transpose(0, 1).contiguous()
    assert torch.equal(cover_and_crop(tall, 30, 30), tall[30:60])
    assert (cover_and_crop(wide, 10, 6)[:, 1:-1].int() - 100).abs().max() <= 3


@pytest.mark.parametrize(
    ("old", "new"),
    [((40, 60), (17, 90)), ((40, 61), (40, 30)), ((61, 33), (480, 848)), ((7, 9), (3, 5))],
)
def test_fitting_is_the_released_references_and_any_leading_sizes_do(
    old: tuple[int, int], new: tuple[int, int]
) -> None:
    clip = smooth_clip(3, *old)
    height, width = new
    scale = max(Fraction(height, old[0]), Fraction(width, old[1]))
    scaled = (int(old[1] * scale), int(old[0] * scale))
    left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
    expected = []
    for frame in clip:
        image = Image.fromarray(frame.numpy()).resize(scaled, Image.Resampling.LANCZOS)
        expected.append(np.asarray(image)[top : top + height, left : left + width])
    assert np.array_equal(cover_and_crop(clip, *new).numpy(), np.stack(expected))
    assert torch.equal(cover_and_crop(clip[0], *new), cover_and_crop(clip[None], *new)[0, 0])


def test_slivers_are_refused() -> None:
    with pytest.raises(MediaError, match="crop it first"):
        cover_and_crop(torch.zeros(1, 60_000, 3, dtype=torch.uint8), 480, 848)
