"""PSNR, SSIM and rates against values found by hand."""

from __future__ import annotations

from math import exp, inf, log10

import pytest
import torch
from torch import Tensor

from istar.lab.quality import psnr, ssim
from istar.lab.report import Rate


def flat(level: int) -> Tensor:
    return torch.full((2, 16, 20, 3), level, dtype=torch.uint8)


def noise(random: torch.Generator, size: tuple[int, int] = (16, 20)) -> Tensor:
    return torch.randint(0, 256, (2, *size, 3), generator=random, dtype=torch.uint8)


def test_psnr_of_known_errors() -> None:
    assert psnr(flat(7), flat(7)) == inf
    assert psnr(flat(0), flat(255)) == 0
    assert psnr(flat(100), flat(90)) == pytest.approx(20 * log10(25.5))
    half = flat(100)
    half[0] = 90
    assert psnr(flat(100), half) == pytest.approx(20 * log10(25.5) + 10 * log10(2))


def test_ssim_of_equal_and_of_flat_clips(random: torch.Generator) -> None:
    x = noise(random)
    assert ssim(x, x) == pytest.approx(1)
    # without structure only the luminance term is left
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 150 + c1) / (100**2 + 150**2 + c1)
    assert ssim(flat(100), flat(150)) == pytest.approx(expected)


def test_ssim_is_symmetric_and_falls_with_noise(random: torch.Generator) -> None:
    x, other = noise(random), noise(random)
    near = (x.int() + torch.randint(-9, 10, x.shape, generator=random)).clamp(0, 255).byte()
    assert ssim(x, other) == pytest.approx(ssim(other, x))
    assert -1 <= ssim(x, other) < 0.2 < 0.9 < ssim(x, near) < 1


def test_ssim_of_one_window_by_its_definition(random: torch.Generator) -> None:
    """Eleven by eleven pixels are one window: sums over it, written out."""
    x, y = noise(random, (11, 11)), noise(random, (11, 11))
    raw = [exp(-((i - 5) ** 2) / (2 * 1.5**2)) for i in range(11)]
    total = sum(raw) ** 2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for frame in range(2):
        for channel in range(3):
            a, b = x[frame, :, :, channel].tolist(), y[frame, :, :, channel].tolist()
            cells = [
                (raw[i] * raw[j] / total, a[i][j], b[i][j]) for i in range(11) for j in range(11)
            ]
            mean_a, mean_b = sum(w * p for w, p, _ in cells), sum(w * q for w, _, q in cells)
            var_a = sum(w * (p - mean_a) ** 2 for w, p, _ in cells)
            var_b = sum(w * (q - mean_b) ** 2 for w, _, q in cells)
            both = sum(w * (p - mean_a) * (q - mean_b) for w, p, q in cells)
            values.append(
                (2 * mean_a * mean_b + c1)
                * (2 * both + c2)
                / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
            )
    assert ssim(x, y) == pytest.approx(sum(values) / len(values))


def test_rates_and_their_intervals() -> None:
    rate = Rate.of([True, False, True, True])
    assert (rate.hits, rate.count, rate.share) == (3, 4, 0.75)
    # Newcombe (1998), Table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29
    for hits, count, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert Rate(hits=hits, count=count).interval == pytest.approx((low, high), abs=5e-5)
    assert Rate(hits=20, count=20).interval[1] == 1
    assert Rate(hits=0, count=0).interval == (0, 1)
