"""What training sees is what the generation loop sees, step by step."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from istar.generation.loop import commit, predict, read_conditions, start
from istar.generation.residual import bits_of_latent
from istar.generation.schedule import ClipPlan, nearest_template, steps
from istar.model_spec import ModelSpec
from istar.plan import Window
from istar.text_encoder import TextEncoder
from istar.training.config import MixConfig, TransformerTraining
from istar.training.distributed import Share
from istar.training.latents import read_prepared
from istar.training.packing import PackedBatch, pack
from istar.training.sequences import DETAIL, SEMANTIC, Example, SequenceConfig, run_of
from istar.training.transformer import BatchLogits, TransformerNetwork, TransformerTask
from istar.transformer.cache import Context
from small_training import CPU, network_of

PLAIN = SequenceConfig(most_flips=0.0, condition_noise=(0.0,))


def example_of(
    spec: ModelSpec, clip: Tensor, encoder: TextEncoder, text: str, *, dropped: bool = False
) -> Example:
    """A video out of a prepared latent."""
    window = Window(given_seconds=0, new_seconds=(clip.shape[1] - 1) / 4)
    own = window.steps(spec, nearest_template(1.0))
    lengths = [step.grid.frames for step in own if step.starts_clip]
    return Example(
        text=encoder.tokenize(text),
        unconditional=dropped,
        steps=own,
        latents=clip.split(lengths, dim=1),
    )


def interactive_of(spec: ModelSpec, clip: Tensor, encoder: TextEncoder, text: str) -> Example:
    """The second half of a prepared latent as a clip that continues the first."""
    assert spec.interact is not None
    scales = spec.pixel_budget.scales(nearest_template(1.0))
    plan = ClipPlan(frames=4, repeats=spec.interact.repeats)
    return Example(
        text=encoder.tokenize(text),
        unconditional=False,
        steps=steps([plan], scales, semantic_scales=spec.semantic_scales),
        latents=(clip[:, 5:],),
        conditions=(clip[:, :5], clip[:, :1], scales[0]),
    )


def stepwise(network: TransformerNetwork, one: Example, features: Tensor) -> dict[int, Tensor]:
    """The loop's logits of every step, by its index, each step's true bits given afterwards."""
    transformer = network.transformer
    conditions: tuple[Context, ...] = ()
    if one.conditions is not None:
        former, first, grid = one.conditions
        conditions = read_conditions(transformer, former[None], first[None], grid)
    draws = torch.Generator().get_state()
    state = start(transformer, one.steps, [features], draws, conditions=conditions)
    logits = {}
    for number, latent in enumerate(one.latents):
        own = [step for step in one.steps if step.clip == number]
        bits = bits_of_latent(latent[None], own, semantic_bits=16)
        for step, value in zip(own, bits, strict=True):
            prediction = predict(transformer, state)
            logits[step.index] = prediction.logits[0]
            state = commit(state, value, prediction.contexts)
    return logits


def assert_agree(outcome: BatchLogits, batch: PackedBatch, wanted: dict[int, Tensor]) -> None:
    """Compare a packed row's logits with those of steps by their index; both copies of a step."""
    positions = 96
    for kind, logits in ((SEMANTIC, outcome.semantic), (DETAIL, outcome.detail)):
        index = batch.coordinates[batch.kind == kind][:, 0] - positions
        for number in index.unique().tolist():
            copies = logits[index == number].split(len(wanted[number]))
            for copy in copies:
                assert torch.allclose(copy, wanted[number], atol=1e-5, rtol=1e-5)
    assert len(outcome.semantic)
    assert len(outcome.detail)


@pytest.mark.parametrize("kind", ["picture", "1 s", "2 s", "interactive", "text dropped"])
@torch.no_grad()
def test_training_sees_what_the_loop_sees(
    config: TransformerTraining, random: torch.Generator, kind: str
) -> None:
    """The same logits, step by step, from the packed row and from the loop with its cache."""
    task, clip, encoder = stirred(config, random)
    network = network_of(task)
    text = "2s: a red circle moves right"
    if kind == "interactive":
        one = interactive_of(task.spec, clip, encoder, text)
    else:
        frames = {"picture": 1, "1 s": 5}.get(kind, 9)
        one = example_of(task.spec, clip[:, :frames], encoder, text, dropped=kind == "text dropped")
    features = encoder.encode(text).features
    if kind == "text dropped":
        features = network.transformer.unconditional[: len(features)]
    run = run_of(one, network.transformer.config, PLAIN, random)
    other = run_of(one, network.transformer.config, PLAIN, random)
    batch = pack([[other, run]], 2 * run.tokens + 5)
    outcome = network(batch, train_text=True, recompute=False)
    assert_agree(outcome, batch, stepwise(network, one, features))


@pytest.mark.parametrize("frames", [1, 5, 9])
@pytest.mark.parametrize(
    "choices",
    [
        {"context": "full"},
        {"pyramid": "one", "extends": False},
        {"context": "full", "pyramid": "one", "extends": False},
    ],
)
@torch.no_grad()
def test_so_it_does_without_the_papers_choices(
    config: TransformerTraining,
    tmp_path: Path,
    random: torch.Generator,
    choices: dict[str, object],
    frames: int,
) -> None:
    content = json.loads(config.model.read_text()) | choices
    del content["interact"]
    content["repeats"] = {"image": [1, 1], "video": [1, 1]}
    manifest = tmp_path / "istar.json"
    manifest.write_text(json.dumps(content))
    mix = (MixConfig(seconds=0), MixConfig(seconds=1), MixConfig(seconds=2))
    config = replace(config, model=manifest, data=replace(config.data, mix=mix))
    task, clip, encoder = stirred(config, random)
    network = network_of(task)
    text = "2s: a red circle moves right"
    one = example_of(task.spec, clip[:, :frames], encoder, text)
    run = run_of(one, network.transformer.config, PLAIN, random)
    batch = pack([[run, run]], 2 * run.tokens + 5)
    outcome = network(batch, train_text=True, recompute=False)
    assert_agree(outcome, batch, stepwise(network, one, encoder.encode(text).features))
    assert task.loss(task.batch(0, Share()), 0, CPU).total.isfinite()


def stirred(
    config: TransformerTraining, random: torch.Generator
) -> tuple[TransformerTask, Tensor, TextEncoder]:
    """A task whose network is not at its start, a prepared latent and the text encoder."""
    task = TransformerTask(config)
    network = network_of(task)
    for parameter in network.transformer.parameters():
        parameter += 0.1 * torch.randn(parameter.shape, generator=random)
    network.train()
    clip = read_prepared(config.data.sets[2])[1].latent()
    return task, clip, TextEncoder(network.text_module, _tokenizer(), 96)


def _tokenizer() -> Any:
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer(extra_ids=0)
