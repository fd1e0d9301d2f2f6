"""Weights from files into modules: strictly, shard by shard, in the dtype asked for.

A module is built on the meta device and its parameters are assigned one by one, so that host
memory never holds more than the module in its target dtype and one shard.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from istar.checkpoint.infer import infer_tokenizer_config, infer_transformer_config
from istar.checkpoint.names import (
    EIGHT_BIT_SCALES,
    Naming,
    tokenizer_naming,
    transformer_naming,
)
from istar.checkpoint.quantize import in_eight_bits, whole_weights
from istar.checkpoint.tensor_files import SafetensorFiles, TensorFiles, tokenizer_files
from istar.errors import CheckpointError
from istar.model_spec import EightBitType
from istar.plurals import counted
from istar.transformer.config import TransformerConfig
from istar.transformer.eight_bit import TYPES, is_eight_bit
from istar.transformer.model import Transformer
from istar.video_tokenizer.config import VideoTokenizerConfig
from istar.video_tokenizer.model import VideoTokenizer

_NAMES_SHOWN = 4
_Module = TypeVar("_Module", bound=nn.Module)


def _ignore(count: int) -> None:
    """Report bytes to nobody."""


def load_transformer(
    path: Path,
    config: TransformerConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    eight_bit: EightBitType | None = None,
    with_blocks: bool = True,
) -> Transformer:
    """A transformer with the released tensor names, grouped or not, or with our own.

    Args:
        path: a safetensors file, or a directory of shards.
        config: its sizes; read off the tensors when absent.
        device: where the weights go.
        dtype: of everything but the two heads, which stay float32.
        eight_bit: the type of the linear weights in its blocks; None: `dtype`. Of files that hold
            floats, each is quantized when it is read.
        with_blocks: without, its blocks stay on the meta device until `load_blocks`.

    Raises:
        CheckpointError: a tensor missing, unknown, of the wrong shape or not finite; a file
            unreadable; or 8-bit weights of another type than was asked for.
        DeviceError: 8-bit weights are asked for, and torchao cannot be used.
    """
    files = SafetensorFiles(path)
    naming = transformer_naming(files.shapes)
    config = config or infer_transformer_config(files.shapes, naming, path)
    transformer = on_meta(lambda: Transformer(config))
    parameters = _transformer_parameters(
        transformer,
        files,
        device,
        dtype,
        eight_bit,
        only=None if with_blocks else lambda name: not _is_in_block(name),
    )
    return _filled(transformer, parameters)


def load_blocks(
    transformer: Transformer,
    path: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    eight_bit: EightBitType | None = None,
    numbers: Container[int] | None = None,
    on_bytes: Callable[[int], None] = _ignore,
) -> None:
    """Give a transformer that was loaded without its blocks their weights.

    Args:
        transformer: its blocks are on the meta device.
        path: as that of `load_transformer`, whose other arguments it takes, too.
        device: where the blocks go.
        dtype: of their weights.
        eight_bit: of their linear weights; None: `dtype`.
        numbers: of the blocks; None: all.
        on_bytes: receives the size of every tensor that was read.

    Raises:
        CheckpointError: as `load_transformer`.
        DeviceError: likewise.
    """
    parameters = _transformer_parameters(
        transformer,
        SafetensorFiles(path),
        device,
        dtype,
        eight_bit,
        only=lambda name: (
            _is_in_block(name) and (numbers is None or int(name.split(".")[1]) in numbers)
        ),
        on_bytes=on_bytes,
    )
    _filled(transformer, parameters)


def _transformer_parameters(
    transformer: Transformer,
    files: SafetensorFiles,
    device: torch.device | str,
    dtype: torch.dtype,
    eight_bit: EightBitType | None,
    *,
    only: Callable[[str], bool] | None,
    on_bytes: Callable[[int], None] = _ignore,
) -> Iterator[tuple[str, Tensor]]:
    """The parameters of a transformer, each of its 8-bit weights as one."""
    parameters = read_parameters(
        transformer,
        files,
        transformer_naming(files.shapes),
        device=device,
        dtype_of=lambda name: transformer_dtype(name, dtype, eight_bit=eight_bit is not None),
        eight_bit=eight_bit,
        only=only,
        on_bytes=on_bytes,
    )
    return whole_weights(in_eight_bits(parameters, eight_bit), dtype) if eight_bit else parameters


def _is_in_block(name: str) -> bool:
    return name.startswith("blocks.")


def load_video_tokenizer(
    path: Path,
    config: VideoTokenizerConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    decoder_dtype: torch.dtype = torch.float32,
    on_bytes: Callable[[int], None] = _ignore,
) -> VideoTokenizer:
    """A video tokenizer with the released tensor names or our own.

    Args:
        path: `.pth`, a safetensors file, or a directory of them.
        config: its sizes; read off the tensors when absent.
        device: where the weights go.
        decoder_dtype: of the decoder, see `VideoTokenizer.decode_in`. Everything else is float32:
            in bf16 some of the bits that it gives for pictures would be others.
        on_bytes: receives the size of every tensor that was read.

    Raises:
        CheckpointError: as `load_transformer`; also a pickle with anything but tensors in it.
    """
    files = tokenizer_files(path)
    naming = tokenizer_naming(files.shapes)
    config = config or infer_tokenizer_config(files.shapes, naming, path)
    tokenizer = on_meta(lambda: VideoTokenizer(config))
    parameters = read_parameters(
        tokenizer,
        files,
        naming,
        device=device,
        dtype_of=lambda name: decoder_dtype if name.startswith("decoder.") else torch.float32,
        on_bytes=on_bytes,
    )
    tokenizer = _filled(tokenizer, parameters)
    tokenizer.decode_in(decoder_dtype)
    return tokenizer


def transformer_dtype(name: str, dtype: torch.dtype, *, eight_bit: bool = False) -> torch.dtype:
    """The dtype in which one of a transformer's parameters is read.

    The two heads are always float32; so are weights that are yet to be quantized.
    """
    in_full = name.split(".")[0].endswith("_head") or (eight_bit and is_eight_bit(name))
    return torch.float32 if in_full else dtype


def read_parameters(
    module: nn.Module,
    files: TensorFiles,
    naming: Naming,
    *,
    device: torch.device | str = "cpu",
    dtype_of: Callable[[str], torch.dtype],
    eight_bit: EightBitType | None = None,
    only: Callable[[str], bool] | None = None,
    on_bytes: Callable[[int], None] = _ignore,
) -> Iterator[tuple[str, Tensor]]:
    """A module's parameters out of files, by our names, one by one in the files' order.

    Of files with 8-bit weights their numbers and their scales, each as it is stored.

    Args:
        module: has the names and shapes; it may be on the meta device, and is not changed.
        files: where the tensors are.
        naming: how they are called there.
        device: where they go.
        dtype_of: of each parameter, by our name.
        eight_bit: the type of 8-bit weights that files may have; None: they may have none.
        only: whether a parameter is wanted, by our name; all are checked for. None: all.
        on_bytes: receives the size of every tensor that was read.

    Raises:
        CheckpointError: before the first, a tensor missing, unknown or of the wrong shape, or 8-bit
            weights of a type not wanted; at its turn, one of a wrong dtype or not finite.
    """
    if files.eight_bit not in (None, eight_bit):
        raise CheckpointError(
            f"{files.path} holds {files.eight_bit} weights, which cannot become other numbers",
            remedies=(files.eight_bit,),
        )
    ours = {naming.name_in_file(name): name for name, _ in module.named_parameters()}
    wanted = {name: tuple(module.get_parameter(own).shape) for name, own in ours.items()}
    dtypes = {name: dtype_of(own) for name, own in ours.items()}
    if files.eight_bit:
        for name in filter(is_eight_bit, list(ours)):  # a copy's names are ours
            scales = name + EIGHT_BIT_SCALES
            ours[scales], wanted[scales] = scales, (wanted[name][0], 1)
            dtypes[scales], dtypes[name] = torch.float32, TYPES[files.eight_bit]
    _check_names(files, wanted, naming)
    if only is not None:
        ours = {name: own for name, own in ours.items() if only(own)}
    for name, tensor in files.tensors(ours):
        # 8-bit numbers are nothing without their scales, so they are not made of others.
        is_exact = dtypes[name].itemsize == 1
        if tensor.dtype != dtypes[name] if is_exact else not tensor.is_floating_point():
            kind = dtypes[name] if is_exact else "floats"
            raise CheckpointError(f"{files.path}: tensor {name} holds {tensor.dtype}, not {kind}")
        value = tensor.to(device, dtypes[name], copy=True)
        if not torch.isfinite(value.sum(dtype=torch.float32)):
            raise CheckpointError(f"{files.path}: tensor {name} holds values that are not finite")
        yield ours[name], value
        on_bytes(tensor.nbytes)


def on_meta(build: Callable[[], _Module]) -> _Module:
    """A module without memory: its parameters have names and shapes only."""
    with torch.device("meta"):
        return build()


def _filled(module: _Module, parameters: Iterable[tuple[str, Tensor]]) -> _Module:
    """A module with these parameters in place of its own."""
    for name, value in parameters:
        owner, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(owner), attribute, nn.Parameter(value, requires_grad=False))
    return module.eval()


def _check_names(
    files: TensorFiles,
    wanted: Mapping[str, tuple[int, ...]],
    naming: Naming,
) -> None:
    missing = sorted(set(wanted) - set(files.shapes))
    if missing:
        raise CheckpointError(f"{files.path}: missing {_some(missing)}")
    unknown = sorted(n for n in files.shapes if n not in wanted and not naming.is_unused(n))
    if unknown:
        raise CheckpointError(
            f"{files.path}: unknown {_some(unknown)}; is this an InfinityStar checkpoint?"
        )
    for name, shape in wanted.items():
        if files.shapes[name] != shape:
            raise CheckpointError(
                f"{files.path}: tensor {name} is {files.shapes[name]}, expected {shape}"
            )


def _some(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    shown = ", ".join(names[:_NAMES_SHOWN])
    return f"{counted(len(names), 'tensor')}: {shown}" + (f" and {more} more" if more > 0 else "")
