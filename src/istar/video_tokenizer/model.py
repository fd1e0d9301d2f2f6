"""The video tokenizer: pictures to continuous latents and back, in chunks of time.

Source: released reference; InfinityStar paper (arXiv 2511.04675), section on the tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from istar.video_tokenizer.config import VideoTokenizerConfig
from istar.video_tokenizer.conv import FrameHistory, lay_channels_last
from istar.video_tokenizer.decoder import Decoder
from istar.video_tokenizer.encoder import Encoder
from istar.video_tokenizer.pieces import Piece, decode_pieces, encode_pieces

_ENCODE_CHUNK = 8
_DECODE_CHUNK = 2
_LATENT_SCALES = 4


class VideoTokenizer(nn.Module):
    """Causal 3-D convolutional autoencoder: 16×16 pixels of four frames to one latent.

    Pictures are `(B, 3, F, 16h, 16w)` in [-1, 1] with F = 4(T-1)+1; latents `(B, 64, T, h, w)`.
    """

    def __init__(self, config: VideoTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.project_in = nn.Linear(config.latent_channels, config.latent_channels)
        self.project_out = nn.Linear(config.latent_channels, config.latent_channels)
        self.latent_scales = nn.Parameter(torch.ones(_LATENT_SCALES))

    def decode_in(self, dtype: torch.dtype) -> None:
        """Let the decoder compute in a dtype; what gives latents, and the bits of them, stays.

        In bfloat16, as in the released scripts, decoding takes half the memory and its convolutions
        are laid out channels-last, which is how CUDA runs them fastest.
        """
        if self.decoder.conv_in.weight.dtype != dtype:
            self.decoder.to(dtype)
        if dtype != torch.float32:
            lay_channels_last(self.decoder)

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents `(B, 64, T, h, w)`, float32, of pictures `(B, 3, F, 16h, 16w)`.

        The posterior's mean; the released reference adds noise to it from an unseeded generator.
        Where gradients are wanted several pictures go together, else one after the other.
        """
        pictures = pictures.to(self.latent_scales.dtype)
        if torch.is_grad_enabled():
            means = self._encode_chunks(pictures)
        else:
            moments = encode_pieces(self.encoder, pictures)
            means = self._means(moments).contiguous()  # laid out as for training: the same bits
        return (_over_channels(self.project_in, means) * self.latent_scales[0]).float()

    def _encode_chunks(self, pictures: Tensor) -> Tensor:
        """Means `(B, 64, T, h, w)`, of several pictures at a time."""
        frames = pictures.shape[2]
        first = min(frames, _ENCODE_CHUNK + frames % _ENCODE_CHUNK)
        chunks = pictures.split([first] + [_ENCODE_CHUNK] * ((frames - first) // _ENCODE_CHUNK), 2)
        history = FrameHistory()
        means = []
        for chunk in chunks:
            means.append(self._means(self.encoder(chunk, history)))
            history.next_chunk()
        return torch.cat(means, dim=2)

    def _means(self, moments: Tensor) -> Tensor:
        """Means `(B, 64, T, h, w)` of the encoder's output."""
        return _pixel_unshuffle(moments)[:, : self.config.latent_channels]

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures `(B, 3, 4(T-1)+1, 16h, 16w)`, float32, not clamped, of a whole video."""
        history = FrameHistory()
        pictures = []
        for chunk in self._bottleneck(latents).split(_DECODE_CHUNK, dim=2):
            pictures.append(self.decoder(chunk, history).float())
            history.next_chunk()
        return torch.cat(pictures, dim=2)

    def decode_pieces(
        self, latents: Tensor, *, skip: int = 0, strip_rows: int | None = None
    ) -> Iterator[Piece]:
        """The same pictures, those of one latent frame at a time; not for training.

        Args:
            latents: `(B, 64, T, h, w)`, from the video's beginning.
            skip: latent frames at the beginning whose pictures are not wanted. Of these only so
                much is decoded as the convolutions look back at.
            strip_rows: rows of the latent that are decoded at once, see
                `istar.video_tokenizer.pieces`; by default all.

        Yields:
            pieces of pictures, float32, around [-1, 1].
        """
        z = self._bottleneck(latents)
        rows = None if strip_rows is None else 2 * strip_rows
        for piece in decode_pieces(self.decoder, z, skip=skip, strip_rows=rows):
            yield piece._replace(pictures=piece.pictures.float())

    def _bottleneck(self, latents: Tensor) -> Tensor:
        """The decoder's input `(B, bottleneck, T, 2h, 2w)`, in the decoder's dtype."""
        z = latents.to(self.latent_scales.dtype) / self.latent_scales[0]
        z = _pixel_shuffle(_over_channels(self.project_out, z))
        return z.to(self.decoder.conv_in.weight.dtype)


def to_range(pictures: Tensor) -> Tensor:
    """Pictures `(B, F, H, W, 3)`, uint8, as the tokenizer takes them: `(B, 3, F, H, W)`, ±1."""
    return pictures.permute(0, 4, 1, 2, 3).float().div_(127.5).sub_(1)


def _over_channels(linear: nn.Linear, x: Tensor) -> Tensor:
    """A linear layer over the channels of `(B, C, T, h, w)`."""
    return linear(x.movedim(1, -1)).movedim(-1, 1)


def _pixel_unshuffle(x: Tensor) -> Tensor:
    """`(B, C, T, 2h, 2w)` to `(B, 4C, T, h, w)`, channel order `(channel, row, column)`."""
    return F.pixel_unshuffle(x.transpose(1, 2), 2).transpose(1, 2)


def _pixel_shuffle(x: Tensor) -> Tensor:
    """`(B, 4C, T, h, w)` to `(B, C, T, 2h, 2w)`: the inverse of `_pixel_unshuffle`."""
    return F.pixel_shuffle(x.transpose(1, 2), 2).transpose(1, 2)
