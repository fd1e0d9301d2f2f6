"""The runs of the ablations: what each changes, how it trains, what is measured after it.

All variants of a kind run with the same seeds: a seed fixes the initial weights and which examples
are learned from, in which order.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from ablation_tables import Column
from istar.checkpoint.read import load_video_tokenizer
from istar.lab.held_out import scene_alike
from istar.lab.measure import measure
from istar.lab.nearest import Nearness, nearness, spread_shares
from istar.lab.quality import psnr
from istar.lab.trials import verdict, wanted_of
from istar.lab.world import Scene, World, random_scene
from istar.models.manifest import read_manifest
from istar.pipeline import InfinityStarPipeline
from istar.request import GenerationRequest
from istar.training.config import RunConfig, TokenizerTraining, TransformerTraining
from istar.training.events import StepDone
from istar.training.forced_loss import forced_loss
from istar.training.pictures import size_of_aspect
from istar.training.prepare import prepare
from istar.training.prepare_config import PrepareConfig
from istar.training.run_file import read_config
from istar.training.task import Task
from istar.training.tokenizer import TokenizerTask, reconstruct
from istar.training.trainer import train
from istar.training.transformer import TransformerTask
from istar.video_tokenizer.model import to_range

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs" / "ablations"
OUTPUT = ROOT / "out" / "ablations"

PAPER = "as in the paper"
FIVE_SCALES = "five scales"
SEEDS = (1, 2, 3)
SECONDS, PICTURES = 1, 17
PRINT_EVERY = 100
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What is measured after a run.

    Attributes:
        captions: of how many held-out combinations clips are made.
        clips: how many of each, a seed each.
        scenes: on how many held-out scenes the loss is measured, or a tokenizer.
    """

    captions: int = 18
    clips: int = 8
    scenes: int = 64


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What a run changes of the paper's settings.

    Attributes:
        manifest: fields of the manifest.
        data: settings of a transformer's `[data]`.
        quantizer: settings of a tokenizer's `[quantizer]`.
        other_bits: it predicts other bits than the paper's, or weighs them otherwise, so that their
            losses do not compare.
        seeds: of its runs, if they are fewer than its kind's.
    """

    manifest: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    quantizer: Mapping[str, Any] = field(default_factory=dict)
    other_bits: bool = False
    # A result's settings are these in words, and do not depend on how many others there are.
    seeds: tuple[int, ...] = field(default=SEEDS, repr=False)


TRANSFORMERS = {
    PAPER: Variant(),
    "every scale predicted once": Variant(
        manifest={"repeats": {"image": [1] * 4, "video": [1] * 4}}, other_bits=True
    ),
    "no self-correction": Variant(data={"most_flips": 0.0}),
    "full context": Variant(manifest={"context": "full"}),
    "one pyramid": Variant(manifest={"pyramid": "one"}, other_bits=True),
    "half the self-correction": Variant(data={"most_flips": 0.15}),
    "bits weigh alike": Variant(data={"weigh_by_magnitude": False}, other_bits=True),
    FIVE_SCALES: Variant(
        manifest={
            "pixel_budget": {"name": "tiny", "resolution": "64p", "sides": [1, 2, 3, 4, 5]},
            "repeats": {"image": [2, 2, 2, 2, 3], "video": [2, 2, 2, 2, 3]},
        },
        other_bits=True,
        seeds=SEEDS[:2],
    ),
}
_NARROW = {
    "tokenizer": {
        "path": "tokenizer.safetensors",
        "sizes": {"channels": [8, 16, 16, 16, 16], "bottleneck_channels": 8},
    }
}
TOKENIZERS = {
    PAPER: Variant(manifest=_NARROW),
    "no stochastic depth": Variant(manifest=_NARROW, quantizer={"drop_probability": 0.0}),
}
CEILINGS = {"istar-tiny's tokenizer alone": Variant()}


def run_transformer(
    variant: Variant, seed: int, directory: Path, scope: Scope, steps: int | None
) -> dict[str, float]:
    """Train a transformer in a directory and test it on held-out scenes."""
    config = transformer_config(variant, seed, directory, steps)
    _train(TransformerTask(config), config.run)
    pipeline = InfinityStarPipeline.from_pretrained(directory / "model", device=CPU)
    spec = pipeline.spec
    size = size_of_aspect(spec.pixel_budget, spec.aspect)
    losses = [
        forced_loss(
            pipeline.networks,
            scene.frames(PICTURES, *size),
            scene.canonical_caption(),
            weigh_by_magnitude=config.data.weigh_by_magnitude,
        )
        for scene in (random_scene(n, held_out=True, world=world()) for n in range(scope.scenes))
    ]

    def generated_clip(scene: Scene, number: int) -> Tensor:
        request = GenerationRequest(
            mode="t2v",
            prompt=scene.canonical_caption(),
            seconds=SECONDS,
            aspect=spec.aspect,
            seed=number,
        )
        return pipeline.generate(request).frames

    return {"loss": fmean(losses), **clip_measures(generated_clip, scope)}


def transformer_config(
    variant: Variant, seed: int, directory: Path, steps: int | None = None
) -> TransformerTraining:
    """The settings of a transformer's run."""
    config = read_config(CONFIGS / "transformer.toml", TransformerTraining)
    steps = steps or config.run.steps
    return replace(
        config,
        model=_manifest(CONFIGS / "istar.json", variant, directory),
        run=replace(config.run, output=directory, seed=seed, steps=steps, sample_every=steps),
        data=replace(config.data, sets=prepared(), **variant.data),
    )


