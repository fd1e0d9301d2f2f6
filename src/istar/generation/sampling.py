"""Logits to bits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from istar.errors import CheckpointError
from istar.generation.guidance import GuidanceConfig
from istar.request import EXTREME, GenerationRequest, is_temperature

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from istar.generation.schedule import Step

Temperature = float | tuple[float, ...]
"""One for all scales, or one for each, coarse to fine."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How logits become bits.

    Attributes:
        guidance: the combination of the two branches.
        tau_image: temperature of image clips.
        tau_video: temperature of video clips.
    """

    guidance: GuidanceConfig
    tau_image: Temperature
    tau_video: Temperature

    def __post_init__(self) -> None:
        if not all(map(is_temperature, (*_each(self.tau_image), *_each(self.tau_video)))):
            raise CheckpointError(
                f"temperatures must be numbers from {1 / EXTREME:.6f} to {EXTREME:.0f}"
            )

    def tau(self, step: Step) -> float:
        """The temperature of a step."""
        own = _each(self.tau_image if step.image else self.tau_video)
        return own[step.scale] if len(own) > 1 else own[0]

    def suits(self, scales: int) -> bool:
        """Whether there is one temperature, or one for each of so many scales."""
        return all(len(_each(tau)) in (1, scales) for tau in (self.tau_image, self.tau_video))

    def for_request(self, request: GenerationRequest) -> SamplingConfig:
        """These settings, except where a request says otherwise."""
        scale, image, video = request.guidance_scale, request.tau_image, request.tau_video
        return SamplingConfig(
            guidance=self.guidance if scale is None else replace(self.guidance, scale=scale),
            tau_image=self.tau_image if image is None else image,
            tau_video=self.tau_video if video is None else video,
        )


def _each(tau: Temperature) -> tuple[float, ...]:
    return tau if isinstance(tau, tuple) else (tau,)


def uniform_numbers(logits: Tensor, generator: torch.Generator) -> Tensor:
    """A number in [0, 1) for every bit; a bit is set where it is less than the probability.

    The numbers come from a generator on the CPU, so a seed means the same on every device.

    Args:
        logits: `(…, 2)`, float32, of bit 0 and bit 1.
        generator: on the CPU.

    Returns:
        `(…)`, float32, on the logits' device.
    """
    numbers = logits.new_empty(logits.shape[:-1], device="cpu").uniform_(generator=generator)
    return numbers.to(logits.device)


def probabilities(logits: Tensor) -> Tensor:
    """The probability `(…)` that a bit is set, of logits `(…, 2)` of bit 0 and bit 1."""
    return (logits[..., 1] - logits[..., 0]).sigmoid()
