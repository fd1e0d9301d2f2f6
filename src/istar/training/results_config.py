"""Settings of the measures and samples of a transformer run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from istar.request import check_prompt
from istar.training.checks import at_least, check_unchanged


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Held-out clips, on which a run measures its averaged weights.

    Attributes:
        sets: directories of prepared sets that are not trained on; without any nothing is measured.
        every: steps between measurements; the last step is measured too.
        rows: how many rows of the run's longest are measured; they are the same every time.
    """

    sets: tuple[Path, ...] = ()
    every: int = 500
    rows: int = 16

    def __post_init__(self) -> None:
        at_least(self, 1, "every", "rows")
        if not self.sets:
            check_unchanged("validation", self, ("every", "rows"), "sets that are measured")


@dataclass(frozen=True, kw_only=True)
class SamplesConfig:
    """What stands on a run's contact sheets.

    Attributes:
        prompts: of the clips that are generated; without any, six scenes of the procedural world.
        clips: how many clips of validation's sets are shown, each above what is generated from its
            caption.
    """

    prompts: tuple[str, ...] = ()
    clips: int = 4

    def __post_init__(self) -> None:
        at_least(self, 0, "clips")
        for prompt in self.prompts:
            check_prompt(prompt)
