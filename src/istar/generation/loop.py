"""The autoregressive loop: it obeys the steps and keeps nothing but the state it is given.

A window is `start`, then `advance` until the state is finished. `advance` is `draw` and `commit`,
and `draw` is `predict`, guidance and sampling; to force your own bits, call `draw` or `predict`,
and `commit`. A step makes a new state, so one that fails or is interrupted has not happened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from istar.errors import GenerationError
from istar.generation.canvas import Canvas
from istar.generation.guidance import guide
from istar.generation.likelihood import NOTHING, Score, step_score, token_scores
from istar.generation.sampling import SamplingConfig, probabilities, uniform_numbers
from istar.generation.schedule import Step, needed_steps
from istar.generation.state import Branch, GenerationState, Kept
from istar.transformer.cache import Context
from istar.transformer.model import Transformer
from istar.transformer.rope import Rotation, rotation, text_coordinates, visual_coordinates
from istar.transformer.rows import Row
from istar.video_tokenizer.quantizer import shrink

SEMANTIC_CONTEXT = 800
DETAIL_CONTEXT = 801


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """The draw of a step's bits.

    Attributes:
        branches: the logits `(L, d, 2)`, float32, of every branch of guidance.
        logits: `(L, d, 2)`, float32: all branches' together, from which the bits are drawn.
        numbers: `(L, d)` in [0, 1): a bit is set where its number is less than its probability.
        contexts: for every branch the step's own keys and values, where a later step needs them.
        generator: the state of the generator after it.
    """

    branches: tuple[Tensor, ...]
    logits: Tensor
    numbers: Tensor
    contexts: tuple[Context, ...] | None
    generator: Tensor

    @property
    def bits(self) -> Tensor:
        """`(L, d)` booleans."""
        return self.numbers < probabilities(self.logits)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The network's output for one step.

    Attributes:
        logits: for every branch `(L, d, 2)`, float32; empty where the bits are given.
        contexts: for every branch the step's own keys and values, where a later step needs them.
    """

    logits: tuple[Tensor, ...]
    contexts: tuple[Context, ...] | None


def start(
    transformer: Transformer,
    steps: tuple[Step, ...],
    texts: Sequence[Tensor],
    generator: Tensor,
    *,
    given: Mapping[int, Tensor] | None = None,
    kept: Mapping[int, Kept] | None = None,
    conditions: tuple[Context, ...] = (),
    together: bool = False,
) -> GenerationState:
    """A state before its first step, the texts read.

    Args:
        transformer: the network.
        steps: the whole schedule.
        texts: features `(L, text_channels)` of the conditional branch and, with guidance, of the
            unconditional; their lengths may differ. None are needed where every step is given.
        generator: the state of a generator on the CPU; every draw comes from it.
        given: bits of steps that are not to be sampled, by step index.
        kept: bits of steps of which only some tokens are, by step index.
        conditions: keys and values of earlier frames that every step may look at, in both branches.
        together: compute the branches as one batch.
    """
    rows = []
    for features in texts:
        x = transformer.embed_text(features.to(transformer.device, transformer.dtype))
        coordinates = text_coordinates(len(features), transformer.device)
        rows.append(Row(x.unsqueeze(0), rotation(coordinates, transformer.config.head_size)))
    # An empty call would still visit every block.
    read = transformer.keys_values(rows, together=together, overwrite=True) if rows else []
    channels = transformer.config.latent_channels
    known = dict(given or {})
    return GenerationState(
        steps=steps,
        bits=(),
        scores=(),
        given=known,
        kept=dict(kept or {}),
        needed=needed_steps(steps, known),
        canvas=Canvas.blank(steps[0].full_grid, channels, transformer.device),
        latents=(),
        branches=tuple(Branch(text=text, conditions=conditions) for text in read),
        generator=generator,
    )


