"""Streams and events of blocks whose weights come to the device when they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import pytest
import torch
from torch import Tensor

from istar.transformer.config import TransformerConfig
from istar.transformer.model import Transformer
from istar.transformer.rope import rotation
from istar.transformer.rows import Row
from istar.transformer.streaming import CudaCopies, packed_size, stream_blocks

DEVICE = torch.device("cuda:0")
LONG = 50_000_000  # cycles, some 30 ms
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


class LateCopies(CudaCopies):
    """Copies that begin long after they were asked for, into slots full of garbage."""

    def begin(self, slot: int, source: Tensor, target: Tensor) -> None:
        self._stream.wait_event(self._free[slot])
        with torch.cuda.stream(self._stream):
            target.fill_(255)
            torch.cuda._sleep(LONG)
        super().begin(slot, source, target)


class LateBlocks(CudaCopies):
    """Blocks that begin to compute long after they were enqueued."""

    def await_copy(self, slot: int) -> None:
        super().await_copy(slot)
        torch.cuda._sleep(LONG)


@pytest.fixture
def host(random: torch.Generator) -> Transformer:
    config = TransformerConfig(
        width=256,
        depth=6,
        heads=4,
        key_value_heads=2,
        head_size=64,
        mlp_width=1024,
        text_channels=12,
        text_positions=16,
    )
    model = Transformer(config).requires_grad_(False).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.copy_(torch.randn(parameter.shape, generator=random) / 16)
    return model.bfloat16()


def some_rows(random: torch.Generator) -> list[Row]:
    where = torch.randint(0, 20, (300, 4), generator=random).to(DEVICE)
    x = torch.randn(2, 1, 300, 256, generator=random).to(DEVICE, torch.bfloat16)
    return [Row(part, rotation(where, 64)) for part in x]


@pytest.mark.parametrize("copies", [CudaCopies, LateCopies, LateBlocks])
@pytest.mark.parametrize(("resident", "slots"), [(0, 1), (0, 2), (2, 3), (6, 2)])
def test_streamed_equals_resident(
    host: Transformer,
    random: torch.Generator,
    copies: type[CudaCopies],
    resident: int,
    slots: int,
) -> None:
    whole = deepcopy(host).to(DEVICE)
    stream_blocks(host, DEVICE, resident=resident, slots=slots, make_copies=copies)
    with torch.inference_mode():
        for _ in range(3):
            rows = some_rows(random)
            found, expected = host(rows), whole(rows)
            for one, two in zip(found, expected, strict=True):
                assert torch.equal(one.x, two.x)


def test_a_pass_left_in_the_middle_does_not_spoil_the_next(
    host: Transformer, random: torch.Generator
) -> None:
    whole, rows = deepcopy(host).to(DEVICE), some_rows(random)
    stream_blocks(host, DEVICE, make_copies=LateBlocks)
    with torch.inference_mode():
        expected = whole(rows)[0].x
        for left_after in range(1, 7):
            for number, _ in enumerate(host.blocks, start=1):
                if number == left_after:
                    break
            assert torch.equal(host(rows)[0].x, expected)


def test_buffers_are_pinned_and_the_device_holds_the_slots(host: Transformer) -> None:
    size = packed_size(host.blocks[0])
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(DEVICE)
    stream_blocks(host, DEVICE, resident=1, slots=2)
    outside = sum(
        parameter.nbytes
        for name, parameter in host.named_parameters()
        if not name.startswith("blocks.")
    )
    held = torch.cuda.memory_allocated(DEVICE) - before
    assert 3 * size < held < 3 * size + outside + 100_000
    streamed = list(host.blocks.children())[1:]
    assert all(p.is_pinned() for block in streamed for p in block.parameters())


def test_copies_are_made_beside_the_computing_stream(
    host: Transformer, random: torch.Generator
) -> None:
    made: list[CudaCopies] = []

    def make(device: torch.device, memories: Sequence[Tensor]) -> CudaCopies:
        made.append(CudaCopies(device, memories))
        return made[0]

    stream_blocks(host, DEVICE, make_copies=make)
    assert made[0]._stream != torch.cuda.current_stream(DEVICE)
    with torch.inference_mode():
        host(some_rows(random))
        torch.cuda._sleep(10 * LONG)
        # While the computing stream sleeps, the next pass's first blocks come.
        made[0]._stream.synchronize()
        assert not torch.cuda.current_stream(DEVICE).query()
    torch.cuda.synchronize()
