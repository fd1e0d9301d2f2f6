"""The test of a model in the world of shapes: counting with known truth, and a run of each mode."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from asking import with_spec
from istar.errors import CheckpointError, UsageError
from istar.events import GenerationResult
from istar.generation.canvas import Canvas
from istar.generation.residual import bits_of_latent, quantized_latent
from istar.generation.schedule import Step, nearest_template
from istar.inputs import picture_size
from istar.lab.measure import measure
from istar.lab.quality import psnr
from istar.lab.report import Rate, ShapesReport, contact_sheet
from istar.lab.score import (
    MODES,
    PERFECT_PSNR,
    THUMBNAIL_WIDTH,
    EvaluationMode,
    Outcome,
    ShapesTest,
    continues,
    evaluate_shapes,
    judge,
    reconstruct,
    verdict,
)
from istar.lab.world import Scene, random_scene
from istar.pipeline import InfinityStarPipeline
from istar.request import GenerationRequest
from istar.video_tokenizer.conv import FrameHistory

TEST = ShapesTest(count=12, seed=3, modes=("t2v", "extend"))


@pytest.fixture(scope="session")
def pipeline(checkpoint: Path) -> InfinityStarPipeline:
    return InfinityStarPipeline.from_pretrained(checkpoint, device="cpu")


def outcome(
    scene: Scene, frames: Tensor, *, mode: EvaluationMode = "t2v", seed: int = 3
) -> Outcome:
    return judge(frames, scene, mode=mode, seed=seed, test=TEST)


def other_scene(scene: Scene, *, but: str) -> Scene:
    """The scene with another background, or with another shape, colour or motion."""
    (one,) = scene.subjects
    if but == "background":
        free = {"white", "blue", "green"} - {scene.background, one.colour}
        return replace(scene, background=min(free))
    values = {"colour": ("pink", "red", "cyan"), "shape": ("star", "square")}
    wrong = {"motion": ("grows", "stands")} | values
    taken = {getattr(one, but), scene.background}
    changed = replace(one, **{but: next(name for name in wrong[but] if name not in taken)})
    if but == "motion":
        changed = replace(changed, x=0.5, y=0.5, size=0.15)
    return replace(scene, subjects=(changed,))


@pytest.mark.parametrize("but", ["background", "colour", "shape", "motion"])
def test_a_clip_with_one_thing_wrong_fails_in_that_alone(but: str) -> None:
    scene = random_scene(3, held_out=True)
    assert outcome(scene, scene.frames(33, 64, 112)).record.right == dict.fromkeys(
        ("background", "colour", "shape", "motion", "all", "kept"), True
    )
    clip = other_scene(scene, but=but).frames(33, 64, 112)
    right = outcome(scene, clip).record.right
    assert [name for name, holds in right.items() if not holds] == [but, "all"]


def test_what_is_not_kept_is_counted_apart() -> None:
    scene = random_scene(3, held_out=True)
    frames = scene.frames(33, 64, 112)
    frames[22:] = other_scene(scene, but="colour").frames(33, 64, 112)[22:]
    right = outcome(scene, frames).record.right
    assert right["all"]
    assert not right["kept"]


def test_rates_count_the_right_and_the_wrong() -> None:
    """Seven of twelve clips are right; three have a wrong colour, two a wrong shape and motion."""
    found = []
    for number in range(12):
        scene = random_scene(3 + number, held_out=True)
        shown = scene
        if number < 3:
            shown = other_scene(scene, but="colour")
        elif number < 5:
            shown = other_scene(other_scene(scene, but="motion"), but="shape")
        found.append(outcome(scene, shown.frames(33, 64, 112), seed=3 + number))
    report = report_of(found, ("t2v",))
    rates = report.rates("t2v")
    assert rates == {
        "background": Rate(hits=12, count=12),
        "colour": Rate(hits=9, count=12),
        "shape": Rate(hits=10, count=12),
        "motion": Rate(hits=10, count=12),
        "all": Rate(hits=7, count=12),
        "kept": Rate(hits=12, count=12),
    }
    by_motion = report.rates_by_motion("t2v").values()
    assert (sum(r.hits for r in by_motion), sum(r.count for r in by_motion)) == (10, 12)
    lines = list(report.lines())
    assert any("all" in line and "58.3%" in line and "7 of 12" in line for line in lines)


def report_of(found: list[Outcome], modes: tuple[EvaluationMode, ...]) -> ShapesReport:
    return ShapesReport(
        model="drawn",
        device="cpu",
        dtype="fp32",
        test=replace(TEST, modes=modes),
        records=tuple(outcome.record for outcome in found),
    )


def test_the_added_part_must_continue_where_the_clip_ended() -> None:
    seed = next(
        seed
        for seed in range(100)
        if random_scene(seed, held_out=True).subjects[0].motion == "right"
    )
    scene = random_scene(seed, held_out=True)
    on = outcome(scene, scene.frames(32, 64, 112, first=33), mode="extend").record.right
    assert on["continued"]
    assert on["all"]
    again = outcome(scene, scene.frames(32, 64, 112), mode="extend").record.right
    assert again["motion"]
    assert not again["continued"]
    still = scene.frames(34, 64, 112)[33:].repeat(32, 1, 1, 1)
    stopped = outcome(scene, still, mode="extend").record.right
    assert not stopped["motion"]
    assert not stopped["continued"]
    gone = scene.frames(32, 64, 112, first=1000)
    assert not continues(scene.subjects[0], measure(gone), 33 / 16)


def test_the_tokenizer_is_compared_with_the_scene() -> None:
    scene = random_scene(3, held_out=True)
    frames = scene.frames(33, 64, 112)
    same = outcome(scene, frames, mode="tokenizer").record
    assert (same.psnr, same.ssim) == (PERFECT_PSNR, pytest.approx(1))
    assert same.prompt == ""
    noisy = frames.int().add(torch.arange(33)[:, None, None, None] % 2 * 8).clamp(max=255).byte()
    worse = outcome(scene, noisy, mode="tokenizer").record
    assert worse.psnr == pytest.approx(psnr(frames, noisy))
    found = [Outcome(record=record, pictures=frames[:3]) for record in (same, worse)]
    report = report_of(found, ("tokenizer",))
    assert report.quality() == {
        "psnr": pytest.approx((PERFECT_PSNR + (worse.psnr or 0)) / 2),
        "ssim": pytest.approx(((same.ssim or 0) + (worse.ssim or 0)) / 2),
    }
    assert list(report.lines())[-1].split() == [
        "tokenizer",
        "ssim",
        f"{report.quality()['ssim']:.4f}",
    ]
    assert report_of([outcome(scene, frames)], ("t2v",)).quality() == {}


def test_a_decoder_that_draws_the_scene_passes_in_every_mode(
    pipeline: InfinityStarPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that knows the world: what it is given and asked for fits what is measured."""
    asked: list[GenerationRequest] = []
    test = ShapesTest(count=3, seed=20, seconds=1.75)

    def draw(self: InfinityStarPipeline, request: GenerationRequest) -> GenerationResult:
        scene = random_scene(request.seed, held_out=True)
        size = picture_size(nearest_template(9 / 16), pipeline.spec)
        frames = scene.frames(29 if request.mode != "extend" else 57, *size)
        if isinstance(request.image, Tensor):
            assert torch.equal(request.image, frames[0])
        if isinstance(request.clip, Tensor):
            assert torch.equal(request.clip, frames[:29])
        assert request.prompt == scene.caption(request.seed)
        assert request.seconds == test.seconds
        asked.append(request)
        return GenerationResult(request=request, model="drawn", frames=frames)

    monkeypatch.setattr(InfinityStarPipeline, "generate", draw)
    monkeypatch.setattr("istar.lab.score.reconstruct", lambda pipeline, frames, seconds: frames)
    found = list(evaluate_shapes(pipeline, test))
    assert [(o.record.mode, o.record.seed) for o in found] == [
        (mode, seed) for mode in MODES for seed in (20, 21, 22)
    ]
    assert [request.mode for request in asked] == ["t2v"] * 3 + ["i2v"] * 3 + ["extend"] * 3
    assert [request.seed for request in asked] == [20, 21, 22] * 3
    assert all(all(o.record.right.values()) for o in found)


