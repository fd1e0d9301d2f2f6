"""The files of a model's networks: each is loaded when it is asked for, to where it belongs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch

from istar.checkpoint.encoder_files import encoder_channels
from istar.checkpoint.read import load_blocks, load_transformer, load_video_tokenizer
from istar.errors import CheckpointError, Remedy
from istar.model_spec import ModelSpec
from istar.models.download_events import DownloadListener, LoadProgress, ignore
from istar.models.find import ModelFiles
from istar.models.repository import HubPlace
from istar.placement import Placement
from istar.text_encoder import TextEncoder
from istar.transformer.model import Transformer
from istar.transformer.streaming import resident_numbers, stream_blocks
from istar.video_tokenizer.model import VideoTokenizer

_HOST = torch.device("cpu")


class NetworkSource(Protocol):
    """Where the networks of a model come from: `NetworkFiles`, or a benchmark's random weights.

    Attributes:
        placement: where they compute, and in which numbers.
        place: where on the Hub they are from; None where that is not known.
    """

    placement: Placement
    place: HubPlace | None

    @property
    def text_channels(self) -> int:
        """Features that the text encoder gives a token."""

    def tokenizer(self, *, stays: bool) -> VideoTokenizer:
        """The video tokenizer, on the device, or waiting in host memory."""

    def transformer(self) -> Transformer:
        """The transformer without its blocks, which are on the meta device."""

    def load_blocks(self, transformer: Transformer, resident: int | None) -> None:
        """Give a transformer its blocks.

        Args:
            transformer: has none.
            resident: how many lie on the device, the others in host memory; None: all.
        """

    def text_encoder(self, *, max_tokens: int) -> TextEncoder:
        """The text encoder, on the device."""

    def loaded(self) -> None:
        """Report no more: what comes now comes in the middle of a generation."""


class NetworkFiles:
    """Loads the networks of one model from its files.

    What encodes pictures is float32 in any placement: in bf16 some of the bits that it gives for
    them would be others.

    Attributes:
        placement: where they compute, and in which numbers.
        place: where on the Hub they are from; None where that is not known.
    """

    def __init__(
        self,
        spec: ModelSpec,
        files: ModelFiles,
        placement: Placement,
        *,
        if_damaged: tuple[Remedy, ...] = (),
        on_event: DownloadListener = ignore,
    ) -> None:
        self.placement = placement
        self.place = files.place
        self._spec = spec
        self._files = files
        self._if_damaged = if_damaged
        self._progress = _Progress(spec.name, files, on_event)

    @property
    def text_channels(self) -> int:
        """Features that the text encoder gives a token."""
        with self._explained():
            return encoder_channels(self._files.text_encoder)

    def tokenizer(self, *, stays: bool) -> VideoTokenizer:
        """The video tokenizer, on the device, or waiting in host memory.

        Raises:
            CheckpointError: a file or tensor is missing or malformed.
        """
        with self._explained(), self._progress.part("video tokenizer"):
            return load_video_tokenizer(
                self._files.tokenizer,
                self._spec.tokenizer_config,
                device=self.placement.device if stays else _HOST,
                decoder_dtype=self.placement.decoding_dtype,
                on_bytes=self._progress.add,
            )

    def transformer(self) -> Transformer:
        """The transformer without its blocks.

        Raises:
            CheckpointError: a file is missing or malformed, or one of these tensors.
        """
        with self._explained():
            return load_transformer(
                self._files.transformer,
                self._spec.transformer_config,
                device=self.placement.device,
                dtype=self.placement.dtype,
                eight_bit=self.placement.eight_bit,
                with_blocks=False,
            )

    def load_blocks(self, transformer: Transformer, resident: int | None) -> None:
        """Give a transformer its blocks, see `NetworkSource`.

        Raises:
            CheckpointError: a tensor is malformed.
        """
        device = self.placement.device
        depth = transformer.config.depth
        on_device = resident_numbers(depth, depth if resident is None else resident)
        with self._explained(), self._progress.part("transformer"):
            for where, numbers in (
                (device, on_device),
                (_HOST, frozenset(range(depth)) - on_device),
            ):
                load_blocks(
                    transformer,
                    self._files.transformer,
                    device=where,
                    dtype=self.placement.dtype,
                    eight_bit=self.placement.eight_bit,
                    numbers=numbers,
                    on_bytes=self._progress.add,
                )
        if resident is not None:
            stream_blocks(transformer, device, resident=resident)

    def text_encoder(self, *, max_tokens: int) -> TextEncoder:
        """The text encoder, on the device.

        Raises:
            CheckpointError: a file or tensor is missing or malformed.
        """
        with self._explained(), self._progress.part("text encoder"):
            return TextEncoder.from_directory(
                self._files.text_encoder,
                max_tokens=max_tokens,
                device=self.placement.device,
                dtype=self.placement.text_encoder_dtype,
            )

    def loaded(self) -> None:
        """Report no more: what comes now comes in the middle of a generation."""
        self._progress.end()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Add what helps if a file is damaged."""
        try:
            yield
        except CheckpointError as error:
            error.remedies = error.remedies or self._if_damaged
            raise


class _Progress:
    """How far loading a model is, by the sizes of its files."""

    def __init__(self, model: str, files: ModelFiles, on_event: DownloadListener) -> None:
        self._model = model
        self._on_event = on_event
        self._part = ""
        self._done = 0
        self._sizes = {
            "video tokenizer": _bytes_of(files.tokenizer),
            "transformer": _bytes_of(files.transformer),
            "text encoder": _bytes_of(files.text_encoder),
        }

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Load one of the networks inside."""
        self._part, before = name, self._done
        self.add(0)
        yield
        self.add(before + self._sizes[name] - self._done)

    def add(self, count: int) -> None:
        """So many bytes more are read."""
        self._done += count
        total = sum(self._sizes.values())
        self._on_event(
            LoadProgress(model=self._model, part=self._part, done=self._done, total=total)
        )

    def end(self) -> None:
        """Report to nobody."""
        self._on_event = ignore


def _bytes_of(path: Path) -> int:
    """The size of a file, or of the weights in a directory; 0 where nothing is."""
    weights = path.glob("*.safetensors") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in weights if file.is_file())
