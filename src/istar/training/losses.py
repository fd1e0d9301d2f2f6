"""The transformer's loss: the cross-entropy of every bit, small scales weighing more."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from istar.training.packing import PackedBatch
from istar.training.sequences import DETAIL, SEMANTIC


class BitLoss(NamedTuple):
    """The loss of a batch and its correct bits.

    Attributes:
        weighted: sum over tokens of weight × mean over its bits of bit weight × cross-entropy, in
            nats.
        weight: sum of the weights.
        right: by scale, of how many bits the likelier value is the true one.
        bits: by scale, how many bits there are.
    """

    weighted: Tensor
    weight: Tensor
    right: Tensor
    bits: Tensor


def bit_loss(semantic: Tensor, detail: Tensor, batch: PackedBatch, *, scales: int) -> BitLoss:
    """The loss of a batch.

    Args:
        semantic: logits `(S, d, 2)` of its semantic tokens in order.
        detail: likewise `(D, C, 2)` of its detail tokens.
        batch: on the logits' device.
        scales: how many scales there are.
    """
    weighted = semantic.new_zeros(())
    right = semantic.new_zeros(scales)
    bits = semantic.new_zeros(scales)
    for logits, kind in ((semantic, SEMANTIC), (detail, DETAIL)):
        own = batch.kind == kind
        width = logits.shape[1]
        targets = batch.targets[own][:, :width]
        difference = logits[..., 1] - logits[..., 0]
        entropy = F.binary_cross_entropy_with_logits(
            difference, targets.to(difference.dtype), reduction="none"
        )
        entropy = entropy * batch.bit_weight[own][:, :width]
        weighted = weighted + (entropy.mean(-1) * batch.weight[own]).sum()
        hits = ((difference > 0) == targets).sum(-1).to(right.dtype)
        right = right.index_add(0, batch.scale[own], hits)
        bits = bits.index_add(0, batch.scale[own], torch.full_like(hits, width))
    return BitLoss(weighted, batch.weight.sum(), right.detach(), bits)
