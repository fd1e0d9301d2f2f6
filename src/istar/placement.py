"""Where the networks compute, and in which numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import get_args

import torch

from istar.errors import DeviceError, Remedy, UsageError
from istar.model_spec import EightBitType, FloatType, Precision
from istar.plurals import counted
from istar.transformer.eight_bit import TYPES, kind_of
from istar.transformer.model import Transformer

_GPU_IS_FULL = ("out of memory", "alloc_failed")
"""What CUDA and its libraries say, pinned memory included."""

DTYPES: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Which device, and which numbers.

    Attributes:
        device: where all three networks compute.
        dtype: what the transformer computes in; its heads, and what encodes pictures, are float32
            in any case.
        eight_bit: the type of the linear weights in the transformer's blocks; None: `dtype`.

    Example:
        >>> Placement.choose("cpu").dtype
        torch.float32
    """

    device: torch.device
    dtype: torch.dtype
    eight_bit: EightBitType | None = None

    @classmethod
    def choose(
        cls,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype | None = None,
    ) -> Placement:
        """The placement asked for; by default bf16 on CUDA where there is one, fp32 on the CPU.

        Args:
            device: `auto`, `cuda`, `cuda:N` or `cpu`.
            dtype: `bf16` or `fp32`; or `int8` or `fp8`, with everything but the blocks' linear
                weights in the device's usual dtype.

        Raises:
            UsageError: an unknown device or dtype.
            DeviceError: CUDA was asked for and is not there.
        """
        return cls.on(choose_device(device), dtype)

    @classmethod
    def on(cls, device: torch.device, dtype: str | torch.dtype | None = None) -> Placement:
        """The placement on a device, which need not be there; as `choose`.

        Raises:
            UsageError: an unknown dtype.
        """
        eight_bit = next((kind for kind in TYPES if kind == dtype), None)
        number_type = choose_dtype(None if eight_bit else dtype, device)
        return cls(device=device, dtype=number_type, eight_bit=eight_bit)

    @property
    def precision(self) -> Precision:
        """What the placement is called: `int8`, `fp8`, or its dtype's name."""
        return self.eight_bit or dtype_name(self.dtype)

    @property
    def decoding_dtype(self) -> torch.dtype:
        """bf16 on CUDA as in the released reference, unless fp32 was asked for; else float32."""
        half = self.device.type == "cuda" and self.dtype != torch.float32
        return torch.bfloat16 if half else torch.float32

    @property
    def text_encoder_dtype(self) -> torch.dtype:
        """float16 on CUDA as in the released reference, unless fp32 was asked for; else float32."""
        half = self.device.type == "cuda" and self.dtype != torch.float32
        return torch.float16 if half else torch.float32


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """The device of a name: `auto` is CUDA where there is one, else the CPU.

    Raises:
        UsageError: neither auto, cuda, cuda:N nor cpu.
        DeviceError: CUDA was asked for and is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device is auto, cuda, cuda:N or cpu, not {name!r}") from error
    if device.type not in ("cuda", "cpu"):
        raise UsageError(f"device is auto, cuda, cuda:N or cpu, not {str(name)!r}")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise DeviceError("there is no usable CUDA device", remedies=("cpu",))
        if (device.index or 0) >= torch.cuda.device_count():
            raise DeviceError(
                f"there is no {device}; this machine has "
                f"{counted(torch.cuda.device_count(), 'CUDA device')}"
            )
    return device


def choose_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype asked for; without one bf16 on CUDA and fp32 on the CPU.

    Raises:
        UsageError: neither bf16 nor fp32.
    """
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found is None or found not in DTYPES.values():
        raise UsageError(f"dtype is one of {', '.join((*DTYPES, *TYPES))}, not {dtype}")
    return found


def dtype_name(dtype: torch.dtype) -> FloatType:
    """What a dtype is called here: `bf16` or `fp32`."""
    return next(name for name in get_args(FloatType) if DTYPES[name] == dtype)


def precision_of(transformer: Transformer) -> Precision:
    """The type of a transformer's numbers, by the name that a person chooses."""
    return kind_of(transformer) or dtype_name(transformer.dtype)


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Convolutions in full float32 on CUDA, which rounds their inputs to TF32 by default.

    torch has one such setting for the whole process; it is restored afterwards.
    """
    cudnn = torch.backends.cudnn
    # Since torch 2.9 each operation has its own, and reading the old one for all may fail.
    place, name, exact = (
        (cudnn.conv, "fp32_precision", "ieee")
        if hasattr(cudnn, "conv")
        else (cudnn, "allow_tf32", False)
    )
    before = getattr(place, name)
    setattr(place, name, exact)
    try:
        yield
    finally:
        setattr(place, name, before)


def memory_failure(error: BaseException, what: str) -> DeviceError | None:
    """The error to raise where an allocation failed; None of any other error.

    It holds no tensor of the work that failed.

    Args:
        error: what was raised.
        what: was being done.
    """
    text = str(error).lower() if isinstance(error, RuntimeError) else ""
    if isinstance(error, torch.OutOfMemoryError) or any(words in text for words in _GPU_IS_FULL):
        memory = "the GPU's memory"
    elif isinstance(error, MemoryError) or "can't allocate memory" in text:
        memory = "memory"
    else:
        return None
    remedies: tuple[Remedy, ...] = ("int8", "lower_resolution", "fewer_seconds")
    failure = DeviceError(f"{memory} ran out while {what}", remedies=remedies)
    failure.__cause__ = error.with_traceback(None)
    return failure
