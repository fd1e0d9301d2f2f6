"""Contact sheets of a transformer in training: of prompts, and of clips that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from istar.generation.schedule import LATENT_FRAMES_PER_SECOND
from istar.lab.world import random_scene
from istar.media.sheet import a_few, page, row
from istar.networks import Networks
from istar.pipeline import InfinityStarPipeline
from istar.request import GenerationRequest
from istar.training.latents import PreparedClip

_SCENES = 6
_PICTURES = 5


def contact_sheets(
    networks: Networks, prompts: Sequence[str], clips: Sequence[PreparedClip], longest: float
) -> dict[str, Tensor]:
    """Sheets `(H, W, 3)`, uint8, by name: `step`, and `validation` if there are clips.

    Args:
        networks: on the device to generate on.
        prompts: a row of `step` each; without any, held-out scenes of the procedural world.
        clips: two rows of `validation` each: its pictures, and those generated from its caption.
        longest: seconds of the longest video that is trained; nothing longer is shown.
    """
    spec, pipeline = networks.spec, InfinityStarPipeline(networks)
    prompts = prompts or [
        random_scene(seed, held_out=True).canonical_caption() for seed in range(_SCENES)
    ]
    usual = _least(spec.default_seconds, longest)
    requests = [_request(prompt, usual, seed) for seed, prompt in enumerate(prompts)]
    sheets = {"step": _sheet([pipeline.generate(request).frames for request in requests])}
    rows = []
    for seed, clip in enumerate(clips):
        own_seconds = (clip.frames - 1) / LATENT_FRAMES_PER_SECOND
        seconds = _least(own_seconds, spec.max_seconds, longest)
        frames = 1 + int(seconds * LATENT_FRAMES_PER_SECOND)
        own = clip.captions.from_start(frames, spec.clip_frames)
        caption = next(filter(str.strip, (*own.whole, *clip.captions.whole)))
        request = _request(caption, seconds, seed, clip.height / clip.width)
        latent = clip.latent()[None, :, :frames].to(networks.transformer.device)
        rows += [networks.decode(latent), pipeline.generate(request).frames]
    return sheets | ({"validation": _sheet(rows)} if rows else {})


def _least(*seconds: float) -> float:
    """The shortest of some lengths; 0, a picture, where it is less than a second."""
    return min(seconds) if min(seconds) >= 1 else 0


def _request(
    prompt: str, seconds: float, seed: int, aspect: float | None = None
) -> GenerationRequest:
    return GenerationRequest(
        mode="t2v" if seconds else "t2i",
        prompt=prompt,
        seconds=seconds or None,
        aspect=aspect,
        seed=seed,
    )


def _sheet(videos: Sequence[Tensor]) -> Tensor:
    """Videos `(F, H, W, 3)`, a row each, from the first picture to the last."""
    return page([row(a_few(frames, _PICTURES)) for frames in videos], columns=1)
