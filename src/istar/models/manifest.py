"""What a checkpoint directory holds: by the released names, or by its `istar.json`.

The manifest, every path relative to the directory::

    {
      "istar": 1,
      "name": "small",
      "transformer": {"path": "transformer", "sizes": {"width": 64, ...}},
      "tokenizer": {"path": "videovae.pth", "sizes": {"channels": [8, 8, 16, 16, 16]}},
      "text_encoder": {"path": "text_encoder"},
      "pixel_budget": "0.06M",
      "semantic_scales": 8,
      "repeats": {"image": [3, ...], "video": [3, ...]},
      "guidance": {"kind": "apg", "scale": 34, "norm_threshold": 0.05, "eta": 0},
      "tau": {"image": 1.0, "video": 0.4},
      "prompt": {"prefix": "<<<t={seconds}s>>>", "suffix": ""},
      "aspect": 0.5625,
      "clip_frames": 20,
      "max_seconds": 10,
      "extends": true,
      "interact": {"repeats": [3, ...], "guidance": {...}, "tau": 0.5, "context_scale": 7},
      "context": "sparse",
      "pyramid": "image_first",
      "notice": "told to everyone who uses it"
    }

A converted copy also has `dtype`, `source` and `hashes`, the sha256 of every file; the model that
istar itself brings has `hashes`.

Required are `istar`, the three paths, `pixel_budget`, `semantic_scales`, `repeats`, `guidance` and
`tau`; sizes that are not given are read off the tensors. In place of a name, `pixel_budget` may be
`{"name": "128", "resolution": "128p", "sides": [1, 2, 4, 8]}`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from inspect import signature
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, cast

from istar.errors import CheckpointError
from istar.generation.guidance import GuidanceConfig
from istar.generation.sampling import SamplingConfig
from istar.generation.schedule import PIXEL_BUDGETS, PixelBudget
from istar.model_spec import InteractConfig, ModelSpec, PromptForm, Source
from istar.models.released import RELEASED_MODELS
from istar.transformer.config import TransformerConfig
from istar.video_tokenizer.config import VideoTokenizerConfig

MANIFEST_NAME = "istar.json"
_VERSION = 1

_Config = TypeVar("_Config")


def find_models(directory: Path) -> tuple[Path, tuple[ModelSpec, ...]]:
    """The checkpoint's root and the models that it holds, by preference.

    Args:
        directory: a checkpoint directory, or the directory of one released transformer in it.

    Raises:
        CheckpointError: it is not a directory, holds no model, or its manifest is malformed.
    """
    if not directory.is_dir():
        what = "is not a directory" if directory.exists() else "does not exist"
        raise CheckpointError(f"{directory} {what}")
    if (directory / MANIFEST_NAME).is_file():
        return directory, (read_manifest(directory / MANIFEST_NAME),)
    for spec in RELEASED_MODELS:
        for place in (directory.absolute(), directory.resolve()):
            if place.name == spec.transformer:
                return place.parent, (spec,)
    found = tuple(spec for spec in RELEASED_MODELS if (directory / spec.transformer).is_dir())
    if not found:
        names = ", ".join(spec.transformer for spec in RELEASED_MODELS)
        raise CheckpointError(
            f"{directory} holds no model: neither {MANIFEST_NAME} nor one of {names}"
        )
    return directory, found


def read_manifest(path: Path) -> ModelSpec:
    """The model that a manifest describes.

    Raises:
        CheckpointError: unreadable, not JSON, a field missing, unknown or of the wrong kind, or
            a path that leads out of the directory.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}") from error
    try:
        return _spec(_Fields(content, "the manifest"))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: a field has the wrong kind of value: {error}") from error


def read_hashes(path: Path) -> dict[str, str]:
    """The sha256 of every file of a converted copy, by its path relative to the manifest.

    Raises:
        CheckpointError: unreadable, without hashes, or with a path that leads out.
    """
    try:
        hashes = json.loads(path.read_text(encoding="utf-8"))["hashes"]
        read = {_Fields({"path": file}, "'hashes'").path(): str(hashes[file]) for file in hashes}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{path} holds no hashes of its files") from error
    return read


