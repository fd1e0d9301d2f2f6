"""Run the ablations and write the tables of `docs/ablations.md`; what is done is not done again.

`configs/ablations/` holds the runs that the variants are compared with; each changes one thing.
As many run at once as there are cores, each with one thread: so they are done sooner.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from istar.checkpoint.read import load_video_tokenizer
from istar.lab.quality import psnr
from istar.lab.report import Rate
from istar.lab.score import ShapesTest, evaluate_shapes
from istar.lab.world import random_scene
from istar.models.manifest import read_manifest
from istar.pipeline import InfinityStarPipeline
from istar.training.config import PrepareConfig, RunConfig, TokenizerTraining, TransformerTraining
from istar.training.log import LOG_NAME, read_log
from istar.training.pictures import picture_size
from istar.training.prepare import prepare
from istar.training.run_file import read_config
from istar.training.tokenizer import TokenizerTask, reconstruct
from istar.training.trainer import StepDone, Task, train
from istar.training.transformer import TransformerTask
from istar.video_tokenizer.model import to_range

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs" / "ablations"
OUTPUT = ROOT / "out" / "ablations"
RESULTS = Path(__file__).with_name("ablations.json")
TARGET = RESULTS.with_suffix(".md")

TEST = ShapesTest(count=100, modes=("t2v",), seconds=2)
_OPEN = "Not run yet; the command above does it."
QUALITIES = ("background", "colour", "shape", "motion", "all", "kept")
CLIPS, PICTURES = 64, 17
PRINT_EVERY = 100
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One run: what it changes of the paper's settings.

    Attributes:
        manifest: fields of the manifest.
        data: settings of a transformer's `[data]`.
        quantizer: settings of a tokenizer's `[quantizer]`.
    """

    manifest: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    quantizer: Mapping[str, Any] = field(default_factory=dict)


TRANSFORMERS = {
    "as in the paper": Variant(),
    "every scale predicted once": Variant(
        manifest={"repeats": {"image": [1] * 4, "video": [1] * 4}}
    ),
    "no self-correction": Variant(data={"most_flips": 0.0}),
    "full context": Variant(manifest={"context": "full"}),
    "one pyramid": Variant(manifest={"pyramid": "one"}),
}
_NARROW = {
    "tokenizer": {
        "path": "tokenizer.safetensors",
        "sizes": {"channels": [8, 16, 16, 16, 16], "bottleneck_channels": 8},
    }
}
TOKENIZERS = {
    "as in the paper": Variant(manifest=_NARROW),
    "no stochastic depth": Variant(manifest=_NARROW, quantizer={"drop_probability": 0.0}),
}


def run_transformer(variant: Variant, directory: Path) -> dict[str, Any]:
    """Train a transformer in a directory and test it on held-out scenes."""
    config = read_config(CONFIGS / "transformer.toml", TransformerTraining)
    config = replace(
        config,
        model=_manifest(CONFIGS / "istar.json", variant, directory),
        run=replace(config.run, output=directory),
        data=replace(config.data, sets=prepared(), **variant.data),
    )
    _train(TransformerTask(config), config.run)
    last = [
        line for line in read_log(directory / LOG_NAME) if line["step"] > 0.9 * config.run.steps
    ]
    pipeline = InfinityStarPipeline.from_pretrained(directory / "model", device=CPU)
    right = [outcome.record.right for outcome in evaluate_shapes(pipeline, TEST)]
    return {
        "loss": fmean(line["loss"] for line in last),
        "bits": fmean(line["right"] for line in last),
        "rates": {quality: asdict(Rate.of(one[quality] for one in right)) for quality in QUALITIES},
    }


