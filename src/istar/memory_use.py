"""What a generation takes, by arithmetic: the sizes of its networks and of what they compute.

The constants are counts of the running code on tensors without content; tests compare them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import torch

from istar.checkpoint.encoder_files import encoder_bytes
from istar.checkpoint.infer import stored_tokenizer_config, stored_transformer_config
from istar.checkpoint.read import on_meta, transformer_dtype
from istar.generation.schedule import Template, nearest_template
from istar.model_spec import ModelSpec
from istar.models.download_events import ignore
from istar.models.find import FoundModel, ModelFiles
from istar.models.released import WEIGHT_BYTES_ON_CPU, WEIGHT_BYTES_ON_GPU
from istar.placement import Placement
from istar.plan import (
    Window,
    interact_of,
    plan_request,
    windows_after,
    windows_from_start,
)
from istar.request import GenerationRequest, Mode
from istar.transformer.config import TransformerConfig
from istar.transformer.eight_bit import is_eight_bit
from istar.transformer.model import Transformer
from istar.video_tokenizer.config import (
    FRAMES_PER_SECOND,
    SPATIAL_STRIDE,
    VideoTokenizerConfig,
)
from istar.video_tokenizer.model import VideoTokenizer

_IMAGE_UNITS, _VIDEO_UNITS = 6.1, 26.1
"""What encoding holds: so many pictures of the first layer's channels, in float32."""

_DECODE_UNITS, _STRIP_UNITS, _STRIP_MARGIN = 5.6, 5.1, 2
"""What decoding a latent frame holds, in groups of four such pictures: of a whole one, and of a
strip with some rows around it."""

_FRAME_PICTURES = 4

_TEXT_BYTES = 64
"""What encoding a text holds besides weights, for each channel of each token."""


@dataclass(frozen=True, kw_only=True)
class NetworkSizes:
    """The bytes of a model's networks, as they are loaded.

    Attributes:
        config: the transformer's sizes.
        tokenizer_config: the video tokenizer's.
        block: of one of the transformer's blocks.
        outside: of the transformer's weights that are in no block.
        tokenizer: of the video tokenizer.
        text_encoder: of the text encoder.
    """

    config: TransformerConfig
    tokenizer_config: VideoTokenizerConfig
    block: int
    outside: int
    tokenizer: int
    text_encoder: int

    @property
    def whole(self) -> int:
        """All three networks."""
        return self.config.depth * self.block + self.outside + self.tokenizer + self.text_encoder

    @classmethod
    def of_found(cls, model: FoundModel, placement: Placement) -> NetworkSizes | None:
        """Those of a model that was found; nothing is fetched.

        Those of a published one are known. None of another whose files are not here.

        Raises:
            CheckpointError: a file is malformed.
        """
        if not model.is_here and model.spec.source is None:
            return None
        return cls.of(model.files(ignore) if model.is_here else None, model.spec, placement)

    @classmethod
    def of(cls, files: ModelFiles | None, spec: ModelSpec, placement: Placement) -> NetworkSizes:
        """Those of a model's files, by their headers; without files, of a released model.

        Raises:
            CheckpointError: a file is missing or malformed.
        """
        half = placement.text_encoder_dtype == torch.float16
        if files is None:
            config, tokenizer_config = TransformerConfig(), VideoTokenizerConfig()
        else:
            text_encoder = encoder_bytes(files.text_encoder, half=half)
            config = spec.transformer_config or stored_transformer_config(files.transformer)
            tokenizer_config = spec.tokenizer_config or stored_tokenizer_config(files.tokenizer)
        block, outside = _transformer_bytes(config, placement)
        tokenizer = _tokenizer_bytes(tokenizer_config, placement.decoding_dtype)
        if files is None:
            plain = Placement(
                device=placement.device, dtype=torch.bfloat16 if half else torch.float32
            )
            known = WEIGHT_BYTES_ON_GPU if half else WEIGHT_BYTES_ON_CPU
            plain_block, plain_outside = _transformer_bytes(config, plain)
            text_encoder = known - tokenizer - plain_outside - config.depth * plain_block
        return cls(
            config=config,
            tokenizer_config=tokenizer_config,
            block=block,
            outside=outside,
            tokenizer=tokenizer,
            text_encoder=text_encoder,
        )


