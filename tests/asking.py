"""Requests to a small model, pictures for them, and what comes of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from istar import ClipReady, Decoding, GenerationRequest, InfinityStarPipeline
from istar.model_spec import ModelSpec
from istar.networks import Networks

HEIGHT, WIDTH = 32, 48


def pictures(count: int, height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> Tensor:
    """Smooth pictures `(count, height, width, 3)`, each different."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((count, 3, 3, 5), generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    return (fine * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def frames_of(events: Iterable[object]) -> Tensor:
    return torch.cat([event.frames for event in events if isinstance(event, ClipReady)])


def clips_of(events: Iterable[object]) -> list[Tensor]:
    """The pictures of the input and of every clip, which come a few at a time."""
    clips: list[list[Tensor]] = []
    for event in events:
        if isinstance(event, Decoding):
            clips.append([])
        elif isinstance(event, ClipReady) and event.from_input:
            clips.append([event.frames])
        elif isinstance(event, ClipReady):
            clips[-1].append(event.frames)
    return [torch.cat(pieces) for pieces in clips]


def request(mode: str = "t2v", **changes: object) -> GenerationRequest:
    settings: dict[str, object] = {
        "prompt": "a red circle",
        "seconds": 1,
        "seed": 5,
        "aspect": 9 / 16,
    } | changes
    return GenerationRequest(mode=mode, **settings)  # type: ignore[arg-type]


ALL_MODES: dict[str, dict[str, Any]] = {
    "a picture": {"mode": "t2i"},
    "two windows": {"mode": "t2v", "seconds": 3},
    "from a picture": {"mode": "i2v", "image": pictures(1)[0]},
    "a clip continued": {"mode": "extend", "clip": pictures(17), "seconds": 2},
    "prompt by prompt": {"mode": "interact", "prompt": ("one", "two", "three")},
    "a clip, prompt by prompt": {
        "mode": "interact",
        "prompt": ("one", "two"),
        "clip": pictures(17),
    },
}
"""What `request` takes, for a model with clips of a second and passes of two."""


def with_spec(pipeline: InfinityStarPipeline, spec: ModelSpec) -> InfinityStarPipeline:
    """The same networks, run differently."""
    networks = pipeline.networks
    return InfinityStarPipeline(
        Networks(spec, networks.transformer, networks.tokenizer, networks.text_encoder)
    )


def short_clips(pipeline: InfinityStarPipeline) -> InfinityStarPipeline:
    """The same networks with clips of two seconds."""
    return with_spec(pipeline, replace(pipeline.spec, clip_frames=8))
