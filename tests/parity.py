"""Hold this implementation against tensors that the released reference computed.

    python tests/parity.py DIRECTORY

A directory holds `config.json` with the sizes, weights with the released names, and cases; see
`tests/golden/README.md`. Prints the largest error of every case; exits 1 when one is past its
tolerance, or when a file is missing or holds no case.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from istar.checkpoint.read import load_transformer, load_video_tokenizer
from istar.generation.guidance import GuidanceConfig, guide
from istar.generation.loop import commit, predict, read_conditions, start
from istar.generation.residual import bits_of_latent
from istar.generation.schedule import (
    PIXEL_BUDGETS,
    TEMPLATES,
    ClipPlan,
    Step,
    clip_lengths,
    grids,
    nearest_template,
    steps,
)
from istar.generation.state import GenerationState
from istar.transformer.model import Transformer
from istar.video_tokenizer.model import VideoTokenizer

TOLERANCES = {
    "schedules": 0.0,
    "bits": 0.0,
    "tokenizer": 2e-5,
    "sums": 2e-5,
    "logits": 2e-5,
    "guided": 1e-3,
    "codes": 2e-5,
    "missing": 0.0,
}

CLIP_FRAMES = 20
_KEPT_FRAMES = 8


@dataclass(frozen=True, kw_only=True)
class Case:
    """The largest error of one case."""

    name: str
    kind: str
    error: float

    @property
    def passed(self) -> bool:
        """Within the tolerance of its kind; NaN is not."""
        return self.error <= TOLERANCES[self.kind]


class Golden:
    """A directory in the golden layout.

    Args:
        directory: where it is.
        sparing: hold less against the reference: of each scale the last prediction, and of clips
            between the first and the last only what later ones read.
    """

    def __init__(self, directory: Path, *, sparing: bool = False) -> None:
        self.directory = directory
        self.sparing = sparing
        self.config: dict[str, Any] = json.loads((directory / "config.json").read_text())
        budget = PIXEL_BUDGETS[self.config["pn"]]
        self.scales = budget.scales(nearest_template(self.config["h_div_w"]))

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of one file of cases."""
        return load_file(self.directory / f"{name}.safetensors")

    @cached_property
    def transformer(self) -> Transformer:
        """The transformer, its sizes held against the configuration."""
        model = load_transformer(self.directory / "transformer.safetensors")
        for ours, theirs in (
            ("width", "embed_dim"),
            ("depth", "depth"),
            ("heads", "num_heads"),
            ("key_value_heads", "num_key_value_heads"),
            ("text_channels", "text_channels"),
        ):
            expected = self.config.get(theirs)
            if (expected or -1) > 0 and getattr(model.config, ours) != expected:
                raise SystemExit(f"{ours} of the weights and {theirs} of config.json differ")
        return model

    @cached_property
    def tokenizer(self) -> VideoTokenizer:
        """The video tokenizer."""
        return load_video_tokenizer(self.directory / "videovae.pth")

    def steps(self, latent_frames: int) -> tuple[Step, ...]:
        """The schedule of a whole video."""
        image, video = (
            tuple(self.config[f"{kind}_scale_repetition"]) for kind in ("image", "video")
        )
        clips = [
            ClipPlan(frames=frames, repeats=video if i else image)
            for i, frames in enumerate(clip_lengths(latent_frames, CLIP_FRAMES))
        ]
        return steps(clips, self.scales, semantic_scales=self.config["semantic_scales"])

    def interact_steps(self, frames: int) -> tuple[Step, ...]:
        """The schedule of one interactive clip."""
        clip = ClipPlan(frames=frames, repeats=tuple(self.config["interact_scale_repetition"]))
        return steps([clip], self.scales, semantic_scales=self.config["semantic_scales"])

    def guidance(self, kind: str) -> GuidanceConfig:
        """The guidance of `t2v` or `interact`."""
        return GuidanceConfig(**self.config["guidance"][kind])

    def bits_per_token(self, step: Step) -> int:
        """Bits of a token of a step."""
        return self.transformer.config.bits_per_token(semantic=step.semantic)


