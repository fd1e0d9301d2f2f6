"""The floating-point operations of steps, by arithmetic, without torch.

Matrix products and attention are counted, two operations for a multiply-add, as the bench counts
them; everything else is a small part of a step's time.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from istar.generation.schedule import Step, needed_steps
from istar.transformer.config import TransformerConfig


def step_flop(
    config: TransformerConfig,
    step: Step,
    steps: Sequence[Step],
    *,
    texts: Sequence[int] = (0,),
    conditions: int = 0,
    sampled: bool = True,
) -> int:
    """The operations of one step, all branches of guidance together.

    Args:
        config: the transformer's sizes.
        step: the step.
        steps: the schedule that it belongs to.
        texts: how many tokens the text of each branch has. By default there is one branch, and its
            text is left out: enough to compare steps.
        conditions: tokens of earlier frames that every step of an interactive clip looks at.
        sampled: its bits are drawn. Otherwise they are given, and it passes only to be looked at.
    """
    own = step.grid.tokens
    behind = conditions + sum(steps[index].grid.tokens for index in step.looks_at)
    queries = config.heads * config.head_size
    shared = config.key_value_heads * config.head_size
    # 1. Of a block: multiply-adds of one token, and of one token that sees another.
    keys_values = 2 * config.width * shared
    block = keys_values + config.width * (2 * queries + 3 * config.mlp_width)
    pair = 2 * queries
    # 2. Of what is before and after the blocks.
    embedding = config.latent_channels * config.width
    head = 2 * config.bits_per_token(semantic=step.semantic) * config.width
    flop = 0
    for text in texts:
        whole = own * (block + pair * (text + behind + own))
        if sampled:
            flop += own * (embedding + head) + config.depth * whole
        else:
            # Of the last block only keys and values are needed.
            flop += own * (embedding + keys_values) + (config.depth - 1) * whole
    return 2 * flop


def window_flop(
    config: TransformerConfig,
    steps: Sequence[Step],
    given: Container[int] = (),
    *,
    texts: Sequence[int] = (0,),
    conditions: int = 0,
) -> tuple[int, ...]:
    """The operations of every step of a window, 0 of those that need no pass.

    Args:
        config: the transformer's sizes.
        steps: the whole schedule.
        given: indices of the steps whose bits are known.
        texts: as `step_flop` takes them.
        conditions: likewise.
    """
    needed = needed_steps(steps, given)
    return tuple(
        step_flop(
            config,
            step,
            steps,
            texts=texts,
            conditions=conditions,
            sampled=step.index not in given,
        )
        if step.index not in given or step.index in needed
        else 0
        for step in steps
    )
