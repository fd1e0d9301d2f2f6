"""Validation, contact sheets and the exported manifest of a transformer run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from istar.checkpoint.pack import pack
from istar.checkpoint.read import load_video_tokenizer
from istar.checkpoint.write import save_video_tokenizer
from istar.errors import UsageError
from istar.models.manifest import MANIFEST_NAME, hashes_of, read_hashes, read_manifest
from istar.networks import Networks
from istar.pipeline import InfinityStarPipeline
from istar.request import GenerationRequest
from istar.training.config import (
    MixConfig,
    SamplesConfig,
    TextConfig,
    TransformerTraining,
    ValidationConfig,
)
from istar.training.distributed import Share
from istar.training.events import StepDone, Validated
from istar.training.latents import read_prepared
from istar.training.log import LOG_NAME, read_log
from istar.training.packing import pack as pack_rows
from istar.training.sequences import Example, SequenceConfig, draw_run
from istar.training.trainer import train
from istar.training.transformer import TransformerTask
from istar.transformer.model import Transformer
from small_training import CPU, losses, run_config, transformer_run, write_manifest


@pytest.fixture
def measured(place: Path, sets: tuple[Path, ...], tmp_path: Path) -> TransformerTraining:
    """A run on short clips that is measured on long ones, every second step."""
    return transformer_run(
        place,
        sets[1:2],
        run=run_config(tmp_path / "run", steps=5, ema=0.5, learning_rate=0.02),
        data={"mix": (MixConfig(seconds=1),), "rows": (128,), "tokens": 256},
        validation=ValidationConfig(sets=sets[2:], every=2, rows=4),
    )


def elsewhere(config: TransformerTraining, output: Path, **settings: Any) -> TransformerTraining:
    """The same run with another output."""
    return replace(config, run=replace(config.run, output=output), **settings)


def test_validation_is_logged_and_changes_nothing_else(
    measured: TransformerTraining, tmp_path: Path
) -> None:
    plain = elsewhere(measured, tmp_path / "plain", validation=ValidationConfig())
    measured, plain = (replace(one, run=replace(one.run, steps=3)) for one in (measured, plain))
    losses(TransformerTask(plain), plain.run)
    events = list(train(TransformerTask(measured), measured.run, CPU))
    found = {event.step: event.measures for event in events if isinstance(event, Validated)}
    assert list(found) == [2, 3]
    names = ["validation_loss", *(f"validation_right{end}" for end in ("", "_0", "_1"))]
    assert all(list(measures) == names for measures in found.values())
    assert 0.3 < found[3]["validation_loss"] < 1.5
    lines, wanted = (read_log(config.run.output / LOG_NAME) for config in (measured, plain))
    for line in lines:
        own = {name: line.pop(name) for name in names if name in line}
        assert own == pytest.approx(found.get(int(line["step"]), {}), rel=1e-5)
    assert lines == wanted
    model = Path("model", "transformer", "model.safetensors")
    one, other = (config.run.output / model for config in (measured, plain))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of its own doings
def test_compiled_blocks_are_measured_too(measured: TransformerTraining, tmp_path: Path) -> None:
    found = []
    for compile_blocks in (False, True):
        output = tmp_path / str(compile_blocks)
        config = elsewhere(measured, output, compile=compile_blocks)
        losses(TransformerTask(config), config.run)
        found.append([line.get("validation_loss", 0.0) for line in read_log(output / LOG_NAME)])
    assert sum(loss > 0 for loss in found[0]) == 3
    assert found[1] == pytest.approx(found[0], rel=1e-3)


def test_a_step_between_lines_of_the_log_is_logged_whole(measured: TransformerTraining) -> None:
    run = replace(measured.run, log_every=3, steps=4)
    losses(TransformerTask(measured), run)
    lines = read_log(run.output / LOG_NAME)
    assert [line["step"] for line in lines] == [2, 3, 4]
    assert ["validation_loss" in line for line in lines] == [True, False, True]
    assert all("loss" in line for line in lines)


def test_tensorboard_has_the_measures(measured: TransformerTraining) -> None:
    board = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = replace(measured.run, steps=2)
    losses(TransformerTask(measured), run)
    events = board.EventAccumulator(str(run.output / "tensorboard"))
    events.Reload()
    assert {"validation_loss", "validation_right_1"} <= set(events.Tags()["scalars"])


@pytest.mark.slow
def test_an_interrupted_run_with_validation_continues_exactly(
    measured: TransformerTraining, tmp_path: Path
) -> None:
    measured = replace(measured, run=replace(measured.run, steps=4))
    losses(TransformerTask(measured), measured.run)
    cut = elsewhere(measured, tmp_path / "cut")
    losses(TransformerTask(cut), cut.run, stop_after=3)
    losses(TransformerTask(cut), cut.run)
    logs = [(config.run.output / LOG_NAME).read_bytes() for config in (measured, cut)]
    assert logs[0] == logs[1]


def test_the_averaged_weights_are_measured_and_put_back(measured: TransformerTraining) -> None:
    measured = replace(measured, run=replace(measured.run, steps=2))
    task = TransformerTask(measured)
    events = train(task, measured.run, CPU)
    last = {}
    for event in events:
        if isinstance(event, StepDone):
            before = [weight.detach().clone() for weight in task.network.parameters()]
        elif isinstance(event, Validated):
            last = event.measures
            now = list(task.network.parameters())
            assert all(torch.equal(a, b) for a, b in zip(before, now, strict=True))
    model = measured.run.output / "model"
    text = TextConfig(start=model / "text_encoder")
    exported = TransformerTask(replace(measured, start=model / "transformer", text=text))
    assert exported.validation is not None
    assert task.validation is not None
    with torch.no_grad():
        assert exported.validation.measures(CPU) == last
        assert task.validation.measures(CPU) != last


def test_the_examples_are_always_the_same_and_undisturbed(
    measured: TransformerTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Example, SequenceConfig]] = []

    def remember(
        example: Example, sizes: Any, config: SequenceConfig, *more: Any, **rest: Any
    ) -> Any:
        seen.append((example, config))
        return draw_run(example, sizes, config, *more, **rest)

    monkeypatch.setattr("istar.training.examples.draw_run", remember)
    texts = []
    for seed in (0, 1):
        seen.clear()
        data = replace(measured.data, text_dropout=1.0, finest_share=0.1)
        config = replace(measured, run=replace(measured.run, seed=seed), data=data)
        task = TransformerTask(config)
        assert task.validation is not None
        with torch.no_grad():
            task.validation.measures(CPU)
        assert all(not example.unconditional for example, _ in seen)
        assert all(one.most_flips == 0 and one.condition_noise == (0,) for _, one in seen)
        assert all(one.finest_share == 1 for _, one in seen)
        texts.append([example.text.tolist() for example, _ in seen])
    assert texts[0] == texts[1]
    assert len(texts[0]) > 3


def test_rows_that_cannot_be_made_are_refused_before_the_first_step(
    measured: TransformerTraining,
) -> None:
    """Half of training's examples have no text, and fit; validation's have all of theirs."""
    data = replace(measured.data, rows=(30,), tokens=30, text_dropout=1.0)
    run = replace(measured, data=data)
    assert len(TransformerTask(replace(run, validation=ValidationConfig())).batch(0, Share()).texts)
    with pytest.raises(UsageError, match="validation: no example fits into a row of 30 tokens"):
        TransformerTask(run)


def test_rows_are_as_many_however_long_they_are(
    measured: TransformerTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: list[int] = []

    def remember(rows: Any, length: int) -> Any:
        packed.extend([length] * len(rows))
        return pack_rows(rows, length)

    monkeypatch.setattr("istar.training.examples.pack", remember)
    validation = replace(measured.validation, rows=3)
    for length in (128, 256):
        data = replace(measured.data, rows=(96, length))
        task = TransformerTask(replace(measured, data=data, validation=validation))
        assert task.validation is not None
        packed.clear()
        with torch.no_grad():
            task.validation.measures(CPU)
        assert packed == [length] * 3


def of_training(config: TransformerTraining, tmp_path: Path) -> TransformerTraining:
    return replace(config, validation=ValidationConfig(sets=config.data.sets))


def too_short(config: TransformerTraining, tmp_path: Path) -> TransformerTraining:
    pictures = config.data.sets[0].with_name("pictures")
    return replace(config, validation=ValidationConfig(sets=(pictures,)))


def of_another_tokenizer(config: TransformerTraining, tmp_path: Path) -> TransformerTraining:
    tokenizer = load_video_tokenizer(config.tokenizer)
    tokenizer.project_in.weight.data *= 1.1
    save_video_tokenizer(tmp_path / "other.safetensors", tokenizer)
    return replace(config, tokenizer=tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (of_training, "validation: .*clips is trained on"),
        (too_short, "validation: no prepared clip has the 5 latent frames"),
        (of_another_tokenizer, "was prepared with another tokenizer"),
    ],
)
def test_sets_that_cannot_be_held_out_are_refused(
    measured: TransformerTraining,
    tmp_path: Path,
    change: Callable[[TransformerTraining, Path], TransformerTraining],
    words: str,
) -> None:
    with pytest.raises(UsageError, match=words):
        TransformerTask(change(measured, tmp_path))


def test_sheets_have_the_prompts_and_clips_that_are_asked_for(
    measured: TransformerTraining,
) -> None:
    samples = SamplesConfig(prompts=("a red boat", "a blue house"), clips=2)
    task = TransformerTask(replace(measured, samples=samples))
    weights = {name: weight.detach() for name, weight in task.network.named_parameters()}
    sheets = task.sample(weights, CPU)
    assert {name: len(sheet) for name, sheet in sheets.items()} == {
        "step": 2 * 32,
        "validation": 4 * 32,
    }
    others = replace(samples, prompts=("a red boat", "a green house"), clips=0)
    again = TransformerTask(replace(measured, samples=others)).sample(weights, CPU)
    assert torch.equal(again["step"][:32], sheets["step"][:32])
    assert not torch.equal(again["step"][32:], sheets["step"][32:])
    # The first and third rows are clips of the set as the tokenizer decodes them, as far as the
    # longest example.
    clips = read_prepared(measured.validation.sets[0])
    networks: Networks = task._built(weights)
    for row, clip in ((0, clips[0]), (2, clips[2])):
        frames = networks.decode(clip.latent()[None, :, :5])
        for place, number in ((0, 0), (4, len(frames) - 1)):
            shown = sheets["validation"][32 * row : 32 * row + 32, 32 * place : 32 * place + 32]
            assert torch.equal(shown, frames[number])


@pytest.mark.parametrize(("possible", "trained", "shown"), [(1, 2, 1), (2, 1, 1), (2, 0, None)])
def test_a_held_out_clip_is_shown_as_far_as_it_can_be_and_with_the_caption_of_that(
    measured: TransformerTraining,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    possible: int,
    trained: int,
    shown: int | None,
) -> None:
    """Of its two seconds: the model makes no more than one, or is trained on no more."""
    manifest = tmp_path / "istar.json"
    settings = json.loads(measured.model.read_text()) | {"max_seconds": possible}
    manifest.write_text(json.dumps(settings))
    held_out = Path(copytree(measured.validation.sets[0], tmp_path / "held-out"))
    own = {"captions": ["whole"], "clip_captions": [["1st"], ["2nd"]]}
    for index in held_out.glob("*.jsonl"):
        lines = [json.dumps(json.loads(line) | own) for line in index.read_text().splitlines()]
        index.write_text("\n".join(lines) + "\n")
    asked = []

    def remember(pipeline: InfinityStarPipeline, request: GenerationRequest) -> Any:
        asked.append((request.prompt, request.mode, request.seconds))
        pictures = torch.zeros(17 if request.seconds else 1, 32, 32, 3, dtype=torch.uint8)
        return SimpleNamespace(frames=pictures)

    monkeypatch.setattr(InfinityStarPipeline, "generate", remember)
    config = replace(
        measured,
        model=manifest,
        data=replace(
            measured.data, sets=measured.validation.sets, mix=(MixConfig(seconds=trained),)
        ),
        validation=replace(measured.validation, sets=(held_out,)),
        samples=SamplesConfig(prompts=("a boat",), clips=1),
    )
    task = TransformerTask(config)
    task.sample({name: p.detach() for name, p in task.network.named_parameters()}, CPU)
    mode = "t2v" if shown else "t2i"
    assert asked == [("a boat", mode, shown), ("1st", mode, shown)]


def test_samples_are_generated_in_the_runs_precision(
    measured: TransformerTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remember(networks: Networks, *_: object) -> dict[str, Tensor]:
        used.append(networks.transformer)
        return {}

    used: list[Transformer] = []
    monkeypatch.setattr("istar.training.transformer.contact_sheets", remember)
    run = replace(measured.run, precision="bf16")
    task = TransformerTask(replace(measured, run=run))
    weights = {name: weight.detach() for name, weight in task.network.named_parameters()}
    task.sample(weights, CPU)
    for name, weight in used[0].named_parameters():
        wanted = torch.float32 if "_head" in name else torch.bfloat16
        assert torch.equal(weight, weights[f"transformer.{name}"].to(wanted)), name
        assert weight.dtype == wanted
    assert all(weight.dtype == torch.float32 for weight in weights.values())


def test_without_clips_or_prompts_a_sheet_shows_the_procedural_world(
    measured: TransformerTraining,
) -> None:
    usual = replace(measured, validation=ValidationConfig(), samples=SamplesConfig())
    task = TransformerTask(usual)
    weights = {name: weight.detach() for name, weight in task.network.named_parameters()}
    sheets = task.sample(weights, CPU)
    assert {name: len(sheet) for name, sheet in sheets.items()} == {"step": 6 * 32}


def test_what_is_written_has_its_own_hashes(measured: TransformerTraining, tmp_path: Path) -> None:
    """The manifest of the run may be a published model's, with hashes of other files."""
    manifest = json.loads(write_manifest(tmp_path / "base").read_text())
    old = {"transformer/model.safetensors": "0" * 64, "gone.bin": "1" * 64}
    source = {"repo": "a/b", "revision": "c", "transformer_revision": "c", "licence": "MIT"}
    manifest |= {"hashes": old, "dtype": "bf16", "source": source | {"expected_bytes": 1}}
    (tmp_path / "base" / MANIFEST_NAME).write_text(json.dumps(manifest))
    run = replace(measured.run, steps=2)
    config = replace(measured, model=tmp_path / "base" / MANIFEST_NAME, run=run)
    losses(TransformerTask(config), config.run)
    model = config.run.output / "model"
    found = read_hashes(model / MANIFEST_NAME)
    assert found == hashes_of(model)
    assert {"transformer/model.safetensors", "tokenizer.safetensors"} < found.keys()
    spec = read_manifest(model / MANIFEST_NAME)
    assert spec == replace(read_manifest(config.model), source=None, dtype=None)

    tuned = elsewhere(
        config,
        tmp_path / "tuned",
        model=model / MANIFEST_NAME,
        start=model / "transformer",
        text=TextConfig(start=model / "text_encoder"),
    )
    losses(TransformerTask(tuned), tuned.run)
    new = read_hashes(tuned.run.output / "model" / MANIFEST_NAME)
    assert new == hashes_of(tuned.run.output / "model")
    assert new["transformer/model.safetensors"] != found["transformer/model.safetensors"]
    assert new["tokenizer.safetensors"] == found["tokenizer.safetensors"]

    packed = pack(tuned.run.output / "model", tmp_path / "packed")
    assert read_hashes(packed / MANIFEST_NAME) == hashes_of(packed)
