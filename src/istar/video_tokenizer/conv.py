"""Causal 3-D convolution in chunks of time, and the rearrangements between levels.

All tensors are `(B, C, T, h, w)`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_PAST_FRAMES = 2
_LEAST_LENGTH = 1e-12
_PADDING = (0, 1, 1)


class FrameHistory:
    """The last two input frames of every causal convolution, in the order the network meets them.

    One object serves one pass over one video: give it to every chunk's call, and call
    `next_chunk` between them. The network visits its convolutions in the same order in every
    chunk, so a position in the list names a convolution.

    Attributes:
        first_chunk: the chunk under way starts the video.
        frames: per convolution `(B, C, 2, h, w)`.
    """

    def __init__(self) -> None:
        self.first_chunk = True
        self.frames: list[Tensor] = []
        self._next = 0

    def prepend_past(self, x: Tensor) -> Tensor:
        """`x` `(B, C, T, h, w)` with two earlier frames before it; remembers its own last two.

        At the start of a video the first frame stands in for the past.
        """
        if self.first_chunk:
            past = x[:, :, :1].expand(-1, -1, _PAST_FRAMES, -1, -1)
        else:
            past = self.frames[self._next]
        padded = torch.cat((past, x), dim=2)
        last = padded[:, :, -_PAST_FRAMES:].clone()
        if self.first_chunk:
            self.frames.append(last)
        else:
            self.frames[self._next] = last
        self._next += 1
        return padded

    def copy(self) -> FrameHistory:
        """A history that goes its own way from here; the frames themselves are shared."""
        copy = FrameHistory()
        copy.first_chunk, copy.frames, copy._next = self.first_chunk, [*self.frames], self._next
        return copy

    def next_chunk(self) -> None:
        """Make ready for the next chunk of the same video."""
        self.first_chunk = False
        self._next = 0


class CausalConv3d(nn.Conv3d):
    """A 3×3×3 convolution that sees two earlier frames and none later; space padded by zeros."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=_PADDING)

    def forward(self, x: Tensor, history: FrameHistory) -> Tensor:  # type: ignore[override]
        """`(B, C_in, T, h, w)` to `(B, C_out, T, h, w)`.

        On the CPU torch would run a single small clip through a convolution many times slower than
        the one it takes for two; outside training the fast one is asked for by name.
        """
        x = history.prepend_past(x)
        plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled()
        if plain and torch.backends.mkldnn.is_available():
            return torch.mkldnn_convolution(
                x, self.weight, self.bias, _PADDING, self.stride, self.dilation, self.groups
            )
        return super().forward(x)


class ChannelRMSNorm(nn.Module):
    """Root-mean-square norm over channels, with a gain."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, T, h, w)`, the same shape."""
        return self.scaled(x) * self.gain.to(x.dtype)

    def scaled(self, x: Tensor) -> Tensor:
        """`x` with a root mean square of one over its channels, before the gain."""
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        return x * (x.shape[1] ** 0.5 / length.clamp_min(_LEAST_LENGTH)).to(x.dtype)


def space_to_depth(x: Tensor) -> Tensor:
    """2×2 pixels into channels in the order `(row, column, channel)`: `(B, 4C, T, h/2, w/2)`."""
    b, c, t, h, w = x.shape
    x = x.reshape(b, c, t, h // 2, 2, w // 2, 2)  # B C T h row w column
    return x.permute(0, 4, 6, 1, 2, 3, 5).reshape(b, 4 * c, t, h // 2, w // 2)


def depth_to_space(x: Tensor, *, time_factor: int) -> Tensor:
    """Channels in the order `(time, row, column, channel)` into frames and 2×2 pixels."""
    b, c, t, h, w = x.shape
    c //= 4 * time_factor
    x = x.reshape(b, time_factor, 2, 2, c, t, h, w)  # B time row column C T h w
    x = x.permute(0, 4, 5, 1, 6, 2, 7, 3)  # B C T time h row w column
    return x.reshape(b, c, t * time_factor, 2 * h, 2 * w)


def average_frame_pairs(x: Tensor) -> Tensor:
    """Half the frames: means of pairs; in an odd-length chunk the first frame stands alone."""
    alone = x.shape[2] % 2
    pairs = x[:, :, alone:].unflatten(2, (-1, 2)).mean(dim=3)
    return torch.cat((x[:, :, :alone], pairs), dim=2) if alone else pairs


def average_first_two_frames(x: Tensor) -> Tensor:
    """One frame fewer: the first two become their mean."""
    return torch.cat((x[:, :, :2].mean(dim=2, keepdim=True), x[:, :, 2:]), dim=2)


def lay_channels_last(network: nn.Module) -> None:
    """Lay kernels out so that convolutions run on channels-last clips: the same, but faster."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            weight = module.weight.data
            module.weight.data = weight.contiguous(memory_format=torch.channels_last_3d)