class StepTokens(NamedTuple):
    """The tokens of a step.

    Attributes:
        own: its own.
        kept: its own that later steps look at.
        contexts: of every run that it looks at and that each branch has for itself.
        shared: of those that the branches share.
    """

    own: int
    kept: int
    contexts: tuple[int, ...]
    shared: int


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a generation computes, in tokens and pictures.

    Attributes:
        steps: all of them.
        branches: of guidance.
        latent: rows and columns of a latent.
        latent_frames: most that are decoded in one go.
        given_pictures: most that are encoded in one go.
        encodes_later: pictures are encoded for a later window, too.
        reads_later: texts may come later, too.
    """

    steps: tuple[StepTokens, ...]
    branches: int
    latent: tuple[int, int]
    latent_frames: int
    given_pictures: int
    encodes_later: bool
    reads_later: bool

    @classmethod
    def usual(cls, spec: ModelSpec, mode: Mode, seconds: float | None = None) -> Work:
        """What a model computes in a mode where nothing else is asked for.

        Raises:
            CheckpointError: the model cannot do it.
        """
        seconds = spec.default_seconds if seconds is None else seconds
        given = spec.clip_seconds if mode in ("extend", "interact") else 0
        if mode == "interact":
            new = Window(given_seconds=0, new_seconds=spec.clip_seconds, interactive=True)
            windows: tuple[Window, ...] = (new,)
        elif mode == "extend":
            windows = windows_after(given, seconds, spec)
        else:
            windows = windows_from_start(0 if mode == "t2i" else seconds, spec)
        pictures = FRAMES_PER_SECOND * given + 1 if given else int(mode == "i2v")
        template = nearest_template(spec.aspect)
        return cls.of(windows, spec, template, pictures=pictures)

    @classmethod
    def of_request(
        cls, request: GenerationRequest, spec: ModelSpec, template: Template, *, pictures: int
    ) -> Work:
        """What a request computes.

        Args:
            request: what is made.
            spec: the model.
            template: the ratio of the output.
            pictures: how many it starts from: 1 of a picture, those of a clip, or 0.

        Raises:
            CheckpointError: the model cannot interact.
        """
        given = 0 if request.image is not None else pictures
        plan = plan_request(request, spec, template, given_pictures=given)
        if request.mode == "interact":
            plan = plan.with_prompt(request.prompts[-1])  # another prompt may come
        guided = any(
            plan.sampling(number, request).guidance.scale != 1
            for number in range(len(plan.windows))
        )
        pictures = pictures or int(any(image is not None for image in request.images))
        return cls.of(plan.windows, spec, template, pictures=pictures, branches=1 + guided)

    @classmethod
    def of(
        cls,
        windows: Sequence[Window],
        spec: ModelSpec,
        template: Template,
        *,
        pictures: int,
        branches: int = 2,
    ) -> Work:
        """What windows compute.

        Args:
            windows: the passes.
            spec: the model.
            template: the ratio of the output.
            pictures: how many it starts from: 1 of a picture, those of a clip, or 0.
            branches: of guidance.
        """
        interactive = any(window.interactive for window in windows)
        clip = FRAMES_PER_SECOND * spec.clip_seconds + 1
        later = [window.given_pictures for window in windows[1:]]
        return cls(
            steps=tuple(
                step for window in windows for step in _step_tokens(window, spec, template)
            ),
            branches=branches,
            latent=spec.pixel_budget.scales(template)[-1],
            latent_frames=max(
                sum(window.clip_lengths(spec)) + (spec.clip_frames if window.interactive else 0)
                for window in windows
            ),
            given_pictures=max(min(pictures, clip), *later, 0),
            encodes_later=any(later),
            reads_later=interactive,
        )


class StepBytes(NamedTuple):
    """What a step takes besides weights.

    Attributes:
        contexts: keys and values on the device.
        host_contexts: those in host memory.
        computing: everything else on the device.
    """

    contexts: int
    host_contexts: int
    computing: int


def step_bytes(
    step: StepTokens,
    work: Work,
    config: TransformerConfig,
    placement: Placement,
    *,
    rows_at_once: int,
    host_contexts_from: int | None,
) -> StepBytes:
    """What a step takes besides weights; the last arguments are those of a memory plan."""
    size = placement.dtype.itemsize
    shared_heads = config.key_value_heads * config.head_size
    all_heads = config.heads * config.head_size
    # 1. Keys and values of all layers.
    contexts = host_contexts = 0
    runs = [(tokens, work.branches) for tokens in (*step.contexts, step.kept)]
    for tokens, copies in (*runs, (step.shared, 1)):
        taken = 2 * size * config.depth * shared_heads * tokens * copies
        if host_contexts_from is not None and tokens >= host_contexts_from:
            host_contexts += taken
        else:
            contexts += taken
    # 2. One layer: every branch's stream, the turns of every pair, a few copies of the canvas; and
    # of one branch queries, what they saw, keys and values.
    seen = step.own + sum(step.contexts) + step.shared
    # Without CUDA's kernels for half precision keys and values are repeated for every query head.
    shares = placement.device.type == "cuda" and placement.dtype != torch.float32
    repeated = 0 if shares else all_heads
    attention = size * 2 * (all_heads * step.own + (shared_heads + repeated) * seen)
    # 3. Or the widest tensors of some rows.
    rows = min(rows_at_once, step.own)
    wide = size * rows * 2 * (config.mlp_width + config.width)
    stream = size * work.branches * config.width * step.own
    stream += 4 * step.own * (config.head_size + 4 * config.latent_channels)
    # 4. Of 8-bit weights the largest, multiplied out, and its product before it is scaled.
    if placement.eight_bit:
        numbers = 2 * torch.float32.itemsize if placement.eight_bit == "fp8" else 0
        wide += (numbers + size) * config.width * config.mlp_width + size * rows * config.mlp_width
    return StepBytes(contexts, host_contexts, stream + max(attention, wide))


def text_bytes(config: TransformerConfig) -> int:
    """What encoding the longest text takes."""
    return _TEXT_BYTES * config.text_positions * config.text_channels


def encode_bytes(work: Work, config: VideoTokenizerConfig) -> int:
    """What encoding the given pictures takes."""
    if not work.given_pictures:
        return 0
    pixels = _pixels(work)
    units = _IMAGE_UNITS if work.given_pictures == 1 else _VIDEO_UNITS
    return int(4 * units * pixels * config.channels[0]) + 4 * 3 * pixels * work.given_pictures


def decode_bytes(
    work: Work, config: VideoTokenizerConfig, itemsize: int, strip_rows: int | None
) -> int:
    """What decoding takes, whole or in strips."""
    height, width = work.latent
    unit = itemsize * _FRAME_PICTURES * _pixels(work) * config.channels[0]
    if strip_rows is None or strip_rows >= height:
        return int(_DECODE_UNITS * unit)
    kept = itemsize * 4 * height * width * config.channels[-1] * work.latent_frames
    return kept + int(_STRIP_UNITS * unit * min(height, strip_rows + _STRIP_MARGIN) / height)


def picture_bytes(work: Work) -> int:
    """The given pictures, uint8, and those of a second that are being written."""
    return 3 * _pixels(work) * (work.given_pictures + FRAMES_PER_SECOND)


def _pixels(work: Work) -> int:
    height, width = work.latent
    return SPATIAL_STRIDE**2 * height * width


def condition_tokens(window: Window, spec: ModelSpec, template: Template) -> int:
    """The tokens of the frames that an interactive window continues; else 0."""
    if not window.interactive:
        return 0
    scales = spec.pixel_budget.scales(template)
    height, width = scales[interact_of(spec).context_scale]
    full_height, full_width = scales[-1]
    return spec.clip_frames * height * width + 3 * full_height * full_width


def _step_tokens(window: Window, spec: ModelSpec, template: Template) -> Iterator[StepTokens]:
    steps = window.steps(spec, template)
    text = spec.transformer_config or TransformerConfig()
    shared = condition_tokens(window, spec, template)
    for step in steps:
        looked_at = (steps[index].grid.tokens for index in step.looks_at)
        yield StepTokens(
            own=step.grid.tokens,
            kept=step.grid.tokens if step.read_later else 0,
            contexts=(text.text_positions, *looked_at),
            shared=shared,
        )


@lru_cache
def _transformer_bytes(config: TransformerConfig, placement: Placement) -> tuple[int, int]:
    """The bytes of a block, and of what is in no block."""
    network = on_meta(lambda: Transformer(replace(config, depth=1)))
    sizes = {
        name: weight.numel() + 4 * len(weight)
        if placement.eight_bit and is_eight_bit(name)
        else weight.numel() * transformer_dtype(name, placement.dtype).itemsize
        for name, weight in network.named_parameters()
    }
    block = sum(size for name, size in sizes.items() if name.startswith("blocks.0."))
    outside = sum(size for name, size in sizes.items() if not name.startswith("blocks."))
    return block, outside


@lru_cache
def _tokenizer_bytes(config: VideoTokenizerConfig, decoding: torch.dtype) -> int:
    """The bytes of a video tokenizer; encoding is always in float32."""
    network = on_meta(lambda: VideoTokenizer(config))
    return sum(
        weight.numel() * (decoding if name.startswith("decoder.") else torch.float32).itemsize
        for name, weight in network.named_parameters()
    )
