"""The bitwise spacetime transformer: one forward pass over a few rows of tokens.

It keeps no state: what tokens may look back at comes in as a context, and what later tokens need
goes out as one. Source: InfinityStar paper (arXiv 2511.04675); released reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from istar.transformer.block import Block, RMSNorm
from istar.transformer.cache import Context, KeysValues, stored
from istar.transformer.config import TransformerConfig
from istar.transformer.rows import LayerRow, Row, RowOutput, batches, layer_contexts, slices_of


class Transformer(nn.Module):
    """Text features and latents in, logits of bits out.

    The two heads are always computed in float32; everything else in the dtype of the weights.

    Attributes:
        blocks: visited in order, each once in a pass.
        unconditional: `(text_positions, text_channels)`, learned features that stand in for the
            text in the unconditional branch of guidance.
        rows_at_once: about how many tokens are projected, normed and gated at a time, which bounds
            the widest tensors. None: all. It changes nothing while gradients are computed.
        host_contexts_from: keys and values that are kept of a row of so many tokens or more lie in
            host memory, and each layer's come to the device when it is computed. None: of no row.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.unconditional = nn.Parameter(torch.zeros(config.text_positions, config.text_channels))
        self.embed_text = nn.Linear(config.text_channels, config.width)
        self.embed_latents = nn.Linear(config.latent_channels, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = RMSNorm(config.width)
        self.semantic_head = nn.Linear(config.width, 2 * config.semantic_bits)
        self.detail_head = nn.Linear(config.width, 2 * config.latent_channels)
        self.rows_at_once: int | None = None
        self.host_contexts_from: int | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the blocks."""
        return self.embed_latents.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embed_latents.weight.device

    def forward(
        self,
        rows: Sequence[Row],
        *,
        keep: bool = False,
        together: bool = False,
        overwrite: bool = False,
        recompute: bool = False,
    ) -> list[RowOutput]:
        """Rows through all blocks; every row passes a block before any enters the next.

        Args:
            rows: embedded tokens and what they look at.
            keep: return the tokens' own keys and values.
            together: compute rows that are alike as one batch. That is faster on a GPU and takes
                more memory; the results differ in the last bits.
            overwrite: the rows' tokens are needed no more; their memory is computed in.
            recompute: run each block again in the backward pass instead of remembering it.

        Returns:
            one output per row.
        """
        # 1. Rows that may be computed as one batch are joined.
        groups = batches(rows, together=together)
        members = [[rows[number] for number in group] for group in groups]
        # 2. All of them pass the blocks.
        xs, contexts = self._through(members, keep=keep, overwrite=overwrite, recompute=recompute)
        # 3. Each row gets its part.
        outputs: dict[int, RowOutput] = {}
        for group, x, context in zip(groups, xs, contexts, strict=True):
            for number, own in _parts(group, len(x)):
                outputs[number] = RowOutput(x[own], _part(context, own) if keep else None)
        return [outputs[number] for number in range(len(rows))]

    def keys_values(
        self, rows: Sequence[Row], *, together: bool = False, overwrite: bool = False
    ) -> list[Context]:
        """Only the keys and values of every row's tokens.

        For tokens that others look at but whose own prediction is not needed: of the last block
        only its keys and values are computed.

        Args:
            rows: as `forward` takes them.
            together: likewise.
            overwrite: likewise.
        """
        groups = batches(rows, together=together)
        members = [[rows[number] for number in group] for group in groups]
        xs, contexts = self._through(members, keep=True, overwrite=overwrite, only_keys_values=True)
        outputs: dict[int, Context] = {}
        for group, x, context in zip(groups, xs, contexts, strict=True):
            for number, own in _parts(group, len(x)):
                outputs[number] = _part(context, own)
        return [outputs[number] for number in range(len(rows))]

    def _through(
        self,
        groups: Sequence[Sequence[Row]],
        *,
        keep: bool,
        overwrite: bool,
        only_keys_values: bool = False,
        recompute: bool = False,
    ) -> tuple[list[Tensor], list[list[KeysValues]]]:
        """Groups of rows through all blocks: each group's tokens, and its keys and values by layer.

        With `only_keys_values` the tokens are those that entered the last block.
        """
        # The blocks may overwrite these.
        xs = [
            group[0].x if overwrite and len(group) == 1 else torch.cat([row.x for row in group])
            for group in groups
        ]
        contexts: list[list[KeysValues]] = [[] for _ in groups]
        for layer, block in enumerate(self.blocks):
            entering = [
                LayerRow(x, group[0].rotation, layer_contexts(group, layer), group[0].mask)
                for x, group in zip(xs, groups, strict=True)
            ]
            if only_keys_values and layer == len(self.blocks) - 1:
                assert isinstance(block, Block)
                passed = list(zip(xs, block.keys_values(entering), strict=True))
            elif recompute:
                passed = checkpoint(block, entering, use_reentrant=False, keep=keep)
            else:
                passed = block(entering, keep=keep, rows_at_once=self.rows_at_once)
            xs = [x for x, _ in passed]
            kept = [
                None if own is None else stored(own, host_from=self.host_contexts_from)
                for _, own in passed
            ]
            # What went to host memory is not held until the next block has run.
            del entering, passed
            for context, own in zip(contexts, kept, strict=True):
                if own is not None:
                    context.append(own)
        return xs, contexts

    def logits(self, x: Tensor, *, semantic: bool) -> Tensor:
        """Logits `(B, L, d, 2)`, float32, of bits 0 and 1 from the last block's `(B, L, width)`."""
        head = self.semantic_head if semantic else self.detail_head
        pieces = [
            F.linear(self.norm(x[:, piece]).float(), head.weight.float(), head.bias.float())
            for piece in slices_of(x.shape[0], x.shape[1], self.rows_at_once)
        ]
        return torch.cat(pieces, dim=1).unflatten(-1, (-1, 2))


def _parts(group: Sequence[int], size: int) -> Iterator[tuple[int, slice]]:
    """The number of each row of a batch of `size`, and where it is in the batch."""
    each = size // len(group)
    for position, number in enumerate(group):
        yield number, slice(position * each, (position + 1) * each)


def _part(context: Sequence[KeysValues], rows: slice) -> Context:
    """The keys and values of some rows of a batch."""
    return tuple(KeysValues(layer.keys[rows], layer.values[rows]) for layer in context)
