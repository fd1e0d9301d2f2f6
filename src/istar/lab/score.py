"""Test a model in the world of shapes, on combinations that training leaves out.

A clip of every scene is made and measured in every mode:

- `t2v`: from the scene's caption.
- `wording`: from captions in sentences that training never has.
- `wide`, `tall`: in 16:9 and in 9:16.
- `diversity`: several from one prompt; do they differ as much as scenes of the world do?
- `two`: of two subjects.
- `i2v`: from the scene's first picture and its caption.
- `unprompted`: from the picture alone.
- `extend`: from a clip of the scene and its caption, as long again.
- `interact`: from two prompts, of which the second names another direction.
- `t2i`: single pictures.
- `tokenizer`: from the scene's own pictures, encoded, cut to bits scale by scale, and decoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from istar.errors import UsageError
from istar.generation.residual import quantized_latent
from istar.generation.schedule import nearest_template
from istar.inputs import picture_size
from istar.lab.trials import MODES, TRIALS, Case, EvaluationMode, Verdict
from istar.lab.world import STAY_SECONDS
from istar.media import cover_and_crop
from istar.pipeline import InfinityStarPipeline
from istar.plan import Window
from istar.request import LAST_SEED, check_seconds

USUAL_MODES: tuple[EvaluationMode, ...] = ("t2v", "wording", "i2v", "extend", "tokenizer")
"""What is tested without further instruction."""

LEAST_SECONDS = 1.75
"""A shorter clip may hold less than a bounce, which then looks like a rise or a fall."""

THUMBNAIL_WIDTH = 128


@dataclass(frozen=True, kw_only=True)
class ShapesTest:
    """What to test.

    Attributes:
        count: clips of every mode.
        seed: of the first clip and of the first scene that is considered; the others' follow it.
        modes: of `MODES`, in the order of testing.
        seconds: length of every clip; of `extend`, of what is given and of what is added. A clip of
            `interact` has the model's own length.

    Raises:
        UsageError: anything above does not hold.
    """

    count: int = 200
    seed: int = 0
    modes: tuple[EvaluationMode, ...] = USUAL_MODES
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
        longest = STAY_SECONDS / 2 if "extend" in self.modes else STAY_SECONDS
        if self.seconds > longest:
            raise UsageError(
                f"the subjects of the test stay in the picture for {STAY_SECONDS:g} s: seconds "
                f"must be {longest:g} or less, not {self.seconds:g}"
                + ("; extend adds as many as are given" if longest < STAY_SECONDS else "")
            )

    @property
    def clips(self) -> int:
        """The number of clips in all."""
        return self.count * len(self.modes)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One clip and its verdict.

    Attributes:
        mode: how it was made.
        seed: of the caption and of what was made.
        prompts: what was asked for, by clip; empty for `tokenizer`.
        verdict: what is right in it.
    """

    mode: EvaluationMode
    seed: int
    prompts: tuple[str, ...]
    verdict: Verdict

    @property
    def right(self) -> Mapping[str, bool]:
        """By name, whether it is as it should be."""
        return self.verdict.right


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A record and the pictures to show with it.

    Attributes:
        record: the verdict.
        pictures: `(N, H, W, 3)` uint8: the first, the last and some between of what was judged, at
            most `THUMBNAIL_WIDTH` wide.
    """

    record: Record
    pictures: Tensor


def evaluate_shapes(pipeline: InfinityStarPipeline, test: ShapesTest) -> Iterator[Outcome]:
    """Make and judge every clip of a test, mode by mode.

    Raises:
        IstarError: as `InfinityStarPipeline.stream`.
    """
    for mode in test.modes:
        if generation := TRIALS[mode].generation:
            pipeline.spec.check_possible(generation, test.seconds)
    size = picture_size(nearest_template(pipeline.spec.aspect), pipeline.spec)
    for mode in test.modes:
        for number, scene in enumerate(TRIALS[mode].scenes(test.seed, test.count)):
            case = Case(
                mode=mode, scene=scene, seed=test.seed + number, seconds=test.seconds, size=size
            )
            yield outcome_of(pipeline, case)


def outcome_of(pipeline: InfinityStarPipeline, case: Case) -> Outcome:
    """Make a clip and judge it."""
    trial = TRIALS[case.mode]
    request = trial.request(case) if trial.request else None
    if request:
        frames = pipeline.generate(request).frames
        given = len(request.clip) if isinstance(request.clip, Tensor) else 0
        frames = frames[given or int(request.image is not None) :]
    else:
        frames = perfect_prediction(pipeline, case.frames, case.seconds)
    record = Record(
        mode=case.mode,
        seed=case.seed,
        prompts=request.prompts if request else (),
        verdict=trial.judge(frames, case),
    )
    shown = torch.linspace(0, len(frames) - 1, trial.shown).round().long()
    return Outcome(record=record, pictures=_thumbnails(frames[shown]))


def perfect_prediction(pipeline: InfinityStarPipeline, frames: Tensor, seconds: float) -> Tensor:
    """A clip as the transformer would make it if it predicted every bit correctly.

    That is the clip after encoding, quantization over all scales, and decoding.

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
    summed = []
    for clip, own in enumerate(latent.split(window.clip_lengths(networks.spec), dim=2)):
        clip_steps = [step for step in steps if step.clip == clip]
        with torch.inference_mode():
            kept = quantized_latent(
                own, clip_steps, semantic_bits=networks.transformer.config.semantic_bits
            )
        summed.append(kept)
    return networks.decode(torch.cat(summed, dim=2))


def _thumbnails(pictures: Tensor) -> Tensor:
    """Pictures `(N, H, W, 3)`, made smaller where they are wider than `THUMBNAIL_WIDTH`."""
    height, width = pictures.shape[1:3]
    if width <= THUMBNAIL_WIDTH:
        return pictures
    return cover_and_crop(pictures, round(height * THUMBNAIL_WIDTH / width), THUMBNAIL_WIDTH)
