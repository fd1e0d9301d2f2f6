"""What a story would take: checked and predicted, nothing made."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from istar.cli.console import print_lines, printable, say, voice, warn
from istar.cli.inputs import input_file
from istar.cli.session import Session, is_session
from istar.cli.story import Story, problems_of
from istar.cli.story_run import StoryPlan
from istar.errors import MediaError, StateError, UsageError
from istar.plurals import counted

if TYPE_CHECKING:
    from istar.cli.interact import InteractOptions
    from istar.memory_use import NetworkSizes
    from istar.pace import Pace
    from istar.plan import Plan
    from istar.request import GenerationRequest
    from istar.take import Take
    from istar.take_store import StoredTake

_MOST_TAKES = 20
"""So many takes are looked at for one that says how fast this machine is."""


def check_story(options: InteractOptions, path: Path, again: int | None) -> None:
    """Print what a story would take.

    Args:
        options: as typed.
        path: of the story.
        again: a scene that would be made anew, counted from 1.

    Raises:
        UsageError: something in it is not allowed; all of that is said.
        IstarError: a picture cannot be read, or memory does not suffice.
    """
    path = input_file(path)
    problems = problems_of(path) or _picture_problems(Story.read(path))
    if len(problems) > 1:
        for problem in problems:
            warn(problem)
        raise UsageError(f"'{path}' has {len(problems)} problems")
    story = StoryPlan.of(options, Story.read(path), again)
    for note in story.inputs.notes:
        warn(note)
    if voice().as_json:
        for line in _lines(story):
            say(line)
        return
    print_lines(printable(line) for line in _lines(story))


def _picture_problems(story: Story) -> tuple[str, ...]:
    """What is wrong with the files of a story's pictures."""
    from istar.media import read_picture

    problems = []
    for number, scene in enumerate(story.scenes, 1):
        try:
            if scene.image is not None:
                read_picture(scene.image)
        except MediaError as error:
            problems.append(f"'{story.path}': scene {number}: {error}")
    return tuple(problems)


def _lines(story: StoryPlan) -> Iterator[str]:
    from istar.inputs import picture_size
    from istar.plan import plan_request

    # 1. The story.
    spec, scenes, clips = story.model.spec, story.story.scenes, story.clips
    plan = plan_request(story.request, spec, story.inputs.template)
    height, width = picture_size(plan.template, spec)
    yield (
        f"'{story.story.path}': {counted(len(scenes), 'scene')}, "
        f"{spec.clip_seconds * len(clips)} s, {width}×{height}, the {spec.name} model"
    )
    # 2. Its scenes.
    sizes, places = story.model.sizes(), _places(story)
    costs: list[tuple[int, ...]] = []
    for number in range(len(clips)):
        is_given = number in story.inputs.images
        given = {step.index for step in plan.steps(number) if is_given and step.clip == 0}
        costs.append(_flop(plan, story.request, number, given, sizes) if sizes else ())
    for scene in range(1, len(scenes) + 1):
        own = [number for number, clip in enumerate(clips) if clip.scene == scene]
        first = clips[own[0]]
        steps = [step for number in own for step in plan.steps(number)]
        words = [
            f"scene {scene}: {spec.clip_seconds * len(own)} s",
            *([] if first.seed is None else [f"seed {first.seed}"]),
            *(
                []
                if first.image is None
                else [f"a cut to '{first.image}'" if own[0] else f"from '{first.image}'"]
            ),
            f"{len(steps)} steps",
            f"{sum(step.grid.tokens for step in steps)} tokens",
            *([_operations(sum(sum(costs[number]) for number in own))] if sizes else []),
            *(["is there"] if all(places[number] is not None for number in own) else []),
        ]
        yield ", ".join(words)
    # 3. What is to be made.
    missing = [number for number, place in enumerate(places) if place is None]
    yield f"{counted(len(missing), 'clip')} of {len(clips)} to be made"
    if sizes is None:
        yield "memory and time: not known before the model's files are here"
        return
    yield _memory(story, sizes)
    yield _time(story, [flop for number in missing for flop in costs[number] if flop], sizes)


