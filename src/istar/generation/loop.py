"""The autoregressive loop: it obeys the steps and keeps nothing but the state it is given.

A generation is `start`, then `advance` until the state is finished. `advance` is `predict`,
guidance, sampling and `commit`; whoever forces bits of their own calls the two ends directly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from istar.errors import GenerationError
from istar.generation.canvas import Canvas
from istar.generation.guidance import guide
from istar.generation.sampling import SamplingConfig, sample_bits
from istar.generation.schedule import Step
from istar.generation.state import Branch, GenerationState
from istar.transformer.cache import Context, join
from istar.transformer.model import Transformer
from istar.transformer.rope import Rotation, rotation, text_coordinates, visual_coordinates
from istar.video_tokenizer.quantizer import shrink

SEMANTIC_CONTEXT = 800
DETAIL_CONTEXT = 801


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the network says of one step.

    Attributes:
        logits: for every branch `(L, d, 2)`, float32; empty where the bits are given.
        contexts: for every branch the step's own keys and values, where a later step reads them.
    """

    logits: tuple[Tensor, ...]
    contexts: tuple[Context, ...] | None


def start(
    transformer: Transformer,
    steps: tuple[Step, ...],
    texts: Sequence[Tensor],
    generator: torch.Generator,
    *,
    given: Mapping[int, Tensor] | None = None,
    scene: Context | None = None,
) -> GenerationState:
    """A state before its first step, the texts read.

    Args:
        transformer: the network.
        steps: the whole schedule.
        texts: features `(L, text_channels)` of the conditional branch and, with guidance, of the
            unconditional; their lengths may differ.
        generator: on the CPU; every draw comes from it.
        given: bits of steps that are not to be sampled, by step index.
        scene: keys and values of earlier frames that every step may look at, in both branches.
    """
    branches = []
    for features in texts:
        x = transformer.embed_text(features.to(transformer.device, transformer.dtype))
        coordinates = text_coordinates(len(features), transformer.device)
        rotated = rotation(coordinates, transformer.config.head_size)
        text = transformer.keys_values(x.unsqueeze(0), rotated)
        branches.append(Branch(text=text, scene=scene))
    channels = transformer.config.latent_channels
    return GenerationState(
        steps=steps,
        position=0,
        bits=[],
        given=dict(given or {}),
        canvas=Canvas.blank(steps[0].full_grid, channels, transformer.device),
        latents=[],
        branches=tuple(branches),
        generator=generator,
    )


def predict(transformer: Transformer, state: GenerationState) -> Prediction:
    """The network's word on the next step; nothing is computed that nobody will read.

    A step whose bits are given needs no logits, and no pass at all unless a later step looks at
    its tokens.
    """
    step = state.next_step
    given = step.index in state.given
    if given and not step.read_later:
        return Prediction(logits=(), contexts=None)
    x = transformer.embed_latents(state.canvas.tokens(step).to(transformer.dtype))
    rotated = step_rotation(transformer, step)
    logits, contexts = [], []
    for branch in state.branches:
        if given:
            contexts.append(transformer.keys_values(x, rotated, branch.contexts))
            continue
        y, own = transformer(x, rotated, branch.contexts, keep=step.read_later)
        logits.append(transformer.logits(y, semantic=step.semantic)[0])
        if own is not None:
            contexts.append(own)
    return Prediction(logits=tuple(logits), contexts=tuple(contexts) or None)


def commit(state: GenerationState, bits: Tensor, contexts: tuple[Context, ...] | None) -> None:
    """Take a step: its bits `(t·h·w, d)` join the canvas, its keys and values the contexts.

    What no later step looks at is let go.
    """
    step = state.next_step
    state.canvas.add(step, bits)
    state.bits.append(bits.cpu())
    state.given.pop(step.index, None)
    state.position += 1
    state.branches = tuple(
        branch.after(step.index, own, state.looks_at)
        for branch, own in zip(
            state.branches, contexts or [None] * len(state.branches), strict=True
        )
    )
    if step.ends_clip:
        state.latents.append(state.canvas.total)
        if not state.finished:
            total = state.canvas.total
            state.canvas = Canvas.blank(state.next_step.full_grid, total.shape[1], total.device)


def advance(
    transformer: Transformer, state: GenerationState, sampling: SamplingConfig
) -> GenerationState:
    """Take the next step, sampled or given, and return the state.

    Raises:
        GenerationError: the logits are not finite.
    """
    step = state.next_step
    prediction = predict(transformer, state)
    if step.index in state.given:
        bits = state.given[step.index]
    else:
        tau = sampling.tau_image if step.image else sampling.tau_video
        logits = prediction.logits[0] / tau
        if len(prediction.logits) > 1:
            logits = guide(logits, prediction.logits[1] / tau, sampling.guidance)
        if not torch.isfinite(logits).all():
            raise GenerationError(
                f"the network's output is not a number at step {step.index} (clip {step.clip}, "
                f"scale {step.scale}); the weights may be damaged",
                remedies=("fp32",),
            )
        bits = sample_bits(logits, state.generator)
    commit(state, bits, prediction.contexts)
    return state


def step_rotation(transformer: Transformer, step: Step) -> Rotation:
    """The rotation of a step's tokens."""
    times = torch.arange(
        step.first_frame, step.first_frame + step.grid.frames, device=transformer.device
    )
    return _visual_rotation(transformer, step.index, times, step.grid[1:], step.full_grid[1:])


def read_scene(
    transformer: Transformer, former: Tensor, first: Tensor, context_grid: tuple[int, int]
) -> Context:
    """Keys and values of what was shown before an interactive clip.

    Two runs of tokens, each seeing only itself: the latent frames just before averaged to
    a coarse grid, and at full size the video's first frame and the last two. They are the same for
    every branch.

    Args:
        transformer: the network.
        former: `(1, C, T, H, W)`, the latent frames just before; the very first of them is only for
            the times to count from.
        first: `(1, C, 1, H, W)`, the first latent frame of the whole video.
        context_grid: rows and columns of the coarse grid.
    """
    contexts = []
    for block in scene_blocks(former, first, context_grid):
        x = transformer.embed_latents(block.tokens.to(transformer.device, transformer.dtype))
        rotated = _visual_rotation(
            transformer,
            block.scale,
            torch.tensor(block.times, device=transformer.device),
            block.grid,
            (former.shape[3], former.shape[4]),
        )
        contexts.append(transformer.keys_values(x, rotated))
    return join(contexts)


class SceneBlock(NamedTuple):
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


def scene_blocks(
    former: Tensor, first: Tensor, context_grid: tuple[int, int]
) -> tuple[SceneBlock, SceneBlock]:
    """The semantic and the detail block of `read_scene`, whose arguments it takes."""
    channels, frames = former.shape[1:3]
    full = (former.shape[3], former.shape[4])
    detail = torch.cat((first, former[:, :, -2:]), dim=2)

    def tokens(latents: Tensor, grid: tuple[int, int]) -> Tensor:
        return shrink(latents, bits=channels, height=grid[0], width=grid[1])

    return (
        SceneBlock(
            SEMANTIC_CONTEXT,
            tuple(range(1, frames)),
            context_grid,
            tokens(former[:, :, 1:], context_grid),
        ),
        SceneBlock(DETAIL_CONTEXT, (0, frames - 2, frames - 1), full, tokens(detail, full)),
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
