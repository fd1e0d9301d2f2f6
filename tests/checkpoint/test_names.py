"""The real sizes against the released checkpoints' lists of tensors."""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from istar.checkpoint.infer import infer_tokenizer_config, infer_transformer_config
from istar.checkpoint.names import (
    UNUSED_TOKENIZER,
    UNUSED_TRANSFORMER,
    layers_per_group,
    released_tokenizer_name,
    released_transformer_name,
    tokenizer_naming,
    transformer_naming,
)
from istar.transformer.config import TransformerConfig
from istar.transformer.model import Transformer
from istar.video_tokenizer.config import VideoTokenizerConfig
from istar.video_tokenizer.model import VideoTokenizer

DATA = Path(__file__).parents[1] / "data"
UNUSED_TENSORS = {
    "sos_token",
    *(
        f"{module}.{part}.mask"
        for module in ("quantizer", "quantize")
        for part in ("lfq_semantic", "lfq_detail")
    ),
    *(f"proj_{way}_two.{part}" for way in ("down", "up") for part in ("weight", "bias")),
}


def released(model: str) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for line in (DATA / f"{model}_keys.txt").read_text().splitlines():
        name, shape = line.removesuffix(" int64").split(" ", 1)
        shapes[name] = literal_eval(shape)
    return shapes


def ours(build: Callable[[], nn.Module], name: Callable[[str], str]) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        module = build()
    pairs = [(name(own), tuple(tensor.shape)) for own, tensor in module.state_dict().items()]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def without_unused(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in shapes.items() if name not in UNUSED_TENSORS}


def test_transformer_has_exactly_the_released_tensors() -> None:
    listed = released("transformer")
    group = layers_per_group(listed)
    assert group == 6
    found = ours(
        lambda: Transformer(TransformerConfig()),
        lambda name: released_transformer_name(name, group),
    )
    assert len(listed) == 407
    assert found == without_unused(listed)
    assert 8.76e9 < sum(torch.Size(shape).numel() for shape in listed.values()) < 8.77e9


def test_tokenizer_has_exactly_the_released_tensors() -> None:
    found = ours(lambda: VideoTokenizer(VideoTokenizerConfig()), released_tokenizer_name)
    assert found == without_unused(released("tokenizer"))


@pytest.mark.parametrize(
    ("model", "unused"), [("transformer", UNUSED_TRANSFORMER), ("tokenizer", UNUSED_TOKENIZER)]
)
def test_exactly_the_documented_tensors_are_ignored(model: str, unused: re.Pattern[str]) -> None:
    ignored = {name for name in released(model) if unused.fullmatch(name)}
    assert ignored == UNUSED_TENSORS & set(released(model))
    assert ignored


def test_released_sizes_are_read_off_the_tensors() -> None:
    place = Path("there")
    shapes = released("transformer")
    found = infer_transformer_config(shapes, transformer_naming(shapes), place)
    assert found == TransformerConfig()
    shapes = released("tokenizer")
    assert infer_tokenizer_config(shapes, tokenizer_naming(shapes), place) == VideoTokenizerConfig()


def test_own_names_are_recognized() -> None:
    with torch.device("meta"):
        models = Transformer(TransformerConfig()), VideoTokenizer(VideoTokenizerConfig())
    for model, naming_of in zip(models, (transformer_naming, tokenizer_naming), strict=True):
        names = set(model.state_dict())
        naming = naming_of(names)
        assert {naming.name_in_file(name) for name in names} == names
        assert not naming.is_unused("sos_token")
        assert not naming.is_unused("quantizer.lfq_detail.mask")


def test_layers_are_grouped_in_order() -> None:
    name = "blocks.13.attention.query.weight"
    assert released_transformer_name(name, 6) == "block_chunks.2.module.1.attn.q_proj.weight"
    assert released_transformer_name(name, None) == "blocks.13.attn.q_proj.weight"
    assert layers_per_group(["blocks.13.attn.q_proj.weight", "head.weight"]) is None
