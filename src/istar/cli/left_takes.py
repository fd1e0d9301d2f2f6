"""The takes that an interrupted batch left, continued where it is run again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from istar.cli.console import say
from istar.errors import StateError

if TYPE_CHECKING:
    from istar.inputs import Inputs
    from istar.pipeline import InfinityStarPipeline
    from istar.request import GenerationRequest, Mode
    from istar.take import Take


class LeftTakes:
    """The takes of the store that are not finished, by what they make.

    A finished one is left alone: what is asked for again may be of other weights by then, and a
    take's fingerprint is of a few of them.

    Args:
        wanted: some may be continued; otherwise none is looked for.
    """

    def __init__(self, *, wanted: bool) -> None:
        from istar.take_store import stored_takes

        self._paths: dict[tuple[Mode, tuple[str, ...], int], list[Path]] = defaultdict(list)
        for take in stored_takes() if wanted else ():
            if (made := take.summary) is not None and not take.finished:
                self._paths[made.mode, made.prompts, made.seed].append(take.path)

    @contextmanager
    def on_the_way_to(
        self, request: GenerationRequest, inputs: Inputs, pipeline: InfinityStarPipeline
    ) -> Iterator[tuple[Path, Take] | None]:
        """Inside, the newest take on the way to what a request makes here is held, and it is said.

        Args:
            request: what is made.
            inputs: its input.
            pipeline: the model.

        Yields:
            its file, and what it holds; None without such a take.
        """
        from istar.resume import identity
        from istar.take import Take
        from istar.take_store import held_take

        for path in self._paths[request.mode, request.prompts, request.seed]:
            with ExitStack() as held:
                try:
                    held.enter_context(held_take(path))
                    take = Take.load(path)
                except StateError:  # another process makes it; removed meanwhile, or damaged
                    continue
                # Inputs are compared by their pictures, whatever their paths.
                wanted = replace(request, image=take.request.image, clip=take.request.clip)
                if (
                    (take.request, take.model) == (wanted, identity(pipeline.networks))
                    and not take.finished  # by another process meanwhile
                    and not take.is_varied
                    and _has_input(take, inputs)
                ):
                    say(f"continuing the take {path.stem}")
                    yield path, take
                    return
        yield None


def _has_input(take: Take, inputs: Inputs) -> bool:
    """Whether a take began with an input; of one that continues a take that is not compared."""
    import torch

    if take.before is not None or inputs.take is not None:
        return False
    if inputs.image is not None:
        return take.image is not None and torch.equal(take.image, inputs.image)
    if inputs.clip is not None:
        return take.clip_file is not None and take.clip_file.sha256 == inputs.clip_hash
    return True
