"""Counts what operations cost, as they are dispatched: arithmetic, traffic, and live memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from math import prod
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils.flop_counter import flop_registry

from istar.bench.cost import Cost

Holder = Literal["weights", "context", "decoder", "activations"]
"""What memory is held by: the networks; keys and values kept between steps; the input frames that
the decoder's convolutions remember; and everything else."""

_aten = torch.ops.aten
_ATTENTION = (
    _aten.scaled_dot_product_attention,
    _aten._scaled_dot_product_flash_attention_for_cpu,
)
_KERNELS_ON_CUDA = (_aten._fused_rms_norm,)
"""Operations that are one kernel there, and stand for others elsewhere."""
_WRITE_ONLY = (_aten.copy_, _aten.fill_, _aten.zero_)
_UNINITIALIZED = (_aten.empty, _aten.empty_like, _aten.empty_strided, _aten.new_empty)


@dataclass(kw_only=True)
class Part:
    """The cost of a piece of work that may be repeated.

    Attributes:
        flop: floating-point operations.
        moved_bytes: by element-wise work.
        rise: by how much memory rose above what was held when the piece began.
    """

    flop: int = 0
    moved_bytes: int = 0
    rise: int = 0


class Meter(TorchDispatchMode):
    """Counts every operation on a device while it is active.

    Memory is that of the tensors' storages, from the operation that makes one until the last
    tensor on it is gone; what an allocator rounds up and what a kernel needs for itself is not
    in it. Attention is one kernel, which keeps no scores.

    Args:
        device: whose memory and traffic count.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.passes = 0
        self._kind = device.type
        self._held: dict[int, tuple[weakref.ref[Any], int, Holder]] = {}
        self._bytes: dict[Holder, int] = dict.fromkeys(get_args(Holder), 0)
        self._live = 0
        self._flop = self._moved = self._peak = 0
        self._at_peak: dict[Holder, int] = {}
        self._composite: dict[Any, bool] = {}

    # The gauge

    def restart(self) -> None:
        """Begin a stretch."""
        self.passes = self._flop = self._moved = 0
        self._peak, self._at_peak = self._live, dict(self._bytes)

    def read(self) -> Cost:
        """The cost of the stretch so far."""
        return Cost(
            peak_bytes=self._peak,
            flop=self._flop,
            passes=self.passes,
            moved_bytes=self._moved,
            memory={str(holder): size for holder, size in self._at_peak.items()},
        )

    def assign(self, tensors: Iterable[Tensor], holder: Holder) -> None:
        """Count the memory of tensors, which need not have been made under this mode, as one's."""
        for tensor in tensors:
            self._hold(tensor, holder)

    def release(self, holder: Holder) -> None:
        """Count what was assigned to one as activations again."""
        for key, (storage, size, former) in self._held.items():
            if former == holder:
                self._held[key] = (storage, size, "activations")
        self._bytes["activations"] += self._bytes[holder]
        self._bytes[holder] = 0

    @contextmanager
    def part(self) -> Iterator[Part]:
        """Count what is done inside once more by itself; whole when the block ends."""
        part = Part()
        flop, moved, start = self._flop, self._moved, self._live
        peak, at_peak = self._peak, self._at_peak
        self._peak, self._at_peak = start, dict(self._bytes)
        yield part
        part.flop, part.moved_bytes = self._flop - flop, self._moved - moved
        part.rise = self._peak - start
        if peak >= self._peak:
            self._peak, self._at_peak = peak, at_peak

    def add(self, part: Part) -> None:
        """Count a piece of work that is not done again."""
        self._flop += part.flop
        self._moved += part.moved_bytes
        if self._live + part.rise > self._peak:
            self._peak = self._live + part.rise
            held = self._bytes["activations"] + part.rise
            self._at_peak = {**self._bytes, "activations": held}

    # Operations

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace != "aten":
            return func(*args, **kwargs)
        packet = func.overloadpacket
        if packet in _ATTENTION:
            out = func(*args, **kwargs)
            self._flop += _attention_flop(*args[:3])
        elif self._is_composite(func):
            # In inference mode an operation that stands for others comes whole. Those are the ones
            # of torch's compiled code: its decompositions in Python are other ones.
            with self:
                return func._op_dk(DispatchKey.CompositeImplicitAutograd, *args, **kwargs)
        else:
            out = func(*args, **kwargs)
            if packet is _aten.mkldnn_convolution:
                self._flop += 2 * prod(args[1].shape) * out.shape[0] * prod(out.shape[2:])
            elif packet in flop_registry:
                self._flop += flop_registry[packet](*args, **kwargs, out_val=out)
            else:
                self._moved += self._traffic(func, args, kwargs, out)
        for tensor in _flat(out):
            self._hold(tensor)
        return out

    def _is_composite(self, func: Any) -> bool:
        if func not in self._composite:
            is_kernel = self._kind == "cuda" and func.overloadpacket in _KERNELS_ON_CUDA
            self._composite[func] = (
                not is_kernel
                and torch._C._dispatch_has_kernel_for_dispatch_key(
                    func.name(), "CompositeImplicitAutograd"
                )
            )
        return self._composite[func]

    def _traffic(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
        """Bytes that an operation reads and writes on the device."""
        packet = func.overloadpacket
        if packet in _UNINITIALIZED:
            return 0
        reads = [*_flat(args), *_flat([v for name, v in kwargs.items() if name != "out"])]
        writes = list(_flat(out))
        if not func._schema.is_mutable:
            sources = {tensor.untyped_storage()._cdata for tensor in reads}
            if all(tensor.untyped_storage()._cdata in sources for tensor in writes):
                return 0  # a view
        elif packet in _WRITE_ONLY:
            reads = reads[1:]
        here = (tensor for tensor in (*reads, *writes) if tensor.device.type == self._kind)
        return sum(_own_bytes(tensor) for tensor in here)

    # Memory

    def _hold(self, tensor: Tensor, holder: Holder | None = None) -> None:
        if tensor.device.type != self._kind:
            return
        if is_traceable_wrapper_subclass(tensor):
            # Such as 8-bit weights: what it consists of has the memory.
            for name in tensor.__tensor_flatten__()[0]:
                self._hold(getattr(tensor, name), holder)
            return
        storage = tensor.untyped_storage()
        key = id(storage)
        known = self._held.get(key)
        if known is not None:
            reference, size, former = known
            if holder not in (None, former):
                assert holder is not None
                self._held[key] = (reference, size, holder)
                self._bytes[former] -= size
                self._bytes[holder] += size
            return
        size, holder = storage.nbytes(), holder or "activations"
        self._held[key] = (weakref.ref(storage, self._forgetter(key)), size, holder)
        self._bytes[holder] += size
        self._live += size
        if self._live > self._peak:
            self._peak, self._at_peak = self._live, dict(self._bytes)

    def _forgetter(self, key: int) -> Callable[[object], None]:
        def forget(_: object) -> None:
            _, size, holder = self._held.pop(key)
            self._bytes[holder] -= size
            self._live -= size

        return forget


def tensors_in(value: object) -> Iterator[Tensor]:
    """All tensors that an object holds, in tuples, lists, mappings, dataclasses or attributes."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors_in(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
    elif is_dataclass(value):
        yield from tensors_in([getattr(value, field.name) for field in fields(value)])
    elif hasattr(value, "__dict__"):
        yield from tensors_in(vars(value))


def _flat(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _flat(item)


def _own_bytes(tensor: Tensor) -> int:
    """The bytes of a tensor, what is expanded counted once."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return prod(size for size, stride in sizes if stride or not size) * tensor.element_size()


def _attention_flop(queries: Tensor, keys: Tensor, values: Tensor) -> int:
    """Of scores and sums; shared heads of keys and values count for each head of queries."""
    *batch, length, size = queries.shape
    return 2 * prod(batch) * length * keys.shape[-2] * (size + values.shape[-1])
