"""Which tokens of a window stay in a variation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from istar.errors import UsageError
from istar.generation.schedule import ClipPlan, Schedule, Step
from istar.generation.state import TakeWindow
from istar.generation.variation import Part, frames_within, varied
from istar.request import Mode

REPEATS = (1, 2, 1)
SCHEDULE = Schedule(
    clips=(ClipPlan(frames=1, repeats=REPEATS), ClipPlan(frames=8, repeats=REPEATS)),
    scales=((1, 1), (2, 4), (4, 8)),
    semantic_scales=1,
    context="sparse",
)
STATE = torch.Generator().manual_seed(7).get_state()


def window(taken: int = 8) -> TakeWindow:
    draw = torch.Generator().manual_seed(1)
    return TakeWindow(
        schedule=SCHEDULE,
        generator=STATE,
        bits={
            step.index: torch.rand(step.grid.tokens, 4, generator=draw) < 0.5
            for step in SCHEDULE.steps[:taken]
        },
        seconds=(0.1,) * taken,
    )


def drawn(made: TakeWindow) -> dict[int, Tensor]:
    """Which tokens of each step are drawn anew, `(t, h, w)`; what stays has its bits."""
    result = {}
    for step in SCHEDULE.steps:
        nothing, all_of_it = (torch.full(step.grid, value) for value in (False, True))
        if step.index in made.given:
            result[step.index] = nothing
        elif step.index in made.masks:
            result[step.index] = made.masks[step.index].view(step.grid)
        else:
            result[step.index] = all_of_it
        known = step.index in made.given or step.index in made.masks
        assert known == (step.index in made.bits)
    return result


def test_scales_that_are_kept_stay_in_every_clip() -> None:
    made = varied(window(), STATE, keep=1)
    assert made.given == {0, 1, 2, 4, 5, 6}
    assert not made.masks
    assert made.seconds == ()
    assert all(torch.equal(made.bits[index], window().bits[index]) for index in made.given)


def test_of_a_draft_stays_what_there_is() -> None:
    assert varied(window(taken=6), STATE, keep=1).given == {0, 1, 2, 4, 5}


def test_the_clips_of_an_input_stay_whole() -> None:
    assert varied(window(), STATE, keep=0, input_clips=1).given == {0, 1, 2, 3, 4}


def test_outside_of_some_frames_everything_stays() -> None:
    made = varied(window(), STATE, part=Part(frames=(3, 5)))
    for index, tokens in drawn(made).items():
        step = SCHEDULE.steps[index]
        frames = range(step.first_frame, step.first_frame + step.grid.frames)
        for frame, own in zip(frames, tokens, strict=True):
            assert bool(own.all()) == bool(own.any()) == (frame in (3, 4))


def by_hand(step: Step, left: int, top: int, width: int, height: int) -> Tensor:
    """Cells that lie in a region of a picture of 128×64 pixels."""
    tall, wide = 64 // step.grid.height, 128 // step.grid.width
    return torch.tensor(
        [
            [
                left <= column * wide
                and (column + 1) * wide <= left + width
                and top <= row * tall
                and (row + 1) * tall <= top + height
                for column in range(step.grid.width)
            ]
            for row in range(step.grid.height)
        ]
    )


@pytest.mark.parametrize(
    "region", [(0, 0, 64, 64), (64, 32, 64, 32), (16, 16, 16, 16), (1, 1, 33, 33), (0, 0, 127, 63)]
)
def test_outside_of_a_region_everything_stays(region: tuple[int, int, int, int]) -> None:
    made = varied(window(), STATE, part=Part.of(SCHEDULE, region=region))
    for index, tokens in drawn(made).items():
        inside = by_hand(SCHEDULE.steps[index], *region)
        assert torch.equal(tokens, inside.expand_as(tokens)), index
    # Of the coarsest scale no token lies inside.
    assert 0 in made.given


def test_a_part_is_drawn_anew_from_the_scale_after_the_one_that_is_kept() -> None:
    part = Part.of(SCHEDULE, frames=(1, 9), region=(0, 0, 128, 64))
    made = varied(window(), STATE, keep=0, part=part)
    assert made.given == {0, 1, 2, 3, 4}
    assert [int(tokens.sum()) for tokens in drawn(made).values()] == [0, 0, 0, 0, 0, 64, 64, 256]


def test_a_variation_can_be_varied() -> None:
    first = varied(window(), STATE, keep=1, part=Part(frames=(3, 5)))
    assert first.masks.keys() == {7}
    # Before its first step only what stays is known of it.
    again = varied(first, STATE, keep=0, part=Part(frames=(6, 7)))
    assert again.given == {0, 1, 2, 3, 4}
    assert again.masks.keys() == {5, 6}
    finished = replace(first, bits=window().bits, seconds=(0.1,) * 8)
    assert varied(finished, STATE, part=Part(frames=(6, 7))).masks.keys() == {4, 5, 6, 7}


@pytest.mark.parametrize(
    ("taken", "keep", "part", "said"),
    [
        (8, 2, None, "nothing would be drawn anew"),
        (8, -1, Part(frames=(2, 2)), "nothing would be drawn anew"),
        (8, -1, Part(width=0.1), "nothing would be drawn anew"),
        (7, 2, None, "come to 4x2 only"),
        (5, 1, None, "come to 1x1 only"),
        (0, 0, None, "no steps that could stay"),
    ],
)
def test_what_would_be_no_variation(taken: int, keep: int, part: Part | None, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        varied(window(taken), STATE, keep=keep, part=part)


@pytest.mark.parametrize(
    "region", [(0, 0, 129, 64), (0, 0, 128, 65), (-1, 0, 9, 9), (0, 0, 0, 9), (120, 0, 9, 9)]
)
def test_a_region_lies_inside_the_pictures(region: tuple[int, int, int, int]) -> None:
    with pytest.raises(UsageError, match="128×64"):
        Part.of(SCHEDULE, region=region)


EXTENDED = replace(SCHEDULE, clips=(*SCHEDULE.clips, ClipPlan(frames=4, repeats=REPEATS)))
ONE_CLIP = replace(SCHEDULE, clips=SCHEDULE.clips[1:])


@pytest.mark.parametrize(
    ("schedule", "mode", "pictures", "seconds", "frames"),
    [
        # The first latent frame is a moment, each other one a quarter of a second.
        (SCHEDULE, "t2v", 0, (0, 2), (0, 9)),
        (SCHEDULE, "t2v", 0, (0, 0.5), (0, 3)),
        (SCHEDULE, "t2v", 0, (0.5, 1), (3, 5)),
        (SCHEDULE, "t2v", 0, (0.4, 1.1), (3, 5)),
        (SCHEDULE, "t2v", 0, (1.75, 99), (8, 9)),
        # A clip of three seconds, of which the window shows two again, and one more.
        (EXTENDED, "extend", 48, (3, 4), (9, 13)),
        (EXTENDED, "extend", 48, (3.25, 3.75), (10, 12)),
        (EXTENDED, "extend", 48, (1, 1.5), (0, 3)),
        # An interactive window shows nothing again.
        (ONE_CLIP, "interact", 32, (2, 3), (0, 4)),
        (ONE_CLIP, "interact", 32, (2.5, 3), (2, 4)),
    ],
)
def test_times_are_those_of_the_video(
    schedule: Schedule,
    mode: Mode,
    pictures: int,
    seconds: tuple[float, float],
    frames: tuple[int, int],
) -> None:
    assert frames_within(schedule, mode, pictures, seconds) == frames


@pytest.mark.parametrize("seconds", [(0.3, 0.45), (2, 3), (1.5, 1), (1, 1)])
def test_a_time_without_a_frame_is_refused(seconds: tuple[float, float]) -> None:
    with pytest.raises(UsageError, match=r"no whole quarter of a second of the 2 s"):
        frames_within(SCHEDULE, "t2v", 0, seconds)