def predict(
    transformer: Transformer, state: GenerationState, *, together: bool = False
) -> Prediction:
    """Predict the next step; compute only what later steps use.

    A step whose bits are given needs no logits, and no pass at all unless a sampled step looks at
    its tokens.

    Args:
        transformer: the network.
        state: where the window is.
        together: compute the branches as one batch.
    """
    step = state.next_step
    given, keep = step.index in state.given, step.index in state.needed
    if given and not keep:
        return Prediction(logits=(), contexts=None)
    tokens = state.canvas.tokens(step).to(transformer.dtype)
    rotated = step_rotation(transformer, step)
    # Every branch embeds for itself, since the blocks overwrite what they get.
    rows = [
        Row(transformer.embed_latents(tokens), rotated, branch.contexts)
        for branch in state.branches
    ]
    if given:
        contexts = transformer.keys_values(rows, together=together, overwrite=True)
        return Prediction(logits=(), contexts=tuple(contexts))
    passed = transformer(rows, keep=keep, together=together, overwrite=True)
    kept = tuple(output.context for output in passed if output.context is not None)
    return Prediction(
        logits=tuple(transformer.logits(y, semantic=step.semantic)[0] for y, _ in passed),
        contexts=kept or None,
    )


def commit(
    state: GenerationState,
    bits: Tensor,
    contexts: tuple[Context, ...] | None,
    generator: Tensor | None = None,
    score: Score = NOTHING,
) -> GenerationState:
    """The state after a step: its bits join the canvas, its keys and values the contexts.

    What no later step looks at is dropped.

    Args:
        state: before the step.
        bits: `(t·h·w, d)` of the step.
        contexts: of every branch, as `predict` gives them.
        generator: its state after the draws; None where nothing was drawn.
        score: of the bits that were drawn.
    """
    step = state.next_step
    canvas = Canvas(state.canvas.total)
    canvas.add(step, bits)
    latents = state.latents
    following = state.steps[step.index + 1] if step.index + 1 < len(state.steps) else None
    if step.ends_clip:
        latents = (*latents, canvas.total)
        if following:
            total = canvas.total
            canvas = Canvas.blank(following.full_grid, total.shape[1], total.device)
    looks_at = following.looks_at if following else ()
    return replace(
        state,
        bits=(*state.bits, bits.cpu()),
        scores=(*state.scores, score),
        canvas=canvas,
        latents=latents,
        branches=tuple(
            branch.after(step.index, own, looks_at)
            for branch, own in zip(
                state.branches, contexts or [None] * len(state.branches), strict=True
            )
        ),
        generator=state.generator if generator is None else generator,
    )


def advance(
    transformer: Transformer,
    state: GenerationState,
    sampling: SamplingConfig,
    *,
    together: bool = False,
) -> GenerationState:
    """Take the next step, sampled or given.

    Args:
        transformer: the network.
        state: before the step.
        sampling: how logits become bits.
        together: compute the branches as one batch.

    Raises:
        GenerationError: the logits are not finite.
    """
    step = state.next_step
    if step.index in state.given:
        prediction = predict(transformer, state, together=together)
        return commit(state, state.given[step.index], prediction.contexts)
    drawing = draw(transformer, state, sampling, together=together)
    bits, drawn = drawing.bits, None
    if (kept := state.kept.get(step.index)) is not None:
        drawn = kept.drawn
        bits = torch.where(drawn.unsqueeze(1), bits.cpu(), kept.bits)
    score = step_score(token_scores(drawing.branches, drawing.logits, bits, drawn))
    return commit(state, bits, drawing.contexts, drawing.generator, score)


def draw(
    transformer: Transformer,
    state: GenerationState,
    sampling: SamplingConfig,
    *,
    together: bool = False,
) -> Drawing:
    """Draw the next step's bits, without taking it.

    Args:
        transformer: the network.
        state: before the step, whose bits are not given.
        sampling: how logits become bits.
        together: compute the branches as one batch.

    Raises:
        GenerationError: the logits are not finite.
    """
    step = state.next_step
    prediction = predict(transformer, state, together=together)
    # 1. Both branches' logits become one.
    logits = joined_logits(prediction.logits, step, sampling)
    if not torch.isfinite(logits).all():
        raise GenerationError(
            f"the network's output is not a number at step {step.index} (clip {step.clip}, "
            f"scale {step.scale}); the weights may be damaged",
            remedies=("fp32",),
        )
    # 2. Every bit gets its number.
    generator = torch.Generator()
    generator.set_state(state.generator)
    numbers = uniform_numbers(logits, generator)
    return Drawing(
        branches=prediction.logits,
        logits=logits,
        numbers=numbers,
        contexts=prediction.contexts,
        generator=generator.get_state(),
    )


