"""The modes of the test: what each makes of a scene, and what must be right in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import dist
from typing import Literal, get_args

from torch import Tensor

from istar.lab.captions import describe
from istar.lab.held_out import held_out_scenes, scene_alike, scenes_of_two, turning_scenes
from istar.lab.measure import LEAST_PICTURES, Measurement, measure, measure_two
from istar.lab.quality import PERFECT_PSNR, psnr, ssim
from istar.lab.subject import Subject
from istar.lab.world import Scene
from istar.request import GenerationRequest, Mode
from istar.video_tokenizer.config import FRAMES_PER_SECOND

EvaluationMode = Literal[
    "t2v",
    "wording",
    "wide",
    "tall",
    "diversity",
    "two",
    "i2v",
    "unprompted",
    "extend",
    "interact",
    "t2i",
    "tokenizer",
]
MODES: tuple[EvaluationMode, ...] = get_args(EvaluationMode)

SEEDS_PER_PROMPT = 8
"""Videos that `diversity` makes from every prompt."""

_WIDE, _TALL = 9 / 16, 16 / 9
_NEAR = 0.1


@dataclass(frozen=True, kw_only=True)
class Case:
    """One clip to make and to judge.

    Attributes:
        mode: of the test.
        scene: what it should show.
        seed: of the caption and of what is made.
        seconds: length of the clip.
        size: of the model's pictures in its own ratio, height and width.
    """

    mode: EvaluationMode
    scene: Scene
    seed: int
    seconds: float
    size: tuple[int, int]

    @property
    def pictures(self) -> int:
        """The number of pictures of the clip."""
        return round(self.seconds * FRAMES_PER_SECOND) + 1

    @property
    def frames(self) -> Tensor:
        """The scene's own clip `(F, H, W, 3)` uint8."""
        return self.scene.frames(self.pictures, *self.size)

    @property
    def aspect(self) -> float:
        """The model's own ratio of height to width."""
        height, width = self.size
        return height / width

    @property
    def caption(self) -> str:
        """A caption in training's sentences, which names all."""
        return self.scene.caption(self.seed, content="all")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a clip should show: names of the world of shapes.

    Attributes:
        background: of its plain colour.
        colour: of the subject.
        shape: of the subject.
        motion: of the subject; None where any is right.
    """

    background: str
    colour: str
    shape: str
    motion: str | None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is right in a clip.

    Attributes:
        wanted: what it should show: for every subject, or in `interact` for every prompt.
        measured: what it shows; for `extend`, in what was added.
        right: by name, whether it is as it should be; by `all`, whether all of the background,
            colour, shape, motion and wholeness are that count in the mode.
        psnr: `tokenizer`: decibels against the scene's own pictures, at most `PERFECT_PSNR`.
        ssim: `tokenizer`: likewise.
        world: `diversity`: what a scene of the world shows that the prompt fits.
    """

    wanted: tuple[Wanted, ...]
    measured: tuple[Measurement, ...]
    right: Mapping[str, bool]
    psnr: float | None = None
    ssim: float | None = None
    world: Measurement | None = None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A mode of the test.

    Attributes:
        request: what to generate; None for the scene's own clip, encoded and decoded.
        judge: the verdict on a clip `(F, H, W, 3)` uint8, without what was given to begin with.
        generation: the mode of generation that a model must be capable of, if any.
        scenes: by a seed and a number of cases, what to make clips of.
        compared_with: the mode whose rates its own are compared with.
        shown: how many pictures of a clip are on the sheet.
    """

    request: Callable[[Case], GenerationRequest] | None
    judge: Callable[[Tensor, Case], Verdict]
    generation: Mode | None = "t2v"
    scenes: Callable[[int, int], tuple[Scene, ...]] = held_out_scenes
    compared_with: EvaluationMode | None = None
    shown: int = 3


def wanted_of(scene: Scene, subject: Subject, motion: str | None) -> Wanted:
    """What a clip of a subject should show."""
    return Wanted(
        background=scene.background, colour=subject.colour, shape=subject.shape, motion=motion
    )


def verdict(wanted: tuple[Wanted, ...], measured: tuple[Measurement, ...]) -> Verdict:
    """Compare what clips or subjects should be with what they are, one by one.

    Returns:
        what is right: `background`, `colour`, `shape`, and `motion` where one is wanted; `whole`;
        `all` if all these are; and `kept`.
    """
    pairs = list(zip(wanted, measured, strict=True))
    names = ["background", "colour", "shape", "motion"]
    if any(one.motion is None for one in wanted):
        names.remove("motion")
    right = {
        name: all(getattr(one, name) == getattr(found, name) for one, found in pairs)
        for name in names
    }
    right["whole"] = all(found.whole for found in measured)
    return Verdict(
        wanted=wanted,
        measured=measured,
        right={
            **right,
            "all": all(right.values()),
            "kept": all(found.kept for found in measured),
        },
    )


def judge_one(frames: Tensor, case: Case) -> Verdict:
    """A clip of one subject."""
    (subject,) = case.scene.subjects
    return verdict((wanted_of(case.scene, subject, subject.motion),), (measure(frames),))


def continues(subject: Subject, measured: Measurement, seconds: float) -> bool:
    """Whether a clip, measured from a time on, continues the motion of a subject.

    Its motion is the same, and it begins at most a tenth of the frame from the subject's place at
    that time.
    """
    pose = subject.pose(seconds)
    return (
        measured.motion == subject.motion
        and measured.centre is not None
        and dist(measured.centre, (pose.x, pose.y)) <= _NEAR
    )


def _judge_any_motion(frames: Tensor, case: Case) -> Verdict:
    """A clip of one subject that may do anything, and must keep it."""
    found = _judge_appearance(frames, case)
    return replace(found, right={**found.right, "all": found.right["all"] and found.right["kept"]})


def _judge_picture(frames: Tensor, case: Case) -> Verdict:
    """A picture of one subject."""
    found = _judge_appearance(frames.expand(LEAST_PICTURES, -1, -1, -1), case)
    right = {name: holds for name, holds in found.right.items() if name != "kept"}
    return replace(found, right=right)


def _judge_appearance(frames: Tensor, case: Case) -> Verdict:
    """A clip of one subject, whatever it does."""
    (subject,) = case.scene.subjects
    return verdict((wanted_of(case.scene, subject, None),), (measure(frames),))


def _judge_continued(frames: Tensor, case: Case) -> Verdict:
    """What was added to a clip of one subject."""
    found = judge_one(frames, case)
    (subject,), (measured,) = case.scene.subjects, found.measured
    on = continues(subject, measured, case.pictures / FRAMES_PER_SECOND)
    return replace(found, right={**found.right, "continued": on})


def _judge_turned(frames: Tensor, case: Case) -> Verdict:
    """The second prompt's clip; by `first`, the first one's motion; `kept` holds for both."""
    (subject,) = case.scene.subjects
    first, second = frames.tensor_split([len(frames) // 2 + 1])
    wanted = tuple(wanted_of(case.scene, subject, motion) for motion in subject.motions)
    measured = measure(first), measure(second)
    right = {
        **verdict(wanted[1:], measured[1:]).right,
        "first": measured[0].motion == subject.motion,
        "kept": measure(frames).kept,
    }
    return Verdict(wanted=wanted, measured=measured, right=right)


def _judge_two(frames: Tensor, case: Case) -> Verdict:
    """A clip of two subjects, which must be `apart` too."""
    one, other = case.scene.subjects
    measured, apart = measure_two(frames, (one.colour, other.colour))
    wanted = tuple(wanted_of(case.scene, subject, subject.motion) for subject in (one, other))
    found = verdict(wanted, measured)
    right = {**found.right, "apart": apart, "all": found.right["all"] and apart}
    return replace(found, right=right)


def _judge_among_others(frames: Tensor, case: Case) -> Verdict:
    """One of several clips of a prompt, with another scene of the world to compare it with."""
    alike = scene_alike(case.scene, case.seed).frames(len(frames), *frames.shape[1:3])
    return replace(judge_one(frames, case), world=measure(alike))


def _judge_decoded(frames: Tensor, case: Case) -> Verdict:
    """The scene's own clip after encoding and decoding."""
    shown = case.frames
    return replace(
        judge_one(frames, case),
        psnr=min(psnr(shown, frames), PERFECT_PSNR),
        ssim=ssim(shown, frames),
    )


