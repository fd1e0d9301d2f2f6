"""What takes already hold of a story: clips that need not be made again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from istar.errors import StateError

if TYPE_CHECKING:
    from torch import Tensor

    from istar.cli.session import Session
    from istar.cli.story import StoryClip
    from istar.inputs import Inputs
    from istar.request import GenerationRequest
    from istar.take import Take


@dataclass(frozen=True, kw_only=True)
class HeldStory:
    """A branch of a session, and where it holds a story.

    Attributes:
        branch: its name.
        take: its take.
        places: for each clip of the story the window of the take that holds it; None for a clip
            that is not there.
    """

    branch: str
    take: Take
    places: tuple[int | None, ...]

    @property
    def kept(self) -> int:
        """How many clips are there."""
        return sum(place is not None for place in self.places)

    @property
    def leading(self) -> tuple[int, ...]:
        """The places of the clips before the first that is not there."""
        places: list[int] = []
        for place in self.places:
            if place is None:
                break
            places.append(place)
        return tuple(places)

    @property
    def is_all(self) -> bool:
        """The take is this story and nothing else."""
        return self.places == tuple(range(self.take.total))

    def run_from(self, number: int) -> tuple[int, ...]:
        """The places of a clip and those that follow it, as far as they are there."""
        return replace(self, places=self.places[number:]).leading


def branches_of(
    session: Session,
    clips: Sequence[StoryClip],
    request: GenerationRequest,
    inputs: Inputs,
    model: str,
) -> tuple[HeldStory, ...]:
    """The branches of a session that hold some of a story, those that hold most of it first.

    Args:
        session: its directory.
        clips: of the story.
        request: of the whole story; its seed is not compared.
        inputs: its pictures.
        model: the name of the model that is used.
    """
    from istar.take import Take

    found = []
    for branch in session.branches:
        # One that cannot be read holds nothing of use, and stays as it is.
        with suppress(StateError):
            take = Take.load(session.path_of(branch))
            if take.model.name == model and _alike(take, request, inputs):
                places = places_in(take, clips, inputs.images)
                found.append(HeldStory(branch=branch, take=take, places=places))
    here = session.settings.branch
    return tuple(
        sorted(
            (one for one in found if one.kept),
            key=lambda one: (
                len(one.leading),
                one.kept,
                one.is_all,
                one.branch == here,
                -one.take.total,
            ),
            reverse=True,
        )
    )


def _alike(take: Take, request: GenerationRequest, inputs: Inputs) -> bool:
    """Whether a take has the settings of a request, prompts and seeds aside."""
    theirs = take.request
    if theirs.mode != "interact" or theirs.clip is not None:
        return False
    own = replace(
        request,
        prompt=theirs.prompts,
        typed_prompt=theirs.typed_prompt,
        images=(),
        seed=theirs.seed,
    )
    return take.template == inputs.template.name and replace(theirs, images=()) == own


def places_in(
    take: Take, clips: Sequence[StoryClip], images: Mapping[int, Tensor]
) -> tuple[int | None, ...]:
    """Where a take holds the clips of a story.

    A clip looks at those before it, back to the last cut. So one is there if those are there, with
    the same prompts, pictures and seeds.

    Args:
        take: an interactive video's.
        clips: of the story.
        images: `(1, H, W, 3)`, uint8, by the index of a clip: the pictures after cuts.
    """
    places: list[int | None] = []
    at: int | None = None
    for number, clip in enumerate(clips):
        if clip.image is not None:
            same = (own for own in take.images if torch.equal(take.images[own], images[number]))
            free = [own for own in same if own not in places]
            at = number if number in free else min(free, default=None)
        elif number == 0:
            at = None if 0 in take.images else 0
        elif at is not None:
            at = None if at + 1 in take.images else at + 1
        if at is not None and not _is_there(clip, take, at):
            at = None
        places.append(at)
    # One that is not whole can only be the last.
    last = max((number for number, place in enumerate(places) if place is not None), default=-1)
    return tuple(
        place if number == last or place is None or _is_whole(take, place) else None
        for number, place in enumerate(places)
    )


def _is_whole(take: Take, place: int) -> bool:
    return place < len(take.windows) and take.windows[place].is_whole


def _is_there(clip: StoryClip, take: Take, place: int) -> bool:
    """Whether a window of a take, if there is one, has the prompt and the seed of a clip."""
    if place >= take.total or take.request.prompts[place] != clip.prompt.text:
        return False
    from istar.generation.state import seed_in, seeded_state

    begun = place < len(take.windows)
    state = take.windows[place].generator if begun else take.generator
    if not clip.begins:
        # It continues the draws of the clip before, from no seed of its own.
        return not torch.equal(state, seeded_state(seed_in(state)))
    return clip.seed is None or torch.equal(state, seeded_state(clip.seed))


def with_clips_of(take: Take | None, former: Take, places: Iterable[int]) -> Take:
    """A take followed by windows of another one, of the same model and settings.

    Args:
        take: finished; None for none.
        former: where the windows are. The last of them may be under way, or not begun.
        places: their indices there, in order, one at least.
    """
    places = list(places)
    start = 0 if take is None else take.total
    base = former if take is None else take
    windows = () if take is None else take.windows
    prompts = () if take is None else take.request.prompts
    typed = () if take is None else take.request.typed_prompts
    images = {} if take is None else dict(take.images)
    paths = {} if take is None else dict(enumerate(take.request.images))
    for number, place in enumerate(places, start):
        if place in former.images:
            images[number] = former.images[place]
            paths[number] = former.request.image_of(place)
        if place < len(former.windows):
            windows += (former.windows[place],)
        prompts += (former.request.prompts[place],)
        typed += (former.request.typed_prompts[place],)
    last, generator = windows[-1] if windows else None, former.generator
    is_begun = places[-1] < len(former.windows)
    if last is not None and is_begun and last.is_whole:
        # What is behind it in the other take may have begun with a seed of its own.
        generator = last.generator_after(former.semantic_bits, former.detail_bits)
    return replace(
        base,
        request=replace(
            base.request,
            prompt=prompts,
            typed_prompt=typed,
            images=tuple(paths.get(number) for number in range(max(paths, default=-1) + 1)),
        ),
        windows=windows,
        total=len(prompts),
        generator=generator,
        images=images,
    )
