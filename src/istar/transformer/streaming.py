"""Blocks whose weights lie in host memory and come to the device when they are needed.

A block's weights are one buffer in host memory. The device has a few slots of that size; while
one block computes, the next ones are copied into the other slots. A pass visits every block once,
in order, so the copies go round: behind the last block the first is next.

The order of events, for every slot:

1. `Copies.begin`: a block's buffer is to be copied into the slot. The copy waits until the slot is
   free, the caller does not.
2. `Copies.await_copy`: all that is computed from now on waits for the copy.
3. The block computes with the weights in the slot.
4. `Copies.free`: when all that was computed until now is done, the slot is free; then 1 again.

The device's copy of a block is thrown away: weights do not change, so nothing is copied back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from istar.transformer.model import Transformer

_ALIGNMENT = 256


class Copies(Protocol):
    """Copies of buffers into slots; the module's text states the order of the calls."""

    def begin(self, slot: int, source: Tensor, target: Tensor) -> None:
        """Copy `source` into `target`, the slot's memory, once the slot is free.

        A slot is free at first, and after `free` when what was computed before it is done. Of two
        copies into one slot the second waits for the first. May return before the copy is made.
        """

    def await_copy(self, slot: int) -> None:
        """Let all that is computed from now on wait for the slot's last copy."""

    def free(self, slot: int) -> None:
        """Let the slot's next copy wait for all that was computed until now."""


class ImmediateCopies:
    """Copies that are made when they are asked for, where nothing is computed meanwhile."""

    def begin(self, slot: int, source: Tensor, target: Tensor) -> None:
        """Copy now."""
        target.copy_(source)

    def await_copy(self, slot: int) -> None:
        """The copy was made in `begin`."""

    def free(self, slot: int) -> None:
        """What was computed until now is done."""


class CudaCopies:
    """Copies on a CUDA stream of their own, beside the stream that computes.

    Two events of a slot order the streams: the copying stream waits for `free`, the computing one
    for `copied`. The host waits for neither.
    """

    def __init__(self, device: torch.device, slots: Sequence[Tensor]) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._copied = [torch.cuda.Event() for _ in slots]
        self._free = [torch.cuda.Event() for _ in slots]
        for number, slot in enumerate(slots):
            # A slot's memory may be that of a tensor which is still computed with.
            self.free(number)
            # It is not given to others before the last copy into it is made.
            slot.record_stream(self._stream)

    def begin(self, slot: int, source: Tensor, target: Tensor) -> None:
        """Enqueue the copy; it overlaps with computing if the source is pinned."""
        self._stream.wait_event(self._free[slot])
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
        self._copied[slot].record(self._stream)

    def await_copy(self, slot: int) -> None:
        """The computing stream waits for the copy."""
        torch.cuda.current_stream(self._device).wait_event(self._copied[slot])

    def free(self, slot: int) -> None:
        """The slot is free when the computing stream has come to this point."""
        self._free[slot].record(torch.cuda.current_stream(self._device))


class Slot(NamedTuple):
    """Memory on the device for one block.

    Attributes:
        memory: bytes, as long as a block's buffer.
        block: computes with them.
    """

    memory: Tensor
    block: nn.Module


class _Coming(NamedTuple):
    """A block whose copy has begun and which has not yet been asked for."""

    number: int
    slot: int


class StreamedBlocks(nn.ModuleList):
    """Blocks in host memory; iterating gives each in turn as a module on the device.

    A block that is given is whole until the next one is asked for. The members, parameters and
    state dict are those in host memory, and of resident blocks those on the device. A pass that
    was left in the middle is forgotten when the next begins; two at a time are not possible.

    Args:
        blocks: alike; the weights of those not resident are `buffers`' views.
        buffers: of every block that is not resident, by its number, the weights in host memory.
        slots: memory on the device, each as large as a buffer, and the block that computes with it.
        copies: make the copies.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        buffers: Mapping[int, Tensor],
        slots: Sequence[Slot],
        copies: Copies,
    ) -> None:
        super().__init__(blocks)
        self._buffers_of = dict(buffers)
        self._slots = tuple(
            slots
        )  # not in a ModuleList: the slots' weights are nobody's parameters
        self._copies = copies
        self._order = list(self._buffers_of)
        self._coming: deque[_Coming] = deque()
        self._computing: int | None = None

    @property
    def memories(self) -> tuple[Tensor, ...]:
        """The slots' memory on the device."""
        return tuple(slot.memory for slot in self._slots)

    def __iter__(self) -> Iterator[nn.Module]:
        """Every block in order, each on the device."""
        self._rewind()
        streamed = 0
        for number, block in enumerate(super().__iter__()):
            if number not in self._buffers_of:
                yield block
                continue
            slot = self._coming.popleft().slot
            self._copies.await_copy(slot)
            self._computing = slot
            yield self._slots[slot].block
            self._computing = None
            self._copies.free(slot)
            # The slots hold what comes next; this one is for what comes after.
            streamed += 1
            self._begin(slot, self._order[(streamed + len(self._coming)) % len(self._order)])

    def _rewind(self) -> None:
        """See to it that the first blocks are those that come next."""
        if [coming.number for coming in self._coming] == self._order[: len(self._slots)]:
            return
        # This is the first pass, or the last one was left in the middle.
        if self._computing is not None:
            self._copies.free(self._computing)
            self._computing = None
        self._coming.clear()
        for slot, number in enumerate(self._order[: len(self._slots)]):
            self._begin(slot, number)

    def _begin(self, slot: int, number: int) -> None:
        """Begin to copy a block into a free slot."""
        self._copies.begin(slot, self._buffers_of[number], self._slots[slot].memory)
        self._coming.append(_Coming(number, slot))


