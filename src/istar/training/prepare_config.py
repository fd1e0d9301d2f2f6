"""Settings of prepared clips; `istar.training.run_file` reads them from TOML."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from istar.errors import UsageError
from istar.lab.world import WHOLE_WORLD, World
from istar.training.checks import at_least, below_seed_limit, check_aspects, check_source


@dataclass(frozen=True, kw_only=True)
class SetConfig:
    """Clips to encode.

    Attributes:
        name: directory of the set, below the output.
        source: `shapes`, the procedural world, or `list`, local clips.
        list: the JSON-lines file that lists them, or a directory of such files.
        count: how many clips, at most as many as the list has; 0 takes the whole list.
        length: pictures of a clip, 4n + 1.
        aspects: heights divided by widths; scenes take turns, a listed clip takes the nearest.
        captions: shapes only: captions of a clip, in different wordings.
        wording: shapes only: `varied`, or `plain` for the plainest caption alone.
        world: shapes only: what its scenes may hold.
        held_out: shapes only: scenes of combinations that training never sees, for validation; each
            has one subject with one motion.
    """

    name: str
    source: Literal["shapes", "list"] = "shapes"
    list: Path | None = None
    count: int = 0
    length: int
    aspects: tuple[float, ...] = (1.0,)
    captions: int = 4
    wording: Literal["varied", "plain"] = "varied"
    world: World = WHOLE_WORLD
    held_out: bool = False

    def __post_init__(self) -> None:
        at_least(self, 1, "length", "captions")
        at_least(self, 1 if self.source == "shapes" else 0, "count")
        check_source("sets", self, "captions", "wording", "world", "held_out")
        if self.length % 4 != 1:
            raise UsageError(f"sets: a length must be 4n + 1 pictures, not {self.length}")
        check_aspects("sets", self.aspects)
        if not self.name or Path(self.name).name != self.name or self.name.startswith("."):
            raise UsageError(f"sets: name must be a plain directory name, not {self.name!r}")


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """A run that prepares clips.

    Attributes:
        model: the manifest of the model to train.
        tokenizer: the file of the tokenizer that encodes.
        output: directory of the sets.
        sets: what to encode.
        seed: of procedural clips.
        shard: clips of a file.
        workers: processes that decode or render clips; 0 leaves it to the encoding one.
    """

    model: Path
    tokenizer: Path
    output: Path
    sets: tuple[SetConfig, ...]
    seed: int = 0
    shard: int = 256
    workers: int = 0

    def __post_init__(self) -> None:
        at_least(self, 1, "shard")
        at_least(self, 0, "workers", "seed")
        below_seed_limit(self.seed)
        names = [one.name for one in self.sets]
        if not names or len(set(names)) < len(names):
            raise UsageError("sets: one or more are needed, of different names")
