"""Train the transformer and its text encoder.

A batch is rows of packed examples (`istar.training.examples`).
Source: InfinityStar paper (arXiv 2511.04675); released reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from istar.checkpoint.read import load_video_tokenizer, on_meta, transformer_dtype
from istar.checkpoint.write import save_transformer, save_video_tokenizer
from istar.errors import UsageError
from istar.models.manifest import read_manifest, write_manifest
from istar.networks import Networks
from istar.placement import DTYPES
from istar.text_encoder import TextEncoder
from istar.training.config import TransformerTraining
from istar.training.distributed import Share, Weights, fill, shared_weights, summed
from istar.training.examples import ExampleSource, check_origins
from istar.training.losses import BitLoss, bit_loss
from istar.training.optimizers import linear_weights
from istar.training.packing import PackedBatch
from istar.training.samples import contact_sheets
from istar.training.sequences import DETAIL, SEMANTIC
from istar.training.starting_weights import (
    new_text_encoder,
    new_transformer,
    read_text_encoder,
    read_transformer,
)
from istar.training.task import Loss, Validation
from istar.training.tiles import Tiles, tiles_of
from istar.training.validation import HeldOutExamples, held_out_clips
from istar.transformer.config import TransformerConfig
from istar.transformer.model import Transformer
from istar.transformer.rope import Rotation, rotation
from istar.transformer.rows import Row
from istar.video_tokenizer.model import VideoTokenizer


class BatchLogits(NamedTuple):
    """Logits of a batch's visual tokens.

    Attributes:
        semantic: `(S, d, 2)`, float32, of the semantic tokens in row order.
        detail: `(D, C, 2)` of the detail tokens.
    """

    semantic: Tensor
    detail: Tensor


class TransformerNetwork(nn.Module):
    """The networks of a transformer run: the transformer and the text encoder."""

    def __init__(self, transformer: Transformer, text_encoder: TextEncoder) -> None:
        super().__init__()
        self.transformer = transformer
        self.text_module = text_encoder.module
        self._text_encoder = (text_encoder,)

    @property
    def sharded_blocks(self) -> list[nn.Module]:
        """The modules that are sharded one by one where there are several processes."""
        text_blocks = self.text_module.get_submodule("encoder.block")
        return [*self.transformer.blocks, *text_blocks.children()]

    def train(self, mode: bool = True) -> TransformerNetwork:
        """Training mode, without the dropout of a text encoder from elsewhere.

        Dropout uses a random generator whose state is in no checkpoint.
        """
        super().train(mode)
        self.text_module.eval()
        return self

    def forward(self, batch: PackedBatch, *, train_text: bool, recompute: bool) -> BatchLogits:
        """Logits of a packed batch on the network's device."""
        transformer = self.transformer
        rows, length, _ = batch.inputs.shape
        x = transformer.embed_latents(batch.inputs)
        with torch.set_grad_enabled(train_text and torch.is_grad_enabled()):
            features = self._text_encoder[0].features(batch.texts, batch.text_lengths)
        texts = transformer.embed_text(self._with_unconditional(features, batch))
        x = x.flatten(0, 1).index_copy(0, batch.text_positions, texts.to(x.dtype))
        x = x.unflatten(0, (rows, length))
        turned = rotation(batch.coordinates.flatten(0, 1), transformer.config.head_size)
        turned = Rotation(*(value.unflatten(0, (rows, 1, length)) for value in turned))
        row = Row(x, turned, mask=mask_of(batch))
        ((y, _),) = transformer([row], recompute=recompute)
        with torch.autocast(y.device.type, enabled=False):
            return BatchLogits(
                transformer.logits(y[batch.kind == SEMANTIC][None], semantic=True)[0],
                transformer.logits(y[batch.kind == DETAIL][None], semantic=False)[0],
            )

    def _with_unconditional(self, features: Tensor, batch: PackedBatch) -> Tensor:
        """Text features `(sum of lengths, channels)`, the learned ones where a text is dropped."""
        lengths = batch.text_lengths
        starts = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        position = torch.arange(len(features), device=features.device) - starts
        learned = self.transformer.unconditional[position].to(features.dtype)
        dropped = batch.unconditional.repeat_interleave(lengths).unsqueeze(-1)
        return torch.where(dropped, learned, features)


