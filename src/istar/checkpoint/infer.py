"""The sizes of networks, read off the shapes of their tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from istar.checkpoint.names import Naming, tokenizer_naming, transformer_naming
from istar.checkpoint.tensor_files import SafetensorFiles, tokenizer_files
from istar.errors import CheckpointError
from istar.transformer.config import TransformerConfig
from istar.video_tokenizer.config import VideoTokenizerConfig


def stored_transformer_config(path: Path) -> TransformerConfig:
    """The sizes of a transformer in files, as `load_transformer` takes them.

    Raises:
        CheckpointError: a file is missing or malformed, or a tensor that shows a size is missing.
    """
    shapes = SafetensorFiles(path).shapes
    return infer_transformer_config(shapes, transformer_naming(shapes), path)


def stored_tokenizer_config(path: Path) -> VideoTokenizerConfig:
    """The sizes of a video tokenizer in files; as `stored_transformer_config`."""
    shapes = tokenizer_files(path).shapes
    return infer_tokenizer_config(shapes, tokenizer_naming(shapes), path)


def infer_transformer_config(
    shapes: Mapping[str, tuple[int, ...]], naming: Naming, path: Path
) -> TransformerConfig:
    """The sizes of a transformer, read off its tensors.

    Args:
        shapes: of the tensors, by their names in the file.
        naming: of the file.
        path: the name in messages.

    Raises:
        CheckpointError: a tensor that shows a size is missing.
    """
    size = _size_reader(shapes, naming, path)
    query_norm = "blocks.0.attention.query_norm.weight"
    in_every_block = naming.name_in_file(query_norm).rpartition("0.")[2]
    head_size = size(query_norm, 0)
    return TransformerConfig(
        width=size("embed_latents.weight", 0),
        depth=sum(name.endswith(in_every_block) for name in shapes),
        heads=size("blocks.0.attention.query.weight", 0) // head_size,
        key_value_heads=size("blocks.0.attention.key.weight", 0) // head_size,
        head_size=head_size,
        mlp_width=size("blocks.0.mlp.gate.weight", 0),
        text_channels=size("embed_text.weight", 1),
        text_positions=size("unconditional", 0),
        latent_channels=size("embed_latents.weight", 1),
        semantic_bits=size("semantic_head.weight", 0) // 2,
    )


def infer_tokenizer_config(
    shapes: Mapping[str, tuple[int, ...]], naming: Naming, path: Path
) -> VideoTokenizerConfig:
    """The sizes of a video tokenizer, read off its tensors; as `infer_transformer_config`.

    Raises:
        CheckpointError: a tensor that shows a size is missing, or the sizes form no network.
    """
    size = _size_reader(shapes, naming, path)
    first, second, third, fourth = (
        size(f"encoder.levels.{level}.blocks.0.norm1.gain", 0) for level in range(4)
    )
    channels = (first, second, third, fourth, size("encoder.norm_out.gain", 0))
    try:
        return VideoTokenizerConfig(
            channels=channels, bottleneck_channels=size("decoder.conv_in.weight", 1)
        )
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _size_reader(
    shapes: Mapping[str, tuple[int, ...]], naming: Naming, path: Path
) -> Callable[[str, int], int]:
    def size(own_name: str, dimension: int) -> int:
        name = naming.name_in_file(own_name)
        if len(shapes.get(name, ())) <= dimension:
            raise CheckpointError(f"{path}: tensor {name} is missing or has the wrong shape")
        return max(1, shapes[name][dimension])

    return size
