"""The difference of two clips, pixel by pixel: PSNR and SSIM."""

from __future__ import annotations

from math import inf, log10

import torch
from torch import Tensor
from torch.nn import functional as F

PERFECT_PSNR = 100.0
"""Decibels that stand for the infinitely many of equal clips, so that they have a mean."""

_PEAK = 255.0
_TAPS = 11
_SIGMA = 1.5
_K1, _K2 = 0.01, 0.03


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in decibels, over all pixels of two clips; inf where equal.

    Args:
        a: `(F, H, W, 3)` uint8.
        b: of the same shape.
    """
    error = float((a.double() - b.double()).square().mean())
    return 10 * log10(_PEAK**2 / error) if error else inf


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity, the mean over all pictures, channels and windows of two clips.

    Windows of 11 by 11 pixels, Gaussian with a standard deviation of 1.5, wholly inside the
    picture; K1 = 0.01, K2 = 0.03. Source: Wang et al., "Image quality assessment: from error
    visibility to structural similarity" (2004).

    Args:
        a: `(F, H, W, 3)` uint8, sides of 11 or more.
        b: of the same shape.
    """
    x, y = (clip.permute(0, 3, 1, 2).flatten(0, 1)[:, None].double() for clip in (a, b))
    mean_x, mean_y = _windowed(x), _windowed(y)
    variance_x = _windowed(x * x) - mean_x**2
    variance_y = _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    c1, c2 = (_K1 * _PEAK) ** 2, (_K2 * _PEAK) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return float((luminance * structure).mean())


def _windowed(x: Tensor) -> Tensor:
    """The Gaussian mean of every window of `(N, 1, H, W)`."""
    offsets = torch.arange(_TAPS, dtype=x.dtype) - _TAPS // 2
    weights = torch.exp(-offsets.square() / (2 * _SIGMA**2))
    weights = weights / weights.sum()
    return F.conv2d(F.conv2d(x, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
