"""Drafts of an interactive session's next prompt."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING

from istar.cli.display import StepDisplay

if TYPE_CHECKING:
    from istar.cli.session_lines import Prompt
    from istar.job import Job
    from istar.take import Take


def draft_prompt(job: Job, prompt: Prompt, seeds: Sequence[int], sheet: Path) -> list[Take]:
    """The takes of a prompt's clip, stopped after a coarse scale, for each of several seeds.

    Args:
        job: finished; it stays as it is.
        prompt: what happens next.
        seeds: of the drafts.
        sheet: the picture that shows them; it is replaced.

    Raises:
        DeviceError: memory ran out.
        GenerationError: the network's output is not a number.
        MediaError: the sheet cannot be written.
    """
    from istar.generation.state import Position
    from istar.generation.until import DRAFT_SHARE, stop_step
    from istar.media import write_picture
    from istar.media.sheet import ContactSheet

    takes: list[Take] = []
    contacts: ContactSheet | None = None
    with StepDisplay() as display:
        for number, seed in enumerate(seeds, 1):
            # A job's state is never changed, only exchanged, so a copy goes its own way.
            draft = copy(job)
            draft.add_prompt(prompt.text, typed=prompt.typed, seed=seed)
            window = len(draft.plan.windows) - 1
            stop = stop_step(job.networks.config, draft.plan.steps(window), 0, DRAFT_SHARE)
            for _ in display.pictures_of(draft.run(until=Position(window, stop))):
                pass
            frames = draft.preview()
            contacts = contacts or ContactSheet(len(seeds), *frames.shape[1:3])
            contacts.add(f"{number}: seed {seed}", frames)
            takes.append(draft.take())
    assert contacts is not None
    write_picture(contacts.still(), sheet, overwrite=True)
    return takes