def error(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference; infinite where shapes differ."""
    if ours.shape != theirs.shape:
        return float("inf")
    return (ours.double() - theirs.double()).abs().max().item()


def codes_error(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of final latents; every eighth frame may be all that is kept."""
    return error(ours if ours.shape == theirs.shape else ours[:, :, ::_KEPT_FRAMES], theirs)


def unpack(packed: Tensor, step: Step, bits: int) -> Tensor:
    """Stored bits of a step as `(t·h·w, bits)` booleans."""
    count = step.grid.tokens * bits
    flat = np.unpackbits(packed.numpy(), count=count).astype(bool)
    return torch.from_numpy(flat).reshape(step.grid.tokens, bits)


def schedule_cases(golden: Golden) -> Iterator[Case]:
    """Every pixel budget, template and length of `schedules.json`."""
    stored = json.loads((golden.directory / "schedules.json").read_text())
    for budget, templates in stored.items():
        wrong = sum(template.name not in templates for template in TEMPLATES)
        for template in TEMPLATES:
            for frames, theirs in templates.get(template.name, {}).items():
                clips = clip_lengths(int(frames), CLIP_FRAMES)
                ours = grids(PIXEL_BUDGETS[budget], template, clips)
                wrong += [list(grid) for grid in ours] != theirs
        yield Case(name=f"schedules {budget}", kind="schedules", error=wrong)


def tokenizer_cases(golden: Golden) -> Iterator[Case]:
    """Encoding and decoding."""
    cases = golden.tensors("tokenizer_cases")
    for name in sorted(cases):
        if not name.endswith(".video" if name.startswith("encode") else ".latent"):
            continue
        case = name.rpartition(".")[0]
        if case.startswith("encode"):
            difference = error(golden.tokenizer.encode(cases[name]), cases[f"{case}.latent"])
        else:
            difference = error(golden.tokenizer.decode(cases[name]), cases[f"{case}.video"])
        yield Case(name=f"tokenizer {case}", kind="tokenizer", error=difference)


def quantizer_cases(golden: Golden) -> Iterator[Case]:
    """Teacher forcing of given latents: bits, and the running sums."""
    cases = golden.tensors("quantizer_cases")
    for name in sorted(n for n in cases if n.endswith(".latent")):
        case, latent = name.removesuffix(".latent"), cases[name]
        schedule = golden.steps(latent.shape[2])
        state = start(golden.transformer, schedule, [], torch.Generator().get_state())
        wrong = 0
        lengths = clip_lengths(latent.shape[2], CLIP_FRAMES)
        for clip, piece in enumerate(latent.split(lengths, dim=2)):
            own = [step for step in schedule if step.clip == clip]
            semantic_bits = golden.transformer.config.semantic_bits
            for step, bits in zip(
                own, bits_of_latent(piece, own, semantic_bits=semantic_bits), strict=True
            ):
                stored = unpack(cases[f"{case}.bits.{step.index:03d}"], step, bits.shape[1])
                wrong += int((bits != stored).sum())
                state = commit(state, stored, None)
        yield Case(name=f"quantizer {case} bits", kind="bits", error=wrong)
        total = torch.cat(state.latents, dim=2)
        yield Case(
            name=f"quantizer {case} sum", kind="sums", error=error(total, cases[f"{case}.sum"])
        )


def _forced(
    golden: Golden,
    state: GenerationState,
    cases: dict[str, Tensor],
    prefix: str,
    guidance: GuidanceConfig,
    title: str,
) -> tuple[GenerationState, list[Case]]:
    """Logits and guided logits of every step, on forced bits; and the finished state."""
    worst = {"cond": 0.0, "uncond": 0.0, "guided": 0.0}
    last = {(step.clip, step.scale): step.index for step in state.steps}
    while not state.finished:
        step = state.next_step
        stored_bits = cases[f"{prefix}bits.{step.index:03d}"]
        bits = unpack(stored_bits, step, golden.bits_per_token(step))
        repeated = last[step.clip, step.scale] != step.index
        between = 0 < step.clip < state.steps[-1].clip
        if golden.sparing and (repeated or between) and not step.read_later:
            state = commit(state, bits, None)
            continue
        prediction = predict(golden.transformer, state)
        cond, uncond = prediction.logits
        guided = guide(cond, uncond, guidance)
        for name, ours in (("cond", cond), ("uncond", uncond), ("guided", guided)):
            stored = cases[f"{prefix}{name}.{step.index:03d}"]
            places = torch.linspace(0, len(ours) - 1, len(stored)).round().long().unique()
            difference = error(ours[places].flatten(1), stored)
            # max() would drop a NaN
            worst[name] = difference if not difference <= worst[name] else worst[name]
        state = commit(state, bits, prediction.contexts)
    kinds = {"guided": "guided"}
    return state, [
        Case(name=f"{title} {name}", kind=kinds.get(name, "logits"), error=difference)
        for name, difference in worst.items()
    ]


def transformer_cases(golden: Golden) -> Iterator[Case]:
    """Text to video with forced bits."""
    cases = golden.tensors("transformer_cases")
    text = cases["text"]
    unconditional = golden.transformer.unconditional[: len(text)]
    for name in sorted(n for n in cases if n.endswith(".codes")):
        case = name.removesuffix(".codes")
        frames = int(case.removeprefix("pt"))
        state = start(
            golden.transformer,
            golden.steps(frames),
            [text, unconditional],
            torch.Generator().get_state(),
        )
        state, found = _forced(
            golden, state, cases, f"{case}.", golden.guidance("t2v"), f"transformer {case}"
        )
        yield from found
        codes = torch.cat(state.latents, dim=2)
        yield Case(
            name=f"transformer {case} codes", kind="codes", error=codes_error(codes, cases[name])
        )


def interact_cases(golden: Golden) -> Iterator[Case]:
    """One interactive round with forced bits."""
    cases = golden.tensors("interact_cases")
    text, former = cases["text"], cases["former"]
    unconditional = golden.transformer.unconditional[: len(text)]
    conditions = read_conditions(golden.transformer, former, cases["first"], golden.scales[7])
    state = start(
        golden.transformer,
        golden.interact_steps(former.shape[2] - 1),
        [text, unconditional],
        torch.Generator().get_state(),
        conditions=conditions,
    )
    state, found = _forced(golden, state, cases, "", golden.guidance("interact"), "interact")
    yield from found
    codes = torch.cat((former[:, :, -1:], *state.latents), dim=2)
    yield Case(name="interact codes", kind="codes", error=codes_error(codes, cases["codes"]))


CASES: dict[str, Callable[[Golden], Iterator[Case]]] = {
    "schedules.json": schedule_cases,
    "tokenizer_cases.safetensors": tokenizer_cases,
    "quantizer_cases.safetensors": quantizer_cases,
    "transformer_cases.safetensors": transformer_cases,
    "interact_cases.safetensors": interact_cases,
}


WEIGHTS = ("config.json", "transformer.safetensors", "videovae.pth")


def all_cases(directory: Path, *, sparing: bool = False) -> Iterator[Case]:
    """Every case of every file; a file that is missing, or holds none, is a case that failed."""
    golden = Golden(directory, sparing=sparing)
    with torch.inference_mode():
        for file, cases in CASES.items():
            found = cases(golden) if (directory / file).is_file() else iter(())
            first = next(found, None)
            if first is None:
                yield Case(name=f"no cases in {file}", kind="missing", error=float("inf"))
                continue
            yield first
            yield from found


def main() -> int:
    """Print every case; 1 when one is past its tolerance or missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    directory: Path = parser.parse_args().directory
    if missing := [name for name in WEIGHTS if not (directory / name).is_file()]:
        print(f"{directory} lacks {', '.join(missing)}", file=sys.stderr)
        return 1
    passed = []
    for case in all_cases(directory):
        passed.append(case.passed)
        verdict = "ok" if case.passed else "FAILED"
        print(
            f"{case.name:32} {case.error:10.2e}  (≤ {TOLERANCES[case.kind]:g})  {verdict}",
            flush=True,
        )
    print(f"{sum(passed)} passed, {len(passed) - sum(passed)} failed")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
