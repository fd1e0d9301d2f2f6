"""The options of commands that read a take, and the model that they load for it."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from istar.cli.completion import model_names, take_names
from istar.cli.inputs import take_file
from istar.cli.option_types import (
    DeviceOption,
    DtypeOption,
    Memory,
    MemoryOption,
    QuietOption,
    YesOption,
)
from istar.cli.reuse import settings_of_take
from istar.cli.take_model import load_for_take, model_of_file, read_take
from istar.request import AUTO_MODEL

if TYPE_CHECKING:
    from typing_extensions import Self

    from istar.pipeline import InfinityStarPipeline
    from istar.take import Take

TakeArgument = Annotated[
    Path,
    typer.Argument(
        metavar="TAKE",
        help="A take, a name that `istar takes list` shows, or the number of one on a sheet of "
        "drafts: SHEET.png:3.",
        autocompletion=take_names,
    ),
]
TakeModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="NAME|DIR|REPO",
        autocompletion=model_names,
        help="The model that made it, where that is neither a published one nor `tiny`.",
        show_default="the take's own",
    ),
]


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """What model a take is decoded with, and where, as it was typed."""

    model: TakeModelOption = AUTO_MODEL
    device: DeviceOption = "auto"
    quiet: QuietOption = False
    model_is_typed: bool = False
    """`--model` is not a setting; no option of its own."""

    def completed(self, typed: Set[str]) -> Self:
        """The options, with what is known of how they came.

        Args:
            typed: the names of those that were typed.
        """
        return replace(self, model_is_typed="model" in typed)

    def model_of(self, path: Path, take: Take) -> str:
        """The name of the model for a take, see `istar.cli.take_model.model_of_file`.

        Raises:
            CheckpointError: it has to be named.
        """
        then = settings_of_take(take)
        return model_of_file(f"'{path}'", then, self.model, is_typed=self.model_is_typed)

    def read(self, path: Path) -> tuple[Take, str]:
        """A take, see `istar.cli.inputs.take_file`, and the name of its model.

        Raises:
            IstarError: as `take_file` and `istar.cli.take_model.read_take`.
        """
        return read_take(take_file(path), self.model, is_typed=self.model_is_typed)


@dataclass(frozen=True, kw_only=True)
class TakeOptions(DecodeOptions):
    """What model a take is read with, and how, as it was typed."""

    dtype: DtypeOption = None
    memory: MemoryOption = Memory.AUTO
    yes: YesOption = False

    def dtype_for(self, take: Take) -> str | None:
        """The transformer's; None for the usual one."""
        return self.dtype.value if self.dtype else None

    def load(self, take: Take, model: str, *, decodes_only: bool = False) -> InfinityStarPipeline:
        """The pipeline of the model that made a take.

        Args:
            take: what it is for.
            model: its name.
            decodes_only: nothing is drawn.

        Raises:
            IstarError: as `load_for_take`.
        """
        return load_for_take(
            take,
            model,
            device=self.device,
            dtype=self.dtype_for(take),
            memory=self.memory.value,
            yes=self.yes,
            decodes_only=decodes_only,
        )
