from __future__ import annotations

import random as random_numbers
import threading
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from queue import SimpleQueue

import pytest
import torch
from torch import Tensor

from asking import request
from istar.pipeline import InfinityStarPipeline
from istar.transformer.config import TransformerConfig
from istar.transformer.model import Transformer
from istar.transformer.rope import rotation
from istar.transformer.rows import Row, RowOutput
from istar.transformer.streaming import ImmediateCopies, packed, packed_size, stream_blocks

CPU = torch.device("cpu")


class LateCopies:
    """Copies as late as their order allows, or by chance earlier, in any order between slots.

    Until a copy is made its slot holds garbage, and so does a slot that is free.
    """

    def __init__(self, _: torch.device, memories: Sequence[Tensor], seed: int = 0) -> None:
        self.chance = random_numbers.Random(seed)
        self.memories = memories
        self.pending: dict[int, Tensor] = {}
        self.busy: set[int] = set()
        self.bytes = 0

    def begin(self, slot: int, source: Tensor, target: Tensor) -> None:
        assert target is self.memories[slot]
        assert slot not in self.busy, "a slot is copied into while its block computes"
        self.pending[slot] = source
        self.bytes += source.nbytes
        self.disturb()

    def await_copy(self, slot: int) -> None:
        self.disturb()
        self.make(slot)
        self.busy.add(slot)

    def free(self, slot: int) -> None:
        self.busy.remove(slot)
        self.memories[slot].fill_(255)
        self.disturb()

    def make(self, slot: int) -> None:
        if slot in self.pending:
            self.memories[slot].copy_(self.pending.pop(slot))

    def disturb(self) -> None:
        for slot in self.chance.sample(list(self.pending), len(self.pending)):
            if self.chance.random() < 0.3:
                self.make(slot)
            else:
                self.memories[slot].fill_(255)


class ThreadedCopies:
    """Copies by another thread, in small pieces, while blocks compute."""

    def __init__(self, _: torch.device, memories: Sequence[Tensor]) -> None:
        self.copied = [threading.Event() for _ in memories]
        self.is_free = [threading.Event() for _ in memories]
        for event in self.is_free:
            event.set()
        self.asked: SimpleQueue[tuple[int, Tensor, Tensor]] = SimpleQueue()
        threading.Thread(target=self.work, daemon=True).start()

    def work(self) -> None:
        while True:
            slot, source, target = self.asked.get()
            self.is_free[slot].wait()
            for piece, room in zip(source.split(512), target.split(512), strict=True):
                room.copy_(piece)
            self.copied[slot].set()

    def begin(self, slot: int, source: Tensor, target: Tensor) -> None:
        self.copied[slot].clear()
        self.asked.put((slot, source, target))

    def await_copy(self, slot: int) -> None:
        assert self.copied[slot].wait(timeout=60)
        self.is_free[slot].clear()

    def free(self, slot: int) -> None:
        self.is_free[slot].set()


@pytest.fixture
def deep_config(small_config: TransformerConfig) -> TransformerConfig:
    return TransformerConfig(**{**vars(small_config), "depth": 5})


@pytest.fixture
def deep(deep_config: TransformerConfig) -> Transformer:
    """A transformer of five blocks with seeded weights."""
    torch.manual_seed(4)
    return Transformer(deep_config).requires_grad_(False).eval()


def some_rows(random: torch.Generator) -> list[Row]:
    where = torch.randint(0, 20, (5, 4), generator=random)
    x = torch.randn(2, 1, 5, 32, generator=random)
    return [Row(part, rotation(where, 8)) for part in x]


def tensors(outputs: list[RowOutput]) -> list[Tensor]:
    return [
        tensor
        for x, context in outputs
        for tensor in (x, *(part for layer in context or () for part in layer))
    ]


@pytest.mark.parametrize("copies", [ImmediateCopies, LateCopies, ThreadedCopies])
@pytest.mark.parametrize(("resident", "slots"), [(0, 1), (0, 2), (2, 2), (1, 9), (4, 2), (9, 2)])
def test_streamed_equals_resident(
    deep: Transformer,
    random: torch.Generator,
    copies: Callable[[torch.device, Sequence[Tensor]], object],
    resident: int,
    slots: int,
) -> None:
    streamed = deepcopy(deep)
    make = (lambda *_: ImmediateCopies()) if copies is ImmediateCopies else copies
    stream_blocks(streamed, CPU, resident=resident, slots=slots, make_copies=make)  # type: ignore[arg-type]
    with torch.inference_mode():
        for _ in range(3):
            rows = some_rows(random)
            found, expected = (model(rows, keep=True) for model in (streamed, deep))
            for one, two in zip(tensors(found), tensors(expected), strict=True):
                assert torch.equal(one, two)
            for one, two in zip(streamed.keys_values(rows), deep.keys_values(rows), strict=True):
                assert all(torch.equal(*pair) for pair in zip(one[-1], two[-1], strict=True))