def test_the_tokenizer_decodes_the_sum_of_all_codes(
    pipeline: InfinityStarPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = random_scene(1, held_out=True).frames(29, 32, 48)
    cut: list[tuple[Tensor, list[Step], list[Tensor]]] = []

    def noted(latent: Tensor, steps: list[Step], *, semantic_bits: int) -> Tensor:
        bits = bits_of_latent(latent, steps, semantic_bits=semantic_bits)
        cut.append((latent, steps, bits))
        return quantized_latent(latent, steps, semantic_bits=semantic_bits)

    monkeypatch.setattr("istar.lab.score.quantized_latent", noted)
    decoded = reconstruct(pipeline, frames, 1.75)
    scales = len(pipeline.spec.pixel_budget.sides)
    assert [(latent.shape[2], len(steps)) for latent, steps, _ in cut] == [(1, scales), (7, scales)]
    assert torch.equal(
        torch.cat([latent for latent, _, _ in cut], dim=2), pipeline.networks.encode(frames)
    )
    summed = []
    for latent, steps, bits in cut:
        canvas = Canvas.blank(steps[-1].full_grid, latent.shape[1])
        for step, value in zip(steps, bits, strict=True):
            canvas.add(step, value)
        summed.append(canvas.total)
    whole = pipeline.networks.decode(torch.cat(summed, dim=2), FrameHistory())
    assert decoded.shape == frames.shape
    assert (decoded.int() - whole.int()).abs().max() <= 1


def test_the_report_says_what_its_records_say(
    pipeline: InfinityStarPipeline, tmp_path: Path
) -> None:
    test = ShapesTest(count=2, seed=5, seconds=1.75)
    found = list(evaluate_shapes(pipeline, test))
    report = replace(report_of(found, test.modes), test=test, model=pipeline.spec.name)
    target = report.write(tmp_path / "report.json", overwrite=False)
    read = json.loads(target.read_text(encoding="utf-8"))
    assert (read["model"], read["count"], read["seed"]) == ("random", 2, 5)
    assert list(read["results"]) == list(MODES)
    for mode, result in read["results"].items():
        assert [record["seed"] for record in result["records"]] == [5, 6]
        for name, rate in result["rates"].items():
            hits = [record["right"][name] for record in result["records"]]
            assert (rate["hits"], rate["count"]) == (sum(hits), 2)
            assert 0 <= rate["low"] <= rate["rate"] <= rate["high"] <= 1
        for record in result["records"]:
            scene = random_scene(record["seed"], held_out=True)
            assert record["wanted"] == vars(verdict(scene, found[0].record.measured)[0])
            names = ("background", "colour", "shape", "motion")
            same = [record["wanted"][name] == record["measured"][name] for name in names]
            assert [record["right"][name] for name in names] == same
            assert record["right"]["all"] == all(same)
            assert ("continued" in record["right"]) == (mode == "extend")
    psnrs = [record["psnr"] for record in read["results"]["tokenizer"]["records"]]
    assert read["results"]["tokenizer"]["psnr"] == pytest.approx(sum(psnrs) / 2)
    assert report.write(target, overwrite=False) == target.with_stem(f"{target.stem}-1")
    assert report.write(target, overwrite=True) == target


def test_the_same_seed_finds_the_same(pipeline: InfinityStarPipeline) -> None:
    test = ShapesTest(count=1, seed=9, modes=("t2v",), seconds=1.75)
    first, second = (next(evaluate_shapes(pipeline, test)) for _ in range(2))
    assert first.record == second.record
    assert torch.equal(first.pictures, second.pictures)


def test_a_mode_that_a_model_cannot_do_is_refused_before_anything_is_made(
    pipeline: InfinityStarPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(pipeline.spec, pyramid="one", extends=False, interact=None)
    one_pyramid = with_spec(pipeline, spec)
    able = ShapesTest(count=1, modes=("t2v", "tokenizer"), seconds=1.75)
    assert [one.record.mode for one in evaluate_shapes(one_pyramid, able)] == list(able.modes)
    monkeypatch.delattr(InfinityStarPipeline, "generate")
    with pytest.raises(CheckpointError, match="cannot do i2v"):
        next(evaluate_shapes(one_pyramid, ShapesTest(count=1)))


def test_the_sheet_frames_what_is_right_in_green() -> None:
    scene = random_scene(3, held_out=True)
    frames = scene.frames(33, 64, 112)
    right = outcome(scene, frames)
    wrong = outcome(scene, other_scene(scene, but="colour").frames(33, 64, 112))
    sheet = contact_sheet([right, wrong, right, right, wrong])
    height, width = 64 + 2 * 2 + 6, 3 * (112 + 2) + 2 + 6
    assert sheet.shape == (2 * height, 4 * width, 3)
    corners = [
        sheet[row * height + 3, column * width + 3].tolist()
        for row, column in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1))
    ]
    green, red, paper = [0, 150, 0], [200, 0, 0], [240, 240, 240]
    assert corners == [green, red, green, red, paper]
    assert torch.equal(sheet[5:69, 5:117], frames[0])
    assert torch.equal(sheet[5:69, 5 + 2 * 114 : 5 + 2 * 114 + 112], frames[32])


def test_modes_begin_rows_of_their_own() -> None:
    scene = random_scene(3, held_out=True)
    frames = scene.frames(33, 64, 112)
    both = [outcome(scene, frames), outcome(scene, frames, mode="i2v")]
    assert contact_sheet(both).shape[0] == 2 * contact_sheet(both[:1]).shape[0]


def test_large_pictures_are_kept_small() -> None:
    scene = random_scene(3, held_out=True)
    pictures = outcome(scene, scene.frames(33, 180, 320)).pictures
    assert pictures.shape == (3, 72, THUMBNAIL_WIDTH, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 0}, "at least one scene"),
        ({"modes": ()}, "not none"),
        ({"modes": ("t2v", "t2v")}, "each once"),
        ({"modes": ("t2i",)}, "not t2i"),
        ({"seed": -1}, "a seed is"),
        ({"seconds": 1.5}, "1.75 to"),
        ({"seconds": 2.1}, "multiple"),
    ],
)
def test_tests_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(TEST, **changes)
