"""Causal 3-D convolution in chunks of time, and the rearrangements between levels.

All tensors are `(B, C, T, h, w)`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_PAST_FRAMES = 2
_LEAST_LENGTH = 1e-12
_PADDING = (0, 1, 1)


class FrameHistory:
    """The last two input frames of every causal convolution that has run.

    One object serves one pass over one video: give it to every chunk's call, and call
    `next_chunk` between them.

    Attributes:
        first_chunk: the chunk under way starts the video.
        last_chunk: it ends the video; nothing is remembered.
        frames: of a convolution, its last two input frames, `(B, C, 1, h, w)` each.
        waiting: of what halves time, what it made of a frame whose partner has not come.
    """

    def __init__(self) -> None:
        self.first_chunk = True
        self.last_chunk = False
        self.frames: dict[nn.Module, tuple[Tensor, ...]] = {}
        self.waiting: dict[nn.Module, tuple[Tensor, ...]] = {}

    def prepend_past(self, convolution: nn.Module, x: Tensor) -> Tensor:
        """`x` `(B, C, T, h, w)` with two earlier frames before it; remembers its own last two.

        A convolution that has no past yet sees the first frame in its place. A single frame is
        kept as it is, not copied: nobody may change it afterwards.
        """
        past = self.frames.pop(convolution, None) or (x[:, :, :1],) * _PAST_FRAMES
        if self.last_chunk:
            return torch.cat((*past, x), dim=2)
        own = x.split(1, dim=2)
        if len(own) > 1:
            own = tuple(frame.clone() for frame in own[-_PAST_FRAMES:])
        self.frames[convolution] = (*past, *own)[-_PAST_FRAMES:]
        return torch.cat((*past, x), dim=2)

    def next_chunk(self) -> None:
        """Make ready for the next chunk of the same video."""
        self.first_chunk = False


class CausalConv3d(nn.Conv3d):
    """A 3×3×3 convolution that sees two earlier frames and none later; space padded by zeros."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=_PADDING)

    def forward(self, x: Tensor, history: FrameHistory) -> Tensor:  # type: ignore[override]
        """`(B, C_in, T, h, w)` to `(B, C_out, T, h, w)`.

        On the CPU torch would run a single small clip through a convolution many times slower than
        the one it takes for two; outside training the fast one is asked for by name.
        """
        x = history.prepend_past(self, x)
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
        y, gain = self.scaled(x), self.gain.to(x.dtype)
        return y * gain if torch.is_grad_enabled() else y.mul_(gain)

    def scaled(self, x: Tensor) -> Tensor:
        """`x` with a root mean square of one over its channels, before the gain."""
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32)
        return x * (x.shape[1] ** 0.5 / length.clamp_min(_LEAST_LENGTH)).to(x.dtype)


def silu(x: Tensor) -> Tensor:
    """SiLU; outside training in place of `x`."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def add(x: Tensor, other: Tensor) -> Tensor:
    """`x` plus what broadcasts to it; outside training in place of `x`."""
    return x + other if torch.is_grad_enabled() else x.add_(other)


def space_to_depth(x: Tensor) -> Tensor:
    """2×2 pixels into channels in the order `(row, column, channel)`: `(B, 4C, T, h/2, w/2)`."""
    b, c, t, h, w = x.shape
    x = x.reshape(b, c, t, h // 2, 2, w // 2, 2)  # B C T h row w column
    return x.permute(0, 4, 6, 1, 2, 3, 5).reshape(b, 4 * c, t, h // 2, w // 2)


def depth_to_space(x: Tensor, *, time_factor: int) -> Tensor:
    """Channels in the order `(time, row, column, channel)` into frames and 2×2 pixels.

    What is laid out channels-last stays so.
    """
    b, c, t, h, w = x.shape
    c //= 4 * time_factor
    last = x.is_contiguous(memory_format=torch.channels_last_3d)
    x = x.reshape(b, time_factor, 2, 2, c, t, h, w)  # B time row column C T h w
    if last:
        x = x.permute(0, 5, 1, 6, 2, 7, 3, 4)  # B T time h row w column C
        return x.reshape(b, t * time_factor, 2 * h, 2 * w, c).movedim(-1, 1)
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
