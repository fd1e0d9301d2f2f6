"""The ablations: paired runs, their measures' tables, and what is done not done again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import pytest
import torch

import ablation_runs
import generate_ablations
from ablation_runs import (
    CEILINGS,
    FIVE_SCALES,
    KINDS,
    TRANSFORMERS,
    Scope,
    settings_of,
    transformer_config,
)
from ablation_tables import Column, Difference, difference_rows, level_rows
from generate_ablations import (
    AblationRun,
    all_runs,
    generated,
    keep,
    left_result,
    missing_runs,
    result_of,
    run_all,
)
from istar.checkpoint.read import load_video_tokenizer
from istar.lab.subject import is_held_out
from istar.lab.world import random_scene
from istar.models.manifest import read_manifest
from istar.training.clip_captions import ClipCaptions
from istar.training.config import TokenizerTraining, TransformerTraining
from istar.training.distributed import Share
from istar.training.latents import begin_set, encoder_digest, write_shard
from istar.training.run_file import read_config
from istar.training.sequences import Example, draw_run
from istar.training.transformer import TransformerTask

PAGE = Path(generate_ablations.TARGET)


@pytest.fixture
def latents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, ...]:
    """Random latents in place of the prepared ones."""
    config = read_config(ablation_runs.CONFIGS / "transformer.toml", TransformerTraining)
    tokenizer = load_video_tokenizer(config.tokenizer, read_manifest(config.model).tokenizer_config)
    directory = tmp_path / "latents"
    begin_set(directory, {"tokenizer": encoder_digest(tokenizer)}, shards=1)
    draw = torch.Generator().manual_seed(0)
    values = [torch.randn(64, 5, 5, 5, generator=draw) / 8 for _ in range(24)]
    captions = [
        ClipCaptions(whole=(random_scene(n, world=ablation_runs.world()).canonical_caption(),))
        for n in range(24)
    ]
    write_shard(directory, 0, values, captions)
    monkeypatch.setattr(ablation_runs, "prepared", lambda: (directory,))
    return (directory,)


@pytest.fixture
def kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs and results in a directory of the test's own."""
    monkeypatch.setattr(generate_ablations, "OUTPUT", tmp_path / "out")
    monkeypatch.setattr(generate_ablations, "RESULTS", tmp_path / "results.json")
    return tmp_path


def test_the_small_world_has_enough_held_out_combinations() -> None:
    world = ablation_runs.world()
    assert (len(world.colours), len(world.shapes), len(world.motions)) == (4, 3, 5)
    assert (world.changes, world.pairs) == (0, 0)
    scenes = ablation_runs.held_out_combinations(Scope().captions)
    assert len({scene.canonical_caption() for scene in scenes}) == Scope().captions
    for scene in scenes:
        (one,) = scene.subjects
        assert is_held_out(one.colour, one.shape, one.motion, scene.background)
        assert {one.colour, scene.background} <= {*world.colours}
    assert {scene.subjects[0].motion for scene in scenes} == {*world.motions}


@pytest.mark.usefixtures("latents")
def test_variants_of_a_seed_begin_alike_and_learn_from_the_same_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples: list[Example] = []

    def remember(example: Example, *rest: Any, **settings: Any) -> Any:
        examples.append(example)
        return draw_run(example, *rest, **settings)

    monkeypatch.setattr("istar.training.examples.draw_run", remember)

    def begun(name: str, seed: int) -> tuple[dict[str, torch.Tensor], list[Example], Any]:
        config = transformer_config(TRANSFORMERS[name], seed, tmp_path / f"{name} {seed}")
        task = TransformerTask(config)
        examples.clear()
        batches = [task.batch(0, Share())]
        return dict(task.network.state_dict()), list(examples), batches

    weights, seen, batches = begun(ablation_runs.PAPER, 1)
    assert len(seen) > 10
    # With five scales an example has more tokens, so that other examples fit into a row.
    for name in TRANSFORMERS.keys() - {FIVE_SCALES}:
        own_weights, own_seen, own_batches = begun(name, 1)
        assert own_weights.keys() == weights.keys()
        assert all(torch.equal(own_weights[key], weights[key]) for key in weights), name
        assert len(own_seen) == len(seen)
        for one, other in zip(own_seen, seen, strict=True):
            assert torch.equal(one.text, other.text)
            assert one.unconditional == other.unconditional
            assert torch.equal(torch.cat(one.latents, dim=1), torch.cat(other.latents, dim=1))
        for own, other in zip(own_batches, batches, strict=True):
            assert torch.equal(own.texts, other.texts)
            assert torch.equal(own.text_positions, other.text_positions)
            assert own.inputs.shape == other.inputs.shape
    other_weights, other_seen, _ = begun(ablation_runs.PAPER, 2)
    assert any(not torch.equal(other_weights[key], weights[key]) for key in weights)
    assert not torch.equal(other_seen[0].latents[0], seen[0].latents[0])


