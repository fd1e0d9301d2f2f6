"""The tokenizer's decoder: bottleneck latents to pictures, every norm conditioned on the latent."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from istar.video_tokenizer.config import VideoTokenizerConfig
from istar.video_tokenizer.conv import (
    CausalConv3d,
    ChannelRMSNorm,
    FrameHistory,
    add,
    average_first_two_frames,
    depth_to_space,
    silu,
)

_PAST_FRAMES = 2
_PICTURE_RATE = 4
_PICTURE_SCALE = 8


def resize(z: Tensor, frames: int, height: int, width: int) -> Tensor:
    """`z` `(B, C, T, h, w)` at other frames and another size, by nearest neighbour.

    An odd number of frames greater than one means the video's start, whose first frame stands
    alone on both sides.
    """
    if z.shape[2:] == (frames, height, width):
        return z
    if frames % 2 == 0 or frames == 1:
        return F.interpolate(z, size=(frames, height, width), mode="nearest")
    first = F.interpolate(z[:, :, :1], size=(1, height, width), mode="nearest")
    rest = F.interpolate(z[:, :, 1:], size=(frames - 1, height, width), mode="nearest")
    return torch.cat((first, rest), dim=2)


class ConditionedNorm(nn.Module):
    """A channel norm whose gain and bias at each place come from the latent there.

    The two 1×1×1 convolutions, and the norm's own gain, run at the latent's size, before it is
    resized: the same numbers, for a fraction of the arithmetic.
    """

    def __init__(self, channels: int, latent_channels: int) -> None:
        super().__init__()
        self.norm = ChannelRMSNorm(channels)
        self.gain = nn.Conv3d(latent_channels, channels, kernel_size=1)
        self.bias = nn.Conv3d(latent_channels, channels, kernel_size=1)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """`x` `(B, C, T', h', w')` conditioned on `z` `(B, C_z, T, h, w)`; h divides h'."""
        frames, rows, width = x.shape[2], z.shape[3], x.shape[4]
        # Gain and bias get the width of x and keep the rows of z, each of which serves several.
        gain, bias = (
            resize(one, frames, rows, width).unsqueeze(4)  # B C T' h 1 w'
            for one in (self.gain(z) * self.norm.gain.to(x.dtype), self.bias(z))
        )
        y = self.norm.scaled(x).unflatten(3, (rows, -1))  # B C T' h h'/h w'
        out = None if torch.is_grad_enabled() else y
        return torch.addcmul(bias, y, gain, out=out).flatten(3, 4)


class ConditionedResidualBlock(nn.Module):
    """Twice conditioned norm, SiLU, convolution; added to the input."""

    def __init__(self, channels: int, latent_channels: int) -> None:
        super().__init__()
        self.norm1 = ConditionedNorm(channels, latent_channels)
        self.conv1 = CausalConv3d(channels, channels)
        self.norm2 = ConditionedNorm(channels, latent_channels)
        self.conv2 = CausalConv3d(channels, channels)

    def forward(self, x: Tensor, z: Tensor, history: FrameHistory) -> Tensor:
        """`(B, C, T, h, w)`, the same shape."""
        y = self.conv1(silu(self.norm1(x, z)), history)
        y = self.conv2(silu(self.norm2(y, z)), history)
        return add(y, x)


class Upsample(nn.Module):
    """Twice the size in space, and in time where asked; a parameter-free shortcut beside it."""

    def __init__(self, in_channels: int, out_channels: int, *, double_time: bool) -> None:
        super().__init__()
        self.time_factor = 2 if double_time else 1
        expanded = out_channels * 4 * self.time_factor
        self.norm = ChannelRMSNorm(in_channels)
        self.conv = CausalConv3d(in_channels, expanded)
        self.copies = expanded // in_channels

    def forward(self, x: Tensor, history: FrameHistory) -> Tensor:
        """`(B, C_in, T, h, w)` to `(B, C_out, T', 2h, 2w)`.

        T' is T, or 2T where time doubles, less one in the chunk that starts the video.
        """
        y = self.conv(silu(self.norm(x)), history).unflatten(1, (self.copies, -1))
        y = add(y, x.unsqueeze(1)).flatten(1, 2)
        y = depth_to_space(y, time_factor=self.time_factor)
        if self.time_factor == 2 and history.first_chunk:
            y = average_first_two_frames(y)
        return y


