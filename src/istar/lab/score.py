"""Test a model in the world of shapes, on combinations that training leaves out.

A clip of every held-out scene is made and measured in every mode:

- `t2v`: from the scene's caption.
- `i2v`: from the scene's first picture and its caption.
- `extend`: from a clip of the scene and its caption, as long again.
- `tokenizer`: from the scene's own pictures, encoded, cut to bits scale by scale, and decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import dist
from typing import Literal, get_args

import torch
from torch import Tensor

from istar.errors import UsageError
from istar.generation.residual import quantized_latent
from istar.generation.schedule import nearest_template
from istar.inputs import picture_size
from istar.lab.measure import Measurement, measure
from istar.lab.quality import psnr, ssim
from istar.lab.subject import Subject
from istar.lab.world import Scene, random_scene
from istar.media import cover_and_crop
from istar.pipeline import InfinityStarPipeline
from istar.plan import Window
from istar.request import LAST_SEED, GenerationRequest, check_seconds
from istar.video_tokenizer.config import FRAMES_PER_SECOND
from istar.video_tokenizer.conv import FrameHistory

EvaluationMode = Literal["t2v", "i2v", "extend", "tokenizer"]
MODES: tuple[EvaluationMode, ...] = get_args(EvaluationMode)

LEAST_SECONDS = 1.75
"""A shorter clip may hold less than a bounce, which then looks like a rise or a fall."""

PERFECT_PSNR = 100.0
"""Stands for the infinite decibels of equal clips."""

THUMBNAIL_WIDTH = 128

_NEAR = 0.1


@dataclass(frozen=True, kw_only=True)
class ShapesTest:
    """What to test.

    Attributes:
        count: held-out scenes.
        seed: of the first scene; the others' follow it. Also of what is made from each.
        modes: of `t2v`, `i2v`, `extend` and `tokenizer`, in the order of testing.
        seconds: length of every clip; of `extend`, of what is given and of what is added.

    Raises:
        UsageError: anything above does not hold.
    """

    count: int = 200
    seed: int = 0
    modes: tuple[EvaluationMode, ...] = MODES
    seconds: float = 2.0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"at least one scene is needed, not {self.count}")
        unknown = [mode for mode in self.modes if mode not in MODES]
        if unknown or not self.modes or len({*self.modes}) < len(self.modes):
            raise UsageError(
                f"modes are one or more of {', '.join(MODES)}, each once, not "
                f"{', '.join(self.modes) or 'none'}"
            )
        if not 0 <= self.seed <= LAST_SEED - self.count:
            raise UsageError(f"a seed is a whole number from 0 to {LAST_SEED - self.count}")
        check_seconds(self.seconds, least=LEAST_SECONDS)

    @property
    def pictures(self) -> int:
        """The number of pictures of a clip."""
        return round(self.seconds * FRAMES_PER_SECOND) + 1

    @property
    def clips(self) -> int:
        """The number of clips in all."""
        return self.count * len(self.modes)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a clip should show: names of the world of shapes."""

    background: str
    colour: str
    shape: str
    motion: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """One clip and its verdict.

    Attributes:
        mode: how it was made.
        seed: of the scene, its caption and what was made.
        prompt: the caption; empty for `tokenizer`.
        wanted: what it should show.
        measured: what it shows; for `extend`, in what was added.
        right: by name, whether it is as it should be.
        psnr: `tokenizer`: decibels against the scene's own pictures, at most `PERFECT_PSNR`.
        ssim: `tokenizer`: likewise.
    """

    mode: EvaluationMode
    seed: int
    prompt: str
    wanted: Wanted
    measured: Measurement
    right: dict[str, bool]
    psnr: float | None = None
    ssim: float | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A record and the pictures to show with it.

    Attributes:
        record: the verdict.
        pictures: `(3, H, W, 3)` uint8: the first, the middle and the last of what was measured,
            at most `THUMBNAIL_WIDTH` wide.
    """

    record: Record
    pictures: Tensor


def evaluate_shapes(pipeline: InfinityStarPipeline, test: ShapesTest) -> Iterator[Outcome]:
    """Make and measure every clip of a test, mode by mode.

    Raises:
        IstarError: as `InfinityStarPipeline.stream`.
    """
    for mode in test.modes:
        if mode != "tokenizer":
            pipeline.spec.check_possible(mode, test.seconds)
    for mode in test.modes:
        for seed in range(test.seed, test.seed + test.count):
            scene = random_scene(seed, held_out=True)
            frames = _made(pipeline, test, mode, seed, scene)
            yield judge(frames, scene, mode=mode, seed=seed, test=test)


def judge(
    frames: Tensor, scene: Scene, *, mode: EvaluationMode, seed: int, test: ShapesTest
) -> Outcome:
    """Measure a clip of a scene and compare it with the scene.

    Args:
        frames: `(F, H, W, 3)` uint8: the clip; for `extend` what was added to it.
        scene: what it should show, of one subject.
        mode: how it was made.
        seed: of the scene.
        test: what it is part of.
    """
    measured = measure(frames)
    wanted, right = verdict(scene, measured)
    quality: tuple[float, float] | None = None
    if mode == "extend":
        seconds = test.pictures / FRAMES_PER_SECOND
        right["continued"] = continues(scene.subjects[0], measured, seconds)
    elif mode == "tokenizer":
        shown = scene.frames(len(frames), *frames.shape[1:3])
        quality = min(psnr(shown, frames), PERFECT_PSNR), ssim(shown, frames)
    record = Record(
        mode=mode,
        seed=seed,
        prompt="" if mode == "tokenizer" else scene.caption(seed),
        wanted=wanted,
        measured=measured,
        right=right,
        psnr=quality[0] if quality else None,
        ssim=quality[1] if quality else None,
    )
    return Outcome(record=record, pictures=_thumbnails(frames[[0, len(frames) // 2, -1]]))


def verdict(scene: Scene, measured: Measurement) -> tuple[Wanted, dict[str, bool]]:
    """Compare a scene of one subject with a measurement.

    Returns:
        the names wanted; and by `background`, `colour`, `shape`, `motion` whether each is right,
        by `all` whether these four are, by `kept` whether the subject lasts unchanged.
    """
    (subject,) = scene.subjects
    wanted = Wanted(
        background=scene.background,
        colour=subject.colour,
        shape=subject.shape,
        motion=subject.motion,
    )
    right = {
        name: getattr(measured, name) == getattr(wanted, name)
        for name in ("background", "colour", "shape", "motion")
    }
    return wanted, {**right, "all": all(right.values()), "kept": measured.kept}


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


def reconstruct(pipeline: InfinityStarPipeline, frames: Tensor, seconds: float) -> Tensor:
    """A clip after encoding, quantization over all scales, and decoding.

    It is what the transformer would make if it predicted every bit correctly.

    Args:
        pipeline: the loaded model.
        frames: `(16 · seconds + 1, H, W, 3)` uint8, of the size that the model makes.
        seconds: length of the clip.

    Returns:
        as many pictures `(F, H, W, 3)` uint8.
    """
    networks = pipeline.networks
    window = Window(given_seconds=0, new_seconds=seconds)
    steps = window.steps(networks.spec, nearest_template(networks.spec.aspect))
    latent = networks.encode(frames)
    history = FrameHistory()
    pieces = []
    for clip, own in enumerate(latent.split(window.clip_lengths(networks.spec), dim=2)):
        clip_steps = [step for step in steps if step.clip == clip]
        with torch.inference_mode():
            kept = quantized_latent(
                own, clip_steps, semantic_bits=networks.transformer.config.semantic_bits
            )
        pieces.append(networks.decode(kept, history))
    return torch.cat(pieces)


def _made(
    pipeline: InfinityStarPipeline, test: ShapesTest, mode: EvaluationMode, seed: int, scene: Scene
) -> Tensor:
    """The clip `(F, H, W, 3)` to measure, uint8."""
    size = picture_size(nearest_template(pipeline.spec.aspect), pipeline.spec)
    given = scene.frames(test.pictures, *size)
    if mode == "tokenizer":
        return reconstruct(pipeline, given, test.seconds)
    request = GenerationRequest(
        mode=mode,
        prompt=scene.caption(seed),
        image=given[0] if mode == "i2v" else None,
        clip=given if mode == "extend" else None,
        seconds=test.seconds,
        aspect=pipeline.spec.aspect,
        seed=seed,
    )
    frames = pipeline.generate(request).frames
    return frames[len(given) :] if mode == "extend" else frames


def _thumbnails(pictures: Tensor) -> Tensor:
    """Pictures `(F, H, W, 3)`, made smaller where they are wider than `THUMBNAIL_WIDTH`."""
    height, width = pictures.shape[1:3]
    if width <= THUMBNAIL_WIDTH:
        return pictures
    return cover_and_crop(pictures, round(height * THUMBNAIL_WIDTH / width), THUMBNAIL_WIDTH)
