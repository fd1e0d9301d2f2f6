"""What a step's batch holds: rows of examples of every kind, shared out among processes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch

from istar.errors import UsageError
from istar.training.clip_captions import ClipCaptions
from istar.training.config import MixConfig, TransformerTraining
from istar.training.distributed import Share
from istar.training.packing import PackedBatch
from istar.training.sequences import NO_LOSS, DrawnRun, Example, draw_run
from istar.training.transformer import TransformerTask
from small_training import write_manifest


def rows_of(batch: PackedBatch) -> list[tuple[Any, ...]]:
    """A batch as rows that can be compared, whatever stands beside them."""
    length = batch.group.shape[1]
    columns = ("inputs", "coordinates", "group", "looks_at", "targets", "kind", "weight", "scale")
    texts: list[list[Any]] = [[] for _ in batch.group]
    at = 0
    for text, size, dropped in zip(
        batch.texts, batch.text_lengths.tolist(), batch.unconditional.tolist(), strict=True
    ):
        positions = batch.text_positions[at : at + size]
        row = int(positions[0]) // length
        texts[row].append((text[:size].tolist(), (positions - row * length).tolist(), dropped))
        at += size
    return [
        (text, *(getattr(batch, name)[row].tolist() for name in columns))
        for row, text in enumerate(texts)
    ]


def test_a_batch_follows_from_the_step_alone(config: TransformerTraining) -> None:
    one, other = TransformerTask(config), TransformerTask(config)
    batches = [one.batch(step, Share()) for step in range(4)]
    for step in (3, 0, 2, 1):
        assert rows_of(other.batch(step, Share())) == rows_of(batches[step])
    assert {batch.group.shape for batch in batches} == {(4, 128), (2, 192)}
    assert rows_of(batches[0]) != rows_of(batches[1])


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_one_batch(config: TransformerTraining, processes: int) -> None:
    config = replace(config, data=replace(config.data, rows=(128,)))
    task = TransformerTask(config)
    whole = rows_of(task.batch(0, Share()))
    for rank in range(processes):
        part = rows_of(task.batch(0, Share(rank=rank, processes=processes)))
        assert part == whole[rank::processes]


def test_every_process_has_a_row(config: TransformerTraining) -> None:
    task = TransformerTask(replace(config, data=replace(config.data, rows=(128,), tokens=128)))
    assert len(task.batch(0, Share(rank=4, processes=5)).group) == 1


def test_every_kind_of_example_is_drawn(
    config: TransformerTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has latent frames of its own number; only an interactive clip has conditions."""
    drawn = set()

    def remember(example: Example, *rest: Any, **settings: Any) -> DrawnRun:
        text = bytes(n - 3 for n in example.text[:-1]).decode()
        prefix = text[:4] if text[1:4] == "s: " else ""
        frames = sum(latent.shape[1] for latent in example.latents)
        drawn.add((example.conditions is not None, frames, prefix))
        return draw_run(example, *rest, **settings)

    monkeypatch.setattr("istar.training.examples.draw_run", remember)
    task = TransformerTask(config)
    for step in range(6):
        task.batch(step, Share())
    assert drawn == {(False, 1, ""), (False, 5, "1s: "), (False, 9, "2s: "), (True, 4, "1s: ")}


@pytest.mark.parametrize(
    ("prepared_set", "kind", "clip_captions", "described"),
    [
        ("long", MixConfig(kind="interact"), [["1st"], ["2nd", "zweite"]], {"2nd", "zweite"}),
        ("long", MixConfig(kind="interact"), [["1st"]], {"whole"}),
        ("long", MixConfig(kind="interact"), [], {"whole"}),
        ("long", MixConfig(seconds=1), [["1st", "erste"], ["2nd"]], {"1st", "erste"}),
        ("long", MixConfig(seconds=0), [["1st"], ["2nd"]], {"1st"}),
        ("long", MixConfig(seconds=2), [["1st"], ["2nd"]], {"whole"}),
        ("clips", MixConfig(seconds=1), [["1st"]], {"1st"}),
        ("clips", MixConfig(seconds=1), [], {"whole"}),
    ],
)
def test_an_example_is_described_by_the_captions_of_what_it_holds(
    config: TransformerTraining,
    place: Path,
    tmp_path: Path,
    prepared_set: str,
    kind: MixConfig,
    clip_captions: list[list[str]],
    described: set[str],
) -> None:
    copy = Path(copytree(place / "latents" / prepared_set, tmp_path / "set"))
    for index in copy.glob("*.jsonl"):
        own = {"captions": ["whole"], "clip_captions": clip_captions}
        lines = [json.dumps(json.loads(line) | own) for line in index.read_text().splitlines()]
        index.write_text("\n".join(lines) + "\n")
    data = replace(config.data, sets=(copy,), mix=(kind,), text_dropout=0.0)
    batch = TransformerTask(replace(config, data=data)).batch(0, Share())
    texts = {
        bytes(n - 3 for n in text[: length - 1].tolist()).decode()
        for text, length in zip(batch.texts, batch.text_lengths.tolist(), strict=True)
    }
    assert {text.split(": ")[-1] for text in texts} == described


