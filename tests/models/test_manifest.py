from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from istar.errors import CheckpointError
from istar.generation.guidance import GuidanceConfig
from istar.generation.schedule import PIXEL_BUDGETS
from istar.model_spec import ModelSpec
from istar.models.manifest import MANIFEST_NAME, find_models, read_manifest, write_manifest
from istar.transformer.config import TransformerConfig
from random_checkpoint import manifest

Changes = dict[str, Any]


def write(directory: Path, changes: Changes, *, without: str = "") -> Path:
    content = {**manifest(), **changes}
    content.pop(without, None)
    path = directory / "istar.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def read(directory: Path, **changes: Any) -> ModelSpec:
    return read_manifest(write(directory, changes))


def test_everything_in_it_is_used(tmp_path: Path) -> None:
    spec = read(tmp_path, max_seconds=7, clip_frames=8, aspect=1, extends=False)
    assert spec.name == "random"
    assert spec.pixel_budget == PIXEL_BUDGETS["0.06M"]
    assert spec.semantic_scales == 8
    assert spec.image_repeats == spec.video_repeats == (1,) * 11
    assert spec.sampling.guidance == GuidanceConfig(kind="apg", scale=34)
    assert (spec.sampling.tau_image, spec.sampling.tau_video) == (1.0, 0.4)
    assert spec.prompt.apply("a cat", "t2v", 5, suffix=True) == "<<<t=5s>>>a cat, in detail"
    assert spec.max_seconds == 7
    assert (spec.clip_frames, spec.clip_seconds) == (8, 2)
    assert spec.aspect == 1
    assert not spec.extends
    assert spec.interact is not None
    assert spec.interact.sampling.guidance == GuidanceConfig(kind="cfg", scale=3)
    assert "random" in spec.notice
    assert spec.tokenizer_config is not None
    assert spec.tokenizer_config.channels == (8, 8, 16, 16, 16)
    assert spec.transformer_config is None


def test_every_scale_may_have_its_own_temperature(tmp_path: Path) -> None:
    falling = [1.0, *[0.5] * 10]
    spec = read(tmp_path, tau={"image": 1.0, "video": falling})
    assert (spec.sampling.tau_image, spec.sampling.tau_video) == (1.0, tuple(falling))
    write_manifest(tmp_path, spec)
    assert read_manifest(tmp_path / "istar.json").sampling == spec.sampling


def test_sizes_of_its_own(tmp_path: Path) -> None:
    sizes = {"width": 64, "depth": 2, "heads": 4, "key_value_heads": 4, "head_size": 16}
    spec = read(
        tmp_path,
        transformer={"path": "t", "sizes": sizes},
        pixel_budget={"name": "x", "resolution": "48p", "sides": [1, 2, 3]},
        repeats={"image": [1, 2, 3], "video": [3, 2, 1]},
        semantic_scales=1,
        interact={
            "repeats": [1, 1, 1],
            "guidance": {"kind": "cfg", "scale": 3},
            "tau": 1,
            "context_scale": 2,
        },
    )
    assert spec.transformer_config == TransformerConfig(**sizes)
    assert spec.pixel_budget.sides == (1, 2, 3)
    assert spec.pixel_budget.resolution == "48p"


@pytest.mark.parametrize(
    "field", ["prompt", "clip_frames", "max_seconds", "interact", "notice", "name"]
)
def test_what_may_be_left_out(tmp_path: Path, field: str) -> None:
    assert read_manifest(write(tmp_path, {}, without=field)).clip_frames == 20


@pytest.mark.parametrize(
    "field",
    [
        "istar",
        "transformer",
        "tokenizer",
        "text_encoder",
        "pixel_budget",
        "semantic_scales",
        "repeats",
        "guidance",
        "tau",
    ],
)
def test_what_may_not_be_left_out(tmp_path: Path, field: str) -> None:
    with pytest.raises(CheckpointError, match=field):
        read_manifest(write(tmp_path, {}, without=field))


