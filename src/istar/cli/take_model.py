"""The model that made a take, loaded again."""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING

import typer

from istar.cli.memory_check import check_memory
from istar.errors import CheckpointError, StateError
from istar.models.find import AUTO, is_known_name

if TYPE_CHECKING:
    from istar.memory_plan import MemoryChoice
    from istar.pipeline import InfinityStarPipeline
    from istar.take import Take


def typed_options(context: typer.Context) -> Set[str]:
    """The names of the parameters that were typed; not of those from the environment."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def model_of_file(file: str, made_by: str, given: str, *, is_typed: bool) -> str:
    """The name of the model to use for what a file says of the one that made it.

    Only a name that istar itself knows stands for a model: a file of somebody else's shall decide
    neither what is fetched from where, nor which of the directories here is loaded.

    Args:
        file: what messages call it.
        made_by: the model's name, as the file says it.
        given: that of the option or the environment.
        is_typed: it was typed.

    Raises:
        CheckpointError: nothing says which model.
    """
    if is_typed:
        return given
    if is_known_name(made_by):
        return made_by
    if given != AUTO:
        return given
    raise CheckpointError(
        f"{file} was made by the model {made_by!r}, which is neither a published one nor istar's "
        "own",
        remedies=("name_model",),
    )


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
    from istar.generation.schedule import TEMPLATES
    from istar.memory_use import Work
    from istar.models.find import find_model
    from istar.pipeline import InfinityStarPipeline
    from istar.placement import Placement

    placement, request = Placement.choose(device, dtype), take.request
    template = next((one for one in TEMPLATES if one.name == take.template), None)
    if template is None:
        raise StateError(f"the take is of an unknown ratio, {take.template!r:.40}")
    pictures = int(take.image is not None)
    if take.clip is not None:
        pictures = take.clip_file.pictures if take.clip_file else len(take.clip)
    with DownloadDisplay() as display:
        found = find_model(
            model,
            mode=request.mode,
            seconds=request.seconds,
            dtype=take.model.dtype if decodes_only else placement.precision,
            on_event=display,
        )
        work = Work.of_request(request, found.spec, template, pictures=pictures)
        anyway = decodes_only or check_memory(found, placement, work, memory, yes=yes)
        return InfinityStarPipeline.load(
            found,
            placement,
            work,
            memory=memory,
            anyway=anyway,
            decodes_only=decodes_only,
            on_event=display,
        )
