"""Samples of a transformer in training, for a few fixed prompts."""

from __future__ import annotations

import torch
from torch import Tensor

from istar.lab.world import random_scene
from istar.model_spec import ModelSpec
from istar.networks import Networks
from istar.pipeline import InfinityStarPipeline
from istar.request import GenerationRequest
from istar.text_encoder import TextEncoder
from istar.transformer.model import Transformer
from istar.video_tokenizer.model import VideoTokenizer

_CLIPS = 6
_PICTURES = 5


def generated_sheet(
    spec: ModelSpec,
    transformer: Transformer,
    tokenizer: VideoTokenizer,
    text_encoder: TextEncoder,
    device: torch.device,
) -> Tensor:
    """Clips of held-out scenes, a row each, from the first picture to the last.

    Returns:
        `(H, W, 3)`, uint8.
    """
    text_encoder.module.to(device).eval()
    networks = Networks(spec, transformer.to(device), tokenizer.to(device), text_encoder)
    pipeline = InfinityStarPipeline(networks)
    rows = []
    for seed in range(_CLIPS):
        prompt = random_scene(seed, held_out=True).canonical_caption()
        request = GenerationRequest(mode="t2v", prompt=prompt, seed=seed)
        frames = pipeline.generate(request).frames
        chosen = torch.linspace(0, len(frames) - 1, _PICTURES).long()
        rows.append(frames[chosen].transpose(0, 1).flatten(1, 2))  # H pictures·W 3
    return torch.cat(rows)
