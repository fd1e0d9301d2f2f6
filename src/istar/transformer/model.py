"""The bitwise spacetime transformer: one forward pass over one run of tokens.

It keeps no state: what tokens may look back at comes in as a context, and what later tokens need
goes out as one. Source: InfinityStar paper (arXiv 2511.04675); released reference.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from istar.transformer.attention import Mask
from istar.transformer.block import Block, RMSNorm
from istar.transformer.cache import Context
from istar.transformer.config import TransformerConfig
from istar.transformer.rope import Rotation


class Transformer(nn.Module):
    """Text features and latents in, logits of bits out.

    The two heads are always computed in float32; everything else in the dtype of the weights.

    Attributes:
        unconditional: `(text_positions, text_channels)`, learned features that stand in for the
            text in the unconditional branch of guidance.
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
        x: Tensor,
        rotation: Rotation,
        contexts: Sequence[Context] = (),
        *,
        mask: Mask | None = None,
        keep: bool = False,
        recompute: bool = False,
    ) -> tuple[Tensor, Context | None]:
        """Embedded tokens through all blocks.

        Args:
            x: `(B, L, width)`.
            rotation: of the L tokens.
            contexts: runs of keys and values that all L may look at, of C tokens together. They
                are put in a row one layer at a time, never as a whole.
            mask: see `istar.transformer.attention.attend`; `(L, C + L)`, or of the L tokens alone
                where there are no contexts; everywhere when absent.
            keep: return the tokens' own keys and values.
            recompute: run each block again in the backward pass instead of remembering it.

        Returns:
            `(B, L, width)` after the last block, not normed; the context if kept.
        """
        kept = []
        for i, block in enumerate(self.blocks):
            looks = [context[i] for context in contexts]
            if recompute:
                x, own = checkpoint(block, x, rotation, looks, mask, use_reentrant=False)
            else:
                x, own = block(x, rotation, looks, mask)
            if keep:
                kept.append(own)
        return x, tuple(kept) if keep else None

    def keys_values(
        self, x: Tensor, rotation: Rotation, contexts: Sequence[Context] = ()
    ) -> Context:
        """Only the keys and values of embedded tokens `(B, L, width)`.

        For tokens that others look at but whose own prediction nobody needs; of the last block
        nothing else is computed.
        """
        kept = []
        *earlier, last = self.blocks
        for i, block in enumerate(earlier):
            x, own = block(x, rotation, [context[i] for context in contexts])
            kept.append(own)
        assert isinstance(last, Block)
        return (*kept, last.keys_values(x, rotation))

    def logits(self, x: Tensor, *, semantic: bool) -> Tensor:
        """Logits `(B, L, d, 2)`, float32, of bits 0 and 1 from the last block's `(B, L, width)`."""
        head = self.semantic_head if semantic else self.detail_head
        x = F.linear(self.norm(x).float(), head.weight.float(), head.bias.float())
        return x.unflatten(-1, (-1, 2))
