"""Keys and values that wait in host memory, a layer of which comes to the device at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from istar.transformer.cache import Context
from istar.transformer.config import TransformerConfig
from istar.transformer.model import Transformer
from istar.transformer.rope import rotation
from istar.transformer.rows import Row, RowOutput
from live_bytes import LiveBytes

LENGTHS = (3, 7, 3, 2)
"""Tokens of the runs that are looked back at."""


class OnHost(Tensor):
    """A tensor as a device sees host memory: it can be looked at in parts and copied, no more."""

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = function.__name__
        plain = [one.as_subclass(Tensor) if isinstance(one, OnHost) else one for one in args]
        result = function(*plain, **(kwargs or {}))
        if name in ("__getitem__", "expand"):
            return result.as_subclass(cls)
        assert name in ("to", "copy_", "__get__"), f"{name} of host memory"
        assert name != "copy_" or not isinstance(args[0], OnHost)
        return result


@pytest.fixture(autouse=True)
def host_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Host memory that is known from the CPU's, on which these tests compute."""
    monkeypatch.setattr("istar.transformer.cache.in_host_memory", lambda x: x.as_subclass(OnHost))


def row(random: torch.Generator, length: int, *contexts: Context) -> Row:
    where = torch.randint(0, 20, (length, 4), generator=random)
    return Row(torch.randn(1, length, 32, generator=random), rotation(where, 8), contexts)


def lies_on_host(context: Context) -> bool:
    (found,) = {isinstance(part, OnHost) for layer in context for part in layer}
    return found


def looking_back(model: Transformer, *, together: bool) -> tuple[list[Context], list[RowOutput]]:
    """Two rows of one step, and the contexts that they see: kept, or read without predicting."""
    random = torch.Generator().manual_seed(4)
    rows = [row(random, length) for length in LENGTHS]
    contexts = [out.context for out in model(rows[:2], keep=True, together=together)]
    contexts += model.keys_values(rows[2:], together=together)
    one, two, three, four = (context for context in contexts if context is not None)
    first = row(random, 5, one, two)
    second = first._replace(x=first.x + 1, contexts=(three, two))
    alone = row(random, 4, four)
    return [one, two, three, four], model((first, second, alone), keep=True, together=together)


@pytest.mark.parametrize("with_gradients", [False, True])
@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("from_tokens", [1, 3, 7, 8])
def test_where_contexts_lie_changes_nothing(
    transformer: Transformer, from_tokens: int, together: bool, with_gradients: bool
) -> None:
    with torch.set_grad_enabled(with_gradients):
        _, expected = looking_back(transformer, together=together)
        transformer.host_contexts_from = from_tokens
        contexts, found = looking_back(transformer, together=together)
    lie = [lies_on_host(context) for context in contexts]
    assert lie == [length >= from_tokens for length in LENGTHS]
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.x, theirs.x)
        assert ours.context is not None
        assert theirs.context is not None
        for one, two in zip(ours.context, theirs.context, strict=True):
            assert all(torch.equal(a.as_subclass(Tensor), b) for a, b in zip(one, two, strict=True))


def peak(model: Transformer, *, sees: bool, keep: bool) -> int:
    """The most bytes on the device while two rows pass; some see contexts, some are kept."""
    with torch.device("meta"):
        turn = rotation(torch.empty(100, 4), 8)
        x = torch.empty(1, 100, 32)
        with torch.inference_mode(), LiveBytes(torch.device("meta")) as live:
            rows = [Row(x, turn)] * 2
            if sees:
                kept = [out.context for out in model(rows, keep=True)]
                live.peak = live.now
                rows = [Row(x, turn, (context,)) for context in kept if context is not None]
                del kept
            model(rows, keep=keep)
    return live.peak


@pytest.mark.parametrize(("sees", "keep"), [(True, False), (False, True)])
def test_a_layer_of_them_is_on_the_device_at_a_time(
    small_config: TransformerConfig, sees: bool, keep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.device("meta"):
        model = Transformer(small_config).requires_grad_(False)
    # One layer of both rows' keys and values.
    layer = 2 * 2 * 100 * small_config.key_value_heads * small_config.head_size * 4
    none, on_device = peak(model, sees=False, keep=False), peak(model, sees=sees, keep=keep)
    monkeypatch.setattr(
        "istar.transformer.cache.in_host_memory", lambda x: torch.empty_like(x, device="cpu")
    )
    model.host_contexts_from = 1
    on_host = peak(model, sees=sees, keep=keep)
    assert on_device >= none + (small_config.depth - 1) * layer
    assert on_host <= none + layer