def mask_of(batch: PackedBatch) -> Tiles | BlockMask:
    """The attention mask of packed rows: a block mask on CUDA, elsewhere the same as tiles."""
    return block_mask(batch) if batch.group.is_cuda else tiles_of(batch)


def block_mask(batch: PackedBatch) -> BlockMask:
    """The mask of packed rows for FlexAttention."""
    group, looks_at = batch.group, batch.looks_at

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = group[row, query] == group[row, key]
        for number in range(looks_at.shape[-2]):
            begun = looks_at[row, query, number, 0] <= group[row, key]
            seen = seen | (begun & (group[row, key] <= looks_at[row, query, number, 1]))
        return seen

    rows, length = group.shape
    return create_block_mask(sees, rows, None, length, length, device=group.device)


class TransformerTask:
    """A transformer run, see `istar.training.task.Task`.

    Its network is on the meta device where several processes are to share it, and the first of
    them alone holds the tokenizer, for the model that is written and for samples.
    """

    def __init__(self, config: TransformerTraining) -> None:
        self.config = config
        self.spec = read_manifest(config.model)
        self._sizes = self.spec.transformer_config or TransformerConfig()
        share = Share.by_torchrun()
        self._text_encoder = self._new_text_encoder()
        theirs, ours = self._text_encoder.channels, self._sizes.text_channels
        if theirs != ours:
            raise UsageError(
                f"text: the encoder of {config.text.start} has {theirs} channels and the "
                f"transformer reads {ours}: they do not belong together"
            )
        transformer = on_meta(partial(Transformer, self._sizes))
        if config.compile:
            for block in transformer.blocks:
                block.compile(dynamic=False)
        self.network: nn.Module = TransformerNetwork(transformer, self._text_encoder)
        self.frozen_until: Mapping[str, int] = (
            {} if config.text.train else {"text_module.": config.run.steps}
        )
        self._tokenizer: VideoTokenizer | None = None
        if share.rank == 0:
            self._tokenizer = load_video_tokenizer(config.tokenizer, self.spec.tokenizer_config)
            check_origins(config, self._tokenizer, self.spec.clip_seconds)
        self._examples = ExampleSource(config, self.spec, self._sizes, self._text_encoder)
        self._notes = (*self._examples.cut_captions(), *self._examples.notes)
        if config.start and not config.text.start:
            self._notes += (f"the text encoder is new, and {config.start} has not learned with it",)
        self.validation = self._validation()
        if share.processes == 1 or not config.run.shard:
            fill(self.network, self.starting_weights(), torch.device("cpu"))

    def starting_weights(self) -> Weights:
        """Every weight's value at the start: read, or random."""
        assert isinstance(self.network, TransformerNetwork)
        start, text_start, seed = self.config.start, self.config.text.start, self.config.run.seed
        transformer, encoder = self.network.transformer, self._text_encoder
        for name, value in (
            read_transformer(transformer, start) if start else new_transformer(transformer, seed)
        ):
            yield f"transformer.{name}", value
        for name, value in (
            read_text_encoder(encoder, text_start)
            if text_start
            else new_text_encoder(encoder, seed)
        ):
            yield f"text_module.{name}", value

    def hidden_matrices(self) -> Sequence[Tensor]:
        """The linear weights of all blocks, the text encoder's too."""
        assert isinstance(self.network, TransformerNetwork)
        return linear_weights(self.network.sharded_blocks)

    def batch(self, step: int, share: Share) -> PackedBatch:
        """This process's rows of a step."""
        return self._examples.batch(step, share)

    def remarks(self, batch: PackedBatch) -> tuple[str, ...]:
        """What is to be known of the run, with its first batch."""
        notes, self._notes = self._notes, ()
        return notes

    def loss(self, batch: PackedBatch, step: int, device: torch.device) -> Loss:
        """The bits' cross-entropy, and how many of each scale's bits are right."""
        result = self._bit_loss(batch, device)
        weight, processes = summed(result.weight), Share.of_this_process().processes
        right, bits = summed(result.right), summed(result.bits)
        measures = {
            f"right_{scale}": right[scale] / count
            for scale, count in enumerate(bits.tolist())
            if count
        }
        measures["right"] = right.sum() / bits.sum()
        return Loss(result.weighted * processes / weight, measures)

    def _bit_loss(self, batch: PackedBatch, device: torch.device) -> BitLoss:
        batch = PackedBatch(*(value.to(device) for value in batch))
        outcome = self.network(
            batch, train_text=self.config.text.train, recompute=self.config.recompute
        )
        scales = len(self.spec.pixel_budget.sides)
        return bit_loss(outcome.semantic, outcome.detail, batch, scales=scales)

    def _validation(self) -> Validation | None:
        if not self.config.validation.sets:
            return None
        return HeldOutExamples(
            self.config, self.spec, self._sizes, self._text_encoder, self._bit_loss
        )

    def export(self, weights: Mapping[str, Tensor], directory: Path) -> None:
        """Write a whole checkpoint directory: with the tokenizer, and a manifest with hashes."""
        networks = self._built(weights)
        save_transformer(directory / self.spec.transformer, networks.transformer)
        networks.text_encoder.save(directory / self.spec.text_encoder)
        tokenizer = directory / self.spec.tokenizer
        tokenizer.parent.mkdir(parents=True, exist_ok=True)
        save_video_tokenizer(tokenizer, networks.tokenizer)
        # The weights were published nowhere, and are float32.
        write_manifest(directory, replace(self.spec, source=None, dtype=None))

    def sample(self, weights: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """Contact sheets: of prompts, and of validation's clips if there are any.

        The transformer is in the run's precision, as it is used later.
        """
        networks = self._built(weights)
        dtype = DTYPES[self.config.run.precision]
        for name, weight in networks.transformer.named_parameters():
            weight.data = weight.data.to(device, transformer_dtype(name, dtype))
        for module in (networks.transformer, networks.tokenizer, networks.text_encoder.module):
            module.to(device).eval()
        starts = (kind for kind in self.config.data.mix if kind.kind == "start" and kind.weight)
        longest = max((kind.seconds for kind in starts), default=self.spec.max_seconds)
        clips = held_out_clips(self.config)
        return contact_sheets(networks, self.config.samples.prompts, clips, longest)

    def _built(self, weights: Mapping[str, Tensor]) -> Networks:
        """The three networks, whole, on the CPU; weights are not copied."""
        assert self._tokenizer is not None
        transformer = on_meta(partial(Transformer, self._sizes))
        transformer.load_state_dict(_below(weights, "transformer."), assign=True)
        text_encoder = self._new_text_encoder()
        texts = _below(weights, "text_module.")
        texts |= {name: texts[first] for name, first in shared_weights(text_encoder.module).items()}
        text_encoder.module.load_state_dict(texts, assign=True)
        return Networks(self.spec, transformer, self._tokenizer, text_encoder)

    def _new_text_encoder(self) -> TextEncoder:
        """The text encoder of the run, on the meta device."""
        text, longest = self.config.text, self._sizes.text_positions
        if text.start:
            return TextEncoder.without_weights(text.start, max_tokens=longest)
        with torch.device("meta"):
            return TextEncoder.new(
                channels=self._sizes.text_channels,
                layers=text.layers,
                heads=text.heads,
                mlp_width=text.mlp_width,
                max_tokens=longest,
            )


def _below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }
