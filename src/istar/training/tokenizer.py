"""Training the video tokenizer: pictures to latents to bits to pictures.

The loss is of the reconstruction after quantization, with what keeps latents near their codes and
their bits decided and used. Source: InfinityStar paper, section on the tokenizer; binary spherical
quantization (arXiv 2406.07548).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from istar.checkpoint.read import load_video_tokenizer, on_meta
from istar.checkpoint.write import save_video_tokenizer
from istar.errors import UsageError
from istar.generation.residual import quantized_latent
from istar.generation.schedule import Step, clip_lengths, clip_plans, nearest_template, steps
from istar.model_spec import ModelSpec
from istar.models.manifest import read_manifest
from istar.training.config import TokenizerTraining
from istar.training.discriminator import Discriminator, adversarial_terms
from istar.training.distributed import Share, Weights, averaged, gathered, summed
from istar.training.latents import MAKE_LATENTS
from istar.training.pictures import ClipSource
from istar.training.quantization import Quantized, quantize
from istar.training.seeds import seed_of
from istar.training.skipped import SkippedLine, SkippedRecord
from istar.training.task import Loss, Validation
from istar.transformer.config import TransformerConfig
from istar.video_tokenizer.config import VideoTokenizerConfig
from istar.video_tokenizer.conv import lay_channels_last
from istar.video_tokenizer.decoder import ConditionedNorm, ConditionedResidualBlock
from istar.video_tokenizer.encoder import ResidualBlock
from istar.video_tokenizer.model import VideoTokenizer, to_range

_PARTS = {
    "encoder": MAKE_LATENTS,
    "decoder": ("decoder.", "project_out."),
}
"""The weights that a frozen part keeps: those that make latents, or those that decode them."""

_SHEET_CLIPS = 6
_RESIDUAL_START = 0.3
_LEAST_SPREAD = 0.05


class ClipBatch(NamedTuple):
    """One step's clips.

    Attributes:
        pictures: `(B, F, H, W, 3)`, uint8.
        dropped: `(B, N)` booleans, which scales each clip is quantized without, from the last on.
        skipped: the lines of clips that could not be read, and that these replace.
    """

    pictures: Tensor
    dropped: Tensor
    skipped: Sequence[SkippedLine]


class TokenizerNetwork(nn.Module):
    """The networks of a tokenizer run: the tokenizer and, if wanted, its discriminator."""

    def __init__(self, config: VideoTokenizerConfig, *, adversarial: bool) -> None:
        super().__init__()
        self.tokenizer = VideoTokenizer(config)
        if adversarial:
            self.discriminator = Discriminator()

    def forward(
        self,
        x: Tensor,
        spec: ModelSpec,
        dropped: Tensor | None,
        sharpness: float | None,
        pooled: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, list[Quantized]]:
        """Pictures `(B, 3, F, H, W)` in [-1, 1] through latents and back.

        Without a `sharpness` there is no quantizer; of `pooled` see there.

        Returns:
            pictures of the same shape, and the quantizer's result for every clip.
        """
        latent = self.tokenizer.encode(x)
        if sharpness is None:
            return self.tokenizer.decode(latent), []
        quantized = [
            quantize(
                part,
                own,
                semantic_bits=semantic_bits_of(spec),
                sharpness=sharpness,
                dropped=dropped,
                pooled=pooled,
            )
            for part, own in clips_of(latent, spec)
        ]
        return self.tokenizer.decode(torch.cat([q.latent for q in quantized], dim=2)), quantized


class TokenizerTask:
    """A tokenizer run, see `istar.training.task.Task`."""

    validation: Validation | None = None

    def __init__(self, config: TokenizerTraining) -> None:
        self.config = config
        self.spec = read_manifest(config.model)
        self._sizes = self.spec.tokenizer_config or VideoTokenizerConfig()
        scales = len(self.spec.pixel_budget.sides)
        if config.quantizer.drop_most >= scales:
            raise UsageError(
                f"quantizer: drop_most must be below {scales}, the scales of a clip, not "
                f"{config.quantizer.drop_most}"
            )
        self._clips = ClipSource(config.data, self.spec.pixel_budget)
        self._invalid_lines = self._clips.skipped
        self._record = SkippedRecord(config.run.output)
        torch.manual_seed(config.run.seed)
        self.network: nn.Module = TokenizerNetwork(
            self._sizes, adversarial=config.reconstruction.adversarial > 0
        )
        initialize(self.network.get_submodule("tokenizer"))
        lay_channels_last(self.network)
        inherit = config.inherit
        if inherit.weights:
            inherited = load_video_tokenizer(inherit.weights, self._sizes)
            self.network.get_submodule("tokenizer").load_state_dict(inherited.state_dict())
            if inherit.rescale:
                self._rescale_latents()
        self.frozen_until: Mapping[str, int] = {
            f"tokenizer.{name}": inherit.until for part in inherit.freeze for name in _PARTS[part]
        }
        self._perceptual = _perceptual() if config.reconstruction.perceptual else None

    def starting_weights(self) -> Weights:
        """Empty: every process builds the network, which is small, with its weights."""
        return ()

    def hidden_matrices(self) -> Sequence[Tensor]:
        """Empty: its matrices project into and out of latents, the rest are convolutions."""
        return ()

    def batch(self, step: int, share: Share) -> ClipBatch:
        """This process's clips of a step, and the scales that each loses."""
        config = self.config
        pictures, skipped = self._clips.batch(config.run.seed, step, share)
        numbers = range(share.rank, share.rank + share.processes * len(pictures), share.processes)
        dropped = [self._dropped(seed_of(config.run.seed, "depth", step, n)) for n in numbers]
        return ClipBatch(pictures, torch.stack(dropped), skipped)

    def _dropped(self, seed: int) -> Tensor:
        """Which of its last scales a clip loses, from the last on."""
        generator = torch.Generator().manual_seed(seed)
        quantizer = self.config.quantizer
        chances = torch.rand(quantizer.drop_most, generator=generator)
        return chances < quantizer.drop_probability

    def remarks(self, batch: ClipBatch) -> tuple[str, ...]:
        """Which lines of its list of clips are skipped, and why: the first of each kind, once.

        The first process lists all of them in the run's directory, those of former starts too.
        """
        if self.config.data.source != "list":
            return ()
        found = [*self._invalid_lines, *batch.skipped]
        self._invalid_lines = []
        new = gathered(self._record.unmet(found))
        notes = self._record.add(new)
        if new and Share.of_this_process().rank == 0:
            self._record.write()
        return notes

    def loss(self, batch: ClipBatch, step: int, device: torch.device) -> Loss:
        """Reconstruction, commitment and the bits' entropies.

        A process's means weigh as many clips as they are of.
        """
        weights, quantizer = self.config.reconstruction, self.config.quantizer
        x = to_range(batch.pictures.to(device))
        bits = step >= quantizer.from_step
        clips = torch.tensor(float(len(x)), device=device)
        share = clips * Share.of_this_process().processes / summed(clips)
        y, quantized = self.network(
            x,
            self.spec,
            batch.dropped,
            quantizer.sharpness if bits else None,
            lambda mean: averaged(share * mean),
        )
        absolute, squared = share * F.l1_loss(y, x), share * F.mse_loss(y, x)
        judged = absolute, squared
        if weights.relative:
            unit = spread(x)
            judged = share * F.l1_loss(y / unit, x / unit), share * F.mse_loss(y / unit, x / unit)
        total = weights.absolute * judged[0] + weights.squared * judged[1]
        measures = {"absolute": absolute, "psnr": -10 * (averaged(squared) / 4).log10()}
        if self.config.data.source == "list":
            measures["skipped"] = summed(torch.tensor(float(len(batch.skipped))))
        if quantized:
            means = [
                torch.stack(values).mean()
                for values in zip(*(q[1:] for q in quantized), strict=True)
            ]
            commitment, entropy, diversity = share * means[0], share * means[1], means[2]
            total = total + quantizer.commitment * commitment
            total = total + quantizer.entropy * entropy - quantizer.diversity * diversity
            measures |= {"commitment": commitment, "entropy": entropy, "diversity": diversity}
        if self._perceptual is not None:
            distances = self._perceptual.to(device)(
                *(z.transpose(1, 2).flatten(0, 1) for z in (y, x))
            )
            perceptual = share * distances.mean()
            total = total + weights.perceptual * perceptual
            measures["perceptual"] = perceptual
        if weights.adversarial and step >= weights.adversarial_from:
            terms = adversarial_terms(self.network.get_submodule("discriminator"), x, y)
            generator, discriminator = (share * term for term in terms)
            total = total + weights.adversarial * generator + discriminator
            measures |= {"generator": generator, "discriminator": discriminator}
        return Loss(total, {name: value.detach() for name, value in measures.items()})

    def export(self, weights: Mapping[str, Tensor], directory: Path) -> None:
        """Write the tokenizer where the manifest says, with the released names."""
        path = directory / self.spec.tokenizer
        path.parent.mkdir(parents=True, exist_ok=True)
        save_video_tokenizer(path, self._built(weights))

    def sample(self, weights: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """Two rows: pictures of clips, always the same, and their reconstructions.

        Scenes of the procedural world are not trained on; listed clips are those of training.
        """
        tokenizer = self._built(weights).to(device).eval()
        clips = self._clips.batch(seed_of("sheet"), 0, Share())[0][:_SHEET_CLIPS]
        x = to_range(clips.to(device))
        with torch.inference_mode():
            y = reconstruct(tokenizer, x, self.spec)
        rows = [z[:, :, -1].permute(2, 0, 3, 1).flatten(1, 2) for z in (x, y)]  # H B·W 3
        sheet = ((torch.cat(rows) + 1) / 2).clamp(0, 1).mul(255).to(torch.uint8)
        return {"step": sheet.cpu()}

    def _rescale_latents(self) -> None:
        """Scale latents so that their spread is the length of a detail token's code."""
        tokenizer = self.network.get_submodule("tokenizer")
        assert isinstance(tokenizer, VideoTokenizer)
        clips, _ = self._clips.batch(self.config.run.seed, 0, Share())
        with torch.no_grad():
            length = tokenizer.encode(to_range(clips)).std() * self._sizes.latent_channels**0.5
            tokenizer.latent_scales[0] /= length

    def _built(self, weights: Mapping[str, Tensor]) -> VideoTokenizer:
        tokenizer = on_meta(partial(VideoTokenizer, self._sizes))
        own = {
            name.removeprefix("tokenizer."): value
            for name, value in weights.items()
            if name.startswith("tokenizer.")
        }
        tokenizer.load_state_dict(own, assign=True)
        return tokenizer


def spread(x: Tensor) -> Tensor:
    """The standard deviation `(B, 1, 1, 1, 1)` of each clip's values about their channel's mean.

    Args:
        x: `(B, C, F, H, W)` in [-1, 1]. What spreads less than a fortieth of that counts as that:
            a clip of one colour must not outweigh all others.
    """
    variance = x.flatten(2).var(dim=2, correction=0).mean(dim=1)
    return variance.sqrt().clamp_min(_LEAST_SPREAD).view(-1, 1, 1, 1, 1)


def reconstruct(
    tokenizer: VideoTokenizer, x: Tensor, spec: ModelSpec, *, scales: int | None = None
) -> Tensor:
    """Pictures `(B, 3, F, H, W)` in [-1, 1] after latents, bits and back, not clamped.

    Args:
        tokenizer: whose latents they are.
        x: the pictures.
        spec: whose pyramid it is.
        scales: how many scales' bits are kept, from the coarsest; all when absent.
    """
    latent = tokenizer.encode(x)
    clips = [
        quantized_latent(
            part,
            [step for step in own if scales is None or step.scale < scales],
            semantic_bits=semantic_bits_of(spec),
        )
        for part, own in clips_of(latent, spec)
    ]
    return tokenizer.decode(torch.cat(clips, dim=2))


def clips_of(latent: Tensor, spec: ModelSpec) -> list[tuple[Tensor, tuple[Step, ...]]]:
    """A video's latent `(B, C, T, h, w)` clip by clip, each with its steps.

    A grid that is not one of the model's has the same pyramid, ending at its own size.
    """
    frames, height, width = latent.shape[2:]
    scales, repeats, semantic = _pyramid(spec, height, width)
    lengths = clip_lengths(frames, spec.clip_frames, spec.pyramid)
    plans = clip_plans(lengths, image_repeats=repeats[0], video_repeats=repeats[1])
    schedule = steps(plans, scales, semantic_scales=semantic)
    clips = []
    for number in range(len(plans)):
        own = tuple(step for step in schedule if step.clip == number)
        first, count = own[0].first_frame, own[0].full_grid.frames
        clips.append((latent[:, :, first : first + count], own))
    return clips


def _pyramid(
    spec: ModelSpec, height: int, width: int
) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, ...], tuple[int, ...]], int]:
    """Scales, repeats of image and video clips, and the number of semantic scales for a grid."""
    scales = spec.pixel_budget.scales(nearest_template(height / width))
    repeats = (spec.image_repeats, spec.video_repeats)
    semantic = spec.semantic_scales
    if scales[-1] != (height, width):
        smaller = tuple(scale for scale in scales if scale[0] < height and scale[1] < width)
        scales = (*smaller, (height, width))
        image, video = ((*counts[: len(smaller)], counts[-1]) for counts in repeats)
        repeats = (image, video)
        semantic = min(semantic, len(smaller))
    return scales, repeats, semantic


