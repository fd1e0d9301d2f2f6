"""Teacher forcing, and which scales a sequence holds that is too short for all."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from test_sequences import latents, schedule
from torch import Tensor

from istar.generation.residual import bits_of_latent, residual_steps
from istar.generation.schedule import PIXEL_BUDGETS, ClipPlan, Step, nearest_template, steps
from istar.training.forced_steps import (
    DrawnClip,
    ForcedStep,
    draw_clip,
    may_stay,
    scale_of,
    short_enough,
    teacher_forcing,
)

LARGE = ((1, 11),)
NEVER = ((1, 12), (1, 13))
MIDDLE = ((1, 8), (1, 9), (1, 10))


def all_steps(
    latent: Tensor, own: tuple[Step, ...], most_flips: float, random: torch.Generator
) -> list[ForcedStep]:
    """Every repetition of every scale, not one of each."""
    drawn = draw_clip(
        latent, own, semantic_bits=16, most_flips=most_flips, generator=random, choices=random
    )
    (forced,) = teacher_forcing([drawn._replace(chosen=own)], semantic_bits=16)
    return forced


def test_without_flips_the_targets_are_the_bits_of_the_latent(random: torch.Generator) -> None:
    own = schedule(3, repeats=(2, 2, 1))
    (latent,) = latents(own, random)
    forced = all_steps(latent, own, 0.0, random)
    wanted = bits_of_latent(latent[None], own, semantic_bits=16)
    assert all(torch.equal(a.targets, b) for a, b in zip(forced, wanted, strict=True))
    assert not forced[0].inputs.any()
    assert forced[1].inputs.any()


def test_flips_are_corrected_by_later_targets(random: torch.Generator) -> None:
    """With flips the next step starts from another sum; its targets still lead to the latent."""
    own = schedule(2, repeats=(1, 1, 8))
    (latent,) = latents(own, random)
    forced = all_steps(latent, own, 0.3, random)
    plain = all_steps(latent, own, 0.0, random)
    assert torch.equal(forced[0].targets, plain[0].targets)
    assert any(not torch.equal(a.targets, b.targets) for a, b in zip(forced, plain, strict=True))
    last = forced[-1]
    residual = latent.flatten(1).T - last.inputs
    assert torch.equal(last.targets, residual > 0)


def test_clips_are_forced_together_as_each_would_be_alone(
    random: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the same grids at once, whatever example they are of; every bit is the same."""
    together = Counter[int]()

    def count(latent: Tensor, *rest: Any, **settings: Any) -> Any:
        together[len(latent)] += 1
        return residual_steps(latent, *rest, **settings)

    schedules = (schedule(1, 3, 3, repeats=(3, 2, 2)), schedule(1, 3, repeats=(3, 2, 2)))
    drawn: list[DrawnClip] = []
    for one in schedules:
        for number, latent in enumerate(latents(one, random)):
            own = [step for step in one if step.clip == number]
            drawn.append(
                draw_clip(
                    latent,
                    own,
                    semantic_bits=16,
                    most_flips=0.3,
                    generator=random,
                    choices=random,
                )
            )
    monkeypatch.setattr("istar.training.forced_steps.residual_steps", count)
    found = teacher_forcing(drawn, semantic_bits=16)
    assert together == {2: 1, 3: 1}
    for clip, forced_steps in zip(drawn, found, strict=True):
        (alone,) = teacher_forcing([clip], semantic_bits=16)
        assert tuple(forced.step for forced in forced_steps) == clip.chosen
        for forced, other in zip(forced_steps, alone, strict=True):
            assert forced.step == other.step
            assert all(torch.equal(a, b) for a, b in zip(forced[1:], other[1:], strict=True))


def kept_scales(
    own: tuple[Step, ...], room: int, random: torch.Generator, times: int
) -> Counter[tuple[int, int]]:
    """How often each scale stays."""
    found: Counter[tuple[int, int]] = Counter()
    for _ in range(times):
        kept = short_enough(own, own, room, random)
        assert [step.index for step in kept] == sorted(step.index for step in kept)
        assert sum(step.grid.tokens for step in kept) <= room
        found.update(map(scale_of, kept))
    return found


