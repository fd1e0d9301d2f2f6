"""The test of a model in the world of shapes: judging with known truth, and a run of each mode."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from asking import with_spec
from istar.errors import CheckpointError, UsageError
from istar.events import GenerationResult
from istar.generation.canvas import Canvas
from istar.generation.residual import bits_of_latent, quantized_latent
from istar.generation.schedule import Step
from istar.lab.held_out import scenes_of_two, turning_scenes
from istar.lab.measure import measure
from istar.lab.quality import PERFECT_PSNR, psnr
from istar.lab.score import (
    THUMBNAIL_WIDTH,
    USUAL_MODES,
    Record,
    ShapesTest,
    evaluate_shapes,
    outcome_of,
    perfect_prediction,
)
from istar.lab.subject import MOTIONS, Subject
from istar.lab.trials import (
    MODES,
    SEEDS_PER_PROMPT,
    TRIALS,
    Case,
    EvaluationMode,
    Verdict,
    continues,
)
from istar.lab.world import Scene, random_scene
from istar.pipeline import InfinityStarPipeline
from istar.request import GenerationRequest

SIZE = 64, 112
ALL_RIGHT = dict.fromkeys(("background", "colour", "shape", "motion", "whole", "all", "kept"), True)


@pytest.fixture(scope="session")
def pipeline(checkpoint: Path) -> InfinityStarPipeline:
    return InfinityStarPipeline.from_pretrained(checkpoint, device="cpu")


def going(motion: str = "right", **changes: str) -> Scene:
    names = {"background": "blue", "colour": "red", "shape": "square"} | changes
    subject = Subject(
        shape=names["shape"],
        colour=names["colour"],
        motion=motion,
        x=0.3,
        y=0.5,
        size=0.18,
        speed={"right": 0.12, "grows": 0.2}.get(motion, 0.0),
    )
    return Scene(background=names["background"], subjects=(subject,))


def case_of(scene: Scene, mode: EvaluationMode = "t2v", seed: int = 3) -> Case:
    return Case(mode=mode, scene=scene, seed=seed, seconds=2, size=SIZE)


def judged(scene: Scene, frames: Tensor, mode: EvaluationMode = "t2v") -> Verdict:
    return TRIALS[mode].judge(frames, case_of(scene, mode))


@pytest.mark.parametrize(
    ("but", "shown"),
    [
        ("background", going(background="green")),
        ("colour", going(colour="pink")),
        ("shape", going(shape="star")),
        ("motion", going("grows")),
    ],
)
def test_a_clip_with_one_thing_wrong_fails_in_that_alone(but: str, shown: Scene) -> None:
    scene = going()
    assert judged(scene, scene.frames(33, *SIZE)).right == ALL_RIGHT
    right = judged(scene, shown.frames(33, *SIZE)).right
    assert [name for name, holds in right.items() if not holds] == [but, "all"]


def test_a_torn_subject_is_not_all_right() -> None:
    frames = going().frames(33, *SIZE).clone()
    frames[10:20, 31:34] = frames[0, 0, 0]
    right = judged(going(), frames).right
    assert [name for name, holds in right.items() if not holds] == ["whole", "all"]


def test_what_is_not_kept_is_counted_apart() -> None:
    frames = going().frames(33, *SIZE).clone()
    frames[22:] = going(colour="pink").frames(33, *SIZE)[22:]
    right = judged(going(), frames).right
    assert right["all"]
    assert not right["kept"]


def test_a_picture_alone_must_keep_its_subject() -> None:
    frames = going().frames(33, *SIZE).clone()
    assert judged(going(), frames, "unprompted").right["all"]
    frames[1:] = frames[0, 0, 0]
    assert not judged(going(), frames, "unprompted").right["all"]
    late = going().frames(33, *SIZE).clone()
    late[22:] = going(shape="star").frames(33, *SIZE)[22:]
    assert not judged(going(), late, "unprompted").right["all"]


@pytest.mark.parametrize(
    ("mode", "given"), [("i2v", 1), ("unprompted", 1), ("extend", 33), ("t2v", 0)]
)
def test_what_is_given_is_not_judged(
    mode: EvaluationMode,
    given: int,
    pipeline: InfinityStarPipeline,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The subject is gone from the first new picture on."""
    seen: list[Tensor] = []

    def remember(frames: Tensor, case: Case) -> Verdict:
        seen.append(frames)
        return trial.judge(frames, case)

    trial = TRIALS[mode]
    monkeypatch.setitem(TRIALS, mode, replace(trial, judge=remember))
    frames = torch.cat((going().frames(given or 1, *SIZE), torch.zeros(8, *SIZE, 3).byte()))
    monkeypatch.setattr(pipeline, "generate", lambda request: SimpleNamespace(frames=frames))
    outcome_of(pipeline, case_of(going(), mode))
    assert torch.equal(seen[0], frames[given:])