def run_ceiling(
    variant: Variant, seed: int, directory: Path, scope: Scope, steps: int | None
) -> dict[str, float]:
    """Measure the world's own clips after the tokenizer: what a perfect transformer would make."""
    del variant, seed, directory, steps
    config = read_config(CONFIGS / "latents.toml", PrepareConfig)
    spec = read_manifest(config.model)
    tokenizer = load_video_tokenizer(config.tokenizer, spec.tokenizer_config)
    size = size_of_aspect(spec.pixel_budget, spec.aspect)

    def decoded_clip(scene: Scene, number: int) -> Tensor:
        shown = scene_alike(scene, number).frames(PICTURES, *size)
        with torch.inference_mode():
            return _pictures(reconstruct(tokenizer, to_range(shown[None]), spec))

    return clip_measures(decoded_clip, scope)


def run_tokenizer(
    variant: Variant, seed: int, directory: Path, scope: Scope, steps: int | None
) -> dict[str, float]:
    """Train a tokenizer and measure what is left of held-out clips, the more scales the more."""
    config = read_config(CONFIGS / "tokenizer.toml", TokenizerTraining)
    steps = steps or config.run.steps
    config = replace(
        config,
        model=_manifest(CONFIGS / "istar.json", variant, directory),
        run=replace(config.run, output=directory, seed=seed, steps=steps, sample_every=steps),
        data=replace(config.data, world=world()),
        quantizer=replace(config.quantizer, **variant.quantizer),
    )
    _train(TokenizerTask(config), config.run)
    spec = read_manifest(config.model)
    tokenizer = load_video_tokenizer(directory / "model" / spec.tokenizer, spec.tokenizer_config)
    size = size_of_aspect(spec.pixel_budget, spec.aspect)
    found: list[list[float]] = [[] for _ in spec.pixel_budget.sides]
    for number in range(scope.scenes):
        shown = random_scene(number, held_out=True, world=world()).frames(PICTURES, *size)
        for kept, values in enumerate(found, start=1):
            with torch.inference_mode():
                y = reconstruct(tokenizer, to_range(shown[None]), spec, scales=kept)
            values.append(psnr(shown, _pictures(y)))
    return {f"scales_{kept}": fmean(values) for kept, values in enumerate(found, start=1)}


def clip_measures(make: Callable[[Scene, int], Tensor], scope: Scope) -> dict[str, float]:
    """Compare clips with the scenes that their captions allow.

    Args:
        make: the clip `(F, H, W, 3)` uint8 of a scene's caption and a number.
        scope: how many.
    """
    clips: list[list[Nearness]] = []
    right: list[bool] = []
    for scene in held_out_combinations(scope.captions):
        (subject,) = scene.subjects
        wanted = wanted_of(scene, subject, subject.motion)
        clips.append([])
        for number in range(scope.clips):
            frames = make(scene, number)
            clips[-1].append(nearness(frames, scene))
            right.append(verdict((wanted,), (measure(frames),)).right["all"])
    every = [one for own in clips for one in own]
    return {
        "psnr": fmean(one.psnr for one in every),
        "place": fmean(one.place for one in every),
        "size": fmean(one.size for one in every),
        "right": fmean(right),
        **{f"spread_{name}": value for name, value in spread_shares(clips).items()},
    }


