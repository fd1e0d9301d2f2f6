"""What encoding takes at full size, counted on tensors without content."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from istar.memory_use import Work, encode_bytes
from istar.video_tokenizer.config import VideoTokenizerConfig
from istar.video_tokenizer.model import VideoTokenizer
from live_bytes import LiveBytes

GB = 10**9
CONFIG = VideoTokenizerConfig()
SIZES = {"480p": (30, 54), "720p": (45, 80)}


@cache
def peak(latent: tuple[int, int], pictures: int) -> int:
    """Bytes of encoding so many pictures, themselves included."""
    height, width = latent
    with torch.device("meta"):
        tokenizer = VideoTokenizer(CONFIG).requires_grad_(False)
        x = torch.empty(1, 3, pictures, 16 * height, 16 * width)
    with torch.inference_mode(), LiveBytes() as live:
        tokenizer.encode(x)
    assert live.now < x.nbytes + GB / 1000  # nothing outlives it
    return live.peak


@pytest.mark.parametrize(
    ("size", "pictures", "most"),
    [
        ("480p", 1, 1.0),
        ("720p", 1, 2.2),
        ("480p", 17, 4.6),
        pytest.param("480p", 81, 4.6, marks=pytest.mark.slow),
        pytest.param("720p", 81, 10.1, marks=pytest.mark.slow),
    ],
)
def test_encoding_fits_as_predicted(size: str, pictures: int, most: float) -> None:
    counted = peak(SIZES[size], pictures)
    assert counted <= most * GB
    work = Work(
        steps=(),
        branches=2,
        latent=SIZES[size],
        latent_frames=0,
        given_pictures=pictures,
        encodes_later=False,
        reads_later=False,
    )
    predicted = encode_bytes(work, CONFIG)
    assert counted <= predicted <= 1.25 * counted


def test_later_pictures_take_no_more_than_what_is_kept_of_them() -> None:
    height, width = SIZES["480p"]
    counted = [peak((height, width), pictures) for pictures in (17, 33)]
    own = 16 * 4 * 3 * 256 * height * width
    latents = 4 * 4 * 2 * CONFIG.bottleneck_channels * 4 * height * width
    assert counted[1] - counted[0] == pytest.approx(own + latents, abs=GB / 1000)
