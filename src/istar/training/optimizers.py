"""The optimizers: AdamW for all weights, or Muon for the hidden matrices.

Muon steps a matrix along the nearest orthogonal one to its averaged gradient, so that all of its
directions learn at one pace. Sources: AdamW (arXiv 1711.05101); Muon (K. Jordan and others, 2024)
and "Muon is Scalable for LLM Training" (arXiv 2502.16982), whose scaling makes its steps as long as
AdamW's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from istar.errors import UsageError
from istar.training.config import RunConfig

Optimizers = tuple[torch.optim.Optimizer, ...]
"""Each has a part of the network's weights; a step of a run is one step of each."""


def build_optimizers(network: nn.Module, hidden: Sequence[Tensor], config: RunConfig) -> Optimizers:
    """The optimizers that the run asks for.

    Weight decay is for matrices and kernels, not for gains and biases.

    Args:
        network: all that learns.
        hidden: its matrices `(out, in)` between hidden states, for Muon.

    Raises:
        UsageError: Muon is asked for and the network has no such matrix, or torch is too old.
    """
    muon = config.optimizer == "muon"
    if muon and not hidden:
        raise UsageError(
            'run: optimizer "muon" is for the matrices of transformer blocks, and this network has '
            'none; use "adamw"'
        )
    if muon and not hasattr(torch.optim, "Muon"):
        raise UsageError(f'run: optimizer "muon" needs torch 2.9 or newer, not {torch.__version__}')
    apart = set(hidden) if muon else set()
    others = [p for p in network.parameters() if p not in apart]
    groups = [
        {"params": [p for p in others if p.numel() > len(p)], "weight_decay": config.weight_decay},
        {"params": [p for p in others if p.numel() == len(p)], "weight_decay": 0.0},
    ]
    if not muon:
        return (torch.optim.AdamW(groups, betas=config.betas),)
    return (
        # torch.distributed.checkpoint takes no empty group where there are two optimizers.
        torch.optim.AdamW([group for group in groups if group["params"]], betas=config.betas),
        torch.optim.Muon(hidden, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"),
    )


def linear_weights(modules: Iterable[nn.Module]) -> list[Tensor]:
    """The matrices of all linear layers in some modules, without embedding tables."""
    return [
        layer.weight
        for module in modules
        for layer in module.modules()
        if isinstance(layer, nn.Linear)
    ]
