"""Bytes that one block of the released size moves and holds, counted on fake tensors."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from istar.transformer.block import Block
from istar.transformer.cache import KeysValues
from istar.transformer.config import TransformerConfig
from istar.transformer.rope import rotation
from istar.transformer.rows import LayerRow

SEEN, TOKENS = 3700, 72_000  # text and the image clip's last scale; 20 latent frames of 720p
ROWS_AT_ONCE = 8192
TOKEN_PASSES = 2 * 244_197 * 36  # of one block, in five seconds of 720p
PRODUCTS = {"linear", "mm", "addmm", "bmm", "matmul"}


class Count(TorchDispatchMode):
    """Bytes read and written by all but matrix products, and the most that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.traffic = self.alive = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        reads = [t for t in tree_leaves(args) if isinstance(t, Tensor)]
        writes = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        is_view = not function._schema.is_mutable and any(
            storage_of(one) == storage_of(two) for one in reads for two in writes
        )
        space, name = function._schema.name.split("::")
        moves = name not in PRODUCTS and name not in ("empty", "new_empty", "empty_like")
        if space == "aten" and moves and not is_view:
            if name == "copy_":
                reads = reads[1:]  # what is overwritten is not read
            self.traffic += sum(t.nbytes for t in (*reads, *writes))
        for tensor in writes:
            self.watch(tensor)
        return result

    def watch(self, tensor: Tensor) -> None:
        storage, key = tensor.untyped_storage(), storage_of(tensor)
        if key in self.known:
            return
        self.known.add(key)
        self.alive += storage.nbytes()
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self.forget, key, storage.nbytes())

    def forget(self, key: int, size: int) -> None:
        self.known.remove(key)
        self.alive -= size


def storage_of(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Count:
    """A block has passed both branches' tokens in bfloat16, with fused attention."""
    monkeypatch.setattr(
        "istar.transformer.block.attend", lambda queries, *_: torch.empty_like(queries)
    )
    config = TransformerConfig(depth=1)
    with FakeTensorMode(), torch.inference_mode():
        torch.set_default_dtype(torch.bfloat16)
        block = Block(config)
        torch.set_default_dtype(torch.float32)
        turn = rotation(torch.empty(TOKENS, 4), config.head_size)
        seen = torch.empty(1, config.key_value_heads, SEEN, config.head_size).bfloat16()
        with Count() as count:
            rows = [
                LayerRow(
                    torch.empty(1, TOKENS, config.width, dtype=torch.bfloat16),
                    turn,
                    [KeysValues(seen, seen)],
                )
                for _ in range(2)
            ]
            block(rows, rows_at_once=ROWS_AT_ONCE)
    return count


def test_a_block_moves_and_holds_few_bytes(count: Count) -> None:
    assert count.traffic / (2 * TOKENS) * TOKEN_PASSES < 5.9e12
    # Both rows' tokens, 1.18 GB; of one row the queries and what they saw, 0.59 each; of 8,192
    # tokens two wide tensors, 0.54, while the queries are gone.
    assert count.peak < 2.8e9
