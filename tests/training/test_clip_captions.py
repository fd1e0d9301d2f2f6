"""The captions of a clip, and which of them an example has."""

from __future__ import annotations

import pytest
import torch

from istar.training.clip_captions import ClipCaptions


@pytest.mark.parametrize(
    ("caption", "shorter"),
    [
        (
            "A red circle. It moves 3.5 times! Why?",
            {"A red circle.", "A red circle. It moves 3.5 times!"},
        ),
        ("A circle... And a square", {"A circle..."}),
        ("一个圆。它动。", {"一个圆。"}),
        ("First line.\nSecond line.\n", {"First line."}),
        ("a red circle moves right", {"a red circle moves right"}),
        ("A red circle.", {"A red circle."}),
        ("", {""}),
    ],
)
def test_a_short_caption_is_the_first_sentences(
    caption: str, shorter: set[str], random: torch.Generator
) -> None:
    captions = ClipCaptions(whole=(caption,))
    assert {captions.drawn(1.0, random) for _ in range(30)} == shorter
    assert captions.drawn(0.0, random) == caption


def test_a_short_caption_of_its_own_comes_first(random: torch.Generator) -> None:
    captions = ClipCaptions(whole=("One. Two.", "Three. Four."), short=("five", "six"))
    found = [captions.drawn(0.3, random) for _ in range(400)]
    assert set(found) == {*captions.whole, *captions.short}
    assert 0.22 < sum(text in captions.short for text in found) / len(found) < 0.38


def test_the_ending_follows_short_captions_too(random: torch.Generator) -> None:
    captions = ClipCaptions(whole=("One. Two.",), by_clip=(("Three. Four.",),), ending="Sharp.")
    assert captions.drawn(0.0, random) == "One. Two. Sharp."
    assert captions.drawn(1.0, random) == "One. Sharp."
    assert captions.of_clip(0).drawn(1.0, random) == "Three. Sharp."


def test_shortening_changes_no_later_draw() -> None:
    """So that runs with and without it choose the same examples."""
    states = []
    for captions, chance in (
        (ClipCaptions(whole=("One. Two. Three.",)), 1.0),
        (ClipCaptions(whole=("One. Two. Three.",)), 0.0),
        (ClipCaptions(whole=("one",)), 1.0),
        (ClipCaptions(whole=("one",), short=("two", "three", "four")), 1.0),
    ):
        generator = torch.Generator().manual_seed(5)
        captions.drawn(chance, generator)
        states.append(int(torch.randint(1 << 30, (), generator=generator)))
    assert len(set(states)) == 1