def test_the_added_part_must_continue_where_the_clip_ended() -> None:
    scene = going()
    on = judged(scene, scene.frames(32, *SIZE, first=33), "extend").right
    assert on["continued"]
    assert on["all"]
    again = judged(scene, scene.frames(32, *SIZE), "extend").right
    assert again["motion"]
    assert not again["continued"]
    still = scene.frames(34, *SIZE)[33:].repeat(32, 1, 1, 1)
    stopped = judged(scene, still, "extend").right
    assert not stopped["motion"]
    assert not stopped["continued"]
    gone = scene.frames(32, *SIZE, first=1000)
    assert not continues(scene.subjects[0], measure(gone), 33 / 16)


def test_a_second_prompt_must_be_obeyed() -> None:
    (scene,) = turning_scenes(1, 1)
    (subject,) = scene.subjects
    frames = scene.frames(65, 80, 80)
    obeyed = judged(scene, frames, "interact")
    assert obeyed.right == ALL_RIGHT | {"first": True}
    assert [one.motion for one in obeyed.wanted] == [subject.motion, subject.then]
    straight = replace(scene, subjects=(replace(subject, then="", then_speed=0.0),))
    ignored = judged(scene, straight.frames(65, 80, 80), "interact").right
    assert ignored["first"]
    assert not ignored["motion"]
    assert not ignored["all"]
    taken = {scene.background, subject.colour}
    other = replace(subject, colour=min({"red", "pink", "cyan"} - taken))
    changed = torch.cat((frames[:33], replace(scene, subjects=(other,)).frames(65, 80, 80)[33:]))
    right = judged(scene, changed, "interact").right
    assert right["motion"]
    assert not right["colour"]
    assert not right["kept"]


def test_without_a_prompt_any_motion_is_right() -> None:
    scene = going()
    expected = {name: True for name in ALL_RIGHT if name != "motion"}
    assert judged(scene, going("grows").frames(33, *SIZE), "unprompted").right == expected
    changed = judged(scene, going(shape="star").frames(33, *SIZE), "unprompted").right
    assert not changed["shape"]
    assert not changed["all"]


def test_pictures_are_judged_like_clips() -> None:
    (picture,) = going().frames(1, *SIZE)
    assert judged(going(), picture[None], "t2i").right["all"]
    wrong = judged(going(colour="pink"), picture[None], "t2i").right
    assert not wrong["colour"]
    assert not wrong["all"]


def test_two_subjects_must_both_be_right_and_apart() -> None:
    (scene,) = scenes_of_two(3, 1)
    frames = scene.frames(33, 80, 80)
    assert judged(scene, frames, "two").right == ALL_RIGHT | {"apart": True}
    one, other = (
        Subject(shape=shape, colour=colour, motion="stands", x=x, y=0.5, size=size)
        for shape, colour, x, size in (
            ("circle", "red", 0.34, 0.15),
            ("square", "white", 0.6, 0.16),
        )
    )
    touching = Scene(background="blue", subjects=(one, other))
    right = judged(touching, touching.frames(33, 80, 80), "two").right
    assert right == ALL_RIGHT | {"apart": False, "all": False}
    lone = replace(scene, subjects=scene.subjects[:1]).frames(33, 80, 80)
    right = judged(scene, lone, "two").right
    assert not right["colour"]
    assert not right["all"]


def test_the_tokenizer_is_compared_with_the_scene() -> None:
    scene = going()
    frames = scene.frames(33, *SIZE)
    same = judged(scene, frames, "tokenizer")
    assert (same.psnr, same.ssim) == (PERFECT_PSNR, pytest.approx(1))
    noisy = frames.int().add(torch.arange(33)[:, None, None, None] % 2 * 8).clamp(max=255).byte()
    worse = judged(scene, noisy, "tokenizer")
    assert worse.psnr == pytest.approx(psnr(frames, noisy))


