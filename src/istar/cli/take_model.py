"""The model that made a take, loaded again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from istar.cli.memory_check import check_memory, say_plan
from istar.errors import CheckpointError
from istar.request import AUTO_MODEL

if TYPE_CHECKING:
    from istar.memory_plan import MemoryChoice
    from istar.pipeline import InfinityStarPipeline
    from istar.take import Take


def model_of_file(file: str, made_by: str, given: str, *, is_typed: bool) -> str:
    """The name of the model to use for what a file says of the one that made it.

    Only a name that istar itself knows stands for a model: a file of somebody else's shall decide
    neither what is fetched from where, nor which of the directories here is loaded.

    Args:
        file: what messages call it.
        made_by: the model's name, as the file says it.
        given: that of the option or the setting.
        is_typed: it was typed.

    Raises:
        CheckpointError: nothing says which model.
    """
    from istar.models.find import is_known_name

    if is_typed:
        return given
    if is_known_name(made_by):
        return made_by
    if given != AUTO_MODEL:
        return given
    raise CheckpointError(
        f"{file} was made by the model {made_by!r}, which is neither a published one nor istar's "
        "own",
        remedies=("name_model",),
    )


def read_take(path: Path, given: str, *, is_typed: bool) -> tuple[Take, str]:
    """A take, and the name of the model for it, see `model_of_file`.

    Raises:
        StateError: it cannot be read.
        CheckpointError: nothing says which model.
    """
    from istar.take import Take

    take = Take.load(path)
    return take, model_of_file(f"'{path}'", take.model.name, given, is_typed=is_typed)


def load_for_take(
    take: Take,
    model: str,
    *,
    device: str,
    dtype: str | None = None,
    memory: MemoryChoice = "auto",
    yes: bool = False,
    decodes_only: bool = False,
) -> InfinityStarPipeline:
    """The pipeline for a take.

    Args:
        take: what it is for.
        model: its name, see `model_of_file`.
        device, dtype, memory, yes: as the options of these names.
        decodes_only: see `InfinityStarPipeline.load`.

    Raises:
        IstarError: as `find_model` and `InfinityStarPipeline.load`.
    """
    from istar.cli.display import DownloadDisplay
    from istar.inputs import template_of
    from istar.memory_use import Work
    from istar.models.find import find_model
    from istar.pipeline import InfinityStarPipeline
    from istar.placement import Placement
    from istar.resume import check_maker

    placement, request = Placement.choose(device, dtype), take.request
    template = template_of(take)
    pictures = take.given_pictures if take.image is None else 1
    with DownloadDisplay() as display:
        found = find_model(
            model,
            mode=request.mode,
            seconds=request.seconds,
            dtype=take.model.dtype if decodes_only else placement.precision,
            on_event=display,
        )
        check_maker(take, found.spec)
        work = Work.of_request(request, found.spec, template, pictures=pictures)
        anyway = decodes_only or check_memory(found, placement, work, memory, yes=yes)
        return InfinityStarPipeline.load(
            found,
            placement,
            work,
            memory=memory,
            anyway=anyway,
            decodes_only=decodes_only,
            on_plan=say_plan,
            on_event=display,
        )
