"""Guidance: the conditional and the unconditional branch's logits become one."""

from __future__ import annotations

from torch import Tensor

from istar.weights.registry import GuidanceConfig


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
