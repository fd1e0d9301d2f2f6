"""A transformer's parameters, its blocks' linear weights in 8 bits, one by one as they are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from istar.checkpoint.names import EIGHT_BIT_SCALES
from istar.model_spec import EightBitType
from istar.transformer.eight_bit import (
    TYPES,
    EightBitParts,
    assembled,
    is_eight_bit,
    quantized,
)


def in_eight_bits(
    parameters: Iterable[tuple[str, Tensor]], kind: EightBitType
) -> Iterator[tuple[str, Tensor | EightBitParts]]:
    """Parameters as they are, and the parts of each 8-bit weight once both are known.

    No more than one weight is held in full.

    Args:
        parameters: by our names. Weights that are to have 8 bits are float32, or of a copy, whose
            scales come before or after them.
        kind: of the numbers.

    Raises:
        DeviceError: torchao cannot be used.
    """
    waiting: dict[str, Tensor] = {}
    for name, value in parameters:
        weight = name.removesuffix(EIGHT_BIT_SCALES)
        if not is_eight_bit(weight):
            yield name, value
        elif weight == name and value.dtype != TYPES[kind]:
            yield name, quantized(value, kind)
        else:
            waiting[name] = value
            scales = weight + EIGHT_BIT_SCALES
            if weight in waiting and scales in waiting:
                yield weight, EightBitParts(waiting.pop(weight), waiting.pop(scales))


def whole_weights(
    parameters: Iterable[tuple[str, Tensor | EightBitParts]], dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """Parameters, each 8-bit weight as one that computes with activations of a dtype."""
    for name, value in parameters:
        yield name, assembled(value, dtype) if isinstance(value, EightBitParts) else value


def plain_tensors(
    parameters: Iterable[tuple[str, Tensor | EightBitParts]],
) -> Iterator[tuple[str, Tensor]]:
    """Parameters as a file holds them."""
    for name, value in parameters:
        if isinstance(value, EightBitParts):
            yield name, value.numbers
            yield name + EIGHT_BIT_SCALES, value.scales
        else:
            yield name, value
