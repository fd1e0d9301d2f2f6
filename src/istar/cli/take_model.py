"""The model that made a take, loaded again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from istar.cli.memory_check import check_memory, say_plan
from istar.cli.reuse import settings_of_take
from istar.errors import CheckpointError
from istar.request import AUTO_MODEL

if TYPE_CHECKING:
    from istar.file_settings import FileSettings
    from istar.memory_plan import MemoryChoice
    from istar.memory_use import Work
    from istar.models.find import FoundModel
    from istar.pipeline import InfinityStarPipeline
    from istar.placement import Placement
    from istar.take import Take


def model_of_file(file: str, then: FileSettings, given: str, *, is_typed: bool) -> str:
    """The name of the model to use for what a file says of the one that made it.

    A name that istar itself knows stands for a model, and so does a place on the Hub of which all
    was fetched here before: a file of somebody else's shall decide neither what is fetched from
    where, nor which of the directories here is loaded.

    Args:
        file: what messages call it.
        then: what the file says.
        given: that of the option or the setting.
        is_typed: it was typed.

    Raises:
        CheckpointError: nothing says which model.
    """
    from istar.models.find import is_known_name, was_fetched

    if is_typed:
        return given
    if is_known_name(then.model, then.repository):
        return then.model
    if then.place is not None and was_fetched(then.place):
        return str(then.place)
    if given != AUTO_MODEL:
        return given
    if then.place is not None:
        why = f"of {then.place}, which was not fetched here"
    else:
        why = "which is neither a published one nor istar's own"
    raise CheckpointError(
        f"{file} was made by the model {then.model!r}, {why}", remedies=("name_model",)
    )


def read_take(path: Path, given: str, *, is_typed: bool) -> tuple[Take, str]:
    """A take, and the name of the model for it, see `model_of_file`.

    Raises:
        StateError: it cannot be read.
        CheckpointError: nothing says which model.
    """
    from istar.take import Take

    take = Take.load(path)
    return take, model_of_file(f"'{path}'", settings_of_take(take), given, is_typed=is_typed)


def find_for_take(
    take: Take, model: str, *, device: str, dtype: str | None = None, decodes_only: bool = False
) -> tuple[FoundModel, Placement, Work]:
    """The model of a take, where it computes, and what it is to compute.

    Args:
        take: what it is for.
        model: its name, see `model_of_file`.
        device, dtype: as the options of these names.
        decodes_only: see `InfinityStarPipeline.load`.

    Raises:
        IstarError: as `find_model`, or another model made the take.
    """
    from istar.cli.display import DownloadDisplay
    from istar.inputs import template_of
    from istar.memory_use import Work
    from istar.models.find import find_model
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
    return found, placement, Work.of_request(request, found.spec, template, pictures=pictures)


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
        IstarError: as `find_for_take` and `InfinityStarPipeline.load`.
    """
    from istar.cli.display import DownloadDisplay
    from istar.pipeline import InfinityStarPipeline

    found, placement, work = find_for_take(
        take, model, device=device, dtype=dtype, decodes_only=decodes_only
    )
    anyway = decodes_only or check_memory(found, placement, work, memory, yes=yes)
    with DownloadDisplay() as display:
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
