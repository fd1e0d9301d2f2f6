"""The scores of a take: how likely its bits are, by scale, and where in the pictures and when."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from istar.generation.canvas import Canvas
from istar.generation.likelihood import Score, step_score, token_scores, total
from istar.generation.schedule import LATENT_FRAMES_PER_SECOND, Grid, Step
from istar.generation.state import TakeWindow
from istar.media.heat_map import Layer, heat_map
from istar.networks import Networks
from istar.replay import ReplayedStep, replay
from istar.take import Take


class ScaleScore(NamedTuple):
    """One scale of one clip, all its repetitions together.

    Attributes:
        window: which window.
        clip: which of its clips.
        grid: frames, height and width in tokens.
        bits: how many were drawn.
        score: how likely they are.
    """

    window: int
    clip: int
    grid: Grid
    bits: int
    score: Score


@dataclass(frozen=True, kw_only=True)
class ScoredFrame:
    """One latent frame of a take.

    Attributes:
        window: which window.
        frame: which of its latent frames.
        nats: `(3, h, w)`, float64: by cell of the finest scale, the rows of a `Score`.
        bits: `(h, w)`, float64: how many were drawn in each cell; a token of a coarse scale is
            divided among the cells that it covers.
    """

    window: int
    frame: int
    nats: Tensor
    bits: Tensor

    @property
    def nats_per_bit(self) -> Tensor:
        """`(3, h, w)`: 0 where nothing was drawn."""
        return self.nats / self.bits.clamp(min=1e-9)

    @property
    def score(self) -> Score:
        """Of all its cells."""
        return step_score(self.nats.flatten(1))


@dataclass(frozen=True, kw_only=True)
class TakeScore:
    """How likely the drawn bits of a take are.

    Attributes:
        scales: by scale, in the order in which they were drawn.
        frames: by latent frame; those of which nothing was drawn are left out.

    Example:
        >>> found = score(pipeline.networks, Take.load("waves.take"))
        >>> found.total.explained / found.bits
    """

    scales: tuple[ScaleScore, ...]
    frames: tuple[ScoredFrame, ...]

    @property
    def total(self) -> Score:
        """Of everything that was drawn, in nats."""
        return total(scale.score for scale in self.scales)

    @property
    def bits(self) -> int:
        """How many were drawn."""
        return sum(scale.bits for scale in self.scales)

    def as_json(self) -> dict[str, Any]:
        """The scores as JSON values, in nats."""
        return {
            "bits": self.bits,
            **self.total._asdict(),
            "scales": [
                {
                    "window": one.window,
                    "clip": one.clip,
                    **one.grid._asdict(),
                    "bits": one.bits,
                    **one.score._asdict(),
                }
                for one in self.scales
            ],
            "frames": [
                {
                    "window": one.window,
                    "frame": one.frame,
                    "bits": round(float(one.bits.sum())),
                    **one.score._asdict(),
                }
                for one in self.frames
            ],
        }


def score(
    networks: Networks,
    take: Take,
    on_step: Callable[[int, int], object] = lambda done, total: None,
) -> TakeScore:
    """Score a take by a replay, see `istar.generation.likelihood` for what scores are.

    Args:
        networks: the model that made it.
        take: not begun, under way or finished.
        on_step: receives how many of the steps that were drawn are scored, and how many there are.

    Raises:
        StateError: another model or schedule made it, or what it holds does not fit together.
        DeviceError: memory ran out.
        GenerationError: the logits are not finite.
    """
    scales: dict[tuple[int, int, int], ScaleScore] = {}
    maps = [_Map(window) for window in take.windows]
    steps = sum(len({*range(len(own.seconds))} - own.given) for own in take.windows)
    for done, one in enumerate(replay(networks, take), 1):
        drawing = one.drawing
        tokens = token_scores(drawing.branches, drawing.logits, one.bits, one.drawn).cpu().double()
        counts = _bits_drawn(one)
        maps[one.window].add(one.step, torch.cat((tokens, counts.unsqueeze(0))))
        key = (one.window, one.step.clip, one.step.scale)
        bits, own = int(counts.sum()), step_score(tokens)
        if (before := scales.get(key)) is not None:
            bits, own = bits + before.bits, total((before.score, own))
        scales[key] = ScaleScore(one.window, one.step.clip, one.step.grid, bits, own)
        on_step(done, steps)
    return TakeScore(
        scales=tuple(scales.values()),
        frames=tuple(
            ScoredFrame(window=number, frame=frame, nats=cells[:3], bits=cells[3])
            for number, own in enumerate(maps)
            for frame, cells in enumerate(own.cells.unbind(1))
            if cells[3].any()
        ),
    )


class _Map:
    """Where in a window nats and bits are.

    Attributes:
        cells: `(4, T, h, w)`, float64: the three rows of scores, and bits, of each cell of the
            finest scale.
    """

    def __init__(self, window: TakeWindow) -> None:
        frames = sum(clip.frames for clip in window.schedule.clips)
        self.cells = torch.zeros(4, frames, *window.schedule.scales[-1], dtype=torch.float64)

    def add(self, step: Step, tokens: Tensor) -> None:
        """Divide a step's tokens `(4, t·h·w)` among the cells that they cover."""
        frames, height, width = step.grid
        down = _shares(height, self.cells.shape[2])
        across = _shares(width, self.cells.shape[3])
        spread = down @ tokens.reshape(-1, frames, height, width) @ across.T
        self.cells[:, step.first_frame : step.first_frame + frames] += spread


