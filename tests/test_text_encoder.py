from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from istar.errors import CheckpointError
from istar.text_encoder import TextEncoder, transformers_library

library = transformers_library()


@pytest.fixture
def place(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint / "text_encoder", tmp_path / "text_encoder"))


def test_features_are_the_last_hidden_state_without_padding(place: Path) -> None:
    encoder = TextEncoder.from_directory(place)
    features, cut = encoder.encode("a red circle")
    ids = library.AutoTokenizer.from_pretrained(place)("a red circle", return_tensors="pt")[
        "input_ids"
    ]
    assert ids.shape == (1, len("a red circle") + 1)
    with torch.inference_mode():
        expected = library.T5EncoderModel.from_pretrained(place)(input_ids=ids).last_hidden_state[0]
    assert torch.equal(features, expected)
    assert features.shape == (13, encoder.channels)
    assert not cut


def test_padding_would_change_nothing(place: Path) -> None:
    """The reference pads to the longest text and drops the padding; not padding is the same."""
    encoder = TextEncoder.from_directory(place)
    tokenizer = library.AutoTokenizer.from_pretrained(place)
    padded = tokenizer("a red circle", padding="max_length", max_length=64, return_tensors="pt")
    with torch.inference_mode():
        states = library.T5EncoderModel.from_pretrained(place)(**padded).last_hidden_state[0]
    torch.testing.assert_close(encoder.encode("a red circle").features, states[:13])


def test_a_long_text_is_cut_and_keeps_its_end_mark(place: Path) -> None:
    encoder = TextEncoder.from_directory(place, max_tokens=10)
    for length, cut in ((9, False), (10, True), (1000, True)):
        features, was_cut = encoder.encode("x" * length)
        assert len(features) == 10
        assert was_cut == cut
    assert torch.equal(encoder.encode("x" * 9).features, encoder.encode("x" * 90).features)


@pytest.mark.parametrize("text", ["日本語", "🙂", "שלום", "", "a\u0301"])
def test_any_text_has_features(place: Path, text: str) -> None:
    features, _ = TextEncoder.from_directory(place).encode(text)
    assert len(features) == len(text.encode()) + 1
    assert torch.isfinite(features).all()


def refused(place: Path) -> str:
    with pytest.raises(CheckpointError) as refusal:
        TextEncoder.from_directory(place)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_nothing_there(tmp_path: Path) -> None:
    assert "config.json is missing" in refused(tmp_path)


def test_another_family(place: Path) -> None:
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    assert "T5 family" in refused(place)


def test_code_of_the_checkpoint_is_not_run(place: Path, tmp_path: Path) -> None:
    config = json.loads((place / "config.json").read_text())
    own = {"AutoConfig": "own.Config", "AutoModelForTextEncoding": "own.Model"}
    (place / "config.json").write_text(json.dumps(config | {"model_type": "own", "auto_map": own}))
    (place / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    refused(place)
    assert not (tmp_path / "ran").exists()


def test_a_missing_weight_is_refused_and_not_made_up(place: Path) -> None:
    tensors = load_file(place / "model.safetensors")
    name = next(name for name in tensors if "block.0" in name)
    del tensors[name]
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    assert name in refused(place)


def test_a_weight_of_another_shape(place: Path) -> None:
    tensors = load_file(place / "model.safetensors")
    name = next(name for name in tensors if name.endswith(".wo.weight"))
    tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    assert f"tensor {name} is (31, 64), expected (32, 64)" in refused(place)


def test_a_hub_setting_that_its_client_refuses_is_named(place: Path) -> None:
    """transformers imports the Hub's client, which reads its settings as it is imported."""
    load = "import istar.text_encoder as t, sys; t.TextEncoder.from_directory(t.Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", load, place],
        env={**os.environ, "HF_HUB_ETAG_TIMEOUT": "abc"},
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("istar.errors.HubError")
    assert "correct or unset HF_HUB_ETAG_TIMEOUT" in last


def test_pickled_weights_are_not_read(place: Path, tmp_path: Path) -> None:
    torch.save(load_file(place / "model.safetensors"), place / "pytorch_model.bin")
    (place / "model.safetensors").unlink()
    refused(place)


def test_a_missing_tokenizer(place: Path) -> None:
    settings = (place / "tokenizer_config.json").read_text()
    (place / "tokenizer_config.json").unlink()
    assert "tokenizer is missing" in refused(place)
    # Settings that name a vocabulary which is not there.
    settings = settings.replace("ByT5Tokenizer", "T5Tokenizer")
    (place / "tokenizer_config.json").write_text(settings)
    assert "tokenizer is missing" in refused(place)


@pytest.fixture
def sentence_pieces(place: Path, tmp_path: Path) -> Path:
    """The encoder with a `spiece.model` in place of the byte-level tokenizer, as Flan-T5 has."""
    import sentencepiece

    text = tmp_path / "text.txt"
    words = ("red", "green", "blue", "circle", "square", "moves", "left", "right", "a", "on")
    lines = [f"{one} {two} {three}" for one in words for two in words for three in words]
    text.write_text("\n".join(lines))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(place / "spiece"),
        vocab_size=33,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (place / "spiece.vocab").unlink()
    for file in place.glob("*token*"):
        file.unlink()
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "eos_token": "</s>"}
    (place / "tokenizer_config.json").write_text(json.dumps(settings))
    return place


def test_a_sentence_piece_model_is_a_tokenizer(sentence_pieces: Path) -> None:
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(sentence_pieces / "spiece.model"))
    text = "a red circle moves right"
    expected = [*pieces.encode(text), 1]
    assert 2 not in expected
    encoder = TextEncoder.from_directory(sentence_pieces)
    assert len(encoder.encode(text).features) == len(expected)
    with torch.inference_mode():
        model = library.T5EncoderModel.from_pretrained(sentence_pieces)
        features = model(input_ids=torch.tensor([expected])).last_hidden_state[0]
    assert torch.equal(encoder.encode(text).features, features)


def test_a_tokenizer_of_another_encoder(place: Path) -> None:
    tensors = load_file(place / "model.safetensors")
    tensors["shared.weight"] = tensors["shared.weight"][:50].clone()
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | {"vocab_size": 50}))
    assert "do not belong together" in refused(place)
