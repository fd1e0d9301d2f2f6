"""Read files that are almost pictures or videos; every one is read, or refused with one line.

    python tests/media/fuzz_media.py DIRECTORY SEED CASES

A process of its own: a decoder that crashes, hangs or takes all memory ends nothing else. The file
that it was reading is then left in the directory.
"""

from __future__ import annotations

import io
import resource
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from PIL import Image, ImageCms, PngImagePlugin

from fuzzing import mutated_bytes
from istar.errors import MediaError
from istar.media import probe_file, read_clip, read_picture
from media_files import encode, smooth_clip

_DATA = Path(__file__).parent / "data"
_LARGEST = 10_000
_LONGEST = 120  # seconds
_MOST_MEMORY = 16 * 2**30

_VIDEOS: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    ("start.mp4", "libx264", "yuv420p", {"movflags": "+faststart"}),
    ("end.mp4", "libx264", "yuv420p", {}),
    ("fragments.mp4", "libx264", "yuv420p", {"movflags": "frag_keyframe+empty_moov"}),
    ("spoken.mov", "mjpeg", "yuvj420p", {}),
    ("clip.mkv", "libx264", "yuv420p", {}),
    ("clip.webm", "libvpx-vp9", "yuv420p", {}),
    ("clip.avi", "mpeg4", "yuv420p", {}),
    ("clip.wmv", "wmv2", "yuv420p", {}),
    ("clip.flv", "flv", "yuv420p", {}),
    ("clip.ts", "libx264", "yuv420p", {}),
    ("clip.mpg", "mpeg2video", "yuv420p", {}),
    ("clip.nut", "ffv1", "yuv420p", {}),
    ("clip.gif", "gif", "rgb8", {}),
    ("clip.png", "apng", "rgb24", {}),
)


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def whole_files(directory: Path) -> dict[str, bytes]:
    """One of every kind that is read, by name."""
    frames = smooth_clip(5, 32, 48)
    found = {path.name: path.read_bytes() for path in _DATA.iterdir() if path.suffix != ".md"}
    found = {name: content for name, content in found.items() if len(content) <= _LARGEST}
    for name, codec, pixels, options in _VIDEOS:
        path = encode(
            directory / name,
            frames,
            rate=25 if name == "clip.mpg" else 16,
            codec=codec,
            pixels=pixels,
            options=options,
            sound=name == "spoken.mov",
        )
        found[name] = path.read_bytes()
        path.unlink()
    first, *others = (Image.fromarray(frame.numpy()) for frame in frames)
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("title", "a boat")
    texts.add_text("comment", '{"istar": {"seed": 1}}', zip=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    of_others = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with_all = {"exif": exif, "icc_profile": of_others.replace(b"s\0R\0G\0B", b"o\0t\0h\0e")}
    return found | {
        "animated.webp": saved(first, "WEBP", save_all=True, append_images=others, duration=62),
        "texts.png": saved(first, "PNG", pnginfo=texts, **with_all),
        "palette.png": saved(first.quantize(16), "PNG", transparency=3),
        "alpha.png": saved(first.convert("LA"), "PNG"),
        "profile.jpg": saved(first, "JPEG", comment=b"a boat", **with_all),
        "inks.jpg": saved(first.convert("CMYK"), "JPEG", progressive=True),
        "exif.webp": saved(first, "WEBP", exif=exif),
        "alpha.webp": saved(first.convert("RGBA"), "WEBP", lossless=True),
        "palette.bmp": saved(first.quantize(16), "BMP"),
        "pages.tif": saved(
            first, "TIFF", compression="tiff_lzw", save_all=True, append_images=others[:1]
        ),
        "jpeg.tif": saved(first, "TIFF", compression="jpeg"),
        "fax.tif": saved(first.convert("1"), "TIFF", compression="group4"),
        "exif.avif": saved(first, "AVIF", exif=exif),
    }


def main(directory: Path, seed: int, cases: int) -> None:
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    # What readers leave lying about would be found here.
    spool = directory / "spool"
    spool.mkdir()
    tempfile.tempdir = str(spool)
    forms = sorted(whole_files(directory).items())
    readers: tuple[Callable[[Path], object], ...] = (read_clip, read_picture, probe_file)
    read = refused = 0
    for number in range(cases):
        chance = Random(f"{seed} {number}")
        name, content = chance.choice(forms)
        path = directory / f"{seed}-{number}-{name}"
        path.write_bytes(mutated_bytes(content, chance))
        signal.alarm(_LONGEST)
        said = []
        for reader in readers:
            try:
                reader(path)
                read += 1
            except MediaError as error:
                said.append(str(error))
        assert not any("\n" in message for message in said), said
        refused += len(said)
        signal.alarm(0)
        path.unlink()
        assert not list(spool.iterdir())
    spool.rmdir()
    print(read, refused)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
