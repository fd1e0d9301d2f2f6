"""Sizes of the video tokenizer."""

from __future__ import annotations

from dataclasses import dataclass

from istar.errors import CheckpointError

FRAMES_PER_SECOND = 16
SPATIAL_STRIDE = 16
TEMPORAL_STRIDE = 4


@dataclass(frozen=True, kw_only=True)
class VideoTokenizerConfig:
    """Sizes of the causal 3-D convolutional autoencoder.

    Attributes:
        channels: width of the stem and of the four levels, highest resolution first; the stem
            has the width of the first level.
        bottleneck_channels: channels between encoder and decoder, before the 2×2 unshuffle.
        latent_channels: channels of a latent, four times `bottleneck_channels`.

    Raises:
        CheckpointError: the widths cannot form the network.
    """

    channels: tuple[int, int, int, int, int] = (96, 192, 384, 384, 384)
    bottleneck_channels: int = 16

    def __post_init__(self) -> None:
        if len(self.channels) != 5 or any(width < 1 for width in self.channels):
            raise CheckpointError(
                f"the tokenizer needs five positive channel widths, not {self.channels}"
            )

    @property
    def latent_channels(self) -> int:
        """Channels of a latent: the bottleneck after the 2×2 pixel-unshuffle."""
        return 4 * self.bottleneck_channels


def latent_frames(pictures: int) -> int:
    """How many latent frames `pictures` frames of video become: the first alone, then fours."""
    return (pictures - 1) // TEMPORAL_STRIDE + 1


def picture_frames(latents: int) -> int:
    """How many pictures `latents` latent frames decode to."""
    return TEMPORAL_STRIDE * (latents - 1) + 1
