"""Sizes of the video tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

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
        widths = self.channels
        if not isinstance(widths, tuple) or len(widths) != 5 or not all(map(_is_positive, widths)):
            raise CheckpointError(f"tokenizer: channels must be five positive widths, not {widths}")
        if not _is_positive(self.bottleneck_channels):
            raise CheckpointError(
                "tokenizer: bottleneck_channels must be a positive integer, "
                f"not {self.bottleneck_channels!r}"
            )
        if widths[3] != widths[4]:
            raise CheckpointError(
                f"tokenizer: the last two levels must be equally wide, not {widths[3]}, {widths[4]}"
            )
        for width, following in pairwise(widths[:4]):
            # Half the size takes four places together: their channels are averaged in groups,
            # and a quarter of the channels is computed for each.
            if following % 4 or 4 * width % following:
                raise CheckpointError(
                    f"tokenizer: after a level of {width} channels one of {following} cannot "
                    f"follow: it must be a multiple of 4 that divides {4 * width}"
                )

    @property
    def latent_channels(self) -> int:
        """Channels of a latent: the bottleneck after the 2×2 pixel-unshuffle."""
        return 4 * self.bottleneck_channels


def _is_positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def latent_frames(pictures: int) -> int:
    """How many latent frames `pictures` frames of video become: the first alone, then fours."""
    return (pictures - 1) // TEMPORAL_STRIDE + 1
