"""Two optimizers for one network: who steps what, and that a run does not notice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from istar.errors import StateError, UsageError
from istar.training.config import TokenizerTraining
from istar.training.log import LOG_NAME
from istar.training.optimizers import build_optimizers
from istar.training.run_file import read_config
from istar.training.tokenizer import TokenizerTask
from istar.training.transformer import TransformerTask
from small_training import losses, run_config, tokenizer_run, transformer_run


def task_of(place: Path) -> TransformerTask:
    sets = tuple(place / "latents" / name for name in ("pictures", "clips", "long"))
    return TransformerTask(transformer_run(place, sets))


def test_muon_steps_the_blocks_matrices_and_adamw_all_else(place: Path, tmp_path: Path) -> None:
    task = task_of(place)
    names = {parameter: name for name, parameter in task.network.named_parameters()}
    run = run_config(tmp_path, optimizer="muon", weight_decay=0.1)
    adamw, muon = build_optimizers(task.network, task.hidden_matrices(), run)
    stepped = [
        {names[parameter] for parameter in group["params"]}
        for group in (*adamw.param_groups, *muon.param_groups)
    ]
    assert sorted(name for group in stepped for name in group) == sorted(names.values())
    outside, vectors, hidden = stepped
    assert outside == {
        "transformer.unconditional",
        "transformer.embed_text.weight",
        "transformer.embed_latents.weight",
        "transformer.semantic_head.weight",
        "transformer.detail_head.weight",
        "text_module.shared.weight",
        "text_module.encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    }
    assert all(parameter.ndim == 1 for parameter, name in names.items() if name in vectors)
    parts = ("query", "key", "value", "output")
    assert {name for name in hidden if name.startswith("transformer.blocks.1.")} == {
        *(f"transformer.blocks.1.attention.{part}.weight" for part in parts),
        *(f"transformer.blocks.1.mlp.{part}.weight" for part in ("gate", "up", "down")),
    }
    assert "text_module.encoder.block.0.layer.1.DenseReluDense.wo.weight" in hidden
    groups = [*adamw.param_groups, *muon.param_groups]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0, 0.1]


def test_adamw_alone_steps_everything(place: Path, tmp_path: Path) -> None:
    task = task_of(place)
    run = run_config(tmp_path, weight_decay=0.1)
    (adamw,) = build_optimizers(task.network, task.hidden_matrices(), run)
    assert type(adamw) is torch.optim.AdamW
    matrices, vectors = (group["params"] for group in adamw.param_groups)
    assert len(matrices) + len(vectors) == len(list(task.network.parameters()))
    assert {id(hidden) for hidden in task.hidden_matrices()} <= {id(one) for one in matrices}


@pytest.mark.parametrize("shape", [(24, 24), (12, 96), (96, 12)])
def test_a_step_of_muon_is_a_fifth_of_the_learning_rate(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    """As long as AdamW's steps usually are, so that one learning rate serves both."""
    torch.manual_seed(3)
    network = nn.Sequential(nn.Linear(*shape))
    weight = network[0].weight
    before = weight.detach().clone()
    run = run_config(tmp_path, optimizer="muon")
    _, muon = build_optimizers(network, [weight], run)
    weight.grad = torch.randn_like(weight)
    for group in muon.param_groups:
        group["lr"] = 0.5
    muon.step()
    moved = weight.detach() - before
    assert moved.square().mean().sqrt().item() == pytest.approx(0.2 * 0.5, rel=0.2)


@pytest.mark.slow
def test_a_run_with_muon_learns_and_continues_exactly(place: Path, tmp_path: Path) -> None:
    settings = {"steps": 8, "optimizer": "muon", "learning_rate": 1e-2, "weight_decay": 0.01}
    whole, cut = (run_config(tmp_path / name, **settings) for name in ("whole", "cut"))
    found = losses(task_of(place), whole)
    assert found[8] < found[1] - 0.04
    losses(task_of(place), cut, stop_after=5)
    losses(task_of(place), cut)
    logs, models = (
        [(run.output / name).read_bytes() for run in (whole, cut)]
        for name in (LOG_NAME, "model/transformer/model.safetensors")
    )
    assert logs[0] == logs[1]
    assert models[0] == models[1]


@pytest.mark.parametrize("names", [("adamw", "muon"), ("muon", "adamw")])
def test_another_optimizer_does_not_continue(
    place: Path, tmp_path: Path, names: tuple[str, str]
) -> None:
    first, second = (run_config(tmp_path, optimizer=name) for name in names)
    losses(task_of(place), first, stop_after=3)
    with pytest.raises(StateError, match="or of another network or optimizer") as caught:
        losses(task_of(place), second)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_has_nothing_for_muon(tmp_path: Path) -> None:
    config = tokenizer_run(tmp_path)
    run = run_config(tmp_path / "run", optimizer="muon")
    with pytest.raises(UsageError, match=r'optimizer "muon" is for .* use "adamw"') as caught:
        losses(TokenizerTask(config), run)
    assert "\n" not in str(caught.value)


def test_an_unknown_optimizer_is_said_in_a_line(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('model = "istar.json"\n[run]\noutput = "o"\nsteps = 1\noptimizer = "sgd"\n')
    with pytest.raises(UsageError, match=r"run\.optimizer is one of adamw, muon, not 'sgd'"):
        read_config(file, TokenizerTraining)


def test_a_torch_without_muon_is_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    network = nn.Sequential(nn.Linear(2, 2))
    run = run_config(tmp_path, optimizer="muon")
    with pytest.raises(UsageError, match=r"needs torch 2\.9"):
        build_optimizers(network, [network[0].weight], run)
