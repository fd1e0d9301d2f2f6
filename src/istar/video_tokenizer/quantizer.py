"""Binary spherical quantization: latents to bits and codes, between any two sizes.

A token of `d` numbers becomes `d` bits, its signs; its code is ±1/√d, on the unit sphere.
There is no codebook and nothing to learn. Source: released reference.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def to_bits(tokens: Tensor) -> Tensor:
    """The signs of `(…, d)` numbers as `(…, d)` booleans, true above zero."""
    return tokens > 0


def to_codes(bits: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The code ±1/√d of `(…, d)` booleans."""
    return (bits.to(dtype) * 2 - 1) / bits.shape[-1] ** 0.5


def shrink(latent: Tensor, *, bits: int, height: int, width: int) -> Tensor:
    """Tokens `(B, T·h·w, d)` of a latent `(B, C, T, H, W)`.

    Area averages over (channel, height, width), each frame apart; d = `bits` divides C.
    """
    batch = latent.shape[0]
    x = latent.transpose(1, 2).flatten(0, 1).unsqueeze(1)  # B·T 1 C H W
    x = _resized(x, (bits, height, width), "area")
    x = x.squeeze(1).unflatten(0, (batch, -1))  # B T d h w
    return x.movedim(2, -1).flatten(1, 3)


def grow(tokens: Tensor, *, frames: int, height: int, width: int, size: torch.Size) -> Tensor:
    """A latent `(B, C, T, H, W)` of the given `size` from tokens `(B, T·h·w, d)`.

    Trilinear interpolation over (channel, height, width) with half-pixel centres, each frame
    apart.
    """
    batch, channels, _, full_height, full_width = size
    x = tokens.unflatten(1, (frames, height, width)).movedim(-1, 2)  # B T d h w
    x = x.flatten(0, 1).unsqueeze(1)
    x = _resized(x, (channels, full_height, full_width), "trilinear")
    return x.squeeze(1).unflatten(0, (batch, -1)).transpose(1, 2)


def _resized(x: Tensor, size: tuple[int, int, int], mode: str) -> Tensor:
    """`x` `(N, 1, d, h, w)` at another size; at its own size both modes would change no number."""
    return x.contiguous() if x.shape[2:] == size else F.interpolate(x, size=size, mode=mode)
