"""What goes into the three networks and comes out of them."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree

import pytest
import torch
from torch import Tensor

from istar.models.download_events import DownloadEvent, LoadProgress
from istar.networks import Networks
from istar.pipeline import InfinityStarPipeline
from istar.video_tokenizer.pieces import Piece


@pytest.fixture(scope="module")
def networks(checkpoint: Path) -> Networks:
    return InfinityStarPipeline.from_pretrained(checkpoint, device="cpu").networks


def test_loading_says_how_far_it_is(checkpoint: Path, tmp_path: Path) -> None:
    fresh = copytree(checkpoint, tmp_path / "fresh")
    events: list[DownloadEvent] = []
    InfinityStarPipeline.from_pretrained(fresh, device="cpu", on_event=events.append)
    steps = [event for event in events if isinstance(event, LoadProgress)]
    assert steps == events
    assert list(dict.fromkeys(step.part for step in steps)) == [
        "video tokenizer",
        "transformer",
        "text encoder",
    ]
    done = [step.done for step in steps]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, steps[-1].total)
    assert len(done) > 20


def test_the_unconditional_features_have_the_prompts_length(networks: Networks) -> None:
    for prompt in ("a", "a red circle", "word " * 300):
        conditional, unconditional = networks.texts(prompt, "", guided=True).features
        assert conditional.shape == unconditional.shape
        learned = networks.transformer.unconditional
        assert torch.equal(unconditional, learned[: len(conditional)])


def test_an_empty_prompt_is_the_learned_unconditional_features(networks: Networks) -> None:
    (alone,) = networks.texts("2s: ", "", guided=False, empty=True).features
    assert torch.equal(alone, networks.transformer.unconditional[: len(alone)])
    empty, other = networks.texts("2s: ", "grey", guided=True, empty=True).features
    assert torch.equal(empty, alone)
    assert torch.equal(other, networks.texts("grey", "", guided=False).features[0])


def test_a_negative_prompt_has_its_own_length(networks: Networks) -> None:
    prompt, negative = networks.texts("a red circle", "grey", guided=True).features
    assert len(prompt) > len(negative)
    (alone,) = networks.texts("grey", "", guided=False).features
    assert torch.equal(negative, alone)


def test_black_is_minus_one_and_white_is_one(
    networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[Tensor] = []
    encode = networks.tokenizer.encode

    def watched(pictures: Tensor) -> Tensor:
        encoded.append(pictures)
        return encode(pictures)

    monkeypatch.setattr(networks.tokenizer, "encode", watched)
    levels = torch.arange(256, dtype=torch.uint8).repeat(3 * 5 * 2).reshape(5, 16, 32, 3)
    networks.encode(levels)
    (x,) = encoded
    assert x.shape == (1, 3, 5, 16, 32)
    assert (x.min(), x.max()) == (-1, 1)
    expected = torch.linspace(-1, 1, 256, dtype=torch.float64)[levels.long()]
    torch.testing.assert_close(x[0].double(), expected.permute(3, 0, 1, 2), atol=1e-6, rtol=0)


def test_decoded_levels_are_cut_to_whole_numbers(
    networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = torch.tensor([-9.0, 0, 0.999, 1.001, 127.5, 254.999, 255, 300])
    x = (levels / 127.5 - 1).reshape(1, 1, 1, 2, 4).expand(1, 3, 1, 2, 4)
    pieces = [Piece(0, 0, x[:, :, :, :1]), Piece(0, 1, x[:, :, :, 1:])]
    monkeypatch.setattr(networks.tokenizer, "decode_pieces", lambda *_, **__: iter(pieces))
    monkeypatch.setattr("istar.networks.SPATIAL_STRIDE", 2)
    frames = networks.decode(torch.zeros(1, 64, 1, 1, 2))
    assert frames[0, :, :, 0].flatten().tolist() == [0, 0, 0, 1, 127, 254, 255, 255]
