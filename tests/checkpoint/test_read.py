from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from istar.checkpoint.files import INDEX_NAME
from istar.checkpoint.names import released_tokenizer_name, released_transformer_name
from istar.checkpoint.read import load_transformer, load_video_tokenizer
from istar.errors import CheckpointError
from istar.transformer.config import TransformerConfig
from istar.transformer.model import Transformer
from istar.video_tokenizer.model import VideoTokenizer

SHARDS = 3
Change = Callable[[dict[str, Tensor]], None]


def transformer_tensors(model: Transformer, group: int | None = 1) -> dict[str, Tensor]:
    """A transformer's tensors under their released names, and the unused one."""
    tensors = {
        released_transformer_name(name, group): tensor.clone()
        for name, tensor in model.state_dict().items()
    }
    return {**tensors, "sos_token": torch.zeros(1, 1, 32)}


def tokenizer_tensors(model: VideoTokenizer) -> dict[str, Tensor]:
    tensors = {
        released_tokenizer_name(name): tensor.clone() for name, tensor in model.state_dict().items()
    }
    masks = {f"{name}.lfq_detail.mask": torch.ones(64).long() for name in ("quantizer", "quantize")}
    return {**tensors, **masks, "proj_up_two.bias": torch.zeros(64)}


def write_shards(tensors: dict[str, Tensor], directory: Path) -> Path:
    """Three files and their index."""
    directory.mkdir()
    weight_map = {name: f"model-{i % SHARDS}.safetensors" for i, name in enumerate(tensors)}
    for file in set(weight_map.values()):
        save_file({n: t for n, t in tensors.items() if weight_map[n] == file}, directory / file)
    (directory / INDEX_NAME).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return directory


def assert_same(one: torch.nn.Module, two: torch.nn.Module) -> None:
    ours, theirs = one.state_dict(), two.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def assert_refused(load: Callable[[], object], *parts: str) -> None:
    """One line, which names the path and says what is wrong."""
    with pytest.raises(CheckpointError) as refusal:
        load()
    message = str(refusal.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.fixture
def shards(transformer: Transformer, tmp_path: Path) -> Path:
    return write_shards(transformer_tensors(transformer), tmp_path / "transformer")


# --- Transformers ------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [None, 1, 3])
def test_shards_come_back_as_the_same_model(
    transformer: Transformer, tmp_path: Path, group: int | None
) -> None:
    path = write_shards(transformer_tensors(transformer, group), tmp_path / "transformer")
    for config in (None, transformer.config):
        loaded = load_transformer(path, config)
        assert loaded.config == transformer.config
        assert_same(loaded, transformer)
        assert not loaded.training
        assert not any(p.requires_grad for p in loaded.parameters())


def test_a_directory_without_index_and_a_single_file(
    transformer: Transformer, shards: Path, tmp_path: Path
) -> None:
    (shards / INDEX_NAME).unlink()
    assert_same(load_transformer(shards), transformer)
    save_file(transformer_tensors(transformer, None), tmp_path / "one.safetensors")
    assert_same(load_transformer(tmp_path / "one.safetensors"), transformer)


def test_a_model_of_unshared_heads(tmp_path: Path) -> None:
    config = TransformerConfig(
        width=16, depth=2, heads=3, key_value_heads=3, head_size=8, mlp_width=24,
        text_channels=5, text_positions=7, latent_channels=8, semantic_bits=2,
    )  # fmt: skip
    model = Transformer(config)
    loaded = load_transformer(write_shards(transformer_tensors(model), tmp_path / "unshared"))
    assert loaded.config == config
    assert_same(loaded, model)


def test_bf16_leaves_the_heads_in_float32(transformer: Transformer, shards: Path) -> None:
    loaded = load_transformer(shards, dtype=torch.bfloat16)
    originals = transformer.state_dict()
    for name, tensor in loaded.state_dict().items():
        dtype = torch.float32 if "_head." in name else torch.bfloat16
        assert tensor.dtype == dtype, name
        assert torch.equal(tensor, originals[name].to(dtype))
    assert {
        n.split(".")[0] for n, t in loaded.state_dict().items() if t.dtype == torch.float32
    } == {
        "semantic_head",
        "detail_head",
    }


def test_what_is_loaded_does_not_depend_on_the_file_any_more(
    transformer: Transformer, shards: Path
) -> None:
    loaded = load_transformer(shards)
    for file in shards.glob("*.safetensors"):
        file.write_bytes(bytes(file.stat().st_size))
    assert_same(loaded, transformer)


BLOCK = "block_chunks.1.module.0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{BLOCK}.mlp.up_proj.weight"), f"{BLOCK}.mlp.up_proj.weight"),
        (lambda t: t.pop("head.bias"), "head.bias"),
        (lambda t: t.pop("word_embed.weight"), "word_embed.weight"),
        (lambda t: t.pop("cfg_uncond"), "cfg_uncond"),
        (lambda t: t.pop(f"{BLOCK}.attn.q_norm.weight"), f"{BLOCK}.attn.q_norm.weight"),
        (lambda t: t.clear(), "not a safetensors index"),
        (lambda t: t.update(extra=torch.zeros(1)), "unknown 1 tensor: extra"),
        (lambda t: t.update({"head.bias": torch.zeros(127)}), "head.bias"),
        (lambda t: t.update({"head.bias": torch.zeros(1, 128)}), "head.bias"),
        (lambda t: t.update({"word_embed.weight": torch.tensor(1.0)}), "word_embed.weight"),
        (lambda t: t.update({"cfg_uncond": torch.zeros(0, 12)}), "cfg_uncond"),
        (lambda t: t["head.bias"].fill_(float("nan")), "head.bias"),
        (lambda t: t["word_embed.weight"][3].fill_(float("inf")), "word_embed.weight"),
        (lambda t: t.update({"head.bias": torch.zeros(128).long()}), "head.bias"),
        (lambda t: t.update({"head.bias": torch.zeros(128).bool()}), "head.bias"),
    ],
)
def test_tensors_that_are_not_the_models(
    transformer: Transformer, tmp_path: Path, change: Change, message: str
) -> None:
    tensors = transformer_tensors(transformer)
    change(tensors)
    path = write_shards(tensors, tmp_path / "transformer")
    assert_refused(lambda: load_transformer(path), str(path), message)


