"""Modules that compute the same thing many times, counted once.

A generation passes each of the transformer's blocks a hundred times, with a few dozen different
shapes. On tensors without values the second pass of a shape can only do what the first one did, so
its cost is added, and outputs of the same shapes are handed out.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from istar.bench.meter import Meter, Part


class _Output(NamedTuple):
    """A tensor that a call returned: where its storage comes from, and how it lies in it.

    Attributes:
        source: which of the inputs it shares its storage with; else None.
        storage: which of the new storages it lies in, numbered through.
        storage_bytes: the size of that.
    """

    source: int | None
    storage: int
    storage_bytes: int
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype


@dataclass(frozen=True, kw_only=True)
class _Call:
    """What a call cost and returned: tensors, or None in their place."""

    part: Part
    outputs: tuple[_Output | None, ...]
    structure: TreeSpec


@contextmanager
def replayed(kind: type[nn.Module], meter: Meter) -> Iterator[None]:
    """Inside, modules of a kind compute once for every form of their inputs.

    Args:
        kind: its modules are of the same sizes and types.
        meter: is active, and receives the cost of what is not computed.
    """
    forward, calls = kind.forward, dict[Hashable, _Call | None]()

    def remembering(module: nn.Module, *arguments: Any, **settings: Any) -> Any:
        leaves, structure = tree_flatten((arguments, settings))
        form = (str(structure), *_forms(leaves))
        call = calls.get(form)
        if call is not None:
            meter.add(call.part)
            return tree_unflatten(_made_again(call.outputs, leaves), call.structure)
        with meter.part() as part:
            result = forward(module, *arguments, **settings)
        if form not in calls:
            calls[form] = _described(leaves, result, part)
        return result

    kind.forward = remembering
    try:
        yield
    finally:
        kind.forward = forward


def _forms(leaves: list[Any]) -> Iterator[Hashable]:
    """The shape, type and place of every tensor; equal storages have equal numbers."""
    numbers: dict[int, int] = {}
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            storage = numbers.setdefault(id(leaf.untyped_storage()), len(numbers))
            yield leaf.shape, leaf.stride(), leaf.storage_offset(), leaf.dtype, storage
        else:
            yield leaf


def _described(leaves: list[Any], result: Any, part: Part) -> _Call | None:
    """A call to be replayed; None where it returned more than tensors, or two types in one."""
    sources = {
        id(leaf.untyped_storage()): number
        for number, leaf in enumerate(leaves)
        if isinstance(leaf, Tensor)
    }
    values, structure = tree_flatten(result)
    numbers: dict[int, int] = {}
    types: dict[int, torch.dtype] = {}
    outputs: list[_Output | None] = []
    for value in values:
        if value is None:
            outputs.append(None)
            continue
        if not isinstance(value, Tensor):
            return None
        storage = value.untyped_storage()
        source = sources.get(id(storage))
        made_as = value.dtype if source is None else leaves[source].dtype
        if types.setdefault(id(storage), made_as) != value.dtype:
            return None
        outputs.append(
            _Output(
                source,
                numbers.setdefault(id(storage), len(numbers)),
                storage.nbytes(),
                value.shape,
                value.stride(),
                int(value.storage_offset()),
                value.dtype,
            )
        )
    return _Call(part=part, outputs=tuple(outputs), structure=structure)


def _made_again(outputs: tuple[_Output | None, ...], leaves: list[Any]) -> list[Tensor | None]:
    device = next(leaf.device for leaf in leaves if isinstance(leaf, Tensor))
    storages: dict[int, Tensor] = {}
    result: list[Tensor | None] = []
    for output in outputs:
        if output is None:
            result.append(None)
            continue
        base = storages.get(output.storage)
        if base is None:
            if output.source is not None:
                base = leaves[output.source]
            else:
                count = output.storage_bytes // output.dtype.itemsize
                base = torch.empty(count, dtype=output.dtype, device=device)
            storages[output.storage] = base
        result.append(base.as_strided(output.shape, output.stride, output.offset))
    return result
