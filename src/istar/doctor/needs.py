"""What a model needs here, counted from its sizes: weights alone, without what is computed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from istar.model_spec import ModelSpec
from istar.transformer.config import TransformerConfig
from istar.video_tokenizer.config import VideoTokenizerConfig

Fit = Literal["yes", "no", "none", "unknown"]
"""Whether something fits; `none`: there is nothing that it could be put into."""

_FLOAT32, _FLOAT16 = 4, 2


@dataclass(frozen=True, kw_only=True)
class TextEncoderSizes:
    """Sizes of a T5 encoder with a gated MLP; the defaults are Flan-T5-XL's, as published."""

    width: int = 2048
    mlp_width: int = 5120
    depth: int = 24
    heads: int = 32
    head_size: int = 64
    vocabulary: int = 32128
    distances: int = 32


@dataclass(frozen=True, kw_only=True)
class ModelNeeds:
    """What a model needs, and whether it is here; sizes in bytes.

    Attributes:
        name: of the model.
        gpu_bytes: weights alone in the default dtypes on a GPU: bf16, heads and tokenizer in
            float32, and the text encoder in float16. Generating needs more.
        host_bytes: weights alone in float32, for computing on the CPU. Generating needs more.
        fetch_bytes: what is still to be fetched; 0 for a model that is here.
        fits_gpu: the weights fit the free memory of the roomiest GPU.
        fits_host: the weights fit the memory that is available.
        fits_disk: what is still to be fetched fits the cache's disk.
    """

    name: str
    gpu_bytes: int
    host_bytes: int
    fetch_bytes: int
    fits_gpu: Fit
    fits_host: Fit
    fits_disk: Fit

    @property
    def is_here(self) -> bool:
        """Nothing of it is to be fetched."""
        return not self.fetch_bytes

    @property
    def may_run(self) -> bool:
        """Its weights fit somewhere, as far as is known."""
        return not {self.fits_gpu, self.fits_host}.isdisjoint(("yes", "unknown"))


def needs_of(
    spec: ModelSpec,
    fetch_bytes: int,
    *,
    gpu_free: Iterable[int | None],
    host_free: int | None,
    disk_free: int | None,
) -> ModelNeeds:
    """What a model needs, against what is free.

    Args:
        spec: the model; its released sizes are taken where it does not state others.
        fetch_bytes: what of it is not here.
        gpu_free: free bytes of each GPU; None of one whose memory is unknown.
        host_free: bytes of the host's memory.
        disk_free: bytes of the cache's disk.
    """
    transformer = spec.transformer_config or TransformerConfig()
    tokenizer = spec.tokenizer_config or VideoTokenizerConfig()
    gpu_bytes = weight_bytes_on_gpu(transformer, tokenizer)
    host_bytes = weight_bytes_on_cpu(transformer, tokenizer)
    return ModelNeeds(
        name=spec.name,
        gpu_bytes=gpu_bytes,
        host_bytes=host_bytes,
        fetch_bytes=fetch_bytes,
        fits_gpu=fit(gpu_bytes, gpu_free),
        fits_host=fit(host_bytes, [host_free]),
        fits_disk=fit(fetch_bytes, [disk_free]),
    )


def bundled_needs(
    spec: ModelSpec,
    parameters: int,
    *,
    gpu_free: Iterable[int | None],
    host_free: int | None,
) -> ModelNeeds:
    """What the bundled model needs: at most all its parameters in float32, and no fetching."""
    size = _FLOAT32 * parameters
    return ModelNeeds(
        name=spec.name,
        gpu_bytes=size,
        host_bytes=size,
        fetch_bytes=0,
        fits_gpu=fit(size, gpu_free),
        fits_host=fit(size, [host_free]),
        fits_disk="yes",
    )


def fit(needed: int, free: Iterable[int | None]) -> Fit:
    """Whether bytes fit into one of several places, of which None is not known."""
    places = list(free)
    if any(place is not None and place >= needed for place in places):
        return "yes"
    if None in places:
        return "unknown"
    return "no" if places else "none"


