"""The tokenizer's encoder: pictures to the bottleneck's mean and log-variance."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from istar.video_tokenizer.config import VideoTokenizerConfig
from istar.video_tokenizer.conv import (
    CausalConv3d,
    ChannelRMSNorm,
    FrameHistory,
    add,
    average_frame_pairs,
    silu,
    space_to_depth,
)


class ResidualBlock(nn.Module):
    """Twice norm, SiLU, convolution; added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = ChannelRMSNorm(channels)
        self.conv1 = CausalConv3d(channels, channels)
        self.norm2 = ChannelRMSNorm(channels)
        self.conv2 = CausalConv3d(channels, channels)

    def forward(self, x: Tensor, history: FrameHistory) -> Tensor:
        """`(B, C, T, h, w)`, the same shape."""
        y = self.conv1(silu(self.norm1(x)), history)
        y = silu(self.norm2(y))
        return add(self.conv2(y, history), x)


class Downsample(nn.Module):
    """Half the size in space, and in time where asked; a parameter-free shortcut beside it."""

    def __init__(self, in_channels: int, out_channels: int, *, halve_time: bool) -> None:
        super().__init__()
        self.norm = ChannelRMSNorm(in_channels)
        self.conv = CausalConv3d(in_channels, out_channels // 4)
        self.out_channels = out_channels
        self.halve_time = halve_time

    def forward(self, x: Tensor, history: FrameHistory) -> Tensor:
        """`(B, C_in, T, h, w)` to `(B, C_out, T or (T+1)//2, h/2, w/2)`."""
        shortcut = self._rearranged(x)
        y = self._rearranged(self.conv(silu(self.norm(x)), history))
        return self._joined(y, shortcut)

    def frame(self, x: Tensor, history: FrameHistory) -> Tensor | None:
        """The same for one frame, outside training; None where the next is needed, too."""
        y = space_to_depth(self.conv(silu(self.norm(x)), history))
        shortcut = space_to_depth(x)  # only now, as it is large
        if self.halve_time and not history.first_chunk:
            earlier = history.waiting.pop(self, None)
            if earlier is None:
                history.waiting[self] = (y, shortcut)
                return None
            y, shortcut = (
                one.add_(two).div_(2) for one, two in zip(earlier, (y, shortcut), strict=True)
            )
        return self._joined(y, shortcut)

    def _rearranged(self, x: Tensor) -> Tensor:
        x = space_to_depth(x)
        return average_frame_pairs(x) if self.halve_time else x

    def _joined(self, y: Tensor, shortcut: Tensor) -> Tensor:
        return add(y, shortcut.unflatten(1, (-1, self.out_channels)).mean(dim=1))


class EncoderLevel(nn.Module):
    """Residual blocks at one resolution, then the way down, if there is one."""

    def __init__(self, channels: int, downsample: Downsample | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(channels) for _ in range(2))
        self.downsample: Downsample | None = downsample

    def forward(self, x: Tensor, history: FrameHistory) -> Tensor:
        """`(B, C, T, h, w)` to the next level's shape."""
        for block in self.blocks:
            x = block(x, history)
        return x if self.downsample is None else self.downsample(x, history)


class Encoder(nn.Module):
    """Pictures `(B, 3, F, 16h, 16w)` to `(B, 2 · bottleneck, T, 2h, 2w)`."""

    def __init__(self, config: VideoTokenizerConfig) -> None:
        super().__init__()
        widths = config.channels
        self.conv_in = CausalConv3d(3, widths[0])
        self.levels = nn.ModuleList(
            EncoderLevel(
                widths[i],
                Downsample(widths[i], widths[i + 1], halve_time=i < 2) if i < 3 else None,
            )
            for i in range(4)
        )
        self.middle = nn.ModuleList(ResidualBlock(widths[4]) for _ in range(2))
        self.norm_out = ChannelRMSNorm(widths[4])
        self.conv_out = CausalConv3d(widths[4], 2 * config.bottleneck_channels)

    def forward(self, x: Tensor, history: FrameHistory) -> Tensor:
        """One chunk of frames; `history` carries over to the next."""
        x = self.conv_in(x, history)
        for level in self.levels:
            x = level(x, history)
        for block in self.middle:
            x = block(x, history)
        return self._to_moments(x, history)

    def stages(self) -> list[Callable[[Tensor, FrameHistory], Tensor | None]]:
        """The parts in the order in which they run, each a frame at a time.

        A part gives None where it waits for the next frame.
        """
        stages: list[Callable[..., Tensor | None]] = [self.conv_in]
        for level in self.levels:
            assert isinstance(level, EncoderLevel)
            stages += level.blocks
            if level.downsample is not None:
                stages.append(level.downsample.frame)
        return [*stages, *self.middle, self._to_moments]

    def _to_moments(self, x: Tensor, history: FrameHistory) -> Tensor:
        return self.conv_out(silu(self.norm_out(x)), history)