def held_out_combinations(count: int) -> tuple[Scene, ...]:
    """The first held-out scenes of different captions."""
    found: dict[str, Scene] = {}
    seed = 0
    while len(found) < count:
        scene = random_scene(seed, held_out=True, world=world())
        found.setdefault(scene.canonical_caption(), scene)
        seed += 1
    return tuple(found.values())


@cache
def world() -> World:
    """The small world of all runs."""
    return read_config(CONFIGS / "latents.toml", PrepareConfig).sets[0].world


def prepared() -> tuple[Path, ...]:
    """The sets of clips that the transformers learn from, encoded if they are not yet."""
    config = read_config(CONFIGS / "latents.toml", PrepareConfig)
    name = f"latents-{digest(CONFIGS / 'latents.toml', config.model, config.tokenizer)}"
    config = replace(config, output=OUTPUT / name)
    for done in prepare(config, CPU):
        print(f"{name}: {done.clips} of {done.total} clips", flush=True)
    return tuple(config.output / one.name for one in config.sets)


def _manifest(base: Path, variant: Variant, directory: Path) -> Path:
    """A variant's manifest, written beside its run."""
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / "istar.json"
    manifest = {**json.loads(base.read_text()), **variant.manifest}
    target.write_text(json.dumps(manifest, indent=2) + "\n")
    return target


def _train(task: Task, run: RunConfig) -> None:
    """Train to the end; a process whose parent has ended ends too."""
    parent = os.getppid()
    for event in train(task, run, CPU):
        if os.getppid() != parent:
            raise SystemExit("whoever started this run has ended")
        if isinstance(event, StepDone) and event.step % PRINT_EVERY == 0:
            print(f"{run.output.name}: step {event.step} of {event.total}", flush=True)


def _pictures(y: Tensor) -> Tensor:
    """Decoded `(1, 3, F, H, W)` as pictures `(F, H, W, 3)`, uint8."""
    return ((y[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 3, 0)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Runs that are compared with each other, the first variant with all others.

    Attributes:
        variants: by name.
        seeds: of the runs of each.
        run: what trains and measures one.
        from_tiny: the runs begin with parts of istar-tiny.
        columns: of its table.
    """

    variants: Mapping[str, Variant]
    run: Callable[[Variant, int, Path, Scope, int | None], dict[str, float]]
    columns: Sequence[Column]
    seeds: tuple[int, ...] = SEEDS
    from_tiny: bool = False


_CLIP_COLUMNS = (
    Column(measure="psnr", heading="PSNR (dB)", form=".2f"),
    Column(measure="place", heading="place (%)", form=".1f", factor=100),
    Column(measure="size", heading="size (%)", form=".1f", factor=100),
    Column(measure="right", heading="all right (%)", form=".0f", factor=100),
    Column(measure="spread_place", heading="spread: place", form=".2f"),
    Column(measure="spread_size", heading="size", form=".2f"),
    Column(measure="spread_speed", heading="speed", form=".2f"),
)
KINDS = {
    "ceiling": Kind(
        variants=CEILINGS, run=run_ceiling, columns=_CLIP_COLUMNS, seeds=SEEDS[:1], from_tiny=True
    ),
    "transformer": Kind(
        variants=TRANSFORMERS,
        run=run_transformer,
        columns=(Column(measure="loss", heading="loss", form=".4f"), *_CLIP_COLUMNS),
        from_tiny=True,
    ),
    "tokenizer": Kind(
        variants=TOKENIZERS,
        run=run_tokenizer,
        columns=[
            Column(measure=f"scales_{n}", heading=f"{n} of 4 scales (dB)", form=".2f")
            for n in range(1, 5)
        ],
    ),
}


def settings_of(kind: str, variant: Variant) -> str:
    """All settings that a result depends on, in a few letters.

    Not the parts of istar-tiny: they may change once all is done, and the page says which they
    were.
    """
    files = ["istar.json", "latents.toml"]
    if kind != "ceiling":
        files.append(f"{kind}.toml")
    return digest(*(CONFIGS / name for name in files), what=repr((variant, Scope())))


@cache
def tiny_parts() -> str:
    """The parts of istar-tiny that runs begin with, in a few letters."""
    config = read_config(CONFIGS / "transformer.toml", TransformerTraining)
    assert config.text.start is not None
    return digest(config.tokenizer, *sorted(config.text.start.iterdir()))


def digest(*files: Path, what: str = "") -> str:
    """The content of files, and more, in a few letters."""
    content = b"".join(path.read_bytes() for path in files)
    return sha256(content + what.encode()).hexdigest()[:12]
