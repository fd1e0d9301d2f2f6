"""Networks of a model's sizes whose weights come from no file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from istar.checkpoint.infer import stored_tokenizer_config, stored_transformer_config
from istar.checkpoint.read import transformer_dtype
from istar.memory_plan import WHOLE, MemoryPlan
from istar.model_spec import EightBitType, ModelSpec
from istar.models.download_events import DownloadListener, ignore
from istar.models.find import FoundModel
from istar.models.repository import HubPlace
from istar.networks import Networks
from istar.placement import Placement
from istar.text_encoder import TextEncoder, text_encoder_dtype
from istar.transformer.config import TransformerConfig
from istar.transformer.eight_bit import assembled, is_eight_bit, quantized
from istar.transformer.model import Transformer
from istar.transformer.streaming import resident_numbers, stream_blocks
from istar.video_tokenizer.config import VideoTokenizerConfig
from istar.video_tokenizer.model import VideoTokenizer

_TEXT_TOKENS = 100
_HOST = torch.device("cpu")

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
        spec = model.spec
        transformer = spec.transformer_config or stored_transformer_config(files.transformer)
        tokenizer = spec.tokenizer_config or stored_tokenizer_config(files.tokenizer)
        return cls(transformer=transformer, tokenizer=tokenizer, text_encoder=files.text_encoder)


def text_tokens(sizes: Sizes) -> int:
    """The length of every text: nothing tokenizes it without files, and a hundred is common."""
    return min(_TEXT_TOKENS, sizes.transformer.text_positions)


def random_weights(device: torch.device) -> Fill:
    """Draw weights under which activations neither vanish nor explode."""
    generators = {place.type: torch.Generator(place).manual_seed(0) for place in (device, _HOST)}

    def fill(name: str, parameter: Tensor) -> None:
        if parameter.ndim == 1 or name.endswith("gain"):
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            generator = generators[parameter.device.type]
            parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)

    return fill


def no_values(name: str, parameter: Tensor) -> None:
    """Leave a fake tensor as it is."""


class MadeUpNetworks:
    """A source of networks, see `istar.network_files.NetworkSource`, that needs no files.

    Args:
        sizes: of the networks.
        placement: where they go.
        fill: gives every parameter its values.
    """

    def __init__(self, sizes: Sizes, placement: Placement, fill: Fill) -> None:
        self.placement = placement
        self.place: HubPlace | None = None
        self._sizes = sizes
        self._fill = fill

    @property
    def text_channels(self) -> int:
        """Features that the text encoder gives a token."""
        return self._sizes.transformer.text_channels

    def tokenizer(self, *, stays: bool) -> VideoTokenizer:
        """The video tokenizer, on the device, or waiting in host memory."""
        with torch.device("meta"):
            tokenizer = VideoTokenizer(self._sizes.tokenizer)
        decoding = self.placement.decoding_dtype
        self._give_values(
            tokenizer,
            lambda name: decoding if name.startswith("decoder.") else torch.float32,
            device=self.placement.device if stays else _HOST,
        )
        tokenizer.decode_in(decoding)
        return tokenizer

    def transformer(self) -> Transformer:
        """The transformer without its blocks."""
        with torch.device("meta"):
            transformer = Transformer(self._sizes.transformer)
        self._give_values(
            transformer, self._dtype, only=lambda name: not name.startswith("blocks.")
        )
        return transformer

    def load_blocks(self, transformer: Transformer, resident: int | None) -> None:
        """Give a transformer its blocks, see `istar.network_files.NetworkFiles`."""
        depth = transformer.config.depth
        on_device = resident_numbers(depth, depth if resident is None else resident)
        for number, block in enumerate(transformer.blocks):
            self._give_values(
                block,
                self._dtype,
                device=self.placement.device if number in on_device else _HOST,
                eight_bit=self.placement.eight_bit,
            )
        if resident is not None:
            stream_blocks(transformer, self.placement.device, resident=resident)

    def text_encoder(self, *, max_tokens: int) -> TextEncoder:
        """The text encoder, on the device."""
        encoder = TextEncoder.without_weights(
            self._sizes.text_encoder, max_tokens=max_tokens, tokens=text_tokens(self._sizes)
        )
        half = self.placement.text_encoder_dtype
        self._give_values(encoder.module, lambda name: text_encoder_dtype(name, half))
        return encoder

    def loaded(self) -> None:
        """Nothing is reported."""

    def _dtype(self, name: str) -> torch.dtype:
        return transformer_dtype(name, self.placement.dtype)

    def _give_values(
        self,
        module: nn.Module,
        dtype_of: Callable[[str], torch.dtype],
        *,
        only: Callable[[str], bool] = lambda name: True,
        device: torch.device | None = None,
        eight_bit: EightBitType | None = None,
    ) -> None:
        made: dict[int, nn.Parameter] = {}  # one parameter may have several names
        for name, shape in [*module.named_parameters(remove_duplicate=False)]:
            if not only(name):
                continue
            if id(shape) not in made:
                value = torch.empty(
                    shape.shape, dtype=dtype_of(name), device=device or self.placement.device
                )
                self._fill(name, value)
                if eight_bit and is_eight_bit(f"blocks.{name}"):
                    value = assembled(quantized(value.float(), eight_bit), value.dtype)
                made[id(shape)] = nn.Parameter(value, requires_grad=False)
            owner, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(owner), attribute, made[id(shape)])
        module.eval()


def made_up_networks(
    spec: ModelSpec,
    sizes: Sizes,
    placement: Placement,
    fill: Fill,
    plans: Sequence[MemoryPlan] = (WHOLE,),
) -> Networks:
    """Networks as they are loaded, filled by a function.

    Args:
        spec: how the model is run.
        sizes: of its networks.
        placement: where they go.
        fill: gives every parameter its values.
        plans: the memory plan, and those to step down to.
    """
    return Networks.load(spec, MadeUpNetworks(sizes, placement, fill), plans)
