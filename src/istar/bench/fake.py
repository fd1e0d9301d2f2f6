"""A GPU that is not there: tensors that have a shape, a type and a device, and no values.

Everything runs as on CUDA, in the same Python code, and nothing is computed. Where that code asks
for a number, it gets a one, and for a yes or no a yes: outputs are finite, and guidance's two
branches differ enough to be limited.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from istar.errors import DeviceError

FAKE_DEVICE = torch.device("cuda", 0)

_aten = torch.ops.aten
_GUARDS = "_ZN3c104impl26device_guard_impl_registryE"
_CUDA, _META = 1, 14
"""Places of torch's device types in its registry."""


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Inside, tensors have no values, and there is a CUDA device.

    Raises:
        DeviceError: this build of torch cannot do without a real one.
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        # torch.autocast remarks that there is no CUDA.
        warnings.filterwarnings("ignore", message=".*CUDA is not available", category=UserWarning)
        _allow_cuda_tensors()
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_Assumptions())  # type: ignore[no-untyped-call]
        yield


class _Assumptions(TorchDispatchMode):
    """Answers what a tensor without values cannot."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is _aten._local_scalar_dense.default:
            dtype = args[0].dtype
            return True if dtype == torch.bool else 1.0 if dtype.is_floating_point else 1
        if func is _aten.copy_.default and args[0].device != args[1].device:
            return args[0]
        if func is _aten._to_copy.default and _moves(args[0], kwargs):
            return torch.empty_like(args[0], **{"memory_format": None, **(kwargs or {})})
        if func is _aten.scaled_dot_product_attention.default:
            return _attended(*args[:3])
        if func is _aten._fused_rms_norm.default:
            return _normed(args[0], args[1])
        return func(*args, **(kwargs or {}))


def _moves(tensor: Tensor, settings: Mapping[str, Any] | None) -> bool:
    """Whether a copy of a tensor goes to another kind of device."""
    device = (settings or {}).get("device")
    return device is not None and torch.device(device).type != tensor.device.type


def _attended(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """What a fused kernel returns: `(B, H, L, D)`, laid out in memory as `(B, L, H, D)`."""
    batch, heads, length = queries.shape[:3]
    out = queries.new_empty((batch, length, heads, values.shape[-1]))
    return out.transpose(1, 2)


def _normed(x: Tensor, normed_shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """What the norm's kernel returns: the same shape, and a float32 scale for each place."""
    kept = x.shape[: x.ndim - len(normed_shape)]
    scale = x.new_empty((*kept, *(1 for _ in normed_shape)), dtype=torch.float32)
    return torch.empty_like(x), scale


def _allow_cuda_tensors() -> None:
    """Let a build of torch without CUDA have fake tensors on it.

    Indexing and a few more functions make a tensor's device the current one first. A build with
    CUDA can do that, or is taught by `FakeTensorMode` to do nothing instead; a build without has
    no entry for the device, and gets the one of the meta device, which does nothing.

    Raises:
        DeviceError: torch's registry is not where it was expected.
    """
    if torch.version.cuda is not None:
        return
    try:
        library = next((Path(torch.__file__).parent / "lib").glob("*c10.*"))
        registry = (ctypes.c_void_p * (_META + 1)).in_dll(ctypes.CDLL(str(library)), _GUARDS)
    except (StopIteration, OSError, ValueError) as error:
        raise DeviceError("without a GPU this needs a build of torch with CUDA") from error
    if registry[_CUDA] is None:
        registry[_CUDA] = registry[_META]
