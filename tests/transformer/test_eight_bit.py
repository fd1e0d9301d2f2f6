"""Weights in 8 bits: torchao's numbers, and what is computed with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from istar.errors import DeviceError
from istar.model_spec import EightBitType
from istar.pipeline import InfinityStarPipeline
from istar.placement import Placement, precision_of
from istar.request import GenerationRequest
from istar.transformer import eight_bit
from istar.transformer.eight_bit import TYPES, assembled, is_eight_bit, kind_of, quantized
from istar.transformer.model import Transformer
from istar.transformer.streaming import packed, packed_size, stream_blocks

CONFIGS = {"int8": "Int8WeightOnlyConfig", "fp8": "Float8WeightOnlyConfig"}
"""What torchao calls them."""

each_kind = pytest.mark.parametrize("kind", list(TYPES))


def plain(weight: Tensor) -> list[Tensor]:
    """The numbers and the scales of an 8-bit weight."""
    return [getattr(weight, name) for name in ("qdata", "scale")]


def in_8_bits(transformer: Transformer, kind: EightBitType, dtype: torch.dtype) -> None:
    for name, parameter in list(transformer.named_parameters()):
        owner, _, attribute = name.rpartition(".")
        value = parameter.data.to(dtype)
        if is_eight_bit(name):
            value = assembled(quantized(parameter.data, kind), dtype)
        own = nn.Parameter(value, requires_grad=False)
        setattr(transformer.get_submodule(owner), attribute, own)


def test_the_blocks_linear_weights_have_8_bits(transformer: Transformer) -> None:
    linear = {
        f"{name}.weight"
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("blocks.")
    }
    assert len(linear) == 7 * transformer.config.depth
    assert {name for name, _ in transformer.named_parameters() if is_eight_bit(name)} == linear


@each_kind
def test_the_numbers_are_torchaos_own(kind: EightBitType, random: torch.Generator) -> None:
    import torchao.quantization as torchao

    linear = nn.Linear(48, 32, bias=False)
    weight = linear.weight.data.copy_(torch.randn(32, 48, generator=random))
    parts = quantized(weight.clone(), kind)
    torchao.quantize_(linear, getattr(torchao, CONFIGS[kind])())
    for own, theirs in zip(parts, plain(linear.weight), strict=True):
        assert own.dtype == theirs.dtype
        assert torch.equal(own.float(), theirs.float())


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_they_are_multiplied_out(
    kind: EightBitType, dtype: torch.dtype, random: torch.Generator
) -> None:
    weight = torch.randn(32, 48, generator=random)
    x = torch.randn(1, 5, 48, generator=random).to(dtype)
    parts = quantized(weight, kind)
    with torch.inference_mode():
        found = F.linear(x, assembled(parts, dtype))
    assert (found.dtype, found.shape) == (dtype, (1, 5, 32))
    expected = F.linear(x.double(), parts.numbers.double() * parts.scales.double())
    allowed = {torch.float32: 1e-6, torch.bfloat16: 6e-3}[dtype]
    assert (found - expected).norm() < allowed * expected.norm()
    # And they are near the weights: half a step of 255 in a row, or of three bits of a number.
    near = {"int8": 0.51 * 2 / 255, "fp8": 2**-4}[kind]
    error = (parts.numbers.double() * parts.scales - weight).abs()
    assert (error <= near * weight.abs().amax(1, keepdim=True)).all()
    assert error.max() > 0.1 * near


@each_kind
def test_a_block_in_a_buffer_computes_the_same(kind: EightBitType, checkpoint: Path) -> None:
    request = GenerationRequest(mode="t2v", prompt="a cat", seconds=1, seed=1)
    resident, streamed = (
        InfinityStarPipeline.from_pretrained(checkpoint, dtype=kind, device="cpu") for _ in range(2)
    )
    transformer = streamed.networks.transformer
    block = transformer.blocks[0]
    bits = sum(weight.numel() for name, weight in block.named_parameters() if "norm" not in name)
    assert bits < packed_size(block) < 1.5 * bits
    stream_blocks(transformer, torch.device("cpu"), slots=1)
    assert precision_of(transformer) == streamed.networks.precision == kind
    found, expected = (one.generate(request).frames for one in (streamed, resident))
    assert torch.equal(found, expected)


@each_kind
def test_a_packed_copy_holds_the_same_numbers(kind: EightBitType, transformer: Transformer) -> None:
    in_8_bits(transformer, kind, torch.bfloat16)
    block = transformer.blocks[0]
    buffer = torch.empty(packed_size(block), dtype=torch.uint8)
    copy = packed(block, buffer, copy=True)
    for name, weight in block.named_parameters():
        own = copy.get_parameter(name)
        assert type(own.data) is type(weight.data)
        tensors = (weight, own)
        parts = zip(*map(plain, tensors), strict=True) if "norm" not in name else [tensors]
        for mine, theirs in parts:
            assert torch.equal(mine.float(), theirs.float())
            assert theirs.untyped_storage().data_ptr() == buffer.data_ptr()


def test_what_is_computed_in_has_a_name(transformer: Transformer) -> None:
    assert (kind_of(transformer), precision_of(transformer)) == (None, "fp32")
    in_8_bits(transformer, "fp8", torch.bfloat16)
    assert (kind_of(transformer), precision_of(transformer)) == ("fp8", "fp8")
    for name in ("int8", "fp8"):
        placement = Placement.choose("cpu", name)
        assert (placement.precision, placement.dtype) == (name, torch.float32)
    assert Placement.choose("cpu", "bf16").eight_bit is None


@pytest.mark.slow
def test_torchao_is_imported_for_weights_in_8_bits_alone_and_says_nothing(
    checkpoint: Path,
) -> None:
    """Without `slow`: no clip of others imports it, and a command with an 8-bit copy is silent."""
    code = """
        import sys, warnings
        import torch
        from istar.pipeline import InfinityStarPipeline
        from istar.transformer.eight_bit import quantized
        InfinityStarPipeline.from_pretrained(sys.argv[1], device="cpu")
        print("transformers" in sys.modules, "torchao" in sys.modules)
        warnings.simplefilter("error")
        quantized(torch.ones(4, 4), "int8")
        print("torchao" in sys.modules)
        """
    command = [sys.executable, "-c", dedent(code), str(checkpoint)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("True False\nTrue\n", "")


def test_without_torchao_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(DeviceError, match="need torchao") as caught:
        eight_bit._torchao.__wrapped__()
    assert caught.value.remedies == ("half_precision",)