class DecoderLevel(nn.Module):
    """Residual blocks at one resolution, then the way up, if there is one."""

    def __init__(self, channels: int, latent_channels: int, upsample: Upsample | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ConditionedResidualBlock(channels, latent_channels) for _ in range(3)
        )
        self.upsample: Upsample | None = upsample


class Stage(NamedTuple):
    """A part of the decoder, and how much of its input the parts from it on look at.

    Attributes:
        run: its input, the latent and the history to its output.
        scale: rows of its input to one row of the latent.
        past: latent frames before the first one whose pictures are wanted.
        margin: rows of the latent above and below those whose pictures are wanted.
        rate: frames of its input to one of the latent; a video's first has one everywhere.
        products: multiply-adds of its convolutions for one place of the latent in one such frame.
    """

    run: Callable[[Tensor, Tensor, FrameHistory], Tensor]
    scale: int
    past: int
    margin: int
    rate: int
    products: int


class Decoder(nn.Module):
    """Bottleneck latents `(B, bottleneck, T, 2h, 2w)` to pictures `(B, 3, F, 16h, 16w)`."""

    def __init__(self, config: VideoTokenizerConfig) -> None:
        super().__init__()
        widths = config.channels[::-1]
        latent_channels = config.bottleneck_channels
        self.conv_in = CausalConv3d(latent_channels, widths[0])
        self.middle = nn.ModuleList(
            ConditionedResidualBlock(widths[0], latent_channels) for _ in range(2)
        )
        self.levels = nn.ModuleList(
            DecoderLevel(
                widths[i],
                latent_channels,
                Upsample(widths[i], widths[i + 1], double_time=i > 1) if i > 0 else None,
            )
            for i in range(4)
        )
        self.norm_out = ConditionedNorm(widths[4], latent_channels)
        self.conv_out = CausalConv3d(widths[4], 3)

    def forward(self, z: Tensor, history: FrameHistory) -> Tensor:
        """One chunk of latent frames; `history` carries over to the next."""
        x = z
        for stage in self.stages():
            x = stage.run(x, z, history)
        return x

    def stages(self) -> list[Stage]:
        """The parts in the order in which they run."""
        # 1. Every part, with its convolutions, and the way up that it is, if it is.
        parts: list[tuple[Callable[..., Tensor], list[CausalConv3d], Upsample | None]] = [
            (lambda x, z, history: self.conv_in(x, history), [self.conv_in], None)
        ]
        parts += [(block, _convolutions(block), None) for block in self.middle]
        for level in self.levels:
            assert isinstance(level, DecoderLevel)
            parts += [(block, _convolutions(block), None) for block in level.blocks]
            if (up := level.upsample) is not None:
                parts.append((_without_latent(up), _convolutions(up), up))
        parts.append((self._to_pictures, [self.conv_out], None))
        # 2. How far each looks, counted from the pictures back to the latent.
        stages = []
        frames = rows = 0
        rate, scale = _PICTURE_RATE, _PICTURE_SCALE
        for run, convolutions, upsample in reversed(parts):
            if upsample is not None:
                rate, frames = rate // upsample.time_factor, ceil(frames / upsample.time_factor)
                scale, rows = scale // 2, ceil(rows / 2)
            frames += _PAST_FRAMES * len(convolutions)
            rows += len(convolutions)
            past, margin = ceil(frames / rate), ceil(rows / scale)
            products = scale**2 * sum(one.weight.numel() for one in convolutions)
            stages.append(Stage(run, scale, past, margin, rate, products))
        return stages[::-1]

    def frame_flop(self, rows: int, columns: int, *, first: bool = False, ahead: int = 0) -> int:
        """The operations of the convolutions for one latent frame, two for a multiply-add.

        Args:
            rows, columns: of the latent, which is `(1, bottleneck, T, rows, columns)`.
            first: it begins the video.
            ahead: so many frames later comes the first whose pictures are wanted.
        """
        stages = (stage for stage in self.stages() if ahead <= stage.past)
        products = sum((1 if first else stage.rate) * stage.products for stage in stages)
        return 2 * rows * columns * products

    def _to_pictures(self, x: Tensor, z: Tensor, history: FrameHistory) -> Tensor:
        return self.conv_out(silu(self.norm_out(x, z)), history)


def _convolutions(part: nn.Module) -> list[CausalConv3d]:
    return [module for module in part.modules() if isinstance(module, CausalConv3d)]


def _without_latent(upsample: Upsample) -> Callable[..., Tensor]:
    return lambda x, z, history: upsample(x, history)