def semantic_bits_of(spec: ModelSpec) -> int:
    """Bits of a token on the semantic scales of a model."""
    return (spec.transformer_config or TransformerConfig()).semantic_bits


def initialize(tokenizer: nn.Module) -> None:
    """Starting weights under which pictures pass: conditioned norms begin as plain ones.

    The last convolution of every residual block starts small.
    """
    for module in tokenizer.modules():
        if isinstance(module, ConditionedNorm):
            nn.init.zeros_(module.gain.weight)
            nn.init.zeros_(module.bias.weight)
            for convolution, start in ((module.gain, 1.0), (module.bias, 0.0)):
                assert convolution.bias is not None
                nn.init.constant_(convolution.bias, start)
        elif isinstance(module, ResidualBlock | ConditionedResidualBlock):
            with torch.no_grad():
                module.conv2.weight.mul_(_RESIDUAL_START)


def _perceptual() -> nn.Module:
    """LPIPS, frozen.

    Raises:
        UsageError: the package is not installed.
    """
    try:
        import lpips
    except ImportError as error:
        raise UsageError(
            "a perceptual weight needs the package lpips: pip install lpips, or set it to 0"
        ) from error
    network: nn.Module = lpips.LPIPS(net="vgg", verbose=False)
    return network.requires_grad_(False)
