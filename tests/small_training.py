"""Training runs small enough for a test: a pyramid of two scales, pictures of 32 by 32."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from istar.checkpoint.write import save_video_tokenizer
from istar.models.manifest import MANIFEST_NAME, read_manifest
from istar.training.config import (
    ClipsConfig,
    LatentsConfig,
    MixConfig,
    QuantizerConfig,
    RunConfig,
    SamplesConfig,
    TextConfig,
    TokenizerTraining,
    TransformerTraining,
)
from istar.training.events import Saved, StepDone
from istar.training.prepare import prepare
from istar.training.prepare_config import PrepareConfig, SetConfig
from istar.training.task import Task
from istar.training.tokenizer import TokenizerNetwork, initialize
from istar.training.trainer import train
from istar.training.transformer import TransformerNetwork, TransformerTask

CPU = torch.device("cpu")
SIDES = (1, 2)
REPEATS = (2, 1)


def write_manifest(directory: Path, *, sides: tuple[int, ...] = SIDES) -> Path:
    """The `istar.json` of a model to be, whose clips are one second long."""
    directory.mkdir(parents=True, exist_ok=True)
    repeats = [2] + [1] * (len(sides) - 1)
    content = {
        "istar": 1,
        "name": "small",
        "transformer": {
            "path": "transformer",
            "sizes": {
                "width": 32,
                "depth": 2,
                "heads": 2,
                "key_value_heads": 1,
                "head_size": 16,
                "mlp_width": 64,
                "text_channels": 16,
                "text_positions": 96,
                "latent_channels": 64,
                "semantic_bits": 16,
            },
        },
        "tokenizer": {
            "path": "tokenizer.safetensors",
            "sizes": {"channels": [8, 8, 16, 16, 16], "bottleneck_channels": 16},
        },
        "text_encoder": {"path": "text_encoder"},
        "pixel_budget": {"name": "small", "resolution": "32p", "sides": sides},
        "semantic_scales": 1,
        "repeats": {"image": repeats, "video": repeats},
        "guidance": {"kind": "cfg", "scale": 2},
        "tau": {"image": 1.0, "video": 1.0},
        "prompt": {"prefix": "{seconds}s: ", "suffix": ""},
        "clip_frames": 4,
        "max_seconds": 2,
        "interact": {
            "repeats": repeats,
            "guidance": {"kind": "cfg", "scale": 2},
            "tau": 1.0,
            "context_scale": 0,
        },
    }
    path, text = directory / MANIFEST_NAME, json.dumps(content)
    if not path.exists() or path.read_text() != text:  # another process may be reading it
        path.write_text(text)
    return path


def run_config(output: Path, **settings: Any) -> RunConfig:
    """A run of a few steps that writes a checkpoint every second one."""
    course: dict[str, Any] = {"steps": 6, "warmup": 2, "save_every": 2, "log_every": 1}
    return RunConfig(output=output, **course | {"sample_every": 1000} | settings)


def tokenizer_run(directory: Path, **settings: Any) -> TokenizerTraining:
    """A tokenizer run on single pictures and short clips."""
    defaults: dict[str, Any] = {
        "data": ClipsConfig(lengths=(1, 5), pictures=10),
        "quantizer": QuantizerConfig(drop_most=1),
    }
    return TokenizerTraining(
        model=write_manifest(directory),
        **{"run": run_config(directory / "tokenizer"), **defaults, **settings},
    )


def write_tokenizer(directory: Path) -> Path:
    """A tokenizer of the manifest's sizes with starting weights, whose latents are as codes."""
    manifest = read_manifest(write_manifest(directory))
    assert manifest.tokenizer_config is not None
    torch.manual_seed(7)
    tokenizer = TokenizerNetwork(manifest.tokenizer_config, adversarial=False).tokenizer
    initialize(tokenizer)
    with torch.no_grad():
        pictures = 2 * torch.rand(4, 3, 1, 32, 32) - 1
        tokenizer.latent_scales[0] /= 8 * tokenizer.encode(pictures).std()
    path = directory / "start.safetensors"
    save_video_tokenizer(path, tokenizer)
    return path


def prepare_run(directory: Path, *, count: int = 8, shard: int = 3) -> PrepareConfig:
    """Pictures, and clips of one and of two seconds, to be encoded."""
    return PrepareConfig(
        model=write_manifest(directory),
        tokenizer=write_tokenizer(directory),
        output=directory / "latents",
        shard=shard,
        sets=(
            SetConfig(name="pictures", count=count, length=1, captions=2),
            SetConfig(name="clips", count=count, length=17, captions=2),
            SetConfig(name="long", count=count // 2, length=33, captions=2),
        ),
    )


def prepared(directory: Path, **settings: int) -> tuple[Path, ...]:
    """Directories of sets that were prepared."""
    config = prepare_run(directory, **settings)
    for _ in prepare(config, CPU):
        pass
    return tuple(config.output / one.name for one in config.sets)


MIX = (
    MixConfig(seconds=0, weight=2),
    MixConfig(seconds=1),
    MixConfig(seconds=2),
    MixConfig(kind="interact"),
)


def transformer_run(
    directory: Path, sets: tuple[Path, ...], *, data: Mapping[str, Any] = {}, **settings: Any
) -> TransformerTraining:
    """A transformer run on prepared sets below the same directory."""
    latents = LatentsConfig(sets=sets, mix=MIX, rows=(128, 192), tokens=512)
    defaults: dict[str, Any] = {
        "run": run_config(directory / "transformer"),
        "text": TextConfig(layers=1, heads=2, mlp_width=32),
        # To generate the usual rows at its end would take most of a run's time.
        "samples": SamplesConfig(prompts=("a red boat",), clips=0),
    }
    return TransformerTraining(
        model=write_manifest(directory),
        tokenizer=directory / "start.safetensors",
        data=replace(latents, **data),
        **defaults | settings,
    )


def losses(task: Task, run: RunConfig, *, stop_after: int | None = None) -> dict[int, float]:
    """The loss of every step of a run; it may be cut off after some, as by a kill."""
    found = {}
    events = train(task, run, CPU)
    for event in events:
        if isinstance(event, StepDone):
            found[event.step] = event.measures["loss"]
            if event.step == stop_after:
                break
    events.close()
    return found


def written(task: Task, run: RunConfig) -> list[str]:
    """What a run says that it has written, `what name`."""
    return [f"{e.what} {e.path.name}" for e in train(task, run, CPU) if isinstance(e, Saved)]


def network_of(task: TransformerTask) -> TransformerNetwork:
    """What a run trains, as what it is."""
    assert isinstance(task.network, TransformerNetwork)
    return task.network


def files(directory: Path) -> dict[str, bytes]:
    """All files below a directory, by their paths in it."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }
