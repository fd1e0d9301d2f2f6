"""Captions that lose their last sentences, so that a model learns short prompts too."""

from __future__ import annotations

import re

import torch

from istar.training.seeds import draw

_SENTENCE = re.compile(r".+?(?:[.!?]+(?=\s)|[。！？]+|$)\s*", re.DOTALL)


def perhaps_shortened(caption: str, chance: float, generator: torch.Generator) -> str:
    """A caption, or with some chance its first sentences, as many as drawn but never all.

    A sentence ends with a full stop, a question or an exclamation mark before a space, or with a
    Chinese or Japanese one anywhere. A caption of one sentence stays as it is.

    Args:
        caption: what to shorten.
        chance: 0 to 1, how often.
        generator: of the draws, two for any caption and chance.
    """
    sentences = _SENTENCE.findall(caption)
    chosen = float(torch.rand((), generator=generator)) < chance
    kept = 1 + draw(max(len(sentences) - 1, 1), generator)
    return "".join(sentences[:kept]).rstrip() if chosen and kept < len(sentences) else caption
