"""What a person hears about an input that is far from what is made."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from istar.inputs import read_inputs
from istar.media import write_clip, write_picture
from istar.models.bundled import bundled_checkpoint
from istar.request import GenerationRequest

_, TINY = bundled_checkpoint()


@pytest.mark.parametrize(
    ("height", "width", "aspect", "said"),
    [
        (60, 60, None, ()),
        (200, 300, None, ()),
        (900, 1600, 0.5, ()),
        (8, 8, None, ("it is enlarged 10 times to fill 80×80",)),
        (100, 1000, None, ("it is cropped to 30% of its area to fill 144×48",)),
        (10, 40, 1, ("it is enlarged 8 times and cropped to 25% of its area to fill 80×80",)),
        (48, 144, 0.1, ("no model makes that aspect; the nearest is made, 144×48",)),
    ],
)
def test_inputs_that_change_much_are_named_with_their_size(
    height: int, width: int, aspect: float | None, said: tuple[str, ...]
) -> None:
    pixels = torch.zeros(17, height, width, 3, dtype=torch.uint8)
    picture = GenerationRequest(mode="i2v", image=pixels[0], aspect=aspect)
    clip = GenerationRequest(mode="extend", clip=pixels, aspect=aspect)
    for request, what in ((picture, "the picture"), (clip, "the clip")):
        subject = f"{what} is {width}×{height}; "
        notes = read_inputs(request, TINY).notes
        assert tuple(note.removeprefix(subject) for note in notes) == said


def test_files_get_the_same_notes(tmp_path: Path) -> None:
    pixels = torch.zeros(17, 32, 160, 3, dtype=torch.uint8)
    image = write_picture(pixels[0], tmp_path / "wide.png")
    clip = write_clip(pixels, tmp_path / "wide.mp4")
    for request in (
        GenerationRequest(mode="i2v", image=image),
        GenerationRequest(mode="extend", clip=clip),
    ):
        (note,) = read_inputs(request, TINY).notes
        assert "is 160×32; it is cropped to 60% of its area to fill 144×48" in note


def test_an_aspect_that_no_model_makes_is_said() -> None:
    for aspect, notes in ((0.2, 1), (5, 1), (0.45, 0), (0.7, 0), (None, 0)):
        request = GenerationRequest(mode="t2v", prompt="a boat", aspect=aspect)
        assert len(read_inputs(request, TINY).notes) == notes
