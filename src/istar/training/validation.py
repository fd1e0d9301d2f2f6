"""Validation: how well a transformer predicts the bits of clips that it does not train on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from istar.model_spec import ModelSpec
from istar.text_encoder import TextEncoder
from istar.training.config import TransformerTraining
from istar.training.distributed import Share, summed
from istar.training.examples import ExampleSource
from istar.training.latents import PreparedClip, read_prepared
from istar.training.losses import BitLoss
from istar.training.packing import PackedBatch
from istar.training.results_config import ValidationConfig
from istar.training.seeds import seed_of
from istar.transformer.config import TransformerConfig


class HeldOutExamples:
    """Rows of held-out clips, the same in every run; see `istar.training.task.Validation`.

    The examples are of the run's mix, with all their texts and scales, and neither with flipped
    bits nor with noise on the context of interactive clips.

    Args:
        config: of the run.
        spec: the model's.
        sizes: of the transformer.
        text_encoder: whose tokens the texts become.
        judge: the loss and the correct bits of a batch.
    """

    def __init__(
        self,
        config: TransformerTraining,
        spec: ModelSpec,
        sizes: TransformerConfig,
        text_encoder: TextEncoder,
        judge: Callable[[PackedBatch, torch.device], BitLoss],
    ) -> None:
        data = replace(
            config.data,
            sets=config.validation.sets,
            text_dropout=0.0,
            most_flips=0.0,
            finest_share=1.0,
            short_captions=0.0,
            condition_noise=(0.0,),
        )
        run = replace(config.run, seed=seed_of("validation"))
        held_out = replace(config, run=run, data=data, validation=ValidationConfig())
        self.every = config.validation.every
        self._length = max(config.data.rows)
        self._rows = config.validation.rows
        self._scales = len(spec.pixel_budget.sides)
        self._source = ExampleSource(held_out, spec, sizes, text_encoder, "validation")
        self._judge = judge
        # Rows that cannot be made are refused here, not after hours of training.
        self._source.rows(0, [0], self._length)

    def measures(self, device: torch.device) -> dict[str, float]:
        """The loss, and the share of bits that are right, in all and by scale."""
        share = Share.of_this_process()
        found = torch.zeros(self._rows, 2 + 2 * self._scales, dtype=torch.float64)
        for first in range(0, self._rows, share.processes):
            # A row is computed alone, so that its numbers are the same with any number of
            # processes. All compute equally often: a sharded network needs every one of them.
            number = first + share.rank
            row = self._source.rows(0, [min(number, self._rows - 1)], self._length)
            result = self._judge(row, device)
            if number < self._rows:
                found[number] = torch.cat([value.double().cpu().flatten() for value in result])
        weighted, weight, *counts = summed(found).sum(dim=0).tolist()
        right, bits = counts[: self._scales], counts[self._scales :]
        shares = {
            f"validation_right_{scale}": right[scale] / bits[scale]
            for scale in range(self._scales)
            if bits[scale]
        }
        return {
            "validation_loss": weighted / weight,
            "validation_right": sum(right) / sum(bits),
            **shares,
        }


def held_out_clips(config: TransformerTraining) -> list[PreparedClip]:
    """Clips of validation's sets for contact sheets: with captions, from all over the sets."""
    found = [clip for directory in config.validation.sets for clip in read_prepared(directory)]
    clips = [clip for clip in found if any(map(str.strip, clip.captions.whole))]
    count = min(config.samples.clips, len(clips))
    return [clips[number * len(clips) // count] for number in range(count)]
