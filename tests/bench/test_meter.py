"""The meter, against arithmetic by hand."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional as F

from istar.bench.fake import FAKE_DEVICE, fake_tensors
from istar.bench.meter import Meter, tensors_in
from istar.bench.replay import replayed

CPU = torch.device("cpu")


def test_matrix_products_convolutions_and_attention_are_arithmetic() -> None:
    x, weight, bias = torch.ones(2, 5, 3), torch.ones(7, 3), torch.ones(7)
    clip, kernel = torch.ones(1, 2, 4, 6, 6), torch.ones(3, 2, 3, 3, 3)
    queries, keys = torch.ones(1, 4, 5, 8), torch.ones(1, 4, 9, 8)
    for inference in (False, True):
        with torch.inference_mode(inference), Meter(CPU) as meter:
            F.linear(x, weight, bias)
            assert meter.read().flop == 2 * 10 * 3 * 7
            meter.restart()
            F.conv3d(clip, kernel, padding=1)
            assert meter.read().flop == 2 * (4 * 6 * 6) * 3 * (2 * 27)
            meter.restart()
            F.scaled_dot_product_attention(queries, keys, keys)
            assert meter.read().flop == 2 * 4 * 5 * 9 * (8 + 8)
            assert meter.read().moved_bytes == 0


def test_other_operations_move_bytes_and_views_move_none() -> None:
    x, row = (torch.ones(count, 100, dtype=torch.bfloat16) for count in (4, 1))
    with Meter(CPU) as meter:
        x.float()
        assert meter.read().moved_bytes == 400 * (2 + 4)
        x.transpose(0, 1).unflatten(0, (50, 2))[1:, 0].expand(8, -1, -1)
        assert meter.read().moved_bytes == 400 * (2 + 4)
        meter.restart()
        x * x[:1].expand(4, -1)
        assert meter.read().moved_bytes == 2 * (400 + 100 + 400)
        meter.restart()
        x.add_(row)
        assert meter.read().moved_bytes == 2 * (400 + 100 + 400)
        meter.restart()
        x[:2].copy_(x[2:])
        torch.empty(1000)
        assert meter.read().moved_bytes == 2 * (200 + 200)


def test_a_norm_on_cuda_is_one_kernel() -> None:
    with fake_tensors(), torch.inference_mode(), Meter(FAKE_DEVICE) as meter:
        x = torch.empty(4, 100, dtype=torch.bfloat16, device=FAKE_DEVICE)
        weight = torch.empty(100, dtype=torch.bfloat16, device=FAKE_DEVICE)
        meter.restart()
        F.rms_norm(x, (100,), weight, 1e-6)
        # The norm reads x and its weight, and writes as much as x and a float32 scale a row.
        assert meter.read().moved_bytes == 2 * (400 + 100 + 400) + 4 * 4


def test_memory_is_that_of_live_storages() -> None:
    with Meter(CPU) as meter:
        x = torch.zeros(1000)
        view = x[:10]
        y = torch.zeros(500, dtype=torch.float64)
        assert meter.read().peak_bytes == 8000
        del x, y
        meter.restart()
        assert meter.read().peak_bytes == 4000
        del view
        torch.zeros(250)
        cost = meter.read()
        assert (cost.peak_bytes, cost.memory["activations"]) == (4000, 4000)
        meter.restart()
        assert meter.read().peak_bytes == 0


def test_memory_is_split_by_what_holds_it() -> None:
    weight, kept = torch.zeros(10), torch.zeros(20)
    with Meter(CPU) as meter:
        meter.assign([weight, weight[2:]], "weights")
        meter.assign(tensors_in({"a": [(kept,)]}), "context")
        _ = torch.zeros(30)
        memory = {"weights": 40, "context": 80, "decoder": 0, "activations": 120}
        assert meter.read().memory == memory
        meter.release("context")
        meter.restart()
        assert meter.read().memory == {**memory, "context": 0, "activations": 200}


@pytest.mark.parametrize("in_place", [False, True])
def test_a_replayed_call_costs_and_returns_what_it_did(in_place: bool) -> None:
    class Doubled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
            self.calls += 1
            wide = torch.cat((x, x))
            return x.add_(wide[: len(x)]) if in_place else x + x, [wide[1:], None]

    def run(replay: bool) -> tuple[object, ...]:
        module, found = Doubled(), []
        with Meter(CPU) as meter, replayed(Doubled, meter) if replay else nullcontext():
            for length in (3, 3, 4, 3):
                x = torch.ones(length, 5)
                meter.restart()
                y, (wide, nothing) = module(x)
                assert nothing is None
                storages = [one.untyped_storage().data_ptr() for one in (x, y)]
                found.append((y.shape, wide.shape, wide.storage_offset(), meter.read()))
                found.append(storages[0] == storages[1])
                del x, y, wide
        assert module.calls == (2 if replay else 4)
        return tuple(found)

    assert run(replay=True) == run(replay=False)