def test_the_text_encoder_is_frozen() -> None:
    config = read_config(ablation_runs.CONFIGS / "transformer.toml", TransformerTraining)
    assert not config.text.train
    assert config.text.start is not None


@pytest.mark.parametrize(
    ("values", "is_effect"),
    [
        ((1.0, 1.1, 0.9), True),
        ((-1.0, -1.1, -0.9), True),
        ((0.1, 1.0, 2.0), False),  # of one sign, but the interval has 0
        ((1.0, 1.2, -0.1), False),
        ((1.0, 1.1), False),  # two seeds show nothing
        ((0.0, 0.0, 0.0), False),
        ((2.0, 2.0, 2.0), True),
        ((0.5, 1.0, 1.5), False),  # 3.46 standard errors
        ((0.7, 1.0, 1.3), True),  # 5.77
    ],
)
def test_an_effect_is_what_three_seeds_show(values: tuple[float, ...], is_effect: bool) -> None:
    paper = {seed: {"loss": 5.0} for seed in range(len(values))}
    other = {seed: {"loss": 5.0 + value} for seed, value in enumerate(values)}
    found = Difference.between(other, paper, "loss")
    assert found.values == pytest.approx(values)
    assert found.is_effect == is_effect


def test_differences_are_of_the_same_seeds() -> None:
    one, other = {1: {"loss": 3.0}, 3: {"loss": 5.0}}, {3: {"loss": 4.0}, 2: {"loss": 9.0}}
    assert Difference.between(one, other, "loss").values == (1.0,)


def test_tables_have_means_deviations_and_bold_effects() -> None:
    columns = [
        Column(measure="loss", heading="loss", form=".2f"),
        Column(measure="place", heading="place (%)", form=".1f", factor=100),
    ]
    paper = {n: {"loss": 1.0 + n / 10, "place": 0.05} for n in range(3)}
    other = {n: {"loss": 2.0 + n / 10, "place": 0.05 + (n - 1) / 100} for n in range(3)}
    variants = {"as in the paper": paper, "other": other, "third": {}}
    assert list(level_rows(columns, {"alone": {1: {"place": 0.01}}, **variants})) == [
        "| run | seeds | loss | place (%) |",
        "|---|---|---|---|",
        "| alone | 1 | – | 1.0 |",
        "| as in the paper | 3 | 1.10 ± 0.10 | 5.0 ± 0.0 |",
        "| other | 3 | 2.10 ± 0.10 | 5.0 ± 1.0 |",
        "| third | 0 | not run yet |  |",
    ]
    assert list(difference_rows(columns, variants)) == [
        "| run | seeds | loss | place (%) |",
        "|---|---|---|---|",
        "| other | 3 | **+1.00 ± 0.00** | +0.0 ± 0.6 |",
        "| third | 0 | not run yet |  |",
    ]
    rows = list(difference_rows(columns, variants, {("other", "loss")}))
    assert rows[2] == "| other | 3 | – | +0.0 ± 0.6 |"


def test_the_page_is_the_results() -> None:
    found = generate_ablations.known_results()
    page = PAGE.read_text(encoding="utf-8")
    assert generated(page, found) == page
    for kind, variants in found.items():
        for name, seeds in variants.items():
            settings = settings_of(kind, KINDS[kind].variants[name])
            assert all(one["settings"] == settings for one in seeds.values())
            assert {*seeds} <= {*map(str, KINDS[kind].seeds)}


def test_variants_change_one_thing_of_what_can_be_read() -> None:
    for name, kind in (("transformer", TransformerTraining), ("tokenizer", TokenizerTraining)):
        settings: Any = read_config(ablation_runs.CONFIGS / f"{name}.toml", kind)
        variants = KINDS[name].variants
        assert len({settings_of(name, variant) for variant in variants.values()}) == len(variants)
        for variant in variants.values():
            assert (replace(settings.data, **variant.data) != settings.data) == bool(variant.data)


