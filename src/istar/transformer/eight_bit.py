"""Linear weights in 8 bits: torchao's tensors, and the plain ones that they consist of.

A weight `(out, in)` becomes as many 8-bit numbers and one float32 scale for each of its rows. It is
computed with in the dtype of the activations, for which it is multiplied out while it is needed:
8 bits save memory, and no time. The scales come from the float32 weight, so that the parts are the
same wherever, and in whatever dtype, they are computed with.

Importing torchao takes as long as importing torch, so only asking for 8 bits does it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from istar.errors import DeviceError
from istar.model_spec import EightBitType
from istar.transformer.model import Transformer

TYPES: dict[EightBitType, torch.dtype] = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
"""The numbers of each kind."""

_LOUD = ("torchao", "torch.utils._pytree")


class EightBitParts(NamedTuple):
    """What an 8-bit weight consists of.

    Attributes:
        numbers: `(out, in)`, of one of `TYPES`.
        scales: `(out, 1)`, float32; a row's numbers times its scale are its weights.
    """

    numbers: Tensor
    scales: Tensor


def is_eight_bit(name: str) -> bool:
    """Whether a transformer's parameter is one that has 8 bits: a block's linear weight."""
    return name.startswith("blocks.") and "norm." not in name


def kind_of(transformer: Transformer) -> EightBitType | None:
    """The kind of a transformer's 8-bit weights; None if it has none."""
    weight = transformer.blocks[0].get_parameter("mlp.up.weight").data
    if not is_traceable_wrapper_subclass(weight):
        return None
    numbers = getattr(weight, weight.__tensor_flatten__()[0][0])
    return next(kind for kind, dtype in TYPES.items() if dtype == numbers.dtype)


def quantized(weight: Tensor, kind: EightBitType) -> EightBitParts:
    """The parts of a weight `(out, in)`, float32, on its device.

    Raises:
        DeviceError: torchao cannot be used.
    """
    torchao = _torchao()
    if kind == "int8":
        made = torchao.Int8Tensor.from_hp(weight, torchao.PerRow())
    else:
        # Whatever the device offers, the same numbers.
        made = torchao.Float8Tensor.from_hp(
            weight, TYPES[kind], torchao.PerRow(), kernel_preference="torch"
        )
    return EightBitParts(made.qdata, made.scale)


def assembled(parts: EightBitParts, dtype: torch.dtype) -> Tensor:
    """The weight that `torch.nn.Linear` computes with, of activations of a dtype.

    Raises:
        DeviceError: torchao cannot be used.
    """
    torchao = _torchao()
    row = [1, parts.numbers.shape[1]]
    if parts.numbers.dtype == TYPES["int8"]:
        whole: Tensor = torchao.Int8Tensor(parts.numbers, parts.scales, row, dtype)
    else:
        whole = torchao.Float8Tensor(parts.numbers, parts.scales, block_size=row, dtype=dtype)
    return whole


@cache
def _torchao() -> ModuleType:
    """torchao's quantization."""
    try:
        with _silenced():
            import torchao.quantization
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise DeviceError(
            f"8-bit weights need torchao, and it cannot be imported with torch {torch.__version__}"
            f": {reason}",
            remedies=("half_precision",),
        ) from error
    return torchao.quantization


@contextmanager
def _silenced() -> Iterator[None]:
    """Log no warnings about what torchao's import meets: parts for other devices, and its habits.

    It warns of every compiled part that does not load, and we need none of them.
    """
    loggers = [logging.getLogger(name) for name in _LOUD]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
