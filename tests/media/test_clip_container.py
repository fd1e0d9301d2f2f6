"""Files that are no video, damaged, or cut short: each is one clear line."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from istar.errors import MediaError
from istar.media import probe_clip, read_clip, read_piece, write_clip
from media_files import encode, grey_clip, levels_of, silence, smooth_clip, spoil_packet

DATA = Path(__file__).parent / "data"
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
KINDS = [
    ("clip.mp4", "libx264", {"movflags": "+faststart"}, "yuv420p"),
    ("tail.mp4", "libx264", {}, "yuv420p"),
    ("fragments.mp4", "libx264", FRAGMENTS, "yuv420p"),
    ("clip.mkv", "libx264", {}, "yuv420p"),
    ("clip.webm", "libvpx-vp9", {}, "yuv420p"),
    ("clip.avi", "mpeg4", {}, "yuv420p"),
    ("clip.wmv", "wmv2", {}, "yuv420p"),
    ("clip.gif", "gif", {}, "rgb8"),
    ("clip.png", "apng", {}, "rgb24"),
]


@pytest.mark.parametrize(("name", "codec", "options", "pixels"), KINDS)
def test_truncated_clips_raise_wherever_they_are_cut(
    tmp_path: Path, name: str, codec: str, options: dict[str, str], pixels: str
) -> None:
    path = encode(
        tmp_path / name, smooth_clip(33), rate=16, codec=codec, options=options, pixels=pixels
    )
    data = path.read_bytes()
    assert len(read_clip(path).frames) == 33
    for share in (0.05, 0.3, 0.5, 0.75, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        for read in (read_clip, probe_clip):
            with pytest.raises(MediaError, match="cut short") as caught:
                read(path)
            assert "\n" not in str(caught.value)
            assert str(path) in str(caught.value)


@pytest.mark.parametrize(("name", "codec", "options", "pixels"), KINDS)
def test_bytes_behind_the_end_do_no_harm(
    tmp_path: Path, name: str, codec: str, options: dict[str, str], pixels: str
) -> None:
    path = encode(
        tmp_path / name, smooth_clip(4), rate=16, codec=codec, options=options, pixels=pixels
    )
    junk = b"\0" * 40 if name.endswith("gif") else b"more of something else" * 9
    path.write_bytes(path.read_bytes() + junk)
    assert len(read_clip(path).frames) == 4


@pytest.mark.parametrize("name", ["cut.wmv", "cut.ogv"])
def test_cut_wmv_and_ogg_raise(name: str) -> None:
    with pytest.raises(MediaError, match="cut short"):
        read_clip(DATA / name)


def test_a_faststart_clip_cut_between_packets_raises(tmp_path: Path) -> None:
    path = write_clip(smooth_clip(33), tmp_path / "clip.mp4")
    with av.open(str(path)) as container:
        positions = sorted(packet.pos for packet in container.demux(video=0) if packet.size)
    path.write_bytes(path.read_bytes()[: positions[-5]])
    with pytest.raises(MediaError, match="cut short"):
        read_clip(path)


@pytest.mark.parametrize("filler", [b"\0", b"\xff"])
@pytest.mark.parametrize("spoilt", [range(16, 17), range(20, 33)])
@pytest.mark.parametrize(("name", "codec"), [("clip.avi", "mpeg4"), ("clip.mp4", "libx264")])
def test_a_clip_with_spoilt_packets_raises(
    tmp_path: Path, name: str, codec: str, spoilt: range, filler: bytes
) -> None:
    path = encode(tmp_path / name, smooth_clip(33), rate=16, codec=codec)
    for index in spoilt:
        spoil_packet(path, index, filler)
    with pytest.raises(MediaError, match="damaged"):
        read_clip(path)


def test_what_is_no_video_is_refused_in_one_line(tmp_path: Path) -> None:
    cases: dict[str, tuple[bytes | None, str]] = {
        "missing.mp4": (None, "No such file"),
        "empty.mp4": (b"", "is empty"),
        "text.mp4": (b"just some words\n" * 100, "is not a video"),
        "text.txt": (b"just some words\n" * 100, "is not a video"),
        "list.m3u8": (b"#EXTM3U\n#EXTINF:5,\nclip.mp4\n#EXT-X-ENDLIST\n", "is not a video"),
        "list.ffconcat": (b"ffconcat version 1.0\nfile clip.mp4\n", "is not a video"),
        "noise.mp4": (np.random.default_rng(0).bytes(20_000), "is not a video"),
    }
    write_clip(grey_clip([1, 2, 3]), tmp_path / "clip.mp4")
    for name, (data, reason) in cases.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        for read in (read_clip, probe_clip):
            with pytest.raises(MediaError, match=reason) as caught:
                read(tmp_path / name)
            assert "\n" not in str(caught.value)
            assert name in str(caught.value)
    with pytest.raises(MediaError, match="does not hold several numbered pictures"):
        read_clip(tmp_path)
    with pytest.raises(MediaError, match="device"):
        read_clip(Path("/dev/zero"))
    with pytest.raises(MediaError, match="NUL"):
        read_clip(Path("a\0b.mp4"))


@pytest.mark.parametrize("name", ["sound.m4a", "sound.mkv"])
def test_sound_alone_is_refused(tmp_path: Path, name: str) -> None:
    with av.open(str(tmp_path / name), "w", format="mp4" if name[-1] == "a" else None) as output:
        stream = output.add_stream("aac", rate=48_000)
        output.mux(stream.encode(silence()))
        output.mux(stream.encode(None))
    with pytest.raises(MediaError, match="only sound"):
        read_clip(tmp_path / name)


def test_foreign_texts_do_not_break_reading(tmp_path: Path) -> None:
    path = write_clip(grey_clip([1, 2]), tmp_path / "clip.mp4", metadata={"title": "caf??"})
    path.write_bytes(path.read_bytes().replace(b"caf??", b"caf\xe9!"))
    assert len(read_clip(path).frames) == 2


def test_joined_recordings_are_read_to_the_end(tmp_path: Path) -> None:
    parts = [
        encode(tmp_path / f"{name}.ts", grey_clip(levels), rate=16).read_bytes()
        for name, levels in (("one", [4 * k for k in range(16)]), ("two", [200] * 16))
    ]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(parts))
    clip = read_clip(path)
    assert levels_of(clip.frames) == pytest.approx([4 * k for k in range(16)] + [200] * 16, abs=3)
    assert any("times begin anew" in note for note in clip.notes)
    assert torch.equal(read_piece(path, begin=1.5, pictures=4), clip.frames[24:28])
    assert not any("begin anew" in note for note in read_clip(tmp_path / "one.ts").notes)


def test_a_leap_in_the_times_of_a_recording_is_no_pause(tmp_path: Path) -> None:
    times = [*range(16), *range(16_000, 16_016)]
    path = encode(tmp_path / "leap.ts", grey_clip([7 * k for k in range(32)]), times=times, rate=16)
    assert len(read_clip(path).frames) == 32


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("clip.mp4", "libx264"),
        ("clip.mkv", "libx264"),
        ("clip.wmv", "wmv2"),
        ("clip.flv", "flv"),
        ("clip.nut", "mpeg4"),
        ("clip.avi", "mpeg4"),
    ],
)
def test_what_follows_a_joined_file_is_read_or_said(tmp_path: Path, name: str, codec: str) -> None:
    path = encode(tmp_path / name, grey_clip([50] * 16), rate=16, codec=codec)
    assert read_clip(path).notes == ()
    path.write_bytes(2 * path.read_bytes())
    clip = read_clip(path)
    is_said = any("several files in one" in note for note in clip.notes)
    assert is_said == (len(clip.frames) < 32)


def test_an_flv_cut_between_packets_raises(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.flv", smooth_clip(33), rate=16, codec="flv")
    assert len(read_clip(path).frames) == 33
    with av.open(str(path)) as container:
        positions = [packet.pos for packet in container.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[: positions[20]])
    with pytest.raises(MediaError, match="cut short"):
        read_clip(path)


@pytest.mark.parametrize("kind", ["AVIF", "PNG", "JPEG", "WEBP", "TIFF", "HEIC"])
def test_a_picture_is_no_video(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "clip.mp4"
    if kind == "HEIC":
        path.write_bytes((DATA / "corners.heic").read_bytes())
    else:
        Image.new("RGB", (32, 32), "red").save(path, kind)
    with pytest.raises(MediaError, match=r"is a picture \(.*\), not a video"):
        read_clip(path)


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "PNG", "AVIF"])
def test_animations_are_clips(tmp_path: Path, kind: str) -> None:
    colours = ["red", "lime", "blue", "yellow"]
    first, *others = [Image.new("RGB", (32, 32), colour) for colour in colours]
    options = {"lossless": True} if kind == "WEBP" else {}
    path = tmp_path / "clip"
    first.save(path, kind, save_all=True, append_images=others, duration=250, **options)
    clip = read_clip(path)
    assert clip.notes == ()
    expected = np.asarray([np.asarray(one)[0, 0] for one in (first, *others)]).repeat(4, axis=0)
    assert clip.frames[:, 0, 0].numpy() == pytest.approx(expected, abs=3)


def test_what_libav_cannot_decode_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = encode(tmp_path / "clip.mp4", grey_clip([50] * 4), rate=16)

    def refuse(*_: object, **__: object) -> None:
        raise av.error.PatchWelcomeError(0, "Not yet implemented")

    monkeypatch.setattr("istar.media.clip_pixels.FrameConversion._rgb", refuse)
    with pytest.raises(MediaError, match=r"cannot be decoded \(Not yet implemented\)"):
        read_clip(path)


def test_the_default_of_several_videos_is_used_or_else_the_largest(tmp_path: Path) -> None:
    path = tmp_path / "two.ts"
    with av.open(str(path), "w", format="mpegts") as output:
        streams = [output.add_stream("mpeg2video", rate=25) for _ in range(2)]
        for stream, side in zip(streams, (32, 64), strict=True):
            stream.width, stream.height, stream.pix_fmt = side, side, "yuv420p"
        for _ in range(25):
            for stream in streams:
                output.mux(stream.encode(av.VideoFrame(stream.width, stream.height, "yuv420p")))
        for stream in streams:
            output.mux(stream.encode(None))
    for file, (width, height) in (
        (path, (64, 64)),
        (DATA / "second_stream_is_default.mkv", (160, 96)),
    ):
        clip = read_clip(file)
        assert clip.frames.shape[1:3] == (height, width)
        assert any(f"2 videos; the one of {width}×{height} is used" in n for n in clip.notes)


@pytest.mark.parametrize("b_frames", [0, 3])
@pytest.mark.parametrize("leap", [12, 600])
def test_a_clock_that_leaps_loses_no_picture(tmp_path: Path, b_frames: int, leap: int) -> None:
    path = tmp_path / "leap.ts"
    with av.open(path, "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.options = {"bf": str(b_frames)}
        for number in range(32):
            pixels = np.full((64, 64, 3), 7 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = 62 * number, Fraction(1, 1000)
            frame.pts += 1000 * leap if number >= 16 else 0
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    clip = read_clip(path)
    assert len(clip.frames) == 32
    assert any("begin anew" in note for note in clip.notes)
    levels = clip.frames.float().mean((1, 2, 3)).tolist()
    assert levels == sorted(levels)


@pytest.mark.parametrize("suffix", ["mp4", "mov"])
def test_a_file_cut_within_its_index_is_cut_short(tmp_path: Path, suffix: str) -> None:
    whole = write_clip(torch.zeros(80, 64, 64, 3, dtype=torch.uint8), tmp_path / "whole.mp4")
    path = tmp_path / f"cut.{suffix}"
    content = whole.read_bytes()
    at = content.index(b"moov")
    for share in (0.3, 0.6, 0.9):
        path.write_bytes(content[: at + int(share * (len(content) - at))])
        with pytest.raises(MediaError, match="cut short"):
            read_clip(path)