def test_half_of_the_dropped_texts_are_as_short_as_an_empty_prompt(
    config: TransformerTraining,
) -> None:
    data = replace(config.data, mix=(MixConfig(seconds=1),), text_dropout=0.5)
    task = TransformerTask(replace(config, data=data))
    lengths: dict[bool, list[int]] = {False: [], True: []}
    for step in range(40):
        batch = task.batch(step, Share())
        pairs = zip(batch.unconditional.tolist(), batch.text_lengths.tolist(), strict=True)
        for dropped, length in pairs:
            lengths[dropped].append(length)
    empty = len("1s: ") + 1
    assert empty not in lengths[False]
    assert 0.35 < lengths[True].count(empty) / len(lengths[True]) < 0.85


def test_or_all_keep_their_length_in_the_same_examples(config: TransformerTraining) -> None:
    data = replace(config.data, text_dropout=0.5)
    one, other = (
        TransformerTask(replace(config, data=replace(data, shorten_dropped=shortened)))._examples
        for shortened in (True, False)
    )
    shorter = 0
    for seed in range(60):
        a, b = (s._example(torch.Generator().manual_seed(seed)) for s in (one, other))
        assert a.unconditional == b.unconditional
        assert torch.equal(torch.cat(a.latents, dim=1), torch.cat(b.latents, dim=1))
        shorter += len(a.text) < len(b.text)
        assert len(b.text) > len("1s: ") + 1
        assert a.unconditional or torch.equal(a.text, b.text)
    assert 5 < shorter < 30