def _video(case: Case, prompt: str, aspect: float | None = None) -> GenerationRequest:
    return GenerationRequest(
        mode="t2v",
        prompt=prompt,
        seconds=case.seconds,
        aspect=aspect or case.aspect,
        seed=case.seed,
    )


def _from_picture(case: Case, prompt: str) -> GenerationRequest:
    return GenerationRequest(
        mode="i2v",
        prompt=prompt,
        image=case.frames[0],
        seconds=case.seconds,
        aspect=case.aspect,
        seed=case.seed,
    )


def _continued(case: Case) -> GenerationRequest:
    return GenerationRequest(
        mode="extend",
        prompt=case.caption,
        clip=case.frames,
        seconds=case.seconds,
        aspect=case.aspect,
        seed=case.seed,
    )


def _turned(case: Case) -> GenerationRequest:
    scene = case.scene
    # What the first prompt leaves open is the model's choice: the second names no place or pace.
    prompts = tuple(
        describe(
            scene.background,
            scene.subjects,
            case.seed,
            clip=clip,
            content="all",
            details=clip == 0,
        )
        for clip in range(2)
    )
    return GenerationRequest(mode="interact", prompt=prompts, aspect=case.aspect, seed=case.seed)


def _picture(case: Case) -> GenerationRequest:
    prompt = case.scene.caption(case.seed, content="picture")
    return GenerationRequest(mode="t2i", prompt=prompt, aspect=case.aspect, seed=case.seed)


