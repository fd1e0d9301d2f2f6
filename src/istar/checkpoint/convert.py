"""A local copy of a model in one dtype, with our own tensor names: fewer bytes to read at start."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from torch import Tensor

from istar.byte_size import readable_size
from istar.checkpoint.files import INDEX_NAME
from istar.checkpoint.infer import infer_tokenizer_config, infer_transformer_config
from istar.checkpoint.names import tokenizer_naming, transformer_naming
from istar.checkpoint.quantize import in_eight_bits, plain_tensors
from istar.checkpoint.read import (
    on_meta,
    read_parameters,
    transformer_dtype,
)
from istar.checkpoint.tensor_files import SafetensorFiles, tokenizer_files
from istar.checkpoint.write import write_safetensors
from istar.errors import CheckpointError, MediaError
from istar.files import PendingDirectory, working_directory
from istar.model_spec import ModelSpec, Precision
from istar.models.find import ModelFiles
from istar.models.manifest import write_manifest
from istar.placement import DTYPES
from istar.text_encoder import save_encoder
from istar.transformer.eight_bit import TYPES
from istar.transformer.model import Transformer
from istar.video_tokenizer.model import VideoTokenizer

SHARD_BYTES = 4 << 30
"""A shard is written when it would grow past this; also what the host holds at once."""

Listener = Callable[[str], None]


def convert(
    spec: ModelSpec,
    files: ModelFiles,
    target: Path,
    dtype: Precision,
    *,
    on_progress: Listener = lambda line: None,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write a converted copy of a model, whole or not at all.

    The transformer's heads, the tokenizer and the text encoder stay float32, the last without its
    decoder: loaded in `dtype`, the copy computes what the original does. So does everything but the
    8-bit weights of an 8-bit copy, which serves whatever the rest is computed in.

    Args:
        spec: the model.
        files: where its files lie.
        target: the directory to make; an existing one is replaced at the end.
        dtype: of the transformer.
        on_progress: called with the name of what is being written.
        shard_bytes: the largest file of a transformer, unless one tensor is larger.

    Raises:
        CheckpointError: a file is missing or malformed, the disk has too little room, or another
            process does the same.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            FileLock(working_directory(target).with_suffix(".lock"), timeout=0),
            PendingDirectory(target, overwrite=True) as pending,
        ):
            _check_room(files, dtype, target.parent)
            _write(spec, files, pending.temporary, dtype, on_progress, shard_bytes)
    except Timeout as error:
        raise CheckpointError(
            f"another process is making {target} now; wait for it, and try again if it fails"
        ) from error
    except (OSError, SafetensorError, MediaError) as error:
        cause = error.__cause__ or error  # the name of a temporary directory means nothing
        reason = getattr(cause, "strerror", None) or " ".join(str(cause).split())
        raise CheckpointError(
            f"{target} cannot be written: {reason}; free some space, or set XDG_DATA_HOME to a "
            "directory elsewhere"
        ) from error
    return target


def _write(
    spec: ModelSpec,
    files: ModelFiles,
    directory: Path,
    dtype: Precision,
    on_progress: Listener,
    shard_bytes: int,
) -> None:
    """All files of a copy."""
    on_progress("the transformer")
    _convert_transformer(files.transformer, directory / "transformer", dtype, shard_bytes)
    on_progress("the tokenizer")
    _convert_tokenizer(files.tokenizer, directory / "tokenizer.safetensors")
    on_progress("the text encoder")
    save_encoder(files.text_encoder, directory / "text_encoder")
    copy = replace(
        spec,
        transformer="transformer",
        tokenizer="tokenizer.safetensors",
        text_encoder="text_encoder",
        dtype=dtype,
    )
    write_manifest(directory, copy)


def _convert_transformer(path: Path, target: Path, dtype: Precision, shard_bytes: int) -> None:
    """Shards and an index; the host holds one shard, and one of the original."""
    files = SafetensorFiles(path)
    naming = transformer_naming(files.shapes)
    config = infer_transformer_config(files.shapes, naming, path)
    eight_bit = next((kind for kind in TYPES if kind == dtype), None)
    number_type = torch.float32 if eight_bit else DTYPES[dtype]
    parameters = read_parameters(
        on_meta(lambda: Transformer(config)),
        files,
        naming,
        dtype_of=lambda name: transformer_dtype(name, number_type),
        eight_bit=eight_bit,
    )
    if eight_bit:
        parameters = plain_tensors(in_eight_bits(parameters, eight_bit))
    target.mkdir()
    weight_map: dict[str, str] = {}
    shard: dict[str, Tensor] = {}

    def write() -> None:
        file = f"model-{len(set(weight_map.values())) + 1:05d}.safetensors"
        write_safetensors(target / file, shard)
        weight_map.update(dict.fromkeys(shard, file))
        shard.clear()

    for name, value in parameters:
        if shard and sum(t.nbytes for t in shard.values()) + value.nbytes > shard_bytes:
            write()
        shard[name] = value
    write()
    index = {"metadata": {}, "weight_map": weight_map}
    (target / INDEX_NAME).write_text(json.dumps(index, indent=1), encoding="utf-8")


def _convert_tokenizer(path: Path, target: Path) -> None:
    files = tokenizer_files(path)
    naming = tokenizer_naming(files.shapes)
    config = infer_tokenizer_config(files.shapes, naming, path)
    module = on_meta(lambda: VideoTokenizer(config))
    parameters = read_parameters(module, files, naming, dtype_of=lambda _: torch.float32)
    write_safetensors(target, dict(parameters))


def _check_room(files: ModelFiles, dtype: Precision, directory: Path) -> None:
    """Refuse a copy for which the disk has too little room, before the first byte.

    Raises:
        CheckpointError: too little room.
    """
    stored = SafetensorFiles(files.transformer)
    parameters = sum(prod(shape) for shape in stored.shapes.values())
    beside = [files.tokenizer, *files.text_encoder.glob("*")]
    itemsize = 1 if dtype in TYPES else DTYPES[dtype].itemsize
    needed = parameters * itemsize + sum(file.stat().st_size for file in beside)
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise CheckpointError(
            f"the copy may need {readable_size(needed)} and {directory} has {readable_size(free)} "
            "free; free some, or set XDG_DATA_HOME to a larger disk"
        )