def test_sizes_that_the_tensors_do_not_have(shards: Path, small_config: TransformerConfig) -> None:
    config = replace(small_config, depth=4)
    assert_refused(lambda: load_transformer(shards, config), str(shards), "missing")


def test_weights_that_are_too_large_for_the_dtype(transformer: Transformer, tmp_path: Path) -> None:
    tensors = transformer_tensors(transformer)
    tensors["word_embed.weight"][0, 0] = 1e5
    path = write_shards(tensors, tmp_path / "transformer")
    assert load_transformer(path).embed_latents.weight[0, 0] == 1e5
    assert_refused(
        lambda: load_transformer(path, dtype=torch.float16), str(path), "word_embed.weight"
    )


# --- Files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 5, 100, -4])
def test_a_truncated_shard(shards: Path, keep: int) -> None:
    shard = shards / "model-1.safetensors"
    shard.write_bytes(shard.read_bytes()[:keep])
    assert_refused(
        lambda: load_transformer(shards), str(shard), "empty" if keep == 0 else "cut short"
    )


def test_a_missing_shard(shards: Path) -> None:
    (shards / "model-1.safetensors").unlink()
    assert_refused(lambda: load_transformer(shards), "model-1.safetensors", "missing")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("../x.safetensors", "outside its directory"),
        ("/x.safetensors", "outside its directory"),
        ("a\\b", "outside its directory"),
        ("a\0b", "outside its directory"),
        ("..", "missing"),
        ("", "missing"),
        (7, INDEX_NAME),
    ],
)
def test_an_index_that_points_elsewhere(shards: Path, how: object, message: str) -> None:
    (shards.parent / "x.safetensors").write_bytes((shards / "model-1.safetensors").read_bytes())
    index = shards / INDEX_NAME
    weight_map = json.loads(index.read_text())["weight_map"]
    files = {
        name: how if file == "model-1.safetensors" else file for name, file in weight_map.items()
    }
    index.write_text(json.dumps({"weight_map": files}))
    assert_refused(lambda: load_transformer(shards), str(shards), message)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_an_index_that_is_none(shards: Path, text: str) -> None:
    (shards / INDEX_NAME).write_text(text)
    assert_refused(lambda: load_transformer(shards), str(shards))


def test_an_index_that_is_not_text(shards: Path) -> None:
    (shards / INDEX_NAME).write_bytes(b"\xff\xfe")
    assert_refused(lambda: load_transformer(shards), INDEX_NAME)


def test_a_tensor_in_two_files(shards: Path) -> None:
    (shards / INDEX_NAME).unlink()
    save_file({"head.bias": torch.zeros(128)}, shards / "more.safetensors")
    assert_refused(lambda: load_transformer(shards), str(shards), "head.bias", "two files")


def test_places_with_nothing_there(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "nowhere.safetensors"):
        assert_refused(lambda path=path: load_transformer(path), str(path))
    for name in ("nowhere.pth", "nowhere.safetensors"):
        path = tmp_path / name
        assert_refused(lambda path=path: load_video_tokenizer(path), str(path))


# --- Tokenizers --------------------------------------------------------------------------------


def write_tokenizer(tensors: dict[str, Tensor], path: Path) -> Path:
    if path.suffix == ".pth":
        torch.save({"vae": tensors}, path)
    else:
        save_file(tensors, path)
    return path