def test_every_mode_has_its_scenes() -> None:
    for mode, trial in TRIALS.items():
        scenes = trial.scenes(5, 17)
        assert len(scenes) == 17
        assert all(scene.held_out for scene in scenes)
        names = [scene.canonical_caption() for scene in scenes]
        assert len({*names}) == (17 if mode != "diversity" else -(-17 // SEEDS_PER_PROMPT))
    assert {one.subjects[0].motion for one in TRIALS["t2v"].scenes(0, 13)} == {*MOTIONS}


def drawn(request: GenerationRequest, case: Case) -> Tensor:
    """What a model makes that knows the world."""
    if request.mode == "t2i":
        return case.scene.frames(1, *case.size)
    seconds = {"extend": 2 * case.seconds, "interact": 4}.get(request.mode, case.seconds)
    height, width = case.size
    if request.aspect and abs(request.aspect - height / width) > 0.01:
        width = round(height / request.aspect)
    return case.scene.frames(round(16 * seconds) + 1, height, width)


@pytest.fixture
def asked(
    pipeline: InfinityStarPipeline, monkeypatch: pytest.MonkeyPatch
) -> list[GenerationRequest]:
    """Every request, as a model that knows the world obeys it."""
    requests: list[GenerationRequest] = []
    now: list[Case] = []

    def made(own: InfinityStarPipeline, case: Case) -> object:
        now[:] = [case]
        return outcome_of(own, case)

    def draw(own: InfinityStarPipeline, request: GenerationRequest) -> GenerationResult:
        frames = drawn(request, now[0])
        if isinstance(request.image, Tensor):
            assert torch.equal(request.image, frames[0])
        if isinstance(request.clip, Tensor):
            assert torch.equal(request.clip, frames[: len(request.clip)])
        requests.append(request)
        return GenerationResult(request=request, model="drawn", frames=frames)

    monkeypatch.setattr(InfinityStarPipeline, "generate", draw)
    monkeypatch.setattr("istar.lab.score.outcome_of", made)
    monkeypatch.setattr(
        "istar.lab.score.perfect_prediction", lambda pipeline, frames, seconds: frames
    )
    # in a frame as small as that model's not every shape can be recognized
    monkeypatch.setattr("istar.lab.score.picture_size", lambda template, spec: SIZE)
    return requests


@pytest.mark.parametrize("seeds", [(20,), pytest.param((20, 21), marks=pytest.mark.slow)])
def test_a_model_that_knows_the_world_passes_in_every_mode(
    pipeline: InfinityStarPipeline, asked: list[GenerationRequest], seeds: tuple[int, ...]
) -> None:
    """What it is given and asked for fits what is measured."""
    test = ShapesTest(count=len(seeds), seed=20, modes=MODES)
    found = list(evaluate_shapes(pipeline, test))
    assert [(o.record.mode, o.record.seed) for o in found] == [
        (mode, seed) for mode in MODES for seed in seeds
    ]
    wrong = [(o.record.mode, o.record.prompts) for o in found if not all(o.record.right.values())]
    assert not wrong
    assert [request.seed for request in asked] == [*seeds] * (len(MODES) - 1)
    by_mode = {o.record.mode: o for o in found}
    assert by_mode["tokenizer"].record.prompts == ()
    assert by_mode["unprompted"].record.prompts == ("",)
    assert len(by_mode["interact"].record.prompts) == 2
    shown = {mode: len(outcome.pictures) for mode, outcome in by_mode.items()}
    assert shown == {mode: TRIALS[mode].shown for mode in MODES}


def requests_of(mode: EvaluationMode, count: int = 13) -> list[tuple[Case, GenerationRequest]]:
    trial = TRIALS[mode]
    assert trial.request
    cases = [case_of(scene, mode, seed) for seed, scene in enumerate(trial.scenes(0, count))]
    return [(case, trial.request(case)) for case in cases]


def test_modes_ask_for_the_same_scenes_in_their_own_way() -> None:
    usual = requests_of("t2v")
    for mode, aspect in (("wide", 9 / 16), ("tall", 16 / 9), ("i2v", 64 / 112)):
        for (case, request), (_, base) in zip(requests_of(mode), usual, strict=True):
            assert request.prompt == base.prompt == case.caption
            assert request.aspect == pytest.approx(aspect)
    for (case, request), (_, base) in zip(requests_of("wording"), usual, strict=True):
        assert request.prompt == case.scene.caption(case.seed, wording="new") != base.prompt
    for case, request in requests_of("interact"):
        (subject,) = case.scene.subjects
        first, second = request.prompts
        assert first != second
        assert subject.colour in first.lower()
        assert subject.colour in second.lower()
    for case, request in requests_of("diversity"):
        assert request.prompt == case.scene.canonical_caption()


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
    decoded = perfect_prediction(pipeline, frames, 1.75)
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
    whole = pipeline.networks.decode(torch.cat(summed, dim=2))
    assert decoded.shape == frames.shape
    assert (decoded.int() - whole.int()).abs().max() <= 1


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


def test_large_pictures_are_kept_small(
    pipeline: InfinityStarPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "istar.lab.score.perfect_prediction", lambda pipeline, frames, seconds: frames
    )
    case = replace(case_of(going(), "tokenizer"), size=(90, 160), seconds=1.75)
    outcome = outcome_of(pipeline, case)
    assert isinstance(outcome.record, Record)
    assert outcome.pictures.shape == (3, 72, THUMBNAIL_WIDTH, 3)


def test_the_usual_modes_are_modes() -> None:
    assert {*USUAL_MODES} < {*MODES} == {*TRIALS}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 0}, "at least one scene"),
        ({"modes": ()}, "not none"),
        ({"modes": ("t2v", "t2v")}, "each once"),
        ({"modes": ("t2w",)}, "not t2w"),
        ({"seed": -1}, "a seed is"),
        ({"seconds": 1.5}, "1.75 to"),
        ({"seconds": 4.25, "modes": ("t2v",)}, "4 or less"),
        ({"seconds": 2.25}, "2 or less"),
        ({"seconds": 2.1}, "multiple"),
    ],
)
def test_tests_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(ShapesTest(), **changes)
