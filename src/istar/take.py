"""One request from its first step to its last: what all modes share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from istar.generation.sampling import SamplingConfig
from istar.inputs import Inputs, read_inputs
from istar.networks import Networks
from istar.request import GenerationRequest


@dataclass(frozen=True, kw_only=True)
class Take:
    """A request, its inputs read, and the source of its random draws.

    Attributes:
        networks: the loaded model.
        request: what to make.
        inputs: what it starts from.
        generator: on the CPU; every draw of the request comes from it, in order.
    """

    networks: Networks
    request: GenerationRequest
    inputs: Inputs
    generator: torch.Generator

    @classmethod
    def begin(cls, networks: Networks, request: GenerationRequest) -> Take:
        """Read and check the inputs.

        Raises:
            UsageError: pixels of the wrong shape or dtype.
            MediaError: a file cannot be read.
        """
        return cls(
            networks=networks,
            request=request,
            inputs=read_inputs(request, networks.spec),
            generator=torch.Generator().manual_seed(request.seed),
        )

    def notes(self) -> tuple[str, ...]:
        """What the person should know before the first step."""
        notice = self.networks.spec.notice
        return (*([notice] if notice else []), *self.inputs.notes)

    def texts(
        self, prompt: str, seconds: float, sampling: SamplingConfig
    ) -> tuple[list[Tensor], list[str]]:
        """Features of each branch's text, and notes, for a video of `seconds`."""
        text = self.networks.spec.prompt.apply(
            prompt, self.request.mode, seconds, suffix=self.request.suffix
        )
        # At scale 1 guidance is the conditional branch alone.
        guided = sampling.guidance.scale != 1
        return self.networks.encode_texts(text, self.request.negative_prompt, guided=guided)
