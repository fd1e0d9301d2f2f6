"""Clips made on the spot, written by libav alone, and texts read from files without istar."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.video.reformatter import Colorspace
from PIL import Image
from torch import Tensor


def smooth_clip(frames: int, height: int = 64, width: int = 96, seed: int = 0) -> Tensor:
    """`(F, H, W, 3)` uint8: coarse random colours, smoothed, changing from frame to frame."""
    noise = torch.rand(frames, 3, 4, 6, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(noise, size=(height, width), mode="bicubic")
    return (smooth.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def grey_clip(levels: list[int], height: int = 32, width: int = 48) -> Tensor:
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].repeat(1, height, width, 3)


def levels_of(frames: Tensor) -> list[int]:
    return [round(value) for value in frames.float().mean(dim=(1, 2, 3)).tolist()]


def psnr(one: Tensor, other: Tensor) -> float:
    return float(10 * torch.log10(255**2 / (one.float() - other.float()).square().mean()))


def encode(
    path: Path,
    frames: Tensor,
    *,
    times: list[int] | None = None,
    rate: int = 30,
    time_base: Fraction | None = None,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    colorspace: int | None = None,
    aspect: Fraction | None = None,
    transfer: int | None = None,
    interlaced: bool = False,
    options: dict[str, str] | None = None,
    gop: int = 30,
    last_duration: int | None = None,
    sound: bool = False,
) -> Path:
    """A video by way of libav alone, so that reading is tested against another writer.

    `times` are in ticks of `time_base`; without them the clip has `rate` pictures a second. A
    `colorspace` of 2 leaves the matrix unsaid.
    """
    kind = {".webm": "webm", ".png": "apng", ".ts": "mpegts"}.get(path.suffix)
    tick = time_base or Fraction(1, rate)
    with av.open(str(path), "w", format=kind, options=options or {}) as output:
        stream = output.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        if codec == "libx264":
            stream.options = {"crf": "4", "bf": "0"}
            if interlaced:
                stream.options = {"crf": "8", "x264-params": "interlaced=1"}
        context = stream.codec_context
        context.gop_size, context.time_base = gop, tick
        if colorspace is not None:
            context.colorspace = colorspace
        if transfer is not None:
            context.color_trc = transfer
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        audio = output.add_stream("aac", rate=48_000) if sound else None
        is_small = frames.shape[1] < 720
        matrix = {5: Colorspace.ITU601, 2: Colorspace.ITU601 if is_small else Colorspace.ITU709}
        packets = []
        for index, picture in enumerate(frames.numpy()):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                format=pixels,
                dst_colorspace=matrix.get(colorspace or 1, Colorspace.ITU709),
                dst_color_range=1,
            )
            if colorspace is not None:
                frame.colorspace = colorspace
            frame.pts = index if times is None else times[index]
            frame.time_base = tick
            packets += stream.encode(frame)
        packets += stream.encode(None)
        if last_duration is not None:
            packets[-1].duration = last_duration
        output.mux(packets)
        if audio is not None:
            output.mux(audio.encode(silence()))
            output.mux(audio.encode(None))
    return path


def silence() -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
    frame.rate = 48_000
    return frame


def spoil_packet(path: Path, index: int, filler: bytes = b"\xff") -> None:
    """Overwrite the packet with that number, in the file's order."""
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][index]
        position, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    data[position : position + size] = filler * size
    path.write_bytes(data)


def texts_in(path: Path) -> dict[str, str]:
    """The texts that istar has written into a file."""
    if path.suffix in (".mp4", ".webm"):
        with av.open(str(path), metadata_errors="replace") as container:
            own = {"major_brand", "minor_version", "compatible_brands", "encoder"}
            found = {key.lower(): text for key, text in container.metadata.items()}
            return {key: text for key, text in found.items() if key not in own}
    with Image.open(path) as picture:
        if path.suffix in (".png", ".apng"):
            return {key: str(text) for key, text in picture.text.items()}
        if path.suffix == ".gif":
            return json.loads(picture.info.get("comment", b"{}"))
        comment = picture.getexif().get_ifd(0x8769).get(0x9286, b"ASCII\0\0\0{}")
        return json.loads(comment.removeprefix(b"ASCII\0\0\0"))