def test_a_row_tries_examples_until_one_fits(
    config: TransformerTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With full context an example is whole or left out, and here few are pictures."""
    manifest = write_manifest(tmp_path / "full")
    content = json.loads(manifest.read_text()) | {"context": "full"}
    del content["interact"]
    manifest.write_text(json.dumps(content))
    sizes: list[int] = []

    def remember(*arguments: Any, **settings: Any) -> DrawnRun:
        run = draw_run(*arguments, **settings)
        sizes.append(run.tokens)
        return run

    monkeypatch.setattr("istar.training.examples.draw_run", remember)
    mix = (MixConfig(seconds=2, weight=10), MixConfig(seconds=0, weight=1))
    data = replace(config.data, mix=mix, rows=(66,), tokens=66)
    task = TransformerTask(replace(config, model=manifest, data=data))
    most = 0
    for step in range(8):
        sizes.clear()
        assert len(task.batch(step, Share()).texts) >= 1
        most = max(most, next(n for n, size in enumerate(sizes) if size <= 66))
    assert most > 10


def texts_of(task: TransformerTask, steps: int = 8) -> set[str]:
    """The texts of some steps' rows."""
    return {
        bytes(n - 3 for n in text[: size - 1]).decode()
        for batch in (task.batch(step, Share()) for step in range(steps))
        for text, size in zip(batch.texts.tolist(), batch.text_lengths.tolist(), strict=True)
    }


def test_captions_have_the_prefix_but_not_the_suffix_of_prompts(
    config: TransformerTraining, tmp_path: Path
) -> None:
    manifest = tmp_path / "istar.json"
    content = json.loads(config.model.read_text())
    content["prompt"]["suffix"] = ", in detail"
    manifest.write_text(json.dumps(content))
    texts = texts_of(TransformerTask(replace(config, model=manifest)))
    assert texts == texts_of(TransformerTask(config))
    assert any(text.startswith("2s: ") for text in texts)


def test_captions_are_shortened_as_often_as_asked_for(
    config: TransformerTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    drawn = ClipCaptions.drawn

    def remember(captions: ClipCaptions, chance: float, generator: torch.Generator) -> str:
        found.append(drawn(ClipCaptions(whole=("One. Two.",)), chance, generator))
        return found[-1]

    monkeypatch.setattr(ClipCaptions, "drawn", remember)
    data = replace(config.data, short_captions=0.3)
    for chosen in (config, replace(config, data=data)):
        found.clear()
        texts_of(TransformerTask(chosen), 30)
        share = found.count("One.") / len(found)
        assert share == 0 if chosen is config else 0.2 < share < 0.4


def test_rows_that_are_too_short_are_refused(config: TransformerTraining) -> None:
    mix = (MixConfig(seconds=1),)
    data = replace(config.data, mix=mix, rows=(20,), text_dropout=0.0)
    task = TransformerTask(replace(config, data=data))
    with pytest.raises(UsageError, match="no example fits into a row of 20 tokens"):
        task.batch(0, Share())


def test_a_kind_without_weight_asks_for_nothing(config: TransformerTraining) -> None:
    mix = (MixConfig(seconds=1), MixConfig(seconds=4, weight=0))
    task = TransformerTask(replace(config, data=replace(config.data, mix=mix)))
    assert len(task.batch(0, Share()).texts)


@pytest.mark.parametrize("kind", [MixConfig(seconds=0), MixConfig(seconds=1)])
def test_examples_go_without_their_finest_scale_as_often_as_asked_for(
    config: TransformerTraining, kind: MixConfig
) -> None:
    """It has four tokens of a picture, and sixteen more of a clip after it."""
    data = replace(config.data, mix=(kind,), text_dropout=0.0)
    counts = []
    for share in (1.0, 1e-9):
        task = TransformerTask(replace(config, data=replace(data, finest_share=share)))
        batch = task.batch(0, Share())
        of_finest = (batch.scale == 1) & (batch.kind != NO_LOSS)
        counts.append(int(of_finest.sum()) / len(batch.texts))
    assert counts == [20, 4] if kind.seconds else [4, 0]


def test_a_row_is_filled_with_examples_that_go_without(config: TransformerTraining) -> None:
    """A bare prefix and a clip of one second take 30 tokens, and 14 without the finest scale."""
    mix = (MixConfig(seconds=1),)
    data = replace(config.data, mix=mix, rows=(30,), tokens=30, text_dropout=1.0, finest_share=1e-9)
    task = TransformerTask(replace(config, data=data))
    assert sum(len(task.batch(step, Share()).texts) for step in range(10)) >= 15


@pytest.mark.parametrize(
    ("kind", "name", "least"),
    [(MixConfig(seconds=1), "start of 1 s", 10), (MixConfig(kind="interact"), "interact", 25)],
)
def test_a_kind_that_fits_into_no_row_is_refused(
    config: TransformerTraining, kind: MixConfig, name: str, least: int
) -> None:
    """The bare prefix is five tokens, what others look at four or sixteen, a step one or four."""
    data = replace(config.data, mix=(MixConfig(seconds=0), kind), rows=(8, least))
    TransformerTask(replace(config, data=data))
    words = f"data: {name} takes at least {least} tokens, and the longest row has {least - 1}"
    with pytest.raises(UsageError, match=words):
        TransformerTask(replace(config, data=replace(data, rows=(8, least - 1))))


def test_scales_that_no_example_can_hold_are_named_once(config: TransformerTraining) -> None:
    """A clip's larger scale, of 16 tokens, fits beside the prefix and five others into 26."""
    data = replace(config.data, mix=(MixConfig(seconds=0), MixConfig(seconds=1)), rows=(20, 25))
    task, enough = (
        TransformerTask(replace(config, data=replace(data, rows=rows)))
        for rows in ((20, 25), (20, 26))
    )
    batch = TransformerTask(config).batch(0, Share())
    note = "scales of video clips with sides of 2 fit into no row of 25 tokens"
    assert not any(note in one for one in enough.remarks(batch))
    assert any(note in one for one in task.remarks(batch))
    assert task.remarks(batch) == ()