def run_tokenizer(variant: Variant, directory: Path) -> dict[str, Any]:
    """Train a tokenizer and measure what is left of held-out clips, the more scales the more."""
    config = read_config(CONFIGS / "tokenizer.toml", TokenizerTraining)
    config = replace(
        config,
        model=_manifest(CONFIGS / "istar.json", variant, directory),
        run=replace(config.run, output=directory),
        quantizer=replace(config.quantizer, **variant.quantizer),
    )
    _train(TokenizerTask(config), config.run)
    spec = read_manifest(config.model)
    tokenizer = load_video_tokenizer(directory / "model" / spec.tokenizer, spec.tokenizer_config)
    size = picture_size(spec.pixel_budget, spec.aspect)
    found: list[list[float]] = [[] for _ in spec.pixel_budget.sides]
    for seed in range(CLIPS):
        shown = random_scene(seed, held_out=True).frames(PICTURES, *size)
        for kept, values in enumerate(found, start=1):
            with torch.inference_mode():
                y = reconstruct(tokenizer, to_range(shown[None]), spec, scales=kept)
            pictures = ((y[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
            values.append(psnr(shown, pictures.permute(1, 2, 3, 0)))
    return {"psnr": [fmean(values) for values in found]}


def _manifest(base: Path, variant: Variant, directory: Path) -> Path:
    """A variant's manifest, written beside its run."""
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / "istar.json"
    manifest = {**json.loads(base.read_text()), **variant.manifest}
    target.write_text(json.dumps(manifest, indent=2) + "\n")
    return target


def _train(task: Task, run: RunConfig) -> None:
    for event in train(task, run, CPU):
        if isinstance(event, StepDone) and event.step % PRINT_EVERY == 0:
            print(f"{run.output.name}: step {event.step} of {event.total}", flush=True)


def prepared() -> tuple[Path, ...]:
    """The sets of clips that the transformers learn from, encoded if they are not yet."""
    config = read_config(CONFIGS / "latents.toml", PrepareConfig)
    directory = (
        OUTPUT / f"latents-{_digest(CONFIGS / 'latents.toml', config.model, config.tokenizer)}"
    )
    for _ in prepare(replace(config, output=directory), CPU):
        pass
    return tuple(directory / one.name for one in config.sets)


def settings_of(kind: str, variant: Variant) -> str:
    """All settings that a result depends on, in a few letters.

    Not what istar-tiny was, whose parts the runs begin with: the page says that.
    """
    names = ("istar.json", "latents.toml", f"{kind}.toml")
    return _digest(*(CONFIGS / name for name in names), what=repr((variant, TEST, CLIPS)))


def _digest(*files: Path, what: str = "") -> str:
    content = b"".join(path.read_bytes() for path in files)
    return sha256(content + what.encode()).hexdigest()[:12]


def known_results() -> dict[str, dict[str, Any]]:
    """The results that are kept."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def results() -> dict[str, dict[str, Any]]:
    """Run what is missing; every result is kept as soon as it is there."""
    found = known_results()
    missing = [
        (kind, name, variant)
        for kind, (variants, _) in KINDS.items()
        for name, variant in variants.items()
        if found.get(kind, {}).get(name, {}).get("settings") != settings_of(kind, variant)
    ]
    if any(kind == "transformer" for kind, _, _ in missing):
        prepared()  # now, so that no two runs at once write it
    with ProcessPoolExecutor(
        os.cpu_count(), get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        running = {pool.submit(result_of, *one): one for one in missing}
        for done in as_completed(running):
            kind, name, _ = running[done]
            found.setdefault(kind, {})[name] = done.result()
            RESULTS.write_text(json.dumps(in_order(found), indent=2) + "\n")
    return in_order(found)


def in_order(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The results as `KINDS` has them, without what it has no longer."""
    return {
        kind: {name: found[kind][name] for name in variants if name in found[kind]}
        for kind, (variants, _) in KINDS.items()
        if kind in found
    }


def result_of(kind: str, name: str, variant: Variant) -> dict[str, Any]:
    """What one run comes to, with the settings that it comes of."""
    settings = settings_of(kind, variant)
    directory = OUTPUT / f"{kind}-{settings}"
    print(f"{directory.name}: {kind} {name}", flush=True)
    _, run = KINDS[kind]
    return {"settings": settings, **run(variant, directory)}


KINDS = {"transformer": (TRANSFORMERS, run_transformer), "tokenizer": (TOKENIZERS, run_tokenizer)}


def generated(text: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """The page with both tables as the results have them."""
    for kind, rows in (("transformer", transformer_rows), ("tokenizer", tokenizer_rows)):
        start, end = f"<!-- results: {kind} -->\n", "<!-- end -->"
        before, marker, rest = text.partition(start)
        assert marker, f"no table {kind}"
        table = "\n".join(["", *(rows(found[kind]) if kind in found else [_OPEN]), "", ""])
        text = before + start + table + end + rest.partition(end)[2]
    return text


def transformer_rows(found: Mapping[str, Any]) -> Iterator[str]:
    """What the transformers learned, a line each."""
    yield "| run | loss | bits right | " + " | ".join(QUALITIES) + " |"
    yield "|---|" + "---|" * (2 + len(QUALITIES))
    for name, one in found.items():
        rates = (Rate(**one["rates"][quality]).share for quality in QUALITIES)
        yield _row([name, f"{one['loss']:.3f}", f"{one['bits']:.1%}", *map("{:.0%}".format, rates)])


def tokenizer_rows(found: Mapping[str, Any]) -> Iterator[str]:
    """What is left of clips when only the first scales are kept, a line each."""
    scales = len(next(iter(found.values()))["psnr"])
    yield _row(["run", *(f"{count} of {scales} scales" for count in range(1, scales + 1))])
    yield "|---|" + "---|" * scales
    for name, one in found.items():
        yield _row([name, *(f"{value:.2f} dB" for value in one["psnr"])])


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    TARGET.write_text(generated(TARGET.read_text(encoding="utf-8"), results()), encoding="utf-8")
