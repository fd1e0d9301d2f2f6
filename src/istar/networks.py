"""A loaded model: it reads texts, takes steps, encodes and decodes pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from istar.checkpoint.read import load_transformer, load_video_tokenizer
from istar.errors import CheckpointError, GenerationError
from istar.generation.loop import advance, start
from istar.generation.sampling import SamplingConfig
from istar.generation.schedule import Step
from istar.model_spec import ModelSpec
from istar.models.find import ModelFiles
from istar.placement import exact_convolutions, explained_memory_errors, text_encoder_dtype
from istar.text_encoder import TextEncoder
from istar.transformer.cache import Context
from istar.transformer.model import Transformer
from istar.video_tokenizer.conv import FrameHistory
from istar.video_tokenizer.model import VideoTokenizer, to_range


class Networks:
    """The three networks of one model.

    Attributes:
        spec: how the model is run.
        transformer: predicts bits.
        tokenizer: pictures to latents and back.
        text_encoder: texts to features.

    Raises:
        CheckpointError: the networks' sizes do not fit each other.
    """

    def __init__(
        self,
        spec: ModelSpec,
        transformer: Transformer,
        tokenizer: VideoTokenizer,
        text_encoder: TextEncoder,
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

    @classmethod
    def load(
        cls, spec: ModelSpec, files: ModelFiles, device: torch.device, dtype: torch.dtype
    ) -> Networks:
        """Load the networks of a model from its files.

        The tokenizer is float32 whatever the `dtype`: in bf16 some of the bits that it gives for
        pictures would be others.

        Raises:
            CheckpointError: a file or tensor is missing or malformed.
            DeviceError: memory ran out.
        """
        with explained_memory_errors("loading the model"):
            tokenizer = load_video_tokenizer(files.tokenizer, spec.tokenizer_config, device=device)
            transformer = load_transformer(
                files.transformer, spec.transformer_config, device=device, dtype=dtype
            )
            text_encoder = TextEncoder.from_directory(
                files.text_encoder,
                max_tokens=transformer.config.text_positions,
                device=device,
                dtype=text_encoder_dtype(dtype, device),
            )
        return cls(spec, transformer, tokenizer, text_encoder)

    def encode_texts(
        self, prompt: str, negative_prompt: str, *, guided: bool
    ) -> tuple[list[Tensor], list[str]]:
        """Features of each branch's text, and notes about them.

        Args:
            prompt: the conditional branch's text, in the model's prompt form.
            negative_prompt: the other branch's; empty for the learned unconditional features.
            guided: there is another branch.

        Returns:
            one or two tensors `(L, text_channels)`, and what the person should know.
        """
        encoded = self.text_encoder.encode(prompt)
        features, notes = [encoded.features], []
        if encoded.cut:
            notes.append("the prompt is longer than the model reads; its end was left out")
        if guided and negative_prompt:
            encoded = self.text_encoder.encode(negative_prompt)
            features.append(encoded.features)
            if encoded.cut:
                notes.append("the negative prompt is longer than the model reads; it was cut")
        elif guided:
            features.append(self.transformer.unconditional[: len(features[0])])
        return features, notes

    def take_steps(
        self,
        steps: tuple[Step, ...],
        texts: Sequence[Tensor],
        sampling: SamplingConfig,
        generator: torch.Generator,
        *,
        given: Mapping[int, Tensor] | None = None,
        scene: Context | None = None,
    ) -> Iterator[tuple[Step, Tensor | None]]:
        """Take every step; beside each, at the end of a clip, the clip's latent.

        The arguments are those of `istar.generation.loop.start`; a latent is `(1, C, T, H, W)`.
        """
        with torch.inference_mode():
            state = start(self.transformer, steps, texts, generator, given=given, scene=scene)
        for step in steps:
            with torch.inference_mode():
                advance(self.transformer, state, sampling)
            yield step, state.latents[-1] if step.ends_clip else None

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents `(1, C, T, h, w)` of pictures `(F, H, W, 3)`, uint8."""
        x = to_range(pictures.to(self.transformer.device).unsqueeze(0))
        with torch.inference_mode(), exact_convolutions():
            return self.tokenizer.encode(x)

    def decode(self, latent: Tensor, history: FrameHistory) -> Tensor:
        """Pictures `(F, H, W, 3)`, uint8, on the CPU, of the next piece of a video's latents.

        Raises:
            GenerationError: the decoder's output is not a number.
        """
        with torch.inference_mode(), exact_convolutions():
            chunks = self.tokenizer.decode_piece(latent, history)
            return torch.cat([_to_bytes(chunk) for chunk in chunks])


def _to_bytes(x: Tensor) -> Tensor:
    """Pictures `(1, 3, F, H, W)` around [-1, 1] as `(F, H, W, 3)`, uint8, cut to whole numbers."""
    if not torch.isfinite(x).all():
        raise GenerationError("the decoder's output is not a number; the weights may be damaged")
    levels = ((x[0] + 1) / 2).clamp(0, 1).mul(255).to(torch.uint8)
    return levels.permute(1, 2, 3, 0).contiguous().cpu()
