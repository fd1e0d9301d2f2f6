"""Sizes of the transformer."""

from __future__ import annotations

from dataclasses import dataclass, fields

from istar.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Sizes of the bitwise spacetime transformer; the defaults are the released 8 B model's.

    Attributes:
        width: features of a token.
        depth: blocks.
        heads: query heads.
        key_value_heads: key and value heads, each shared by `heads / key_value_heads` queries.
        head_size: features of a head.
        mlp_width: features inside the gated MLP.
        text_channels: features that the text encoder gives a text token.
        text_positions: the longest text; visual scale coordinates begin after it.
        latent_channels: channels of a latent, and bits of a token on detail scales.
        semantic_bits: bits of a token on semantic scales.

    Raises:
        CheckpointError: the sizes do not fit together.
    """

    width: int = 4096
    depth: int = 36
    heads: int = 32
    key_value_heads: int = 8
    head_size: int = 128
    mlp_width: int = 16384
    text_channels: int = 2048
    text_positions: int = 512
    latent_channels: int = 64
    semantic_bits: int = 16

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise CheckpointError(
                    f"transformer: {field.name} must be a positive integer, not {value!r}"
                )
        if self.heads % self.key_value_heads:
            raise CheckpointError(
                f"transformer: {self.heads} query heads cannot share "
                f"{self.key_value_heads} key and value heads evenly"
            )
        if self.head_size % 8:
            raise CheckpointError(
                f"transformer: a head size of {self.head_size} has no four equal groups of pairs"
            )
        if self.latent_channels % self.semantic_bits:
            raise CheckpointError(
                f"transformer: {self.semantic_bits} semantic bits do not divide "
                f"{self.latent_channels} latent channels"
            )

    def bits_per_token(self, *, semantic: bool) -> int:
        """Bits of one token on a semantic or a detail scale."""
        return self.semantic_bits if semantic else self.latent_channels
