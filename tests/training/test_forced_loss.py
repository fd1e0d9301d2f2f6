"""The loss of a clip whose bits are given, as generation sees them."""

from __future__ import annotations

import json
from dataclasses import replace
from math import log
from pathlib import Path

import pytest
import torch

from istar.checkpoint.read import load_video_tokenizer
from istar.generation.schedule import nearest_template
from istar.lab.world import random_scene
from istar.models.manifest import read_manifest
from istar.networks import Networks
from istar.plan import Window
from istar.text_encoder import TextEncoder
from istar.training.forced_loss import forced_loss
from istar.training.losses import bit_loss
from istar.training.packing import PackedBatch, pack
from istar.training.sequences import Example, SequenceConfig, run_of
from istar.training.starting_weights import new_transformer
from istar.training.transformer import TransformerNetwork
from istar.transformer.model import Transformer
from small_training import write_manifest, write_tokenizer

CAPTION = "a red circle moves right"


def networks_of(directory: Path, **manifest: object) -> Networks:
    """A small model with random weights that predicts every scale once."""
    tokenizer = write_tokenizer(directory)
    path = write_manifest(directory)
    content = json.loads(path.read_text()) | {"repeats": {"image": [1, 1], "video": [1, 1]}}
    del content["interact"]
    path.write_text(json.dumps({**content, **manifest}))
    spec = read_manifest(path)
    assert spec.transformer_config is not None
    torch.manual_seed(3)
    sizes = spec.transformer_config
    encoder = TextEncoder.new(
        channels=sizes.text_channels, layers=1, heads=2, mlp_width=32, max_tokens=96
    )
    transformer = Transformer(sizes)
    transformer.load_state_dict(dict(new_transformer(transformer, 3)))
    with torch.no_grad():
        for head in (transformer.semantic_head, transformer.detail_head):
            head.weight *= 20
    encoder.module.eval()
    return Networks(
        spec, transformer.eval(), load_video_tokenizer(tokenizer, spec.tokenizer_config), encoder
    )


@pytest.mark.parametrize("weigh", [False, True])
@pytest.mark.parametrize(
    "manifest", [{}, {"context": "full"}, {"extends": False, "pyramid": "one"}]
)
def test_it_is_the_loss_of_training_without_flips(
    tmp_path: Path, weigh: bool, manifest: dict[str, object]
) -> None:
    """With one prediction of each scale a training sequence holds all steps."""
    networks = networks_of(tmp_path, **manifest)
    spec, sizes = networks.spec, networks.transformer.config
    frames = random_scene(1).frames(17, 32, 32)
    window = Window(given_seconds=0, new_seconds=1)
    latent = networks.encode(frames)[0].clone()
    example = Example(
        text=networks.text_encoder.tokenize(spec.prompt.apply(CAPTION, "t2v", 1, suffix=False)),
        unconditional=False,
        steps=window.steps(spec, nearest_template(1.0)),
        latents=latent.split(window.clip_lengths(spec), dim=1),
    )
    config = SequenceConfig(most_flips=0.0, weigh_by_magnitude=weigh)
    run = run_of(example, sizes, config, torch.Generator())
    batch: PackedBatch = pack([[run]], run.tokens)
    network = TransformerNetwork(networks.transformer, networks.text_encoder)
    with torch.no_grad():
        outcome = network(batch, train_text=False, recompute=False)
    expected = bit_loss(outcome.semantic, outcome.detail, batch, scales=2)
    found = forced_loss(networks, frames, CAPTION, weigh_by_magnitude=weigh)
    assert found == pytest.approx(float(expected.weighted / expected.weight), rel=1e-4)
    assert abs(found - log(2)) > 0.001


def test_a_network_that_knows_nothing_has_the_entropy_of_a_coin(tmp_path: Path) -> None:
    networks = networks_of(tmp_path)
    with torch.no_grad():
        for head in (networks.transformer.semantic_head, networks.transformer.detail_head):
            head.weight.zero_()
            head.bias.zero_()
    networks.spec = replace(networks.spec, video_repeats=(3, 2), image_repeats=(2, 2))
    frames = random_scene(2).frames(17, 32, 32)
    for weigh in (False, True):
        loss = forced_loss(networks, frames, CAPTION, weigh_by_magnitude=weigh)
        assert loss == pytest.approx(log(2), rel=1e-4)