def copies_for(device: torch.device, memories: Sequence[Tensor]) -> Copies:
    """What copies into the slots of a device."""
    return CudaCopies(device, memories) if _has(device) else ImmediateCopies()


def stream_blocks(
    transformer: Transformer,
    device: torch.device,
    *,
    resident: int = 0,
    slots: int = 2,
    make_copies: Callable[[torch.device, Sequence[Tensor]], Copies] = copies_for,
) -> None:
    """Let a transformer in host memory compute on a device which holds only some of its blocks.

    Args:
        transformer: on the host, its weights frozen; it is changed.
        device: where it computes. With CUDA the host's buffers are pinned, and torch rounds the
            size of each up to a power of two.
        resident: how many blocks lie on the device for good, spread evenly.
        slots: for how many others the device has room, one that computes and those that are being
            copied; at least 1.
        make_copies: from the device and the slots' memory.
    """
    blocks = list(transformer.blocks)
    stay = resident_numbers(len(blocks), resident)
    buffers: dict[int, Tensor] = {}
    # Tensors made in inference mode could not be copied into outside of it.
    with torch.inference_mode(False), torch.no_grad():
        # 1. What is in no block goes to the device.
        for name, child in transformer.named_children():
            if name != "blocks":
                move(child, device)
        transformer.unconditional.data = transformer.unconditional.to(device)
        # 2. So do the blocks that stay; every other's weights move into a buffer of its own.
        for number, block in enumerate(blocks):
            if number in stay:
                move(block, device)
            else:
                buffers[number] = torch.empty(
                    packed_size(block), dtype=torch.uint8, pin_memory=_has(device)
                )
                blocks[number] = packed(block, buffers[number], copy=True)
                transformer.blocks[number] = blocks[number]
        # 3. A slot has memory like a buffer's, and a block whose weights are views of it.
        first = next(iter(buffers), 0)
        memories = [
            torch.empty_like(buffers[first], device=device, pin_memory=False)
            for _ in range(min(slots, len(buffers)))
        ]
        ready = [Slot(memory, packed(blocks[first], memory, copy=False)) for memory in memories]
    transformer.blocks = StreamedBlocks(blocks, buffers, ready, make_copies(device, memories))


def _has(device: torch.device) -> bool:
    """Whether it is CUDA, and there: tensors without values may be on a device that is not."""
    return device.type == "cuda" and torch.cuda.is_available()


def resident_numbers(depth: int, resident: int) -> frozenset[int]:
    """Which of so many blocks lie on the device for good, spread evenly."""
    resident = min(resident, depth)
    return frozenset(number * depth // resident for number in range(resident))


def move(module: nn.Module, device: torch.device) -> None:
    """Put a module's frozen weights on a device."""
    for name, weight in [*module.named_parameters()]:
        if weight.device != device:
            owner, _, attribute = name.rpartition(".")
            moved = nn.Parameter(weight.to(device), requires_grad=False)
            setattr(module.get_submodule(owner), attribute, moved)


def packed_size(module: nn.Module) -> int:
    """The bytes of a buffer that holds a module's weights."""
    weights = (*module.parameters(), *module.buffers())
    return sum(_room(tensor) for weight in weights for tensor in _plain(weight))


def packed(module: nn.Module, buffer: Tensor, *, copy: bool) -> nn.Module:
    """A copy of a module whose weights are views of a buffer.

    Args:
        module: its weights are not changed.
        buffer: `packed_size(module)` bytes, on any device.
        copy: copy the weights into it.
    """
    start = 0

    def moved(tensor: Tensor) -> Tensor:
        nonlocal start
        if is_traceable_wrapper_subclass(tensor):
            # Such as quantized weights, which consist of several tensors.
            names, rest = tensor.__tensor_flatten__()
            parts = {name: moved(getattr(tensor, name)) for name in names}
            whole: Tensor = type(tensor).__tensor_unflatten__(
                parts, rest, tensor.size(), tensor.stride()
            )
            return whole
        view = buffer[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        start += _room(tensor)
        return view.copy_(tensor) if copy else view

    instead: dict[int, object] = {
        id(weight): nn.Parameter(moved(weight), requires_grad=False)
        for weight in module.parameters()
    }
    instead |= {id(weight): moved(weight) for weight in module.buffers()}
    return deepcopy(module, instead)


def _plain(tensor: Tensor) -> Iterator[Tensor]:
    """The tensors that a tensor consists of: itself, unless it wraps others."""
    if is_traceable_wrapper_subclass(tensor):
        for name in tensor.__tensor_flatten__()[0]:
            yield from _plain(getattr(tensor, name))
    else:
        yield tensor


def _room(tensor: Tensor) -> int:
    """The bytes of a tensor in a buffer, so that the next begins where any type may."""
    return -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