def joined_logits(branches: Sequence[Tensor], step: Step, sampling: SamplingConfig) -> Tensor:
    """The logits `(L, d, 2)` from which a step's bits are drawn.

    Args:
        branches: of the conditional branch and, with guidance, of the other.
        step: the step.
        sampling: its temperature and guidance.
    """
    tau = sampling.tau(step)
    logits = branches[0] / tau
    if len(branches) > 1:
        logits = guide(logits, branches[1] / tau, sampling.guidance)
    return logits


def step_rotation(transformer: Transformer, step: Step) -> Rotation:
    """The rotation of a step's tokens."""
    times = torch.arange(
        step.first_frame, step.first_frame + step.grid.frames, device=transformer.device
    )
    return _visual_rotation(transformer, step.index, times, step.grid[1:], step.full_grid[1:])


def read_conditions(
    transformer: Transformer, former: Tensor, first: Tensor, context_grid: tuple[int, int]
) -> tuple[Context, ...]:
    """Keys and values of the frames that an interactive clip continues: two contexts.

    Each is of a run of tokens that sees only itself: the latent frames just before averaged to
    a coarse grid, and at full size the video's first frame and the last two. They are the same for
    every branch.

    Args:
        transformer: the network.
        former: `(1, C, T, H, W)`, the latent frames just before; the very first of them is only for
            the times to count from.
        first: `(1, C, 1, H, W)`, the first latent frame of the whole video.
        context_grid: rows and columns of the coarse grid.
    """
    rows = []
    for block in condition_blocks(former, first, context_grid):
        x = transformer.embed_latents(block.tokens.to(transformer.device, transformer.dtype))
        rotated = _visual_rotation(
            transformer,
            block.scale,
            torch.tensor(block.times, device=transformer.device),
            block.grid,
            (former.shape[3], former.shape[4]),
        )
        rows.append(Row(x, rotated))
    return tuple(transformer.keys_values(rows, overwrite=True))


class ConditionBlock(NamedTuple):
    """A run of context tokens from frames shown before.

    Attributes:
        scale: its scale coordinate, past the text's.
        times: its frames' time coordinates.
        grid: rows and columns.
        tokens: `(1, T·h·w, C)`.
    """

    scale: int
    times: tuple[int, ...]
    grid: tuple[int, int]
    tokens: Tensor


def condition_blocks(
    former: Tensor, first: Tensor, context_grid: tuple[int, int]
) -> tuple[ConditionBlock, ConditionBlock]:
    """The semantic and the detail block of `read_conditions`, whose arguments it takes."""
    channels, frames = former.shape[1:3]
    full = (former.shape[3], former.shape[4])
    detail = torch.cat((first, former[:, :, -2:]), dim=2)

    def tokens(latents: Tensor, grid: tuple[int, int]) -> Tensor:
        return shrink(latents, bits=channels, height=grid[0], width=grid[1])

    return (
        ConditionBlock(
            SEMANTIC_CONTEXT,
            tuple(range(1, frames)),
            context_grid,
            tokens(former[:, :, 1:], context_grid),
        ),
        ConditionBlock(DETAIL_CONTEXT, (0, frames - 2, frames - 1), full, tokens(detail, full)),
    )


def _visual_rotation(
    transformer: Transformer,
    scale: int,
    times: Tensor,
    grid: tuple[int, int],
    full_grid: tuple[int, int],
) -> Rotation:
    coordinates = visual_coordinates(
        scale=transformer.config.text_positions + scale,
        times=times,
        grid=grid,
        full_grid=full_grid,
    )
    return rotation(coordinates, transformer.config.head_size)
