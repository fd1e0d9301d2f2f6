"""Guidance: the conditional and the unconditional branch's logits become one."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Literal

from istar.errors import CheckpointError
from istar.request import EXTREME

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class GuidanceConfig:
    """How the conditional and the unconditional branch are combined.

    Attributes:
        kind: `apg`, adaptive projected guidance, or `cfg`, classifier-free guidance.
        scale: 1 is the conditional branch alone.
        norm_threshold: apg: the largest root-mean-square of the difference between the branches.
        eta: apg: how much of the difference's component along the conditional branch remains.
    """

    kind: Literal["apg", "cfg"]
    scale: float
    norm_threshold: float = 0.05
    eta: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("apg", "cfg"):
            raise CheckpointError(f"guidance is apg or cfg, not {self.kind!r}")
        if not abs(self.scale) <= EXTREME:
            raise CheckpointError(f"guidance needs a scale up to {EXTREME:.0f}")
        if not isfinite(self.eta) or not self.norm_threshold > 0:
            raise CheckpointError("guidance needs a finite eta and a positive norm threshold")


def guide(conditional: Tensor, unconditional: Tensor, config: GuidanceConfig) -> Tensor:
    """The guided logits of one step, all its tokens taken together.

    Args:
        conditional, unconditional: logits of any one shape, already divided by the temperature.
        config: which guidance, and how much.

    Returns:
        logits of the same shape and dtype.
    """
    difference = conditional - unconditional
    if config.kind == "apg":
        difference = _project(difference, conditional, config)
    return conditional + (config.scale - 1) * difference


def _project(difference: Tensor, conditional: Tensor, config: GuidanceConfig) -> Tensor:
    """Adaptive projected guidance (arXiv 2410.02416), as the released reference applies it.

    The difference's root-mean-square is cut to the threshold, then its component along the
    conditional branch is scaled by eta, in float64.
    """
    size = difference.square().mean().sqrt()
    if size > config.norm_threshold:
        difference = difference * (config.norm_threshold / size)
    along = conditional.double()
    share = (difference.double() * along).sum() / along.square().sum().clamp_min(1e-24)
    return difference - ((1 - config.eta) * share * along).to(difference.dtype)
