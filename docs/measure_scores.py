"""Measure whether scores pick takes that are right, with the small model.

`python docs/measure_scores.py out/scores.jsonl` makes eight videos of each of 200 scenes, those of
`istar eval shapes`, judges them, and writes the table in `docs/scores.md`. What was measured before
is in the file, a line for every video, and is not measured again.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch

from istar import ClipReady, InfinityStarPipeline
from istar.generation.likelihood import Score, total
from istar.generation.schedule import nearest_template
from istar.generation.until import DRAFT_SHARE
from istar.inputs import picture_size
from istar.lab.held_out import held_out_scenes
from istar.lab.trials import TRIALS, Case

PAGE = Path(__file__).with_name("scores.md")
PROMPTS, SEEDS, SECONDS = 200, 8, 2.0
PARTS = ("background", "colour", "shape", "motion", "whole")

_RESAMPLINGS = 2000
_LOW, _HIGH = 0.025, 0.975


@dataclass(frozen=True, kw_only=True)
class Made:
    """A video that was made and judged.

    Attributes:
        prompt: the number of its scene.
        seed: of its bits.
        right: how many of `PARTS` are right.
        steps: the score of every step.
        draft: how many steps a draft has.
    """

    prompt: int
    seed: int
    right: int
    steps: tuple[Score, ...]
    draft: int

    @classmethod
    def read(cls, line: str) -> Made:
        """What a line of the file says."""
        table = json.loads(line)
        return cls(**{**table, "steps": tuple(Score(*score) for score in table["steps"])})

    @property
    def line(self) -> str:
        """The line that says it."""
        return json.dumps(vars(self))

    @property
    def all_right(self) -> bool:
        """Nothing is wrong, as `istar eval shapes` counts it."""
        return self.right == len(PARTS)


def make(pipeline: InfinityStarPipeline, prompt: int, seed: int) -> Made:
    """Make a video of a scene, and judge it."""
    size = picture_size(nearest_template(pipeline.spec.aspect), pipeline.spec)
    scene = held_out_scenes(0, PROMPTS)[prompt]
    case = Case(mode="t2v", scene=scene, seed=prompt, seconds=SECONDS, size=size)
    trial = TRIALS["t2v"]
    assert trial.request is not None
    job = pipeline.job(replace(trial.request(case), seed=seed))
    frames = [event.frames for event in job.run() if isinstance(event, ClipReady)]
    verdict = trial.judge(torch.cat(frames), case)
    (window,) = job.take().windows
    return Made(
        prompt=prompt,
        seed=seed,
        right=sum(verdict.right[part] for part in PARTS),
        steps=window.scores,
        draft=job.stop(DRAFT_SHARE).step,
    )


# --- What the table says -------------------------------------------------------------------------

Prompt = Sequence[Made]
"""Every video of one prompt."""

Value = Callable[[Made], float]
"""A number by which videos of one prompt are compared."""


def value_of(name: str, *, draft: bool) -> Value:
    """A score of the whole video, or of what its draft has."""
    return lambda made: getattr(total(made.steps[: made.draft] if draft else made.steps), name)


VALUES: dict[str, Value] = {
    "draft: as drawn": value_of("drawn", draft=True),
    "draft: under the prompt": value_of("conditional", draft=True),
    "draft: explained by the prompt": value_of("explained", draft=True),
    "whole: as drawn": value_of("drawn", draft=False),
    "whole: under the prompt": value_of("conditional", draft=False),
    "whole: explained by the prompt": value_of("explained", draft=False),
    "an oracle": lambda made: made.right,
}


def share_right(prompt: Prompt) -> float:
    """How many of a prompt's videos are all right: what one seed gives."""
    return fmean(made.all_right for made in prompt)


def best_is_right(prompt: Prompt, value: Value) -> float:
    """1 if the best video by a value is all right."""
    return float(max(prompt, key=value).all_right)


def rank_correlation(prompt: Prompt, value: Value) -> float | None:
    """Spearman's, of a value and of how much is right; None where either is equal in all."""
    ranks = np.array([_ranks([own(made) for made in prompt]) for own in (value, _right)])
    if not np.ptp(ranks, axis=1).all():
        return None
    return float(np.corrcoef(ranks)[0, 1])


def _right(made: Made) -> float:
    return made.right


def _ranks(values: Sequence[float]) -> list[float]:
    """The rank of every value; equal ones share the mean of theirs."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2
        for value in values
    ]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """An interval of 95 % of a mean over prompts, by resampling them."""
    own = np.array(values)
    draws = np.random.default_rng(0).integers(len(own), size=(_RESAMPLINGS, len(own)))
    low, high = np.quantile(own[draws].mean(axis=1), (_LOW, _HIGH))
    return float(low), float(high)


def table(made: Iterable[Made]) -> Iterator[str]:
    """The lines of the table. Prompts of which not all seeds are made are left out."""
    by_prompt: dict[int, list[Made]] = {}
    for one in made:
        by_prompt.setdefault(one.prompt, []).append(one)
    prompts = [own for own in by_prompt.values() if len(own) == SEEDS]
    if not prompts:
        yield "Nothing is measured yet."
        return
    mixed = sum(len({one.right for one in own}) > 1 for own in prompts)
    yield f"{len(prompts)} prompts; in {mixed} of them some seeds are more right than others."
    yield ""
    yield "| | all right | gain | rank correlation |"
    yield "|---|---|---|---|"
    single = list(map(share_right, prompts))
    yield f"| one seed | {_shown(single, 100, '.1f', ' %')} | | |"
    for title, value in VALUES.items():
        best = [best_is_right(prompt, value) for prompt in prompts]
        gains = [one - other for one, other in zip(best, single, strict=True)]
        related = [rank_correlation(prompt, value) for prompt in prompts]
        cells = (
            _shown(best, 100, ".1f", " %"),
            _shown(gains, 100, "+.1f", ""),
            _shown([one for one in related if one is not None], 1, "+.2f", ""),
        )
        yield f"| best of {SEEDS} by {title} | {' | '.join(cells)} |"


def _shown(values: Sequence[float], factor: float, form: str, unit: str) -> str:
    """A mean and its interval."""
    if not values:
        return ""
    low, high = (format(factor * end, form) for end in interval(values))
    return f"{factor * fmean(values):{form}}{unit} ({low} to {high})"


def main() -> None:
    """Measure what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("records", type=Path, help="a line for every video; continued if there")
    parser.add_argument("--prompts", type=int, default=PROMPTS, help="how many of the scenes")
    arguments = parser.parse_args()
    records = arguments.records
    lines = records.read_text(encoding="utf-8").splitlines() if records.exists() else []
    made = {(one.prompt, one.seed): one for one in map(Made.read, lines)}
    wanted = [(n, SEEDS * n + seed) for n in range(arguments.prompts) for seed in range(SEEDS)]
    if missing := [place for place in wanted if place not in made]:
        pipeline = InfinityStarPipeline.from_pretrained("tiny", device="cpu")
        with records.open("a", encoding="utf-8") as file:
            for place in missing:
                made[place] = make(pipeline, *place)
                print(made[place].line, file=file, flush=True)
    rows = "\n".join(table([made[place] for place in wanted]))
    page = PAGE.read_text(encoding="utf-8")
    page = re.sub(
        r"(<!-- table -->\n).*?(<!-- end -->)", rf"\g<1>{rows}\n\g<2>", page, flags=re.DOTALL
    )
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
