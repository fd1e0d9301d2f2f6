"""What decoding 720p takes at full size, counted on tensors without content."""

from __future__ import annotations

from collections import deque

import pytest
import torch

from istar.video_tokenizer.config import VideoTokenizerConfig
from istar.video_tokenizer.model import VideoTokenizer
from live_bytes import LiveBytes, bytes_of

GB = 10**9
HEIGHT, WIDTH = 45, 80
FRAMES = 21
FEATURES = 384 * 2 * HEIGHT * 2 * WIDTH
"""Numbers that strips keep of a latent frame."""


def peak(dtype: torch.dtype, strip_rows: int | None, frames: int) -> int:
    """Bytes of the tokenizer and of decoding so many latent frames of 720p."""
    with torch.device("meta"):
        tokenizer = VideoTokenizer(VideoTokenizerConfig()).requires_grad_(False)
        latents = torch.empty(1, 64, frames, HEIGHT, WIDTH)
    tokenizer.decode_in(dtype)
    with torch.inference_mode(), LiveBytes() as live:
        deque(tokenizer.decode_pieces(latents, strip_rows=strip_rows), maxlen=0)
    assert live.now < GB / 100  # the latents; nothing outlives it
    return bytes_of(tokenizer) + live.peak


@pytest.mark.parametrize(
    ("dtype", "strip_rows", "most"),
    [
        (torch.float32, 9, 3.0),
        pytest.param(torch.bfloat16, 23, 2.8, marks=pytest.mark.slow),
        pytest.param(torch.float32, None, 8.6, marks=pytest.mark.slow),
        pytest.param(torch.bfloat16, None, 4.5, marks=pytest.mark.slow),
    ],
)
def test_five_seconds_of_720p_fit(dtype: torch.dtype, strip_rows: int | None, most: float) -> None:
    # The third frame is as the later ones; strips keep something of every frame.
    counted = [peak(dtype, strip_rows, frames) for frames in (3, 4)]
    kept = FEATURES * dtype.itemsize if strip_rows else 0
    assert counted[1] - counted[0] == pytest.approx(kept, abs=GB / 100)
    assert counted[1] + (FRAMES - 4) * kept <= most * GB
