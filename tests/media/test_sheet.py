"""Contact sheets of clips."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from istar.media.sheet import PAPER, ContactSheet, a_few, page, row


def grey(level: int, frames: int = 1, height: int = 90, width: int = 160) -> Tensor:
    return torch.full((frames, height, width, 3), level, dtype=torch.uint8)


def rising(frames: int) -> Tensor:
    """A clip whose pictures have the levels 0, 10, 20 and so on."""
    return torch.cat([grey(10 * number) for number in range(frames)])


def levels(sheet: Tensor) -> list[int]:
    """The even greys of a sheet's pictures, which fill most of their rows, in reading order."""
    found: list[int] = []
    for line in sheet[:, :, 0]:
        values, counts = torch.unique_consecutive(line, return_counts=True)
        runs = [v.item() for v, n in zip(values, counts, strict=True) if n > 60 and v != PAPER[0]]
        if runs and found[-len(runs) :] != runs:
            found += runs
    return found


def test_a_still_sheet_shows_each_clip_from_its_first_to_its_last_picture() -> None:
    sheet = ContactSheet(2, 90, 160)
    sheet.add("1", rising(17))
    sheet.add("2", rising(5))
    assert levels(sheet.still()) == [0, 40, 80, 120, 160, 0, 10, 20, 30, 40]


def test_on_a_moving_sheet_all_clips_run_at_once() -> None:
    sheet = ContactSheet(3, 90, 160)
    for label, clip in (("1", rising(4)), ("2", 5 + rising(4)), ("3", rising(2))):
        sheet.add(label, clip)
    moving = sheet.moving()
    assert len(moving) == 4
    assert [levels(picture) for picture in moving] == [
        [0, 5, 0],
        [10, 15, 10],
        [20, 25, 10],
        [30, 35, 10],
    ]


def test_every_clip_has_its_label_above_it() -> None:
    def labelled(*labels: str) -> Tensor:
        sheet = ContactSheet(len(labels), 90, 160)
        for label in labels:
            sheet.add(label, grey(0))
        return sheet.still()

    one, other = labelled("1: seed 8", "2: seed 9"), labelled("1: seed 8", "2: seed 10")
    changed = (one != other).any(dim=2).any(dim=1).nonzero()[:, 0]
    pictures = ((one == 0).all(dim=2).sum(dim=1) > 60).nonzero()[:, 0]
    assert len(changed)
    assert not set(changed.tolist()) & set(pictures.tolist())
    assert not torch.equal(labelled("1"), labelled(""))


@pytest.mark.parametrize("size", [(720, 1280), (1280, 720), (80, 80), (33, 47), (1280, 420)])
@pytest.mark.parametrize("clips", [1, 8, pytest.param(99, marks=pytest.mark.slow)])
def test_a_sheet_fits_a_screen_and_a_video_file(size: tuple[int, int], clips: int) -> None:
    sheet = ContactSheet(clips, *size)
    for number in range(clips):
        sheet.add(str(number), torch.zeros((2, *size, 3), dtype=torch.uint8))
    height, width = sheet.moving().shape[1:3]
    assert height % 2 == width % 2 == 0
    assert height * width < 2 * 1920 * 1200


def test_enlarged_pictures_keep_their_pixels() -> None:
    sheet = ContactSheet(1, 80, 80)
    sheet.add("", torch.randint(0, 256, (1, 80, 80, 3), dtype=torch.uint8))
    still = sheet.still()
    assert torch.equal(still[24:264:3, 8:248:3], still[26:264:3, 10:248:3])


def test_a_few_pictures_are_no_more_than_there_are() -> None:
    assert a_few(rising(3), 5)[:, 0, 0, 0].tolist() == [0, 10, 20]
    assert a_few(rising(9), 3)[:, 0, 0, 0].tolist() == [0, 40, 80]


def test_a_page_has_room_for_the_largest_cell() -> None:
    cells = [row(rising(2)), row(rising(1)), row(rising(3))]
    assert page(cells, 2).shape == (180, 2 * 480, 3)
    clips = [rising(3), rising(3)]
    assert page(clips, 1).shape == (3, 180, 160, 3)