def test_a_block_that_does_not_wait_for_its_copy_computes_garbage(
    deep: Transformer, random: torch.Generator
) -> None:
    """The copies above do find a mistake."""

    class NotAwaited(LateCopies):
        def await_copy(self, slot: int) -> None:
            self.busy.add(slot)

    rows = some_rows(random)
    with torch.inference_mode():
        expected = deep(rows)[0].x
        stream_blocks(deep, CPU, make_copies=NotAwaited)
        assert not torch.equal(deep(rows)[0].x, expected)


@pytest.mark.parametrize("at", range(5))
def test_a_pass_left_in_the_middle_does_not_spoil_the_next(
    deep: Transformer, random: torch.Generator, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    rows = some_rows(random)
    streamed = deepcopy(deep)
    stream_blocks(streamed, CPU, resident=1, make_copies=LateCopies)
    iterate = type(streamed.blocks).__iter__

    def interrupted(self: object) -> object:
        for number, block in enumerate(iterate(self)):  # type: ignore[arg-type]
            if number == at:
                raise MemoryError
            yield block

    with torch.inference_mode():
        streamed(rows)
        with monkeypatch.context() as patched:
            patched.setattr(type(streamed.blocks), "__iter__", interrupted)
            with pytest.raises(MemoryError):
                streamed(rows)
        for _ in range(2):
            assert torch.equal(streamed(rows)[1].x, deep(rows)[1].x)


def test_a_pass_copies_every_streamed_block_once_for_all_rows(
    deep: Transformer, random: torch.Generator
) -> None:
    made: list[LateCopies] = []

    def make(device: torch.device, memories: Sequence[Tensor]) -> LateCopies:
        made.append(LateCopies(device, memories))
        return made[0]

    size = packed_size(deep.blocks[0])
    stream_blocks(deep, CPU, resident=2, make_copies=make)
    rows = some_rows(random)
    with torch.inference_mode():
        for passes in (1, 2, 3):
            deep(rows)
            # Two blocks of the next pass are coming.
            assert made[0].bytes == (3 * passes + 2) * size


def test_weights_are_views_of_one_buffer_a_block(deep: Transformer) -> None:
    before = {name: value.clone() for name, value in deep.state_dict().items()}
    stream_blocks(deep, CPU, resident=2)
    after = deep.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    storages = [
        {parameter.untyped_storage().data_ptr() for parameter in deep.blocks[number].parameters()}
        for number in range(5)
    ]
    parameters = len(list(deep.blocks[0].parameters()))
    assert [len(each) for each in storages] == [parameters, 1, parameters, 1, 1]
    assert not any(parameter.requires_grad for parameter in deep.parameters())


class Scaled(Tensor):
    """Integers and a scale that stand for their product, as quantized weights do."""

    integers: Tensor
    scale: Tensor

    @staticmethod
    def __new__(cls, integers: Tensor, scale: Tensor) -> Scaled:
        made = Tensor._make_wrapper_subclass(cls, integers.shape, dtype=scale.dtype)
        made.integers, made.scale = integers, scale
        return made

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["integers", "scale"], None

    @staticmethod
    def __tensor_unflatten__(parts: dict[str, Tensor], *_: object) -> Scaled:
        return Scaled(parts["integers"], parts["scale"])

    @classmethod
    def __torch_dispatch__(
        cls, function: object, types: object, args: tuple[Scaled, ...] = (), kwargs: object = None
    ) -> Scaled:
        assert function is torch.ops.aten.detach.default
        return Scaled(args[0].integers, args[0].scale)


def test_weights_that_wrap_several_tensors_are_packed() -> None:
    module = torch.nn.Linear(3, 1, bias=True).requires_grad_(False)
    integers, scale = torch.tensor([[1, -2, 3]], dtype=torch.int8), torch.tensor([[0.5]])
    module.weight = torch.nn.Parameter(Scaled(integers, scale), requires_grad=False)
    module.register_buffer("calls", torch.tensor([7]))
    buffer = torch.empty(packed_size(module), dtype=torch.uint8)
    found = packed(module, buffer, copy=True)
    assert isinstance(found, torch.nn.Linear)
    assert isinstance(found.weight, Scaled)
    parts = (found.weight.integers, found.weight.scale, found.bias, found.calls)
    for part, expected in zip(parts, (integers, scale, module.bias, module.calls), strict=True):
        assert isinstance(part, Tensor)
        assert isinstance(expected, Tensor)
        assert torch.equal(part, expected)
        assert part.untyped_storage().data_ptr() == buffer.data_ptr()


def test_a_video_has_the_same_pictures(checkpoint: Path) -> None:
    resident, streamed = (InfinityStarPipeline.from_pretrained(checkpoint) for _ in range(2))
    stream_blocks(streamed.networks.transformer, CPU, slots=1, make_copies=LateCopies)
    found, expected = (one.generate(request("t2v")).frames for one in (streamed, resident))
    assert torch.equal(found, expected)