def counting(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Runs that only count how often they are made."""
    made: list[tuple[str, int]] = []

    def run_of_kind(kind: str) -> Callable[..., dict[str, float]]:
        def run(variant: Any, seed: int, *rest: Any) -> dict[str, float]:
            made.append((kind, seed))
            columns = KINDS[kind].columns
            return {column.measure: float(seed) for column in columns}

        return run

    for name, kind in list(KINDS.items()):
        monkeypatch.setitem(KINDS, name, replace(kind, run=run_of_kind(name)))
    return made


def test_what_is_done_is_not_done_again(kept_apart: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = counting(monkeypatch)
    runs = all_runs()
    assert len(runs) == len({*runs}) == 1 + 7 * 3 + 2 + 2 * 3
    assert missing_runs({}) == runs
    # 1. A run that left its result before it was kept is not made again.
    first, second = runs[1], runs[2]
    result = result_of(first)
    assert result_of(first) == result
    with pytest.raises(SystemExit, match="seed 9: something it begins with has changed"):
        left_result(replace(first, seed=9))
    assert made == [(first.kind, first.seed)]
    # 2. What is kept is not missing, also for whoever reads it again.
    found: Any = {}
    keep(found, first, result)
    keep(found, second, result_of(second))
    again = generate_ablations.known_results()
    assert missing_runs(again) == tuple(run for run in runs if run not in (first, second))
    # 3. Other settings make it missing, and the next writing removes it.
    again[first.kind][first.name][str(first.seed)]["settings"] = "others"
    assert first in missing_runs(again)
    keep(again, second, result_of(second))
    assert first.name not in generate_ablations.known_results()[first.kind] or (
        str(first.seed) not in generate_ablations.known_results()[first.kind][first.name]
    )
    page = generated(PAGE.read_text(encoding="utf-8"), found)
    assert generate_ablations.generated(page, {}) == generated(PAGE.read_text("utf-8"), {})


def test_all_runs_are_made_once_also_after_a_failure(
    kept_apart: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = counting(monkeypatch)
    page = kept_apart / "page.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(generate_ablations, "TARGET", page)
    monkeypatch.setattr(generate_ablations, "prepared", lambda: ())
    started: list[list[str]] = []

    def run_process(command: list[str], *, check: bool) -> None:
        started.append(command)
        assert check
        if len(started) == 9:
            raise CalledProcessError(1, command)
        kind, name, seed = command[command.index("--run") + 1 :][:3]
        result_of(AblationRun(kind=kind, name=name, seed=int(seed)))

    monkeypatch.setattr("generate_ablations.subprocess.run", run_process)
    with pytest.raises(CalledProcessError):
        run_all([0])
    assert len(made) == 8
    assert len(missing_runs(generate_ablations.known_results())) == 30 - 8
    run_all([0, 1])
    assert len(made) == len(all_runs())
    assert {command[-1] for command in started} <= {"0", "1"}
    assert missing_runs(generate_ablations.known_results()) == ()
    text = page.read_text(encoding="utf-8")
    assert "not run yet" not in text
    assert "| 2.0000 ± 1.0000 |" in text
    run_all([0, 1])
    assert len(made) == len(all_runs())


def test_runs_that_are_compared_begin_with_the_same_parts_of_tiny(
    kept_apart: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting(monkeypatch)
    monkeypatch.setattr(generate_ablations, "tiny_parts", lambda: "old")
    found: Any = {}
    own = [run for run in all_runs() if run.kind == "transformer"]
    for run in own[:-1]:
        keep(found, run, result_of(run))
    assert {*missing_runs(found)} & {*own} == {own[-1]}
    monkeypatch.setattr(generate_ablations, "tiny_parts", lambda: "new one")
    assert {*own} <= {*missing_runs(found)}
    monkeypatch.setattr(generate_ablations, "tiny_parts", lambda: "old")
    keep(found, own[-1], result_of(own[-1]))
    monkeypatch.setattr(generate_ablations, "tiny_parts", lambda: "new one")
    assert not {*missing_runs(found)} & {*own}


@pytest.mark.usefixtures("latents")
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("transformer", "one pyramid"),
        ("tokenizer", "no stochastic depth"),
        ("ceiling", next(iter(CEILINGS))),
    ],
)
def test_a_run_measures_what_its_table_shows(kind: str, name: str, kept_apart: Path) -> None:
    run = AblationRun(kind=kind, name=name, seed=2)
    found = result_of(run, scope=Scope(captions=1, clips=2, scenes=1), steps=1)
    assert {*found["measures"]} == {column.measure for column in KINDS[kind].columns}
    assert all(isinstance(value, float) for value in found["measures"].values())
    log = run.directory / "log.jsonl"
    assert kind == "ceiling" or json.loads(log.read_text())["step"] == 1
