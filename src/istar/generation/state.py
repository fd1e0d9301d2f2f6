"""The state of one window of a generation, and of the whole job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from istar.generation.canvas import Canvas
from istar.generation.likelihood import Score
from istar.generation.schedule import Schedule, Step
from istar.transformer.cache import Context, KeysValues

Bits = Mapping[int, Tensor]
"""Booleans `(t·h·w, d)` by step index."""


@dataclass(frozen=True, kw_only=True)
class Branch:
    """What one branch of guidance looks back at.

    Attributes:
        text: keys and values of its text.
        conditions: those of the frames that an interactive clip continues; else none.
        steps: those of the steps that the next one looks at, by step index.
    """

    text: Context
    conditions: tuple[Context, ...] = ()
    steps: Mapping[int, Context] = field(default_factory=dict)

    @property
    def contexts(self) -> tuple[Context, ...]:
        """All that the next step looks at."""
        return (self.text, *self.conditions, *self.steps.values())

    def after(self, taken: int, own: Context | None, looks_at: tuple[int, ...]) -> Branch:
        """The branch when a step is taken, for the next one, which looks at `looks_at`.

        Args:
            taken: the step's index.
            own: its keys and values; None where no later step needs them.
            looks_at: indices of steps.
        """
        known = dict(self.steps) if own is None else {**self.steps, taken: own}
        return replace(self, steps={index: known[index] for index in looks_at if index in known})

    def with_steps(self, moved: Callable[[KeysValues], KeysValues]) -> Branch:
        """The branch with the steps' keys and values elsewhere, layer by layer."""
        steps = {index: tuple(map(moved, context)) for index, context in self.steps.items()}
        return replace(self, steps=steps)


class Kept(NamedTuple):
    """A step's bits of which some tokens are drawn anew.

    Attributes:
        bits: `(t·h·w, d)` booleans.
        drawn: `(t·h·w)` booleans: the tokens to draw.
    """

    bits: Tensor
    drawn: Tensor


class Position(NamedTuple):
    """A place in a job: a window, and the next step in it."""

    window: int
    step: int


def seeded_state(seed: int) -> Tensor:
    """The state of a CPU generator that a seed begins."""
    return torch.Generator().manual_seed(seed).get_state()


def seed_in(state: Tensor) -> int:
    """The seed from which a CPU generator came to a state."""
    generator = torch.Generator()
    generator.set_state(state)
    return generator.initial_seed()


@dataclass(frozen=True, kw_only=True)
class TakeWindow:
    """The tokens of one window: everything that its pictures follow from.

    Attributes:
        schedule: its clips and scales.
        generator: the state of the CPU generator before its first draw.
        bits: `(t·h·w, d)` booleans by step index; of those not taken too, where they are known.
        given: indices of the steps that were never drawn: of the input, or kept by a variation.
        masks: `(t·h·w)` booleans by step index: of these steps only the tokens marked were, or will
            be, drawn.
        seconds: how long each step took, from the first; 0 for those that were not drawn.
        scores: how likely the bits are that each step drew, from the first, see
            `istar.generation.likelihood`; empty where that is not known of all steps.
    """

    schedule: Schedule
    generator: Tensor
    bits: Bits
    given: frozenset[int] = frozenset()
    masks: Mapping[int, Tensor] = field(default_factory=dict)
    seconds: tuple[float, ...] = ()
    scores: tuple[Score, ...] = ()

    @property
    def is_whole(self) -> bool:
        """All of its steps are taken."""
        return len(self.seconds) == len(self.schedule.steps)

    def after(self, step: int, bits: Tensor, seconds: float, score: Score) -> TakeWindow:
        """The window with one more step taken.

        Args:
            step: its index.
            bits: `(t·h·w, d)`.
            seconds: how long it took. A step that was taken before keeps its own.
            score: of the bits that it drew. Likewise.
        """
        if step < len(self.seconds):
            return self
        taken = 0.0 if step in self.given else seconds
        are_known = len(self.scores) == len(self.seconds)
        return replace(
            self,
            bits={**self.bits, step: bits},
            seconds=(*self.seconds, taken),
            scores=(*self.scores, score) if are_known else (),
        )

    def generator_after(self, semantic_bits: int, detail_bits: int) -> Tensor:
        """The state of the CPU generator after all of its draws.

        Args:
            semantic_bits, detail_bits: of a token.
        """
        generator = torch.Generator()
        generator.set_state(self.generator)
        for step in self.schedule.steps:
            if step.index not in self.given:
                width = semantic_bits if step.semantic else detail_bits
                torch.empty(step.grid.tokens, width).uniform_(generator=generator)
        return generator.get_state()


