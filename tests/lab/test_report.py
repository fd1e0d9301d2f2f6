"""The report and the sheet of a test in the world of shapes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from istar.lab.measure import Measurement
from istar.lab.report import Difference, Rate, ShapesReport
from istar.lab.score import Outcome, Record, ShapesTest
from istar.lab.sheet import MOST_CLIPS, contact_sheet
from istar.lab.trials import EvaluationMode, Verdict, Wanted, verdict

WANTED = Wanted(background="blue", colour="red", shape="square", motion="right")
SHOWN = Measurement(
    background="blue",
    colour="red",
    shape="square",
    motion="right",
    kept=True,
    whole=True,
    centre=(0.3, 0.5),
    speed=1.0,
)


def record(
    mode: EvaluationMode = "t2v", seed: int = 0, prompt: str = "a", **shown: object
) -> Record:
    found = verdict((WANTED,), (replace(SHOWN, **shown),))
    return Record(mode=mode, seed=seed, prompts=(prompt,), verdict=found)


def report_of(*records: Record) -> ShapesReport:
    modes = tuple(dict.fromkeys(one.mode for one in records))
    return ShapesReport(
        model="drawn",
        device="cpu",
        dtype="fp32",
        test=ShapesTest(count=len(records) // len(modes), modes=modes),
        records=records,
    )


SOME_WRONG = (
    *(record(colour="pink") for _ in range(3)),
    *(record(shape="star", motion="grows") for _ in range(2)),
    record(whole=False),
    *(record() for _ in range(6)),
)


def test_rates_count_the_right_and_the_wrong() -> None:
    """Six of twelve clips are right."""
    report = report_of(*SOME_WRONG)
    assert {name: (rate.hits, rate.count) for name, rate in report.rates("t2v").items()} == {
        "background": (12, 12),
        "colour": (9, 12),
        "shape": (10, 12),
        "motion": (10, 12),
        "whole": (11, 12),
        "all": (6, 12),
        "kept": (12, 12),
    }
    assert report.rates_by_motion("t2v") == {"right": Rate(hits=10, count=12)}
    lines = [line.split() for line in report.lines()]
    assert ["t2v", "all", "50.0%", "(6", "of", "12;"] in [line[:6] for line in lines]
    # Each motion's own rate follows that of all motions.
    place = next(n for n, line in enumerate(lines) if line[1] == "motion")
    assert lines[place + 1][:6] == ["t2v", "right", "83.3%", "(10", "of", "12;"]


def test_a_mode_is_compared_with_that_of_training() -> None:
    new = tuple(replace(one, mode="wording") for one in (*SOME_WRONG[:6], *SOME_WRONG[:6]))
    report = report_of(*SOME_WRONG, *new)
    difference = report.differences("wording")["all"]
    assert difference.value == pytest.approx(-0.5)
    assert difference.low < -0.5 < difference.high < 0
    assert report.differences("t2v") == {}
    assert report_of(*new).differences("wording") == {}
    assert any("wording" in line and "-50.0 points from t2v" in line for line in report.lines())


def test_differences_and_their_intervals() -> None:
    # Newcombe, "Interval estimation for the difference between independent proportions" (1998),
    # Table II, method 10
    for rate, other, low, high in (
        (Rate(hits=56, count=70), Rate(hits=48, count=80), 0.0524, 0.3339),
        (Rate(hits=9, count=10), Rate(hits=3, count=10), 0.1705, 0.8090),
    ):
        difference = Difference.of(rate, other)
        assert (difference.low, difference.high) == pytest.approx((low, high), abs=5e-5)


def test_several_videos_of_a_prompt_have_a_spread() -> None:
    made = [
        replace(
            (one := record("diversity", seed, prompt, centre=(0.5, 0.5 + 0.01 * (seed % 2)))),
            verdict=replace(
                one.verdict, world=replace(SHOWN, centre=(0.5, 0.5 + 0.02 * (seed % 2)), speed=2.0)
            ),
        )
        for prompt in ("a", "b")
        for seed in range(4)
    ]
    report = report_of(*made)
    assert report.spreads()["start"].ratio == pytest.approx(0.5)
    assert report.spreads()["start"].prompts == 2
    assert report.as_json()["results"]["diversity"]["spreads"]["start"]["ratio"] == pytest.approx(
        0.5
    )
    assert any("50.0% of the world's spread" in line for line in report.lines())
    assert report_of(record()).spreads() == {}


def test_the_tokenizers_quality_is_a_mean() -> None:
    clips = [
        replace(one, verdict=replace(one.verdict, psnr=psnr, ssim=ssim))
        for one, psnr, ssim in ((record("tokenizer"), 20.0, 0.5), (record("tokenizer"), 30.0, 1.0))
    ]
    report = report_of(*clips)
    assert report.quality() == {"psnr": 25, "ssim": 0.75}
    assert list(report.lines())[-1].split() == ["tokenizer", "ssim", "0.7500"]
    assert report_of(record()).quality() == {}


def test_the_file_says_what_the_records_say(tmp_path: Path) -> None:
    report = report_of(*SOME_WRONG)
    target = report.write(tmp_path / "report.json", overwrite=False)
    read = json.loads(target.read_text(encoding="utf-8"))
    assert (read["model"], read["count"], read["complete"]) == ("drawn", 12, True)
    result = read["results"]["t2v"]
    for name, rate in result["rates"].items():
        hits = [one["right"][name] for one in result["records"]]
        assert (rate["hits"], rate["count"]) == (sum(hits), 12)
        assert 0 <= rate["low"] <= rate["rate"] <= rate["high"] <= 1
    assert result["records"][0]["wanted"][0]["colour"] == "red"
    assert result["records"][0]["measured"][0]["colour"] == "pink"
    assert report.write(target, overwrite=False) == target.with_stem("report-1")
    assert report.write(target, overwrite=True) == target


def outcome(
    *,
    right: bool = True,
    mode: EvaluationMode = "t2v",
    count: int = 3,
    size: tuple[int, int] = (64, 112),
) -> Outcome:
    pictures = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(count, *size, 3)
    return Outcome(record=record(mode, **({} if right else {"colour": "pink"})), pictures=pictures)


def colours(sheet: Tensor, height: int, width: int, places: list[tuple[int, int]]) -> list[object]:
    return [sheet[row * height + 3, column * width + 3].tolist() for row, column in places]


GREEN, RED, PAPER = [0, 150, 0], [200, 0, 0], [240, 240, 240]


def test_the_sheet_frames_what_is_right_in_green() -> None:
    good, bad = outcome(), outcome(right=False)
    sheet = contact_sheet([good, bad, good, good, bad])
    height, width = 64 + 2 * 2 + 6, 3 * (112 + 2) + 2 + 6
    assert sheet.shape == (2 * height, 4 * width, 3)
    places = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert colours(sheet, height, width, places) == [GREEN, RED, GREEN, RED, PAPER]
    assert (sheet[5:69, 5:117] == 0).all()
    assert (sheet[5:69, 5 + 2 * 114 : 5 + 2 * 114 + 112] == 2).all()


def test_modes_of_other_sizes_begin_rows_of_their_own_and_fill_them() -> None:
    tall = [outcome(mode="tall", size=(112, 64), right=False)] * 7
    single = [outcome(mode="t2i", count=1)] * 8
    sheet = contact_sheet([outcome(), *tall, *single])
    usual, high = 64 + 10, 112 + 10
    # at 206 and 122 wide, six and eleven fit beneath four of 350
    assert sheet.shape == (usual + 2 + 2 * high + 2 + usual, 4 * 350, 3)
    below = sheet[usual + 2 :]
    assert colours(below, high, 206, [(0, 5), (1, 0), (1, 1)]) == [RED, RED, PAPER]
    last = below[2 * high + 2 :]
    assert colours(last, usual, 122, [(0, 7), (0, 8)]) == [GREEN, PAPER]


def test_the_sheet_shows_only_the_first_clips() -> None:
    many = [outcome() for _ in range(MOST_CLIPS + 5)]
    assert torch.equal(contact_sheet(many), contact_sheet(many[:MOST_CLIPS]))


def test_a_verdict_of_several_is_right_where_all_are() -> None:
    other = replace(WANTED, colour="white")
    found: Verdict = verdict((WANTED, other), (SHOWN, SHOWN))
    assert found.right == {
        "background": True,
        "colour": False,
        "shape": True,
        "motion": True,
        "whole": True,
        "all": False,
        "kept": True,
    }


def test_of_two_prompts_the_second_ones_motion_is_counted() -> None:
    later = replace(WANTED, motion="up")
    found = verdict((later,), (replace(SHOWN, motion="up"),))
    both = Verdict(wanted=(WANTED, later), measured=(SHOWN, *found.measured), right=found.right)
    ignored = verdict((later,), (SHOWN,))
    wrong = Verdict(wanted=(WANTED, later), measured=(SHOWN, SHOWN), right=ignored.right)
    records = (
        Record(mode="interact", seed=0, prompts=("a", "b"), verdict=v) for v in (both, wrong)
    )
    report = report_of(*records)
    assert report.rates("interact")["motion"] == Rate(hits=1, count=2)
    assert report.rates_by_motion("interact") == {"up": Rate(hits=1, count=2)}
