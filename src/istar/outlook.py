"""A job's work: how much there is, what of it is done, and how long the rest takes.

Work is floating-point operations of the transformer's steps and of the decoder's convolutions.
Loading, and the texts of which the first step waits, are not in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property

from istar.events import WorkDone
from istar.generation.flop import window_flop
from istar.generation.schedule import Grid, Step
from istar.generation.state import GenerationState, JobState, Position
from istar.opening import Opening
from istar.pace import Pace
from istar.plan import Window


@dataclass(frozen=True, kw_only=True)
class WindowWork:
    """The operations of one window.

    Attributes:
        steps: of every step; 0 of those that need no pass.
        decoding: of every latent frame, by clip; only clips whose pictures are shown.
    """

    steps: tuple[int, ...]
    decoding: dict[int, tuple[int, ...]]

    @cached_property
    def all_frames(self) -> tuple[int, ...]:
        """The latent frames of all clips."""
        return tuple(flop for clip in self.decoding.values() for flop in clip)

    @cached_property
    def total(self) -> int:
        """All of it."""
        return sum(self.steps) + sum(self.all_frames)

    def frames_left(self, state: JobState) -> tuple[int, ...]:
        """The latent frames that are not decoded, where the window is under way."""
        return tuple(
            flop
            for clip, frames in self.decoding.items()
            if clip >= state.decoded
            for flop in frames[state.shown if clip == state.decoded else 0 :]
        )


class Outlook:
    """The work of a job and the time that it takes, learned while it runs."""

    def __init__(self) -> None:
        self._taken = 0.0
        self._steps, self._frames = Pace(), Pace()
        self._planned_for: object = None
        self._windows: dict[int, WindowWork] = {}
        self._later: tuple[int, Counter[int], Counter[int]] = (-1, Counter(), Counter())

    def plan(
        self, opening: Opening, state: JobState, *, until: Position | None = None, hidden: int = 0
    ) -> None:
        """Find the work of all windows, when one of them was opened.

        The texts of the others are taken for as long as its own. Of an interactive job it is the
        window's alone, as other prompts may come.

        Args:
            opening: what windows are opened with.
            state: of the job, the window opened.
            until: where the job stops; None at its end.
            hidden: of so many windows no pictures are made.
        """
        assert state.generation is not None
        numbers = range(len(opening.plan.windows))
        if opening.request.mode == "interact":
            numbers = range(state.window, state.window + 1)
        if until is not None:
            numbers = range(numbers.start, min(numbers.stop, until.window + (until.step > 0)))
        read = tokens_read(state.generation)
        if self._planned_for == (key := (read, until, numbers)):
            return
        self._planned_for = key
        self._later = (-1, Counter(), Counter())
        config, decoder = opening.networks.config, opening.networks.tokenizer.decoder

        @cache
        def frames(before: int, grid: Grid) -> tuple[int, ...]:
            """A clip's latent frames, with what the first of them looks back at."""
            size = 2 * grid.height, 2 * grid.width
            own = [decoder.frame_flop(*size, first=before + n == 0) for n in range(grid.frames)]
            own[0] += sum(
                decoder.frame_flop(*size, first=ahead == before, ahead=ahead)
                for ahead in range(1, before + 1)
            )
            return tuple(own)

        @cache
        def work(
            window: Window, steps: tuple[Step, ...], known: frozenset[int], shown: int, end: int
        ) -> WindowWork:
            texts, conditions = read
            before = opening.plan.spec.clip_frames if window.interactive else 0
            decoding = {}
            for step in steps[:end]:
                if step.ends_clip:
                    if step.clip >= shown:
                        decoding[step.clip] = frames(before, step.full_grid)
                    before += step.full_grid.frames
            flop = window_flop(config, steps, known, texts=texts, conditions=conditions)
            return WindowWork(steps=flop[:end], decoding=decoding)

        self._windows = {}
        for number in numbers:
            steps = opening.plan.steps(number)
            self._windows[number] = work(
                opening.plan.windows[number],
                steps,
                opening.known_steps(number, state),
                len(steps) if number < hidden else opening.first_shown(number),
                until.step if until and number == until.window else len(steps),
            )

    def took_step(self, window: int, step: int, seconds: float) -> None:
        """Learn from a step of a window."""
        self._taken += seconds
        work = self._windows.get(window)
        if work and step < len(work.steps) and work.steps[step]:
            self._steps.add(work.steps[step], seconds)

    def decoded_frame(self, state: JobState, seconds: float) -> None:
        """Learn from a latent frame that was decoded.

        Args:
            state: of the job, before it.
            seconds: how long it took.
        """
        self._taken += seconds
        work = self._windows.get(state.window)
        if work and state.decoded in work.decoding:
            self._frames.add(work.decoding[state.decoded][state.shown], seconds)

    def at(self, state: JobState) -> WorkDone:
        """What is done where a job is, its window open, and how long the rest takes."""
        assert state.generation is not None
        if self._later[0] != state.window:
            later = [work for number, work in self._windows.items() if number > state.window]
            self._later = (
                state.window,
                Counter(flop for work in later for flop in work.steps),
                Counter(flop for work in later for flop in work.all_frames),
            )
        _, steps_left, frames_left = self._later
        if own := self._windows.get(state.window):
            steps_left = steps_left + Counter(own.steps[state.generation.position :])
            frames_left = frames_left + Counter(own.frames_left(state))
        total = sum(work.total for work in self._windows.values())
        left = sum(flop * count for flop, count in (steps_left + frames_left).items())
        return WorkDone(
            done=total - left,
            total=total,
            seconds_taken=self._taken,
            seconds_left=self._seconds_left(steps_left, frames_left),
        )

    def _seconds_left(self, steps: Counter[int], frames: Counter[int]) -> float | None:
        """None where nothing is known yet that could be compared."""
        decoding = self._steps if self._frames.knows_nothing else self._frames
        if decoding.knows_nothing or (self._steps.knows_nothing and any(steps)):
            return None
        return _seconds(self._steps, steps.items()) + _seconds(decoding, frames.items())


def _seconds(pace: Pace, pieces: Iterable[tuple[int, int]]) -> float:
    return sum(count * pace.seconds(flop) for flop, count in pieces if flop)


def tokens_read(generation: GenerationState) -> tuple[tuple[int, ...], int]:
    """The tokens of each branch's text, and of the frames before that a window looks at."""
    texts = tuple(branch.text[0].keys.shape[2] for branch in generation.branches)
    if not texts:
        return (0,), 0
    conditions = (context[0].keys.shape[2] for context in generation.branches[0].conditions)
    return texts, sum(conditions)
