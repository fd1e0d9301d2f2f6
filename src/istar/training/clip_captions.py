"""The captions of a clip, and which of them a training example has."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from istar.training.seeds import draw

_SENTENCE = re.compile(r".+?(?:[.!?]+(?=\s)|[。！？]+|$)\s*", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class ClipCaptions:
    """What is said of a clip.

    Attributes:
        whole: one or more wordings of all of it.
        by_clip: the same for the first clip of the model's length, the next one and so on; empty
            where `whole` serves for every clip.
        short: short wordings of all of it; without any, those of `whole` lose sentences instead.
        ending: follows every wording, a short one too.
    """

    whole: tuple[str, ...]
    by_clip: tuple[tuple[str, ...], ...] = ()
    short: tuple[str, ...] = ()
    ending: str = ""

    def of_clip(self, number: int) -> ClipCaptions:
        """Those of one clip of the model's length, or of all where it has none of its own."""
        if number < len(self.by_clip):
            return ClipCaptions(whole=self.by_clip[number], ending=self.ending)
        return self

    def from_start(self, frames: int, clip_frames: int) -> ClipCaptions:
        """Those of the first latent frames.

        Args:
            frames: how many.
            clip_frames: of a clip of the model's length; the first one has one more.
        """
        return self.of_clip(0) if frames <= 1 + clip_frames else self

    def drawn(self, short: float, generator: torch.Generator) -> str:
        """A wording and the ending.

        Args:
            short: 0 to 1, how often it is a short one.
            generator: of the draws, three in any case.
        """
        text = self.whole[draw(len(self.whole), generator)]
        choices = self.short or beginnings(text) or (text,)
        chosen = float(torch.rand((), generator=generator)) < short
        other = choices[draw(len(choices), generator)]
        return " ".join(filter(None, (other if chosen else text, self.ending)))


def beginnings(caption: str) -> tuple[str, ...]:
    """The first sentences of a caption: one, two and so on, but never all.

    A sentence ends with a full stop, a question or an exclamation mark before a space, or with a
    Chinese or Japanese one anywhere.
    """
    sentences = _SENTENCE.findall(caption)
    return tuple("".join(sentences[:kept]).rstrip() for kept in range(1, len(sentences)))