@pytest.mark.parametrize("name", ["vae.pth", "vae.safetensors"])
def test_a_tokenizer_comes_back(tokenizer: VideoTokenizer, tmp_path: Path, name: str) -> None:
    path = write_tokenizer(tokenizer_tensors(tokenizer), tmp_path / name)
    loaded = load_video_tokenizer(path)
    assert loaded.config == tokenizer.config
    assert_same(loaded, tokenizer)


def test_a_decoder_is_read_in_its_own_dtype(tokenizer: VideoTokenizer, tmp_path: Path) -> None:
    path = write_tokenizer(tokenizer_tensors(tokenizer), tmp_path / "tokenizer.safetensors")
    loaded = load_video_tokenizer(path, decoder_dtype=torch.bfloat16)
    tokenizer.decoder.bfloat16()
    assert_same(loaded, tokenizer)


def test_a_tokenizer_in_torchs_older_form(tokenizer: VideoTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "vae.pth"
    content = {"vae": tokenizer_tensors(tokenizer)}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert_same(load_video_tokenizer(path), tokenizer)
    whole = path.read_bytes()
    for keep in (1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:keep])
        assert_refused(lambda: load_video_tokenizer(path), str(path))


def test_widths_that_form_no_network(tokenizer: VideoTokenizer, tmp_path: Path) -> None:
    tensors = tokenizer_tensors(tokenizer)
    tensors["encoder.norm_out.gamma"] = torch.zeros(20, 1, 1, 1)
    path = write_tokenizer(tensors, tmp_path / "vae.pth")
    assert_refused(lambda: load_video_tokenizer(path), str(path), "equally wide")


@pytest.mark.parametrize("name", ["vae.pth", "vae.safetensors"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("proj_up.bias"), "proj_up.bias"),
        (lambda t: t.pop("encoder.norm_out.gamma"), "encoder.norm_out.gamma"),
        (lambda t: t.update(extra=torch.zeros(1)), "extra"),
        (lambda t: t.update({"quantizer.scale": torch.zeros(1)}), "quantizer.scale"),
        (lambda t: t["proj_up.bias"].fill_(float("nan")), "proj_up.bias"),
        (lambda t: t.update({"proj_up.bias": torch.zeros(63)}), "proj_up.bias"),
    ],
)
def test_tensors_that_are_not_the_tokenizers(
    tokenizer: VideoTokenizer, tmp_path: Path, name: str, change: Change, message: str
) -> None:
    tensors = tokenizer_tensors(tokenizer)
    change(tensors)
    path = write_tokenizer(tensors, tmp_path / name)
    assert_refused(lambda: load_video_tokenizer(path), str(path), message)


def test_pickles_of_another_form(tokenizer: VideoTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "vae.pth"
    tensors = tokenizer_tensors(tokenizer)
    for content in (tensors, [tensors], {"vae": None}, {"vae": {**tensors, "step": 3}}, {}):
        torch.save(content, path)
        assert_refused(lambda: load_video_tokenizer(path), str(path), "vae")


def test_a_pickle_with_a_name_that_is_no_text(tokenizer: VideoTokenizer, tmp_path: Path) -> None:
    path = write_tokenizer(
        {**tokenizer_tensors(tokenizer), 7: torch.zeros(1)},  # type: ignore[dict-item]
        tmp_path / "vae.pth",
    )
    assert_refused(lambda: load_video_tokenizer(path), str(path))


@pytest.mark.parametrize("keep", [0, 10, 5000, -100])
def test_a_truncated_pickle(tokenizer: VideoTokenizer, tmp_path: Path, keep: int) -> None:
    path = write_tokenizer(tokenizer_tensors(tokenizer), tmp_path / "vae.pth")
    path.write_bytes(path.read_bytes()[:keep])
    assert_refused(lambda: load_video_tokenizer(path), str(path))


class RunsCommand:
    """Unpickled, it leaves a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"echo ran > '{self.marker}'",)


@pytest.mark.parametrize("form", ["torch", "old torch", "plain"])
@pytest.mark.parametrize("forced", [False, True])
def test_code_in_a_pickle_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, forced: bool
) -> None:
    marker, path = tmp_path / "marker", tmp_path / "vae.pth"
    content = {"vae": {"proj_up.bias": RunsCommand(marker)}}
    if form == "plain":
        path.write_bytes(pickle.dumps(content))
        pickle.load(io.BytesIO(path.read_bytes()))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "torch")
        torch.load(path, weights_only=False)
    assert marker.exists()  # the code works where it is let
    marker.unlink()
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(CheckpointError) as caught:
        load_video_tokenizer(path)
    assert not marker.exists()
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    if form == "torch":
        assert "nothing in it was run" in message
