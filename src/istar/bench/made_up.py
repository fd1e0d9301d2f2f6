"""Networks of a model's sizes whose weights come from no file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from istar.checkpoint.names import tokenizer_naming, transformer_naming
from istar.checkpoint.read import (
    SafetensorFiles,
    infer_tokenizer_config,
    infer_transformer_config,
    tokenizer_files,
    transformer_dtype,
)
from istar.model_spec import ModelSpec
from istar.models.download_events import DownloadListener, ignore
from istar.models.find import FoundModel
from istar.networks import Networks
from istar.placement import Placement
from istar.text_encoder import TextEncoder, text_encoder_dtype
from istar.transformer.config import TransformerConfig
from istar.transformer.model import Transformer
from istar.video_tokenizer.config import VideoTokenizerConfig
from istar.video_tokenizer.model import VideoTokenizer

_TEXT_TOKENS = 100

Fill = Callable[[str, Tensor], None]
"""Gives a parameter, by its name, its values."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of a model's networks; the defaults are the released models'.

    Attributes:
        transformer: of the transformer.
        tokenizer: of the video tokenizer.
        text_encoder: a directory that describes the text encoder; None for Flan-T5-XL.
    """

    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    tokenizer: VideoTokenizerConfig = field(default_factory=VideoTokenizerConfig)
    text_encoder: Path | None = None

    @classmethod
    def of(cls, model: FoundModel, on_event: DownloadListener = ignore) -> Sizes:
        """A model's sizes. Those of a released one are known, of others the files are looked at.

        Raises:
            HubError: files cannot be fetched.
            CheckpointError: a file does not show a size.
        """
        if model.spec.source is not None:
            return cls()
        files = model.files(on_event)
        transformer, tokenizer = model.spec.transformer_config, model.spec.tokenizer_config
        if transformer is None:
            shapes = SafetensorFiles(files.transformer).shapes
            naming = transformer_naming(shapes)
            transformer = infer_transformer_config(shapes, naming, files.transformer)
        if tokenizer is None:
            shapes = tokenizer_files(files.tokenizer).shapes
            tokenizer = infer_tokenizer_config(shapes, tokenizer_naming(shapes), files.tokenizer)
        return cls(transformer=transformer, tokenizer=tokenizer, text_encoder=files.text_encoder)


def text_tokens(sizes: Sizes) -> int:
    """The length of every text: nothing tokenizes it without files, and a hundred is common."""
    return min(_TEXT_TOKENS, sizes.transformer.text_positions)


def random_weights(device: torch.device, seed: int = 0) -> Fill:
    """Draw weights under which activations neither vanish nor explode."""
    generator = torch.Generator(device).manual_seed(seed)

    def fill(name: str, parameter: Tensor) -> None:
        if parameter.ndim == 1 or name.endswith("gain"):
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)

    return fill


def no_values(name: str, parameter: Tensor) -> None:
    """Leave a fake tensor as it is."""


def made_up_networks(spec: ModelSpec, sizes: Sizes, placement: Placement, fill: Fill) -> Networks:
    """Networks as `Networks.load` makes them, filled by a function.

    Args:
        spec: how the model is run.
        sizes: of its networks.
        placement: where they go.
        fill: gives every parameter its values.
    """

    def filled(module: nn.Module, dtype_of: Callable[[str], torch.dtype]) -> None:
        made: dict[int, nn.Parameter] = {}  # one parameter may have several names
        for name, shape in [*module.named_parameters(remove_duplicate=False)]:
            if id(shape) not in made:
                value = torch.empty(shape.shape, dtype=dtype_of(name), device=placement.device)
                fill(name, value)
                made[id(shape)] = nn.Parameter(value, requires_grad=False)
            owner, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(owner), attribute, made[id(shape)])
        module.eval()

    with torch.device("meta"):
        transformer = Transformer(sizes.transformer)
        tokenizer = VideoTokenizer(sizes.tokenizer)
    text_encoder = TextEncoder.without_weights(
        sizes.text_encoder,
        max_tokens=sizes.transformer.text_positions,
        tokens=text_tokens(sizes),
    )
    filled(transformer, lambda name: transformer_dtype(name, placement.dtype))
    filled(tokenizer, lambda _: torch.float32)
    half = placement.text_encoder_dtype
    filled(text_encoder.module, lambda name: text_encoder_dtype(name, half))
    return Networks(spec, transformer, tokenizer, text_encoder, together=placement.together)