def weight_bytes_on_gpu(
    transformer: TransformerConfig,
    tokenizer: VideoTokenizerConfig,
    text_encoder: TextEncoderSizes | None = None,
) -> int:
    """Bytes of all weights as they lie on a GPU by default."""
    text_encoder = text_encoder or TextEncoderSizes()
    # float32 in any case: the two heads, the tokenizer, and the MLPs' last layers, which
    # transformers keeps so when the text encoder is float16.
    kept = (
        _head_parameters(transformer)
        + tokenizer_parameters(tokenizer)
        + _mlp_parameters(text_encoder)
    )
    parameters = transformer_parameters(transformer) + text_encoder_parameters(text_encoder)
    halved = parameters - _head_parameters(transformer) - _mlp_parameters(text_encoder)
    return _FLOAT16 * halved + _FLOAT32 * kept


def weight_bytes_on_cpu(
    transformer: TransformerConfig,
    tokenizer: VideoTokenizerConfig,
    text_encoder: TextEncoderSizes | None = None,
) -> int:
    """Bytes of all weights in float32, as they lie on a CPU by default."""
    return _FLOAT32 * (
        transformer_parameters(transformer)
        + tokenizer_parameters(tokenizer)
        + text_encoder_parameters(text_encoder or TextEncoderSizes())
    )


def transformer_parameters(config: TransformerConfig) -> int:
    """Parameters of `istar.transformer.model.Transformer`."""
    queries = config.heads * config.head_size
    shared = config.key_value_heads * config.head_size
    attention = 2 * config.width * (queries + shared) + 2 * config.head_size
    block = 2 * config.width + attention + 3 * config.width * config.mlp_width
    return (
        config.text_positions * config.text_channels
        + _linear(config.text_channels, config.width)
        + _linear(config.latent_channels, config.width)
        + config.depth * block
        + config.width
        + _head_parameters(config)
    )


def _head_parameters(config: TransformerConfig) -> int:
    return _linear(config.width, 2 * config.semantic_bits) + _linear(
        config.width, 2 * config.latent_channels
    )


def tokenizer_parameters(config: VideoTokenizerConfig) -> int:
    """Parameters of `istar.video_tokenizer.model.VideoTokenizer`."""
    first, *_, last = config.channels
    bottleneck = config.bottleneck_channels
    return (
        _convolution(3, first)
        + sum(2 * _residual(width) for width in (*config.channels[:4], last))
        + sum(
            width + _convolution(width, following // 4)
            for width, following in zip(config.channels[:3], config.channels[1:4], strict=True)
        )
        + last
        + _convolution(last, 2 * bottleneck)
        + _decoder_parameters(config)
        + 2 * _linear(config.latent_channels, config.latent_channels)
        + 4
    )


def _decoder_parameters(config: VideoTokenizerConfig) -> int:
    widths, bottleneck = config.channels[::-1], config.bottleneck_channels

    def conditioned_norm(width: int) -> int:
        return width + 2 * _linear(bottleneck, width)

    def block(width: int) -> int:
        return 2 * conditioned_norm(width) + 2 * _convolution(width, width)

    def way_up(level: int) -> int:
        copies = 4 if level == 1 else 8
        return widths[level] + _convolution(widths[level], copies * widths[level + 1])

    return (
        _convolution(bottleneck, widths[0])
        + 2 * block(widths[0])
        + sum(3 * block(width) for width in widths[:4])
        + sum(way_up(level) for level in (1, 2, 3))
        + conditioned_norm(widths[4])
        + _convolution(widths[4], 3)
    )


def _residual(width: int) -> int:
    return 2 * width + 2 * _convolution(width, width)


def text_encoder_parameters(sizes: TextEncoderSizes) -> int:
    """Parameters of a T5 encoder with its embedding, as transformers builds it."""
    attention = 4 * sizes.width * sizes.heads * sizes.head_size
    block = attention + 3 * sizes.width * sizes.mlp_width + 2 * sizes.width
    return (
        sizes.vocabulary * sizes.width
        + sizes.distances * sizes.heads
        + sizes.depth * block
        + sizes.width
    )


def _mlp_parameters(sizes: TextEncoderSizes) -> int:
    """Those of all MLPs' last layers."""
    return sizes.depth * sizes.mlp_width * sizes.width


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def _convolution(inputs: int, outputs: int) -> int:
    """Of 3×3×3."""
    return 27 * inputs * outputs + outputs
