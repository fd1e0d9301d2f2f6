"""The names of tensors in files; the released checkpoints' names are known nowhere else.

A `Naming` gives the name in the file of each of our parameters; a loader asks it for every
parameter and holds what is left over in the file against the tensors known to be unused.
Converted copies carry our own names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_TRANSFORMER = (
    (r"^unconditional$", "cfg_uncond"),
    (r"^embed_text\.", "text_proj."),
    (r"^embed_latents\.", "word_embed."),
    (r"^norm\.", "norm_hidden_sates."),
    (r"^semantic_head\.", "semantic_head2."),
    (r"^detail_head\.", "head."),
    (r"\.attention\.(query|key)_norm\.", lambda m: f".attn.{m[1][0]}_norm."),
    (r"\.attention\.(query|key|value|output)\.", lambda m: f".attn.{m[1][0]}_proj."),
    (r"\.mlp\.(gate|up|down)\.", r".mlp.\1_proj."),
    (r"\.attention_norm\.", ".input_layernorm."),
    (r"\.mlp_norm\.", ".post_attention_layernorm."),
)

_TOKENIZER = (
    (r"^latent_scales$", "scale_learnable_parameters"),
    (r"^project_in\.", "proj_down."),
    (r"^project_out\.", "proj_up."),
    (r"^(encoder|decoder)\.middle\.", r"\1.mid_block.resnets."),
    (r"^encoder\.levels\.", "encoder.down_blocks."),
    (r"^decoder\.levels\.", "decoder.up_blocks."),
    (r"\.blocks\.", ".resnets."),
    # The decoder's norms are conditioned: norm, and two convolutions called gain and bias here.
    (r"(?<=norm[12]|m_out)\.(gain|bias)\.(weight|bias)$", r".conv_<\1>.conv.\2"),
    (r"conv_<gain>", "conv_y"),
    (r"conv_<bias>", "conv_b"),
    (r"\.norm\.gain$", ".norm_layer.gamma"),
    (r"\.gain$", ".gamma"),
    (r"\.(conv_in|conv_out|conv1|conv2)\.(weight|bias)$", r".\1.conv.\2"),
    (r"\.downsample\.", ".downsamplers.0.conv."),
    (r"\.upsample\.", ".upsamplers.0.conv."),
    (r"samplers\.0\.conv\.norm_layer\.", "samplers.0.conv.norm."),
    (r"samplers\.0\.conv\.conv\.", "samplers.0.conv.conv.conv."),
)

EIGHT_BIT_SCALES = "_scales"
"""Behind an 8-bit weight's name, the name of its rows' scales: in converted copies."""

UNUSED_TRANSFORMER = re.compile(r"sos_token")
UNUSED_TOKENIZER = re.compile(r"quantizer?e?\..*\.mask|proj_(down|up)_two\.(weight|bias)")

_GROUPED_BLOCK = re.compile(r"block_chunks\.(\d+)\.module\.(\d+)\.")


@dataclass(frozen=True, kw_only=True)
class Naming:
    """How a file names tensors.

    Attributes:
        name_in_file: of one of our parameters.
        is_unused: whether a name in the file belongs to a tensor that istar does not need.
    """

    name_in_file: Callable[[str], str]
    is_unused: Callable[[str], bool]


def transformer_naming(names: Iterable[str]) -> Naming:
    """The naming of a transformer's file, by the names in it."""
    names = set(names)
    if "unconditional" in names:
        return _OWN
    group = layers_per_group(names)
    return Naming(
        name_in_file=lambda name: released_transformer_name(name, group),
        is_unused=lambda name: UNUSED_TRANSFORMER.fullmatch(name) is not None,
    )


def tokenizer_naming(names: Iterable[str]) -> Naming:
    """The naming of a video tokenizer's file, by the names in it."""
    if "latent_scales" in set(names):
        return _OWN
    return Naming(
        name_in_file=released_tokenizer_name,
        is_unused=lambda name: UNUSED_TOKENIZER.fullmatch(name) is not None,
    )


_OWN = Naming(name_in_file=lambda name: name, is_unused=lambda name: False)


def layers_per_group(released_names: Iterable[str]) -> int | None:
    """How many layers are in a group of a released transformer; None without groups."""
    numbers = [int(m[2]) for m in map(_GROUPED_BLOCK.match, released_names) if m]
    return max(numbers) + 1 if numbers else None


def released_transformer_name(name: str, group: int | None) -> str:
    """The released name of our transformer parameter `name`, its layers `group` by `group`."""
    for pattern, replacement in _TRANSFORMER:
        name = re.sub(pattern, replacement, name)
    if group is None:
        return name
    return re.sub(
        r"^blocks\.(\d+)\.",
        lambda m: f"block_chunks.{int(m[1]) // group}.module.{int(m[1]) % group}.",
        name,
    )


def released_tokenizer_name(name: str) -> str:
    """The released name of our tokenizer parameter `name`."""
    for pattern, replacement in _TOKENIZER:
        name = re.sub(pattern, replacement, name)
    return name
