"""The three networks of a model: texts to features, pictures to latents and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from istar.checkpoint.read import load_transformer, load_video_tokenizer
from istar.errors import CheckpointError, GenerationError
from istar.model_spec import ModelSpec
from istar.models.download_events import DownloadListener, LoadProgress, ignore
from istar.models.find import ModelFiles
from istar.placement import Placement, exact_convolutions, explained_memory_errors
from istar.text_encoder import TextEncoder, check_text_encoder
from istar.transformer.model import Transformer
from istar.video_tokenizer.config import SPATIAL_STRIDE
from istar.video_tokenizer.model import VideoTokenizer, to_range


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The encoded prompts of a window.

    Attributes:
        features: `(L, text_channels)` of the conditional branch and, with guidance, of the other.
        notes: for the person.
    """

    features: tuple[Tensor, ...]
    notes: tuple[str, ...]


class Networks:
    """The three networks of one model.

    Attributes:
        spec: how the model is run.
        transformer: predicts bits.
        tokenizer: pictures to latents and back.
        text_encoder: texts to features.
        together: guidance's branches are computed as one batch.
        strip_rows: rows of a latent that are decoded at once; None for all.

    Raises:
        CheckpointError: the networks' sizes do not fit each other.
    """

    def __init__(
        self,
        spec: ModelSpec,
        transformer: Transformer,
        tokenizer: VideoTokenizer,
        text_encoder: TextEncoder,
        *,
        together: bool = False,
        strip_rows: int | None = None,
    ) -> None:
        for what, theirs, ours in (
            ("text encoder", text_encoder.channels, transformer.config.text_channels),
            ("tokenizer", tokenizer.config.latent_channels, transformer.config.latent_channels),
        ):
            if theirs != ours:
                raise CheckpointError(
                    f"the {what} has {theirs} channels and the transformer reads {ours}: "
                    "they do not belong together"
                )
        self.spec = spec
        self.transformer = transformer
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self.together = together
        self.strip_rows = strip_rows

    @classmethod
    def load(
        cls,
        spec: ModelSpec,
        files: ModelFiles,
        placement: Placement,
        *,
        on_event: DownloadListener = ignore,
    ) -> Networks:
        """Load the networks of a model from its files.

        Args:
            spec: how the model is run.
            files: where its networks are.
            placement: where they go.
            on_event: receives how far loading is.

        Raises:
            CheckpointError: a file or tensor is missing or malformed.
            DeviceError: memory ran out.
        """
        device, loading = placement.device, _Loading(spec.name, files, on_event)
        # The text encoder is loaded last, and what is wrong with its files is said at once.
        check_text_encoder(files.text_encoder)
        with explained_memory_errors("loading the model"):
            with loading.part("video tokenizer"):
                tokenizer = load_video_tokenizer(
                    files.tokenizer,
                    spec.tokenizer_config,
                    device=device,
                    decoder_dtype=placement.decoding_dtype,
                    on_bytes=loading.add,
                )
            with loading.part("transformer"):
                transformer = load_transformer(
                    files.transformer,
                    spec.transformer_config,
                    device=device,
                    dtype=placement.dtype,
                    on_bytes=loading.add,
                )
            with loading.part("text encoder"):
                text_encoder = TextEncoder.from_directory(
                    files.text_encoder,
                    max_tokens=transformer.config.text_positions,
                    device=device,
                    dtype=placement.text_encoder_dtype,
                )
        return cls(spec, transformer, tokenizer, text_encoder, together=placement.together)

    @property
    def fingerprint(self) -> str:
        """A hash of a few weights that are float32 in every placement: it names the weights."""
        digest = sha256()
        for linear in (
            self.transformer.semantic_head,
            self.transformer.detail_head,
            self.tokenizer.project_out,
        ):
            digest.update(linear.weight.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def texts(
        self, prompt: str, negative_prompt: str, *, guided: bool, empty: bool = False
    ) -> Texts:
        """Features of each branch's text.

        Args:
            prompt: the conditional branch's text, in the model's prompt form.
            negative_prompt: the other branch's; empty for the learned unconditional features.
            guided: there is another branch.
            empty: nothing but the prompt form is in the text: the learned unconditional features
                take its place, as training does with a share of all texts.
        """
        encoded = self.text_encoder.encode(prompt)
        learned = self.transformer.unconditional[: len(encoded.features)]
        features, notes = [learned if empty else encoded.features], []
        if encoded.cut:
            notes.append("the prompt is longer than the model reads; its end was left out")
        if guided and negative_prompt:
            encoded = self.text_encoder.encode(negative_prompt)
            features.append(encoded.features)
            if encoded.cut:
                notes.append("the negative prompt is longer than the model reads; it was cut")
        elif guided:
            features.append(learned)
        return Texts(features=tuple(features), notes=tuple(notes))

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents `(1, C, T, h, w)` of pictures `(F, H, W, 3)`, uint8."""
        x = to_range(pictures.to(self.transformer.device).unsqueeze(0))
        with torch.inference_mode(), exact_convolutions():
            return self.tokenizer.encode(x)

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures `(F, H, W, 3)`, uint8, on the CPU, of a whole video's latents.

        Raises:
            GenerationError: the decoder's output is not a number.
        """
        return torch.cat(list(self.pictures(latents)))

    def pictures(self, latents: Tensor, *, skip: int = 0) -> Iterator[Tensor]:
        """The pictures of a video's latents, those of one latent frame at a time.

        Args:
            latents: `(1, C, T, h, w)`, from the video's beginning.
            skip: latent frames at the beginning whose pictures are not wanted.

        Yields:
            `(F, H, W, 3)`, uint8, on the CPU, for every latent frame from `skip` on.

        Raises:
            GenerationError: the decoder's output is not a number.
        """
        height = latents.shape[3] * SPATIAL_STRIDE
        pieces = self.tokenizer.decode_pieces(latents, skip=skip, strip_rows=self.strip_rows)
        strips: dict[int, list[Tensor]] = {}
        while True:
            with torch.inference_mode(), exact_convolutions():
                piece = next(pieces, None)
                if piece is None:
                    return
                own = strips.setdefault(piece.frame, [])
                own.append(_to_bytes(piece.pictures))
                is_whole = piece.row + piece.pictures.shape[3] == height
                del piece
            if is_whole:
                # Outside inference mode: whoever gets the pictures may change them.
                yield torch.cat(strips.pop(min(strips)), dim=1)


class _Loading:
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


def _bytes_of(path: Path) -> int:
    """The size of a file, or of the weights in a directory; 0 where nothing is."""
    weights = path.glob("*.safetensors") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in weights if file.is_file())


def _to_bytes(x: Tensor) -> Tensor:
    """Pictures `(1, 3, F, H, W)` around [-1, 1] as `(F, H, W, 3)`, uint8, cut to whole numbers."""
    if not torch.isfinite(x).all():
        raise GenerationError("the decoder's output is not a number; the weights may be damaged")
    levels = ((x[0] + 1) / 2).clamp(0, 1).mul(255).to(torch.uint8)
    return levels.permute(1, 2, 3, 0).contiguous().cpu()
