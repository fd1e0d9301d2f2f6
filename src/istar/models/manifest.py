"""What a checkpoint directory holds: by the released names, or by its manifest, `istar.json`.

`_Manifest` is the file as it is written, `ModelSpec` the model that it describes. Every path in it
is relative to the directory, sizes that are not given are read off the tensors, and in place of a
named pixel budget its sides may be given. docs/checkpoints.md shows one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from istar.checkpoint.files import read_table
from istar.errors import CheckpointError
from istar.generation.guidance import GuidanceConfig
from istar.generation.sampling import SamplingConfig, Temperature
from istar.generation.schedule import PIXEL_BUDGETS, ContextKind, PixelBudget, PyramidKind
from istar.model_spec import InteractConfig, ModelSpec, Precision, PromptForm, Source
from istar.models.released import RELEASED_MODELS
from istar.tables import decode, encode
from istar.transformer.config import TransformerConfig
from istar.video_tokenizer.config import VideoTokenizerConfig

MANIFEST_NAME = "istar.json"
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class _Files:
    path: str

    def __post_init__(self) -> None:
        _check_inside(self.path)


@dataclass(frozen=True, kw_only=True)
class _Transformer(_Files):
    sizes: TransformerConfig | None = None


@dataclass(frozen=True, kw_only=True)
class _Tokenizer(_Files):
    sizes: VideoTokenizerConfig | None = None


@dataclass(frozen=True, kw_only=True)
class _Repeats:
    image: tuple[int, ...]
    video: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _Tau:
    image: Temperature
    video: Temperature


@dataclass(frozen=True, kw_only=True)
class _Interact:
    repeats: tuple[int, ...]
    guidance: GuidanceConfig
    tau: Temperature
    context_scale: int = InteractConfig.context_scale


@dataclass(frozen=True, kw_only=True)
class _Manifest:
    """The manifest, field by field; the fields of `_SAME` are a `ModelSpec`'s own."""

    istar: int
    name: str = "custom"
    transformer: _Transformer
    tokenizer: _Tokenizer
    text_encoder: _Files
    pixel_budget: str | PixelBudget
    semantic_scales: int
    repeats: _Repeats
    guidance: GuidanceConfig
    tau: _Tau
    prompt: PromptForm = field(default_factory=PromptForm)
    aspect: float = ModelSpec.aspect
    clip_frames: int = ModelSpec.clip_frames
    max_seconds: float = ModelSpec.max_seconds
    extends: bool = ModelSpec.extends
    interact: _Interact | None = None
    context: ContextKind = ModelSpec.context
    pyramid: PyramidKind = ModelSpec.pyramid
    notice: str = ModelSpec.notice
    dtype: Precision | None = None
    source: Source | None = None
    hashes: dict[str, str] | None = None
    """The sha256 of every file: of converted copies and of the bundled model."""

    def __post_init__(self) -> None:
        for file in self.hashes or ():
            _check_inside(file)


_SAME = (
    "name",
    "semantic_scales",
    "prompt",
    "aspect",
    "clip_frames",
    "max_seconds",
    "extends",
    "context",
    "pyramid",
    "notice",
    "dtype",
    "source",
)


def _check_inside(path: str) -> None:
    """Refuse a path that leads out of the checkpoint directory."""
    parts = PurePosixPath(path)
    if not path or parts.is_absolute() or ".." in parts.parts or set(path) & set("\\\0:"):
        raise CheckpointError(f"a path leads out of the checkpoint: {path!r}")


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
        for path in (directory.absolute(), directory.resolve()):
            if path.name == spec.transformer:
                return path.parent, (spec,)
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
    manifest = _read(path)
    try:
        return _spec_of(manifest)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def read_hashes(path: Path) -> dict[str, str]:
    """The sha256 of every file of a converted copy, by its path relative to the manifest.

    Raises:
        CheckpointError: as `read_manifest`, or it has no hashes.
    """
    hashes = _read(path).hashes
    if hashes is None:
        raise CheckpointError(f"{path} holds no hashes of its files")
    return hashes


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


def write_manifest(directory: Path, spec: ModelSpec) -> None:
    """Write the manifest of a model beside its files, with their hashes; reading gives `spec`."""
    released = PIXEL_BUDGETS.get(spec.pixel_budget.name) == spec.pixel_budget
    interact = None
    if spec.interact:
        interact = _Interact(
            repeats=spec.interact.repeats,
            guidance=spec.interact.sampling.guidance,
            tau=spec.interact.sampling.tau_video,
            context_scale=spec.interact.context_scale,
        )
    manifest = _Manifest(
        istar=_VERSION,
        transformer=_Transformer(path=spec.transformer, sizes=spec.transformer_config),
        tokenizer=_Tokenizer(path=spec.tokenizer, sizes=spec.tokenizer_config),
        text_encoder=_Files(path=spec.text_encoder),
        pixel_budget=spec.pixel_budget.name if released else spec.pixel_budget,
        repeats=_Repeats(image=spec.image_repeats, video=spec.video_repeats),
        guidance=spec.sampling.guidance,
        tau=_Tau(image=spec.sampling.tau_image, video=spec.sampling.tau_video),
        interact=interact,
        hashes=hashes_of(directory),
        **{name: getattr(spec, name) for name in _SAME},
    )
    text = json.dumps(encode(manifest), indent=2) + "\n"
    (directory / MANIFEST_NAME).write_text(text, encoding="utf-8")


def _read(path: Path) -> _Manifest:
    """The fields of a manifest.

    Raises:
        CheckpointError: unreadable, or not what a manifest holds.
    """
    content = read_table(path)
    if content.get("istar", _VERSION) != _VERSION:
        raise CheckpointError(
            f"{path}: its form is {content['istar']!r}; this istar reads {_VERSION}"
        )
    try:
        return decode(_Manifest, content, name="the manifest", error=CheckpointError)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _spec_of(manifest: _Manifest) -> ModelSpec:
    interact = None
    if own := manifest.interact:
        sampling = SamplingConfig(guidance=own.guidance, tau_image=own.tau, tau_video=own.tau)
        interact = InteractConfig(
            repeats=own.repeats, sampling=sampling, context_scale=own.context_scale
        )
    return ModelSpec(
        transformer=manifest.transformer.path,
        tokenizer=manifest.tokenizer.path,
        text_encoder=manifest.text_encoder.path,
        pixel_budget=_pixel_budget(manifest.pixel_budget),
        image_repeats=manifest.repeats.image,
        video_repeats=manifest.repeats.video,
        sampling=SamplingConfig(
            guidance=manifest.guidance,
            tau_image=manifest.tau.image,
            tau_video=manifest.tau.video,
        ),
        interact=interact,
        transformer_config=manifest.transformer.sizes,
        tokenizer_config=manifest.tokenizer.sizes,
        **{name: getattr(manifest, name) for name in _SAME},
    )


def _pixel_budget(value: str | PixelBudget) -> PixelBudget:
    if isinstance(value, PixelBudget):
        return value
    if value not in PIXEL_BUDGETS:
        raise CheckpointError(f"pixel budget {value!r} is not one of {', '.join(PIXEL_BUDGETS)}")
    return PIXEL_BUDGETS[value]
