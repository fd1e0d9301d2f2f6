"""Find the scale at which generated clips go wrong; print the tables of `tiny.md`.

    python docs/measure_scales.py [--model tiny] [--scenes 60] [--seed 31000]

Clips of held-out scenes are generated with the true bits of the first scales, which are those of
the scene's own clip, and the other scales' bits drawn. Where true bits of a scale make more right,
the drawn ones are worse. The second table compares, scale by scale and with all bits true, the
cross-entropy of the predictions with their entropy, which are the same for a model that knows how
uncertain it is.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from istar import InfinityStarPipeline
from istar.generation.loop import commit, draw, predict, start
from istar.generation.residual import residual_steps
from istar.generation.schedule import nearest_template
from istar.generation.until import scale_name
from istar.inputs import picture_size
from istar.lab.held_out import held_out_scenes
from istar.lab.trials import Case, judge_one
from istar.networks import Networks
from istar.plan import Window

SECONDS = 2.0
RATES = ("shape", "motion", "whole", "all")


class Certainty(NamedTuple):
    """How well a step's bits were predicted, in nats a bit.

    Attributes:
        scale: the step's.
        cross_entropy: of the true bits.
        entropy: of the prediction.
    """

    scale: int
    cross_entropy: float
    entropy: float


class Forced(NamedTuple):
    """A clip whose first scales have true bits.

    Attributes:
        frames: `(F, H, W, 3)` uint8.
        certainties: of the steps with true bits, in order.
    """

    frames: Tensor
    certainties: tuple[Certainty, ...]


def scales_of(networks: Networks) -> tuple[str, ...]:
    """The names of all scales, in order."""
    template = nearest_template(networks.spec.aspect)
    steps = Window(given_seconds=0, new_seconds=SECONDS).steps(networks.spec, template)
    sizes = {step.scale: scale_name(step.grid.width, step.grid.height) for step in steps}
    return tuple(sizes[scale] for scale in sorted(sizes))


@torch.inference_mode()
def forced(networks: Networks, case: Case, scales: int) -> Forced:
    """A scene's clip with true bits of every clip's first scales; the others' are drawn.

    Args:
        networks: the model.
        case: the scene.
        scales: how many.
    """
    spec, transformer = networks.spec, networks.transformer
    window = Window(given_seconds=0, new_seconds=case.seconds)
    steps = window.steps(spec, nearest_template(spec.aspect))
    text = spec.prompt.apply(case.caption, "t2v", case.seconds, suffix=True)
    features = networks.texts(text, "", guided=True).features
    seeded = torch.Generator().manual_seed(case.seed)
    state = start(transformer, steps, features, seeded.get_state())
    certainties = []
    latents = networks.encode(case.frames).split(window.clip_lengths(spec), dim=2)
    for clip, latent in enumerate(latents):
        own = [step for step in steps if step.clip == clip]
        semantic_bits = transformer.config.semantic_bits
        for part in residual_steps(latent, own, semantic_bits=semantic_bits):
            # As long as the bits are true, the canvas is the one that `part` comes after.
            if part.step.scale < scales:
                prediction = predict(transformer, state)
                bits = part.bits[0]
                certainties.append(certainty(part.step.scale, prediction.logits[0], bits))
                state = commit(state, bits, prediction.contexts)
            else:
                drawing = draw(transformer, state, spec.sampling)
                state = commit(state, drawing.bits, drawing.contexts, drawing.generator)
    return Forced(networks.decode(torch.cat(state.latents, dim=2)), tuple(certainties))


def certainty(scale: int, logits: Tensor, bits: Tensor) -> Certainty:
    """How well logits `(L, d, 2)` predict true bits `(L, d)`."""
    difference = logits[..., 1] - logits[..., 0]
    cross_entropy, entropy = (
        float(F.binary_cross_entropy_with_logits(difference, target))
        for target in (bits.to(difference.dtype), difference.sigmoid())
    )
    return Certainty(scale, cross_entropy, entropy)


def line(cells: Iterable[object]) -> str:
    """A table's line."""
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=31000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = InfinityStarPipeline.from_pretrained(arguments.model, device="cpu", dtype="fp32")
    networks = pipeline.networks
    names = scales_of(networks)
    size = picture_size(nearest_template(pipeline.spec.aspect), pipeline.spec)
    cases = [
        Case(mode="t2v", scene=scene, seed=arguments.seed + number, seconds=SECONDS, size=size)
        for number, scene in enumerate(held_out_scenes(arguments.seed, arguments.scenes))
    ]
    print(line(["true bits", *RATES]))
    print(line(["---"] * (1 + len(RATES))))
    certainties: dict[int, list[Certainty]] = defaultdict(list)
    for scales in range(len(names) + 1):
        rates: dict[str, list[bool]] = defaultdict(list)
        for case in cases:
            clip = forced(networks, case, scales)
            for name, holds in judge_one(clip.frames, case).right.items():
                rates[name].append(holds)
            if scales == len(names):
                for one in clip.certainties:
                    certainties[one.scale].append(one)
        what = ", ".join(names[:scales]) or "none"
        print(line([what, *(f"{fmean(rates[name]):.1%}" for name in RATES)]), flush=True)
    print()
    print(line(["scale", "cross-entropy", "entropy"]))
    print(line(["---"] * 3))
    for scale, name in enumerate(names):
        found = certainties[scale]
        means = fmean(one.cross_entropy for one in found), fmean(one.entropy for one in found)
        print(line([name, *(f"{mean:.3f}" for mean in means)]))


if __name__ == "__main__":
    main()
