"""Captions that lose their last sentences."""

from __future__ import annotations

import pytest
import torch

from istar.training.short_captions import perhaps_shortened


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
    assert {perhaps_shortened(caption, 1.0, random) for _ in range(30)} == shorter
    assert perhaps_shortened(caption, 0.0, random) == caption


def test_shortening_changes_no_later_draw() -> None:
    """So that runs with and without it choose the same examples."""
    states = []
    for caption, chance in (("One. Two. Three.", 1.0), ("One. Two. Three.", 0.0), ("one", 1.0)):
        generator = torch.Generator().manual_seed(5)
        perhaps_shortened(caption, chance, generator)
        states.append(int(torch.randint(1 << 30, (), generator=generator)))
    assert len(set(states)) == 1