def _repeated_scenes(seed: int, count: int) -> tuple[Scene, ...]:
    """Every scene as often as videos are made from its prompt."""
    scenes = held_out_scenes(seed, -(-count // SEEDS_PER_PROMPT))
    return tuple(scenes[number // SEEDS_PER_PROMPT] for number in range(count))


TRIALS: Mapping[EvaluationMode, Trial] = {
    "t2v": Trial(request=lambda case: _video(case, case.caption), judge=judge_one),
    "wording": Trial(
        request=lambda case: _video(case, case.scene.caption(case.seed, wording="new")),
        judge=judge_one,
        compared_with="t2v",
    ),
    "wide": Trial(
        request=lambda case: _video(case, case.caption, _WIDE),
        judge=judge_one,
        compared_with="t2v",
    ),
    "tall": Trial(
        request=lambda case: _video(case, case.caption, _TALL),
        judge=judge_one,
        compared_with="t2v",
    ),
    # A plain caption leaves open all that the spread is measured of.
    "diversity": Trial(
        request=lambda case: _video(case, case.scene.canonical_caption()),
        judge=_judge_among_others,
        scenes=_repeated_scenes,
    ),
    "two": Trial(
        request=lambda case: _video(case, case.caption), judge=_judge_two, scenes=scenes_of_two
    ),
    "i2v": Trial(
        request=lambda case: _from_picture(case, case.caption), judge=judge_one, generation="i2v"
    ),
    "unprompted": Trial(
        request=lambda case: _from_picture(case, ""), judge=_judge_any_motion, generation="i2v"
    ),
    "extend": Trial(request=_continued, judge=_judge_continued, generation="extend"),
    "interact": Trial(
        request=_turned,
        judge=_judge_turned,
        generation="interact",
        scenes=turning_scenes,
        shown=5,
    ),
    "t2i": Trial(request=_picture, judge=_judge_picture, generation="t2i", shown=1),
    "tokenizer": Trial(request=None, judge=_judge_decoded, generation=None),
}
"""Every mode of the test."""