def _places(plan: StoryPlan) -> tuple[int | None, ...]:
    """Where each clip is already; the best branch's, and later shots of others."""
    places: list[int | None] = [None] * len(plan.clips)
    session = plan.session
    if session is None:
        return tuple(places)
    branches = plan.branches(session)
    number = 0
    while number < len(places):
        holders = branches[:1] if number == 0 else branches
        holder = next((one for one in holders if one.places[number] is not None), None)
        if holder is None or (number and plan.clips[number].image is None):
            number += 1
            continue
        run = holder.run_from(number)
        places[number : number + len(run)] = run
        number += len(run)
    return tuple(places)


def _memory(plan: StoryPlan, sizes: NetworkSizes) -> str:
    from istar.memory_plan import choose_plans

    work, placement = plan.model.work(plan.inputs), plan.model.placement
    chosen, *_ = choose_plans(
        plan.options.memory.value, sizes, work, placement, anyway=plan.options.yes
    )
    return chosen.describe()


def _flop(
    plan: Plan,
    request: GenerationRequest,
    number: int,
    given: Container[int],
    sizes: NetworkSizes,
) -> tuple[int, ...]:
    """The operations of every step of a window; what the text adds is left out."""
    from istar.generation.flop import window_flop
    from istar.memory_use import condition_tokens

    branches = 1 + (plan.sampling(number, request).guidance.scale != 1)
    return window_flop(
        sizes.config,
        plan.steps(number),
        given,
        texts=(0,) * branches,
        conditions=condition_tokens(plan.windows[number], plan.spec, plan.template),
    )


def _operations(flop: float) -> str:
    """A number of operations in words."""
    for size, name in ((1e15, "P"), (1e12, "T"), (1e9, "G")):
        if flop >= size:
            return f"{flop / size:.3g} {name}FLOP"
    return f"{flop / 1e6:.3g} MFLOP"


def _time(story: StoryPlan, flop: Sequence[int], sizes: NetworkSizes) -> str:
    """How long steps take, by a take that says how long its own took."""
    if not flop:
        return "time: no step is to be taken"
    total = _operations(sum(flop))
    for name, take in _takes_here(story):
        pace = _pace(story, take, sizes)
        if pace is not None:
            seconds = sum(map(pace.seconds, flop))
            words = f"{seconds:.2g} s" if seconds < 100 else f"{seconds / 60:.0f} min"
            return (
                f"time: about {words} for steps of {total}, as fast as those of '{name}'; loading "
                "and decoding come on top"
            )
    return f"time: not known, as no run of this model here says; its steps are {total}"


def _takes_here(story: StoryPlan) -> Iterator[tuple[Path, Take]]:
    """Takes of the model in the same numbers: of the story's session, then of the store."""
    from istar.take import Take
    from istar.take_store import stored_takes

    name, placement = story.model.spec.name, story.model.placement
    paths: list[Path] = []
    if is_session(story.directory):
        session = Session.open(story.directory)
        paths += [session.path_of(branch) for branch in session.branches]
    paths += [one.path for one in stored_takes() if _is_video_of(one, name)]
    for path in paths[:_MOST_TAKES]:
        with suppress(StateError):
            take = Take.load(path)
            own = (take.model.name, take.model.dtype, take.model.device)
            if own == (name, placement.precision, placement.device.type):
                yield path, take


def _is_video_of(stored: StoredTake, model: str) -> bool:
    """Whether a take is a model's, and no picture: that says little of large steps."""
    summary = stored.summary
    return summary is not None and summary.model == model and summary.mode != "t2i"


def _pace(story: StoryPlan, take: Take, sizes: NetworkSizes) -> Pace | None:
    """How long steps took of a take; None where it does not say, or its schedule is another."""
    from istar.inputs import template_of
    from istar.pace import Pace
    from istar.plan import plan_request

    request, pace, is_timed = take.request, Pace(), False
    plan = plan_request(
        request, story.model.spec, template_of(take), given_pictures=take.given_pictures
    )
    for number, window in enumerate(take.windows):
        if window.schedule != plan.schedules[number]:
            break
        costs = _flop(plan, request, number, window.given, sizes)
        for flop, seconds in zip(costs, window.seconds, strict=False):
            if seconds:
                pace.add(flop, seconds)
                is_timed = True
    return pace if is_timed else None
