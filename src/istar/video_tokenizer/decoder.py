"""The tokenizer's decoder: bottleneck latents to pictures, every norm conditioned on the latent."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from istar.video_tokenizer.config import VideoTokenizerConfig
from istar.video_tokenizer.conv import (
    CausalConv3d,
    ChannelRMSNorm,
    FrameHistory,
    average_first_two_frames,
    depth_to_space,
)


def resize_like(z: Tensor, x: Tensor) -> Tensor:
    """`z` `(B, C, T, h, w)` at the frames and size of `x`, by nearest neighbour.

    An odd number of frames greater than one means the video's start, whose first frame stands
    alone on both sides.
    """
    frames, height, width = x.shape[2:]
    if z.shape[2:] == x.shape[2:]:
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
        """`x` `(B, C, T', h', w')` conditioned on `z` `(B, C_z, T, h, w)`."""
        gain = resize_like(self.gain(z) * self.norm.gain.to(x.dtype), x)
        return torch.addcmul(resize_like(self.bias(z), x), self.norm.scaled(x), gain)


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
        y = self.conv1(F.silu(self.norm1(x, z)), history)
        y = self.conv2(F.silu(self.norm2(y, z)), history)
        return x + y


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
        y = self.conv(F.silu(self.norm(x)), history)
        y = y + x.repeat(1, self.copies, 1, 1, 1)
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
        self.upsample = upsample

    def forward(self, x: Tensor, z: Tensor, history: FrameHistory) -> Tensor:
        """`(B, C, T, h, w)` to the next level's shape."""
        for block in self.blocks:
            x = block(x, z, history)
        return x if self.upsample is None else self.upsample(x, history)


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
        x = self.conv_in(z, history)
        for block in self.middle:
            x = block(x, z, history)
        for level in self.levels:
            x = level(x, z, history)
        return self.conv_out(F.silu(self.norm_out(x, z)), history)