def file_hash(file: Path) -> str:
    """The sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def hashes_of(directory: Path) -> dict[str, str]:
    """The sha256 of every file below a directory but its manifest, by its path there."""
    return {
        file.relative_to(directory).as_posix(): file_hash(file)
        for file in sorted(directory.rglob("*"))
        if file.is_file() and file != directory / MANIFEST_NAME
    }


def manifest_of(spec: ModelSpec) -> dict[str, Any]:
    """The manifest that describes a model: reading it gives the model again."""
    budget: object = spec.pixel_budget.name
    if PIXEL_BUDGETS.get(spec.pixel_budget.name) != spec.pixel_budget:
        budget = asdict(spec.pixel_budget)
    described: dict[str, Any] = {
        "istar": _VERSION,
        "name": spec.name,
        "transformer": {"path": spec.transformer},
        "tokenizer": {"path": spec.tokenizer},
        "text_encoder": {"path": spec.text_encoder},
        "pixel_budget": budget,
        "semantic_scales": spec.semantic_scales,
        "repeats": {"image": spec.image_repeats, "video": spec.video_repeats},
        "guidance": asdict(spec.sampling.guidance),
        "tau": {"image": spec.sampling.tau_image, "video": spec.sampling.tau_video},
        "prompt": asdict(spec.prompt),
        "aspect": spec.aspect,
        "clip_frames": spec.clip_frames,
        "max_seconds": spec.max_seconds,
        "extends": spec.extends,
        "context": spec.context,
        "pyramid": spec.pyramid,
        "notice": spec.notice,
    }
    for part, config in (
        ("transformer", spec.transformer_config),
        ("tokenizer", spec.tokenizer_config),
    ):
        if config:
            described[part]["sizes"] = asdict(config)
    if spec.interact:
        described["interact"] = {
            "repeats": spec.interact.repeats,
            "guidance": asdict(spec.interact.sampling.guidance),
            "tau": spec.interact.sampling.tau_video,
            "context_scale": spec.interact.context_scale,
        }
    if spec.source:
        described["source"] = asdict(spec.source)
    if spec.dtype:
        described["dtype"] = spec.dtype
    return described


class _Fields:
    """A JSON object whose fields are taken one by one; what is left at the end is unknown."""

    def __init__(self, content: object, name: str) -> None:
        if not isinstance(content, dict):
            raise CheckpointError(f"{name} must be an object")
        self._left: dict[str, Any] = dict(content)
        self.name = name

    def __contains__(self, key: str) -> bool:
        return key in self._left

    def take(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        if key not in self._left:
            if default is not None:
                return default
            raise CheckpointError(f"{self.name} lacks {key!r}")
        value = self._left.pop(key)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise CheckpointError(f"{key!r} in {self.name} has the wrong kind of value: {value!r}")
        return value

    def child(self, key: str) -> _Fields:
        return _Fields(self.take(key, dict), repr(key))

    def integers(self, key: str) -> tuple[int, ...]:
        values = self.take(key, list)
        if not values or not all(type(value) is int for value in values):
            raise CheckpointError(f"{key!r} in {self.name} must be whole numbers")
        return tuple(values)

    def path(self, key: str = "path") -> str:
        value = self.take(key, str)
        path = PurePosixPath(value)
        if not value or path.is_absolute() or ".." in path.parts or set(value) & set("\\\0:"):
            raise CheckpointError(f"{self.name} names a path outside the checkpoint: {value!r}")
        return cast(str, value)

    def config(self, key: str, kind: type[_Config]) -> _Config | None:
        if key not in self._left:
            return None
        values: Mapping[str, Any] = self.take(key, dict)
        if unknown := set(values) - set(signature(kind).parameters):
            raise CheckpointError(
                f"{key!r} in {self.name} has unknown fields: {', '.join(sorted(unknown))}"
            )
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    def end(self) -> None:
        if self._left:
            raise CheckpointError(f"{self.name} has unknown fields: {', '.join(self._left)}")


def _spec(fields: _Fields) -> ModelSpec:
    version = fields.take("istar", int)
    if version != _VERSION:
        raise CheckpointError(f"its form is {version}; this istar reads {_VERSION}")
    transformer, tokenizer, text_encoder = (
        fields.child(key) for key in ("transformer", "tokenizer", "text_encoder")
    )
    repeats = fields.child("repeats")
    tau = fields.child("tau")
    spec = ModelSpec(
        name=fields.take("name", str, "custom"),
        transformer=transformer.path(),
        tokenizer=tokenizer.path(),
        text_encoder=text_encoder.path(),
        pixel_budget=_pixel_budget(fields),
        semantic_scales=fields.take("semantic_scales", int),
        image_repeats=repeats.integers("image"),
        video_repeats=repeats.integers("video"),
        sampling=SamplingConfig(
            guidance=_guidance(fields),
            tau_image=tau.take("image", (int, float)),
            tau_video=tau.take("video", (int, float)),
        ),
        prompt=_prompt(fields),
        aspect=fields.take("aspect", (int, float), 9 / 16),
        clip_frames=fields.take("clip_frames", int, 20),
        max_seconds=fields.take("max_seconds", (int, float), 5),
        extends=fields.take("extends", bool, True),
        interact=_interact(fields),
        context=fields.take("context", str, "sparse"),
        pyramid=fields.take("pyramid", str, "image_first"),
        transformer_config=transformer.config("sizes", TransformerConfig),
        tokenizer_config=tokenizer.config("sizes", VideoTokenizerConfig),
        notice=fields.take("notice", str, ""),
        source=_source(fields),
        dtype=fields.take("dtype", str, "") or None,
    )
    fields.take("hashes", dict, {})
    for part in (transformer, tokenizer, text_encoder, repeats, tau, fields):
        part.end()
    return spec


def _pixel_budget(fields: _Fields) -> PixelBudget:
    value = fields.take("pixel_budget", (str, dict))
    if isinstance(value, str):
        if value not in PIXEL_BUDGETS:
            raise CheckpointError(
                f"pixel budget {value!r} is not one of {', '.join(PIXEL_BUDGETS)}"
            )
        return PIXEL_BUDGETS[value]
    own = _Fields(value, "'pixel_budget'")
    budget = PixelBudget(
        name=own.take("name", str),
        resolution=own.take("resolution", str),
        sides=own.integers("sides"),
    )
    own.end()
    return budget


def _guidance(fields: _Fields) -> GuidanceConfig:
    own = fields.child("guidance")
    guidance = GuidanceConfig(
        kind=own.take("kind", str),
        scale=own.take("scale", (int, float)),
        norm_threshold=own.take("norm_threshold", (int, float), 0.05),
        eta=own.take("eta", (int, float), 0.0),
    )
    own.end()
    return guidance


def _prompt(fields: _Fields) -> PromptForm:
    if "prompt" not in fields:
        return PromptForm()
    own = fields.child("prompt")
    form = PromptForm(prefix=own.take("prefix", str, ""), suffix=own.take("suffix", str, ""))
    own.end()
    return form


def _source(fields: _Fields) -> Source | None:
    if "source" not in fields:
        return None
    own = fields.child("source")
    source = Source(
        repo=own.take("repo", str),
        revision=own.take("revision", str),
        transformer_revision=own.take("transformer_revision", str),
        licence=own.take("licence", str),
        expected_bytes=own.take("expected_bytes", int),
    )
    own.end()
    return source


def _interact(fields: _Fields) -> InteractConfig | None:
    if "interact" not in fields:
        return None
    own = fields.child("interact")
    tau = own.take("tau", (int, float))
    interact = InteractConfig(
        repeats=own.integers("repeats"),
        sampling=SamplingConfig(guidance=_guidance(own), tau_image=tau, tau_video=tau),
        context_scale=own.take("context_scale", int, 7),
    )
    own.end()
    return interact
