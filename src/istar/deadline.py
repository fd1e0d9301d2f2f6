"""A generation that ends in time, at the last scale that fits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from istar.events import ClipReady, Decoding, Event, Note, Progress, WorkDone
from istar.generation.flop import step_flop
from istar.generation.schedule import Step
from istar.generation.until import scale_name
from istar.job import Job
from istar.outlook import tokens_read
from istar.pace import Pace
from istar.placement import memory_failure
from istar.previews import Previews
from istar.video_tokenizer.config import TEMPORAL_STRIDE

_PROBED_FRAMES = 2


def run_in_time(
    job: Job,
    seconds: float,
    *,
    preview: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Event]:
    """Run a job until it is finished, or until no further scale can be made and decoded in time.

    Then the pictures of the clip under way come last, decoded from what there is; the job is not
    finished, and its take can be continued. At least the first scale of the first clip that is
    shown is made, however long that takes.

    Args:
        job: a job before its first step.
        seconds: from now until the last picture is decoded.
        preview: see `istar.job.Job.run`; it takes time.
        clock: tells the time, in seconds.

    Raises:
        DeviceError: memory ran out.
        GenerationError: the network's output is not a number.
    """
    end = clock() + seconds
    pace, per_picture = Pace(), 0.0
    previews = Previews(job.preview, wanted=preview)
    while not job.finished:
        step, position = job.next_step, job.state.position
        # 1. Whether the next scale fits, or of one that takes longer than predicted the next step.
        if step is not None and _may_stop(job, step):
            per_picture = per_picture or _seconds_per_picture(job, clock)
            ahead = _rest_of_scale(job, step) if step.repetition == 0 else (step,)
            needed = sum(pace.at_most(_flop(job, one)) for one in ahead)
            if clock() + needed + per_picture * _decoded(step) > end:
                yield from _shown_so_far(job, step)
                return
        # 2. What comes next; a step that is drawn teaches how long steps take.
        began = clock()
        events = job.advance()
        if step is not None and _is_drawn(job, step) and job.state.position != position:
            pace.add(_flop(job, step), clock() - began)
        yield from (_no_longer_than(event, end - clock()) for event in events)
        yield from previews.after(events, job.state.generation)


def _no_longer_than(event: Event, seconds: float) -> Event:
    """An event of work that ends in so many seconds, however much of it is done by then."""
    match event:
        case (
            Progress(work=WorkDone(seconds_left=float(left)) as work)
            | Decoding(work=WorkDone(seconds_left=float(left)) as work)
            | ClipReady(work=WorkDone(seconds_left=float(left)) as work)
        ):
            return replace(event, work=replace(work, seconds_left=max(min(left, seconds), 0.0)))
    return event


def _shown_so_far(job: Job, step: Step) -> Iterator[Event]:
    """How far the clip under way has come before a step, and its pictures."""
    if step.starts_clip:
        yield Note(text="time is up: the video ends before its whole length", warns=True)
        return
    last = job.plan.steps(job.state.window)[step.index - 1]
    reached, finest = (scale_name(grid.width, grid.height) for grid in (last.grid, last.full_grid))
    text = f"time is up at the scale {reached} of {finest}: the last clip is a draft"
    yield Note(text=text, warns=True)
    yield ClipReady(frames=job.preview())


def _may_stop(job: Job, step: Step) -> bool:
    """Whether there is something to show before a step, and the step is drawn."""
    is_later = job.state.window > 0 or (step.clip, step.scale) > (job.first_shown_clip, 0)
    return is_later and _is_drawn(job, step)


def _is_drawn(job: Job, step: Step) -> bool:
    """Whether a step of the window under way is not given."""
    generation = job.state.generation
    return generation is not None and step.index not in generation.given


def _flop(job: Job, step: Step) -> int:
    generation = job.state.generation
    assert generation is not None
    texts, conditions = tokens_read(generation)
    return step_flop(
        job.networks.config, step, generation.steps, texts=texts, conditions=conditions
    )


def _rest_of_scale(job: Job, step: Step) -> tuple[Step, ...]:
    steps = job.plan.steps(job.state.window)[step.index :]
    return tuple(one for one in steps if (one.clip, one.scale) == (step.clip, step.scale))


def _decoded(step: Step) -> int:
    """About how many pictures are decoded of a step's clip, with one latent frame before it."""
    return 1 if step.image else TEMPORAL_STRIDE * (step.grid.frames + 1)


def _seconds_per_picture(job: Job, clock: Callable[[], float]) -> float:
    """How long decoding takes, found by decoding the first frames of the clip under way.

    Twice: the first time, a device also prepares itself.
    """
    generation = job.state.generation
    assert generation is not None
    latent = generation.canvas.total[:, :, :_PROBED_FRAMES]
    taken = 0.0
    try:
        for _ in range(2):
            began = clock()
            pictures = len(job.networks.decode(latent))
            taken = (clock() - began) / pictures
    except Exception as error:
        failure = memory_failure(error, "decoding")
        if failure is None:
            raise
    else:
        return taken
    raise failure