@dataclass(frozen=True, kw_only=True)
class GenerationState:
    """One window under way. A step makes a new state and leaves this one as it is.

    Attributes:
        steps: the whole schedule.
        bits: `(t·h·w, d)` booleans of every step taken, on the CPU.
        scores: of every step taken; of those that were given 0.
        given: bits of steps that are not to be sampled, by step index.
        kept: of steps of which only some tokens are, by step index.
        needed: indices of the steps whose keys and values a sampled step needs.
        canvas: the clip under way.
        latents: `(1, C, T, H, W)` of every finished clip.
        branches: the conditional branch and, with guidance, the unconditional; none where
            everything is given.
        generator: the state of the CPU generator from which the next step draws.
    """

    steps: tuple[Step, ...]
    bits: tuple[Tensor, ...]
    scores: tuple[Score, ...]
    given: Bits
    kept: Mapping[int, Kept]
    needed: frozenset[int]
    canvas: Canvas
    latents: tuple[Tensor, ...]
    branches: tuple[Branch, ...]
    generator: Tensor

    @property
    def position(self) -> int:
        """Index of the next step."""
        return len(self.bits)

    @property
    def finished(self) -> bool:
        """No step is left."""
        return self.position == len(self.steps)

    @property
    def is_given(self) -> bool:
        """Every step's bits are given: nothing is computed."""
        return len(self.given) == len(self.steps)

    @property
    def next_step(self) -> Step:
        """The step to take next."""
        return self.steps[self.position]


@dataclass(frozen=True, kw_only=True)
class JobState:
    """Where a job is. A step makes a new state and leaves this one as it is.

    Attributes:
        generator: the state of the CPU generator from which everything is drawn.
        known: the windows of the take that it continues.
        begun: it has reported its notes and the input's pictures.
        windows: those that are finished.
        current: the tokens of the window under way; None between two.
        generation: the window under way; None between two.
        decoded: how many of its clips are decoded, or need not be.
        shown: of how many latent frames of the next clip the pictures are handed out.
        tail: `(F, H, W, 3)` each, uint8: together the last pictures, which the next window shows
            again; none where it does not.
        former: interact: `(1, C, clip + 1, H, W)`, latents of the last clip and the frame before.
        first: interact: `(1, C, 1, H, W)`, the latent with which the video began.
        before: where the job is that makes the pictures of the take that it continues; None before
            it has begun, and when they are made.
    """

    generator: Tensor
    known: tuple[TakeWindow, ...] = ()
    begun: bool = False
    windows: tuple[TakeWindow, ...] = ()
    current: TakeWindow | None = None
    generation: GenerationState | None = None
    decoded: int = 0
    shown: int = 0
    tail: tuple[Tensor, ...] = ()
    former: Tensor | None = None
    first: Tensor | None = None
    before: JobState | None = None

    def with_contexts(self, moved: Callable[[KeysValues], KeysValues]) -> JobState:
        """The job with its window's keys and values elsewhere, layer by layer."""
        generation = self.generation
        if generation is None:
            return self
        branches = tuple(branch.with_steps(moved) for branch in generation.branches)
        return replace(self, generation=replace(generation, branches=branches))

    @property
    def decodes_next(self) -> bool:
        """A clip is finished, and not all of its pictures are handed out."""
        return self.generation is not None and self.decoded < len(self.generation.latents)

    @property
    def window(self) -> int:
        """Index of the window under way, or of the next one."""
        return len(self.windows)

    @property
    def position(self) -> Position:
        """The window, and the next step in it."""
        return Position(self.window, self.generation.position if self.generation else 0)

    def final(self, window: int) -> int:
        """How many steps of a known window need not be taken again; 0 of one that is not known."""
        return len(self.known[window].seconds) if window < len(self.known) else 0
