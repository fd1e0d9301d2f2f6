"""The weights that training starts with: random ones by name, and those of files."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from istar.checkpoint.read import on_meta
from istar.errors import CheckpointError
from istar.text_encoder import TextEncoder
from istar.training.distributed import fill
from istar.training.starting_weights import new_text_encoder, new_transformer, read_text_encoder
from istar.transformer.config import TransformerConfig
from istar.transformer.model import Transformer
from random_checkpoint import write_text_encoder
from small_training import CPU

SIZES = TransformerConfig(
    width=64,
    depth=2,
    heads=2,
    key_value_heads=1,
    head_size=32,
    mlp_width=128,
    text_channels=32,
    text_positions=40,
)


def test_a_new_text_encoder_is_spread_as_the_library_spreads_it() -> None:
    sizes = {"channels": 64, "layers": 2, "heads": 4, "mlp_width": 128, "max_tokens": 8}
    torch.manual_seed(0)
    theirs = {
        name: value.detach() for name, value in TextEncoder.new(**sizes).module.named_parameters()
    }
    with torch.device("meta"):
        encoder = TextEncoder.new(**sizes)
    ours = dict(new_text_encoder(encoder, 0))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.shape == theirs[name].shape
        if value.ndim == 1:
            assert torch.equal(value, theirs[name])
        else:  # 128 numbers or more
            assert float(value.std()) == pytest.approx(float(theirs[name].std()), rel=0.25), name
            assert abs(float(value.mean())) < 0.3 * float(value.std())


def test_a_new_transformers_weights_depend_on_seed_and_name_alone() -> None:
    smaller, deeper = (
        dict(new_transformer(on_meta(partial(Transformer, sizes)), 3))
        for sizes in (SIZES, replace(SIZES, depth=3, text_channels=16))
    )
    name = "blocks.0.attention.query.weight"
    assert torch.equal(smaller[name], deeper[name])
    assert not torch.equal(smaller[name], smaller["blocks.1.attention.query.weight"])
    other = dict(new_transformer(on_meta(partial(Transformer, SIZES)), 4))
    assert not torch.equal(smaller[name], other[name])
    assert float(smaller[name].std()) == pytest.approx(0.02, rel=0.1)
    assert float(smaller["blocks.0.mlp.down.weight"].std()) == pytest.approx(0.01, rel=0.1)
    assert smaller["norm.weight"].eq(1).all()
    assert smaller["blocks.1.attention.key_norm.weight"].eq(1).all()
    assert smaller["embed_text.bias"].eq(0).all()


@pytest.mark.parametrize("name", ["shared.weight", "encoder.embed_tokens.weight"])
def test_a_text_encoder_is_filled_from_its_file(tmp_path: Path, name: str) -> None:
    write_text_encoder(tmp_path, 16, seed=1)
    wanted = TextEncoder.from_directory(tmp_path).module
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors[name] = tensors.pop("shared.weight")
    save_file(tensors | {"decoder.extra": torch.ones(1)}, file, metadata={"format": "pt"})
    encoder = TextEncoder.without_weights(tmp_path, max_tokens=96)
    assert all(weight.is_meta for weight in encoder.module.parameters())
    fill(encoder.module, read_text_encoder(encoder, tmp_path), CPU)
    for key, value in wanted.state_dict().items():
        assert torch.equal(encoder.module.state_dict()[key], value)
    table, same = (
        encoder.module.get_parameter(one)
        for one in ("shared.weight", "encoder.embed_tokens.weight")
    )
    assert table is same


def test_a_text_encoder_without_a_tensor_is_refused(tmp_path: Path) -> None:
    write_text_encoder(tmp_path, 16, seed=1)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    del tensors["encoder.final_layer_norm.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    encoder = TextEncoder.without_weights(tmp_path, max_tokens=96)
    with pytest.raises(CheckpointError, match=r"missing 1 tensor: encoder\.final_layer_norm"):
        fill(encoder.module, read_text_encoder(encoder, tmp_path), CPU)


def test_a_weight_without_a_value_is_refused() -> None:
    network = on_meta(partial(nn.Linear, 2, 3))
    with pytest.raises(ValueError, match="no value for bias"):
        fill(network, [("weight", torch.ones(3, 2))], CPU)
