"""The measurement of scores: what its table says, and that it continues."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import measure_scores
from istar import InfinityStarPipeline
from istar.generation.likelihood import Score
from measure_scores import SEEDS, VALUES, Made, best_is_right, main, make, rank_correlation, table


def made(prompt: int, seed: int, right: int, drawn: float) -> Made:
    """A video of two steps, of which the first is a draft and says the opposite."""
    steps = (Score(-2 * drawn, 0, 0), Score(3 * drawn, 0, 1))
    return Made(prompt=prompt, seed=seed, right=right, steps=steps, draft=1)


def prompt_of(*right: int, drawn: tuple[float, ...]) -> list[Made]:
    return [made(0, seed, *pair) for seed, pair in enumerate(zip(right, drawn, strict=True))]


def test_the_best_is_that_of_the_largest_value() -> None:
    prompt = prompt_of(3, 5, 4, drawn=(-3, -1, -2))
    assert best_is_right(prompt, VALUES["whole: as drawn"]) == 1
    assert best_is_right(prompt, VALUES["draft: as drawn"]) == 0
    assert best_is_right(prompt, VALUES["an oracle"]) == 1


@pytest.mark.parametrize(
    ("right", "drawn", "correlation"),
    [
        ((1, 2, 3), (-9.0, -5.0, -4.0), 1.0),
        ((3, 2, 1), (-9.0, -5.0, -4.0), -1.0),
        ((5, 5, 5), (-9.0, -5.0, -4.0), None),
        ((1, 2, 3), (-1.0, -1.0, -1.0), None),
        # Ranks 1, 2½, 2½, 4 against 1, 2, 3, 4.
        ((1, 2, 2, 3), (-4.0, -3.0, -2.0, -1.0), 4.5 / (4.5 * 5) ** 0.5),
    ],
)
def test_ranks_are_correlated(
    right: tuple[int, ...], drawn: tuple[float, ...], correlation: float | None
) -> None:
    found = rank_correlation(prompt_of(*right, drawn=drawn), VALUES["whole: as drawn"])
    assert found == (correlation if correlation is None else pytest.approx(correlation))


def test_the_table_counts_whole_prompts() -> None:
    lines = [
        made(prompt, seed, 5 if seed == prompt % 4 else 4, 0 if seed == prompt % 4 else -1 - seed)
        for prompt in range(8)
        for seed in range(SEEDS)
    ]
    rows = list(table([*lines, made(9, 0, 5, 0)]))
    assert rows[0].startswith("8 prompts; in 8 of them")
    cells = {row.split("|")[1].strip(): row.split("|")[2:] for row in rows[4:]}
    assert cells["one seed"][0].strip() == "12.5 % (12.5 to 12.5)"
    best = cells[f"best of {SEEDS} by whole: as drawn"]
    assert [cell.strip() for cell in best[:2]] == [
        "100.0 % (100.0 to 100.0)",
        "+87.5 (+87.5 to +87.5)",
    ]
    assert cells[f"best of {SEEDS} by draft: as drawn"][0].strip() == "0.0 % (0.0 to 0.0)"
    assert cells[f"best of {SEEDS} by an oracle"][2].strip() == "+1.00 (+1.00 to +1.00)"
    assert list(table([made(0, 0, 5, 0)])) == ["Nothing is measured yet."]


def test_a_measurement_continues_and_writes_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, page = tmp_path / "records.jsonl", tmp_path / "scores.md"
    page.write_text("before\n<!-- table -->\nold\n<!-- end -->\nafter\n", encoding="utf-8")
    monkeypatch.setattr(measure_scores, "PAGE", page)
    monkeypatch.setattr(sys, "argv", ["measure_scores", str(records), "--prompts", "2"])
    asked: list[tuple[int, int]] = []

    def counted(pipeline: object, prompt: int, seed: int) -> Made:
        asked.append((prompt, seed))
        if len(asked) == 5:
            raise KeyboardInterrupt
        return made(prompt, seed, 5, -1)

    monkeypatch.setattr(measure_scores, "make", counted)
    with pytest.raises(KeyboardInterrupt):
        main()
    main()
    assert asked == [(n, SEEDS * n + k) for n in range(2) for k in range(SEEDS)][:4] + asked[4:]
    assert len(set(asked)) == len(asked) - 1 == 2 * SEEDS
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- table -->\n2 prompts; in 0 of them")
    assert text.endswith("|\n<!-- end -->\nafter\n")
    # Everything is there: nothing is made again.
    main()
    assert len(asked) == 2 * SEEDS + 1


def test_a_video_is_made_judged_and_kept_as_a_line() -> None:
    pipeline = InfinityStarPipeline.from_pretrained("tiny", device="cpu")
    found = make(pipeline, 0, 0)
    assert Made.read(found.line) == found
    assert 0 < found.draft < len(found.steps) == 30
    assert 0 <= found.right <= 5
    assert all(score.drawn < 0 for score in found.steps)
