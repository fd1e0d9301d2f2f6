"""The loss of a clip whose true bits are given step by step, as generation sees them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from istar.generation.loop import commit, predict, start
from istar.generation.residual import residual_steps
from istar.generation.schedule import nearest_template
from istar.networks import Networks
from istar.plan import Window
from istar.training.sequences import step_weight
from istar.video_tokenizer.config import FRAMES_PER_SECOND

_TINY = 1e-6


def forced_loss(
    networks: Networks, frames: Tensor, caption: str, *, weigh_by_magnitude: bool
) -> float:
    """The cross-entropy of a clip's bits, each predicted from its caption and the true bits before.

    Every repetition of every scale is predicted, and sees what it would in generation; nothing is
    flipped. Steps and bits weigh as in training.

    Args:
        networks: the model.
        frames: `(16 · seconds + 1, H, W, 3)` uint8, of the size that the model makes.
        caption: of the clip.
        weigh_by_magnitude: see `istar.training.config.LatentsConfig`.
    """
    spec, transformer = networks.spec, networks.transformer
    window = Window(given_seconds=0, new_seconds=(len(frames) - 1) / FRAMES_PER_SECOND)
    steps = window.steps(spec, nearest_template(frames.shape[1] / frames.shape[2]))
    text = spec.prompt.apply(caption, "t2v", window.seconds, suffix=False)
    latents = networks.encode(frames).split(window.clip_lengths(spec), dim=2)
    largest = max(step.grid.tokens for step in steps)
    total = weight = 0.0
    with torch.inference_mode():
        features = networks.texts(text, "", guided=False).features
        generator = torch.Generator().get_state()  # nothing is drawn
        state = start(transformer, steps, features, generator)
        for clip, latent in enumerate(latents):
            own = [step for step in steps if step.clip == clip]
            semantic_bits = transformer.config.semantic_bits
            for part in residual_steps(latent, own, semantic_bits=semantic_bits):
                # 1. The step's logits, after the true bits of all steps before.
                prediction = predict(transformer, state)
                logits, bits = prediction.logits[0], part.bits[0]
                entropy = F.binary_cross_entropy_with_logits(
                    logits[..., 1] - logits[..., 0], bits.to(logits.dtype), reduction="none"
                )
                if weigh_by_magnitude:
                    magnitudes = part.residual[0].abs()
                    entropy = entropy * magnitudes / magnitudes.mean().clamp_min(_TINY)
                # 2. It counts as in training.
                own_weight = part.step.grid.tokens * step_weight(part.step, largest)
                total += own_weight * float(entropy.mean())
                weight += own_weight
                # 3. Its own true bits join the canvas.
                state = commit(state, bits, prediction.contexts)
    return total / weight