WRONG: dict[str, Changes] = {
    "another version": {"istar": 2},
    "an unknown field": {"speed": "fast"},
    "a number for a name": {"name": 5},
    "true for a number": {"semantic_scales": True},
    "too many semantic scales": {"semantic_scales": 12},
    "too few repeats": {"repeats": {"image": [1] * 10, "video": [1] * 11}},
    "a repeat of nothing": {"repeats": {"image": [0] * 11, "video": [1] * 11}},
    "repeats in words": {"repeats": {"image": ["1"] * 11, "video": [1] * 11}},
    "an unknown budget": {"pixel_budget": "9M"},
    "a shrinking budget": {"pixel_budget": {"name": "x", "resolution": "x", "sides": [2, 1]}},
    "unknown guidance": {"guidance": {"kind": "magic", "scale": 3}},
    "guidance without a scale": {"guidance": {"kind": "cfg"}},
    "a tau of zero": {"tau": {"image": 0, "video": 1}},
    "a tau of zero for one scale": {"tau": {"image": 1, "video": [1.0] * 10 + [0.0]}},
    "a tau for some scales": {"tau": {"image": [1.0] * 10, "video": 1}},
    "no seconds": {"max_seconds": 0},
    "a clip of no whole seconds": {"clip_frames": 6},
    "half a frame": {"clip_frames": 8.5},
    "no height": {"aspect": 0},
    "a ratio in words": {"aspect": "16:9"},
    "an unknown size": {"tokenizer": {"path": "v", "sizes": {"color": 3}}},
    "a wrong size": {"transformer": {"path": "t", "sizes": {"width": "64"}}},
    "a width in words": {"tokenizer": {"path": "v", "sizes": {"channels": [8, 8, 16, 16, "16"]}}},
    "an unknown context": {"context": "dense"},
    "a number for a context": {"context": 1},
    "full context and interact": {"context": "full"},
    "an unknown pyramid": {"pyramid": "two"},
    "no word on the pyramid": {"pyramid": None},
    "one pyramid and interact": {"pyramid": "one", "extends": False},
    "one width": {"tokenizer": {"path": "v", "sizes": {"channels": 8}}},
    "widths of half": {"tokenizer": {"path": "v", "sizes": {"channels": [8, 8, 16.5, 16, 16]}}},
    "a bottleneck in words": {"tokenizer": {"path": "v", "sizes": {"bottleneck_channels": "16"}}},
    "a bottleneck that is true": {
        "tokenizer": {"path": "v", "sizes": {"bottleneck_channels": True}}
    },
    "no bottleneck": {"tokenizer": {"path": "v", "sizes": {"bottleneck_channels": None}}},
    "sizes in a row": {"tokenizer": {"path": "v", "sizes": [8, 8, 16, 16, 16]}},
    "widths that do not follow": {
        "tokenizer": {"path": "v", "sizes": {"channels": [8, 8, 64, 64, 64]}}
    },
    "too few widths": {"tokenizer": {"path": "v", "sizes": {"channels": [8, 8]}}},
    "an unknown sub-field": {"text_encoder": {"path": "t", "kind": "t5"}},
    "a context scale past the end": {
        "interact": {
            "repeats": [1] * 11,
            "guidance": {"kind": "cfg", "scale": 3},
            "tau": 1,
            "context_scale": 11,
        }
    },
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError) as refusal:
        read(tmp_path, **WRONG[name])
    assert str(tmp_path / "istar.json") in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert "__init__" not in str(refusal.value)
    assert not isinstance(refusal.value.__cause__, TypeError)


def test_the_papers_choices_unless_it_says_otherwise(tmp_path: Path) -> None:
    spec = read(tmp_path)
    assert (spec.context, spec.pyramid) == ("sparse", "image_first")


def test_the_papers_choices_can_be_switched_off(tmp_path: Path) -> None:
    changes = {"context": "full", "pyramid": "one", "extends": False}
    spec = read_manifest(write(tmp_path, changes, without="interact"))
    assert (spec.context, spec.pyramid) == ("full", "one")
    assert spec.modes == ("t2i", "t2v")
    write_manifest(tmp_path, spec)
    assert read_manifest(tmp_path / "istar.json") == spec


@pytest.mark.parametrize("extends", [{}, {"extends": True}])
def test_one_pyramid_does_not_extend(tmp_path: Path, extends: Changes) -> None:
    with pytest.raises(CheckpointError, match="extends must be false, and interact left out"):
        read_manifest(write(tmp_path, {"pyramid": "one", **extends}, without="interact"))


@pytest.mark.parametrize(
    "path", ["", "/etc", "../other", "a/../../b", "a\\b", "C:a", "a\0b", 5, None]
)
@pytest.mark.parametrize("part", ["transformer", "tokenizer", "text_encoder"])
def test_paths_that_lead_out(tmp_path: Path, part: str, path: object) -> None:
    with pytest.raises(CheckpointError):
        read(tmp_path, **{part: {"path": path}})


@pytest.mark.parametrize("text", ["", "[]", "{", '"istar"', "\xff"])
def test_files_that_are_not_manifests(tmp_path: Path, text: str) -> None:
    (tmp_path / "istar.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=MANIFEST_NAME):
        read_manifest(tmp_path / "istar.json")


def test_a_directory_of_released_models_is_known_by_its_names(tmp_path: Path) -> None:
    for name in ("InfinityStarInteract_24K_iters", "infinitystar_8b_720p_weights", "other"):
        (tmp_path / name).mkdir()
    root, models = find_models(tmp_path)
    assert root == tmp_path
    assert [model.name for model in models] == ["720p", "interact"]
    root, models = find_models(tmp_path / "infinitystar_8b_720p_weights")
    assert root == tmp_path
    assert [model.name for model in models] == ["720p"]
    (tmp_path / "link").symlink_to(tmp_path / "infinitystar_8b_720p_weights")
    with pytest.raises(CheckpointError, match="holds no model"):
        find_models(tmp_path / "other")


def test_a_manifest_goes_before_names(tmp_path: Path) -> None:
    (tmp_path / "infinitystar_8b_720p_weights").mkdir()
    write(tmp_path, {})
    assert [model.name for model in find_models(tmp_path)[1]] == ["random"]
