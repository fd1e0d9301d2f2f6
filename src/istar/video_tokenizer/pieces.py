"""Encoding and decoding piece by piece: frame after frame, and decoding where wanted in strips.

Every frame passes all convolutions before the next one enters, so what is held besides one frame is
the history of the convolutions. A strip of rows passes all frames before the next strip begins, so
less of the history is held. Neither changes a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from istar.video_tokenizer.conv import FrameHistory
from istar.video_tokenizer.decoder import Decoder, Stage
from istar.video_tokenizer.encoder import Encoder


class Piece(NamedTuple):
    """Some rows of the pictures that a latent frame becomes.

    Attributes:
        frame: index of the latent frame.
        row: the first row, in pixels.
        pictures: `(B, 3, F, rows, W)`; F is 4, of a video's first latent frame 1.
    """

    frame: int
    row: int
    pictures: Tensor


def encode_pieces(encoder: Encoder, pictures: Tensor) -> Tensor:
    """The encoder's output `(B, 2 · bottleneck, T, 2h, 2w)`, a picture at a time.

    Never in strips: bits are decided by it, and would depend on the memory that is free.

    Args:
        encoder: the network.
        pictures: `(B, 3, F, 16h, 16w)`.
    """
    history = FrameHistory()
    stages = encoder.stages()
    frames = pictures.split(1, dim=2)
    made = []
    for number, frame in enumerate(frames, 1):
        history.last_chunk = number == len(frames)
        x = _through(stages, frame, history)
        if x is not None:
            made.append(x)
        history.next_chunk()
    return torch.cat(made, dim=2)


def _through(
    stages: Sequence[Callable[[Tensor, FrameHistory], Tensor | None]],
    x: Tensor,
    history: FrameHistory,
) -> Tensor | None:
    """A frame through the encoder's stages; None where one of them waits for the next frame."""
    for stage in stages:
        y = stage(x, history)
        if y is None:
            return None
        x = y
    return x


def decode_pieces(
    decoder: Decoder, z: Tensor, *, skip: int = 0, strip_rows: int | None = None
) -> Iterator[Piece]:
    """The pictures of a video's latents, a latent frame at a time.

    Of the frames that are skipped only so much is computed as the convolutions look back at.

    Args:
        decoder: the network.
        z: `(B, bottleneck, T, 2h, 2w)`, from the video's beginning.
        skip: latent frames at the beginning whose pictures are not wanted.
        strip_rows: rows of `z` in a strip; by default all are one. Every further strip computes
            some rows around its own once more.

    Yields:
        one piece of every latent frame from `skip` on; then those of the next strip.
    """
    frames = z.split(1, dim=2)
    height = z.shape[3]
    stages = decoder.stages()
    # 1. The parts at the latent's own size are small: they run over all rows, and what they make is
    # kept. Without strips there is nothing to keep it for.
    split = 0 if strip_rows is None else sum(stage.scale == 1 for stage in stages) - 1
    whole = _Pass(stages[:split], range(height), height, skip)
    kept = [whole.run(number, frame, frame) for number, frame in enumerate(frames)]
    del whole
    # 2. The others, strip by strip.
    strip_rows = strip_rows or height
    for top in range(0, height, strip_rows):
        rows = range(top, min(top + strip_rows, height))
        strip = _Pass(stages[split:], rows, height, skip)
        for number, (x, frame) in enumerate(zip(kept, frames, strict=True)):
            pictures = None if x is None else strip.run(number, x, frame)
            if pictures is not None and number >= skip:
                yield Piece(number, top * pictures.shape[3] // len(rows), pictures)
            del pictures


@dataclass
class _Pass:
    """Some stages, running over all frames of some rows.

    Attributes:
        stages: in order.
        rows: of the latent, those that are wanted in the end.
        height: rows of the latent.
        skip: latent frames of which nothing is wanted in the end.
        history: of the convolutions.
    """

    stages: Sequence[Stage]
    rows: range
    height: int
    skip: int
    history: FrameHistory = field(default_factory=FrameHistory)

    def run(self, number: int, x: Tensor, z: Tensor) -> Tensor | None:
        """What becomes of one latent frame; None where nobody looks at it.

        Args:
            number: of the frame.
            x: `(B, C, 1, h, w)`, all rows, the input of the first stage.
            z: `(B, C_z, 1, h, w)`, all rows of the latent.
        """
        made = self._run(0, self.skip - number, x, range(self.height), z)
        self.history.next_chunk()
        return made

    def _run(self, first: int, ahead: int, x: Tensor, rows: range, z: Tensor) -> Tensor | None:
        """`x`, which has some rows of the latent, from one stage on.

        Args:
            first: index of the stage.
            ahead: how many latent frames follow before the first that is wanted.
        """
        for index, stage in enumerate(self.stages[first:], first):
            if ahead > stage.past:
                return None
            x, rows = self._cropped(x, rows, stage.scale, stage.margin)
            x = stage.run(x, z[:, :, :, rows.start : rows.stop], self.history)
            if x.shape[2] > 1:
                # Time has doubled: from here on frame by frame again.
                made = [self._run(index + 1, ahead, one, rows, z) for one in x.split(1, dim=2)]
                wanted = [one for one in made if one is not None]
                return torch.cat(wanted, dim=2) if wanted else None
        return self._cropped(x, rows, x.shape[3] // len(rows), 0)[0]

    def _cropped(self, x: Tensor, rows: range, scale: int, margin: int) -> tuple[Tensor, range]:
        """`x`, which has some rows of the latent, with the wanted rows and a margin, and these."""
        top = max(self.rows.start - margin, 0)
        bottom = min(self.rows.stop + margin, self.height)
        kept = x[:, :, :, (top - rows.start) * scale : (bottom - rows.start) * scale]
        return kept, range(top, bottom)
