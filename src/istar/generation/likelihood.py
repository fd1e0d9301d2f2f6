"""How likely the drawn bits of a take are: a signal for choosing among takes of one prompt.

A score is a log-likelihood in nats, at most 0, or a difference of two, and scores of tokens, steps
and windows add up. Takes of one request have as many bits, so their scores compare as they are;
those of other requests do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_DIGITS = 3


class Score(NamedTuple):
    """Log-likelihoods of drawn bits, in nats.

    Attributes:
        drawn: under the distribution that they were drawn from: after guidance and temperature.
        conditional: under the conditional branch alone, at temperature 1.
        explained: by how much that exceeds the log-likelihood under the unconditional branch: how
            much of the bits the prompt explains. 0 without guidance, where there is no such branch.
    """

    drawn: float
    conditional: float
    explained: float


NOTHING = Score(0.0, 0.0, 0.0)
"""The score of what was not drawn."""


def token_scores(
    branches: Sequence[Tensor], logits: Tensor, bits: Tensor, drawn: Tensor | None = None
) -> Tensor:
    """The score of every token of a step.

    Args:
        branches: logits `(L, d, 2)`, float32, of the conditional branch and, with guidance, of the
            unconditional.
        logits: `(L, d, 2)`, float32, from which the bits were drawn.
        bits: `(L, d)` booleans.
        drawn: `(L)` booleans: the tokens that were drawn; None: all.

    Returns:
        `(3, L)`, float32: the rows are those of a `Score`. Tokens that were not drawn have 0.
    """
    # Of all distributions at once: on a CPU, a small operation takes longer to call than to do.
    both = torch.stack((logits, *branches))
    signs = bits.to(logits.device, logits.dtype).mul_(2).sub_(1)
    nats = F.logsigmoid((both[..., 1] - both[..., 0]).mul_(signs)).sum(dim=-1)
    explained = nats[1] - nats[2] if len(branches) > 1 else torch.zeros_like(nats[1])
    scores = torch.stack((nats[0], nats[1], explained))
    return scores if drawn is None else scores * drawn.to(scores.device)


def step_score(tokens: Tensor) -> Score:
    """The score of a step, in thousandths of a nat, from its tokens' `(3, L)`."""
    return Score(*(round(value, _DIGITS) for value in tokens.double().sum(dim=1).tolist()))


def total(scores: Iterable[Score]) -> Score:
    """The score of several steps together."""
    return Score(*(round(sum(part), _DIGITS) for part in zip(NOTHING, *scores, strict=True)))