def test_at_480p_all_small_scales_stay_and_a_large_one_is_trained_at_times(
    random: torch.Generator,
) -> None:
    """Five seconds in rows of 20,480 tokens, with a text of 200.

    Without a large scale there is room for all that are smaller; with it for those up to 8 by 8.
    The two largest fit into no such row.
    """
    scales = PIXEL_BUDGETS["0.40M"].scales(nearest_template(9 / 16))
    clips = [ClipPlan(frames=frames, repeats=(1,) * 14) for frames in (1, 20)]
    own = steps(clips, scales, semantic_scales=11)
    found = kept_scales(own, 20_480 - 200, random, 800)
    for scale in map(scale_of, own):
        if scale in NEVER:
            assert found[scale] == 0
        elif scale in LARGE:
            assert 0.2 < found[scale] / 800 < 0.3
        elif scale in MIDDLE:
            assert 0.7 < found[scale] / 800 < 0.8
        else:
            assert found[scale] == 800
    assert {*map(scale_of, may_stay(own, 20_480 - 200))} == {*found}


def test_a_long_example_loses_scales_at_random_among_equals(random: torch.Generator) -> None:
    """The last clip's largest scale cannot fit; of two alike, of eight tokens, only one can."""
    clips = [ClipPlan(frames=frames, repeats=(1, 1, 1)) for frames in (1, 2, 2)]
    own = steps(clips, ((1, 1), (2, 2), (4, 4)), semantic_scales=1)
    room = (16 + 32) + (1 + 2 + 2 + 4 + 8) + 4
    found = kept_scales(own, room, random, 400)
    assert [found[clip, 0] for clip in range(3)] == [400] * 3
    assert [found[clip, 2] for clip in range(3)] == [400, 400, 0]
    assert found[0, 1] == 400
    assert found[1, 1] + found[2, 1] == 400
    assert {*map(scale_of, may_stay(own, room))} == {*found}
    assert 150 < found[1, 1] < 250
    one, other = (kept_scales(own, room, torch.Generator().manual_seed(3), 20) for _ in range(2))
    assert one == other


@pytest.mark.parametrize("spare", [6, 7])
def test_a_large_scale_leaves_room_for_the_smaller_half_of_the_others(
    random: torch.Generator, spare: int
) -> None:
    """Without it 1, 2, 4, 8 and 9 tokens stay; it has 18, and 1, 2 and 4 must fit beside it."""
    clips = [ClipPlan(frames=frames, repeats=(1,) * 4) for frames in (1, 2)]
    own = steps(clips, ((1, 1), (2, 2), (3, 3), (4, 4)), semantic_scales=1)
    # The image clip's last scale, of 16 tokens, always stays. The next clip's last has 32.
    found = kept_scales(own, 16 + 18 + spare, random, 200)
    assert found[0, 0] == found[1, 0] == 200
    assert (0 < found[1, 2] < 200) == (spare == 7)
    assert found[1, 3] == 0


def test_what_fits_is_left_as_it_is(random: torch.Generator) -> None:
    own = schedule(1, 4)
    everything = sum(step.grid.tokens for step in own)
    before = random.get_state()
    assert kept_scales(own, everything, random, 1).total() == len(own)
    assert torch.equal(random.get_state(), before)
    assert all(kept_scales(own, everything - 1, random, 1)[0, 2] == 1 for _ in range(20))


def test_where_nothing_else_fits_the_smallest_stays(random: torch.Generator) -> None:
    """A run of texts and contexts alone would have no loss; it is too long and not trained."""
    own = schedule(4)
    kept = short_enough(own, own, 0, random)
    assert [scale_of(step) for step in kept] == [(0, 0)]
    assert [scale_of(step) for step in may_stay(own, 0)] == [(0, 0)]