def _shares(tokens: int, cells: int) -> Tensor:
    """`(cells, tokens)`, float64: which share of a token's length lies in each cell."""
    edges = torch.arange(cells + 1, dtype=torch.float64) * tokens / cells
    starts = torch.arange(tokens, dtype=torch.float64)
    low = torch.maximum(edges[:-1, None], starts)
    high = torch.minimum(edges[1:, None], starts + 1)
    return (high - low).clamp(min=0)


def _bits_drawn(one: ReplayedStep) -> Tensor:
    """How many bits of each token were drawn: `(L)`, float64."""
    tokens, bits = one.bits.shape
    drawn = torch.ones(tokens) if one.drawn is None else one.drawn
    return drawn.double() * bits


def latents_of(window: TakeWindow, channels: int) -> Tensor:
    """The latents `(1, C, T, H, W)` of a window's clips that its final steps have begun.

    Args:
        window: of a take.
        channels: of a latent.
    """
    clips: list[Canvas] = []
    for step in window.schedule.steps[: len(window.seconds)]:
        if step.starts_clip:
            clips.append(Canvas.blank(step.full_grid, channels))
        clips[-1].add(step, window.bits[step.index])
    return torch.cat([clip.total for clip in clips], dim=2)


def drawn_over_pictures(networks: Networks, take: Take, found: TakeScore) -> Tensor:
    """A heat map `(H, W, 3)`, uint8: a picture of every scored latent frame, and its scores.

    Raises:
        GenerationError: the decoder's output is not a number.
    """
    frames = found.frames
    rate = LATENT_FRAMES_PER_SECOND
    several = len(take.windows) > 1
    return heat_map(
        pictures_of(networks, take, frames),
        [f"{f'{f.window + 1}: ' if several else ''}{f.frame / rate:g} s" for f in frames],
        [
            Layer(
                title="log-likelihood as drawn, nats a bit",
                values=[frame.nats_per_bit[0] for frame in frames],
            ),
            Layer(
                title="explained by the prompt, nats a bit",
                values=[frame.nats_per_bit[2] for frame in frames],
            ),
        ],
    )


def pictures_of(networks: Networks, take: Take, frames: Iterable[ScoredFrame]) -> Iterator[Tensor]:
    """A picture `(H, W, 3)`, uint8, of every scored frame: the last of those that it stands for.

    A window is decoded on its own, or in an interactive video after the clip before it. Where that
    is an input's, pictures at the beginning may differ a little from the video's.
    """
    wanted = {(frame.window, frame.frame) for frame in frames}
    before = None
    for number, window in enumerate(take.windows):
        if not window.seconds:
            continue
        latents = latents_of(window, take.detail_bits).to(networks.device)
        skip = 0
        if before is not None and number not in take.images:
            skip, latents = before.shape[2], torch.cat((before, latents), dim=2)
        pieces = networks.pictures(latents, skip=skip)
        for frame, pictures in enumerate(pieces):
            if (number, frame) in wanted:
                yield pictures[-1]
        if take.request.mode == "interact":
            before = latents[:, :, -window.schedule.clips[-1].frames :]
