"""Compare ways to decode a clip under way, on the bundled model; print the table of `takes.md`.

    python docs/measure_previews.py [--prompts N] [--sheet docs/previews.webp]

Each way shows what a clip has become after a scale; its peak signal-to-noise ratio is against the
finished clip. The prompts are of held-out scenes of the procedural world. Every way has
a column on the sheet.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import log10
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor
from torch.nn import functional as F

from istar import GenerationRequest, InfinityStarPipeline
from istar.generation.preview import preview_latent
from istar.generation.schedule import Grid, Step
from istar.generation.until import scale_name
from istar.lab.world import random_scene
from istar.media import write_picture
from istar.media.sheet import a_few, page, row
from istar.video_tokenizer.quantizer import grow, shrink

_SHOWN = (2,)
_PICTURES = 3


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A clip after a step.

    Attributes:
        step: the step.
        canvas: `(1, C, T, H, W)`, the sum so far.
        before: `(1, C, T', H, W)`, the clip before.
    """

    step: Step
    canvas: Tensor
    before: Tensor


class Ways:
    """Ways to decode a moment: methods that give pictures `(F, H, W, 3)`.

    Args:
        pipeline: the model.
    """

    def __init__(self, pipeline: InfinityStarPipeline) -> None:
        self._networks = pipeline.networks

    def all(self) -> dict[str, Callable[[Moment], Tensor]]:
        """Each by what the table calls it."""
        return {
            "the canvas at full size": lambda m: self._decoded(m, m.canvas),
            "the same, 1.25 times as strong": lambda m: self._decoded(m, 1.25 * m.canvas),
            "the same, smoothed": lambda m: self._decoded(m, _smoothed(m.canvas)),
            "the canvas at the scale's size, the pictures enlarged": self._small,
            "the canvas and all detail of the frame before": lambda m: self._decoded(
                m, m.canvas + _detail(m.before[:, :, -1:], m.step.grid)
            ),
            "the canvas and detail where the two agree (chosen)": lambda m: self._decoded(
                m, preview_latent(m.canvas, m.step.grid, m.before[:, :, -1:])
            ),
        }

    def _decoded(self, moment: Moment, latent: Tensor) -> Tensor:
        both = torch.cat((moment.before, latent), dim=2)
        return torch.cat(list(self._networks.pictures(both, skip=moment.before.shape[2])))

    def _small(self, moment: Moment) -> Tensor:
        grid = moment.step.grid
        small = Moment(
            step=moment.step,
            canvas=_at_scale(moment.canvas, grid),
            before=_at_scale(moment.before, grid),
        )
        pictures = self._decoded(small, small.canvas).movedim(-1, 1).float()
        size = [16 * side for side in moment.canvas.shape[3:]]
        return F.interpolate(pictures, size, mode="bicubic").clamp(0, 255).byte().movedim(1, -1)


def moments(pipeline: InfinityStarPipeline, seed: int) -> Iterator[Moment]:
    """The first video clip of a seed's scene after each repetition of its scales."""
    prompt = random_scene(seed, held_out=True).canonical_caption()
    job = pipeline.job(GenerationRequest(mode="t2v", prompt=prompt, seed=seed))
    while not job.finished:
        step = job.next_step
        job.advance()
        generation = job.state.generation
        if step is None or step.clip != 1 or generation is None:
            continue
        first, *rest = generation.latents
        yield Moment(step=step, canvas=rest[0] if rest else generation.canvas.total, before=first)


def _at_scale(latent: Tensor, grid: Grid) -> Tensor:
    """`(1, C, T, h, w)` of `(1, C, T, H, W)`."""
    tokens = shrink(latent, bits=latent.shape[1], height=grid.height, width=grid.width)
    return tokens.unflatten(1, (-1, grid.height, grid.width)).movedim(-1, 1)


def _detail(frame: Tensor, grid: Grid) -> Tensor:
    """What a latent frame `(1, C, 1, H, W)` has beyond a scale."""
    height, width = grid[1:]
    tokens = shrink(frame, bits=frame.shape[1], height=height, width=width)
    return frame - grow(tokens, frames=1, height=height, width=width, size=frame.shape)


def _smoothed(latent: Tensor) -> Tensor:
    frames = latent[0].transpose(0, 1)
    padded = F.pad(frames, (1, 1, 1, 1), mode="replicate")
    return F.avg_pool2d(padded, 3, stride=1).transpose(0, 1).unsqueeze(0)


def _psnr(one: Tensor, other: Tensor) -> float:
    return 10 * log10(255**2 / float((one.float() - other.float()).square().mean()))


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--sheet", type=Path, help="write a few moments, then the finished clip")
    arguments = parser.parse_args()
    pipeline = InfinityStarPipeline.from_pretrained("tiny", device="cpu", dtype="fp32")
    ways = Ways(pipeline).all()
    measured: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    cells: list[Tensor] = []
    for seed in range(arguments.prompts):
        *under_way, finished = moments(pipeline, seed)
        final = ways["the canvas at full size"](finished)
        for moment in under_way:
            grid = moment.step.grid
            name = f"{scale_name(grid.width, grid.height)} ({moment.step.repetition + 1})"
            if moment.step.repetition not in (0, 3) or moment.step.scale == 0:
                continue
            for way, decode in ways.items():
                pictures = decode(moment)
                measured[way][name].append(_psnr(pictures, final))
                if seed in _SHOWN and moment.step.scale in (1, 2):
                    cells.append(row(a_few(pictures, _PICTURES), line=1))
        if seed in _SHOWN:
            cells += [row(a_few(final, _PICTURES), line=1)] * len(ways)
    names = list(next(iter(measured.values())))
    print(f"| decoded | {' | '.join(names)} |")
    print(f"|---|{'---:|' * len(names)}")
    for way, found in measured.items():
        print(f"| {way} | {' | '.join(f'{mean(found[name]):.1f}' for name in names)} |")
    if arguments.sheet:
        write_picture(page(cells, len(ways)), arguments.sheet, overwrite=True)


if __name__ == "__main__":
    main()
