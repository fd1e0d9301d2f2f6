"""Settings of training runs.

A run names a manifest, the `istar.json` of the model to train, which fixes the pyramid and the
sizes of the networks; the rest is about the training. `istar.training.run_file` reads it from TOML.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from istar.errors import UsageError
from istar.lab.world import WHOLE_WORLD, World
from istar.model_spec import FloatType
from istar.request import SECONDS_STEP
from istar.training.checks import (
    at_least,
    below_seed_limit,
    check_aspects,
    check_source,
    check_unchanged,
    positive,
    share,
)
from istar.training.results_config import SamplesConfig, ValidationConfig
from istar.video_tokenizer.config import SPATIAL_STRIDE


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The course of a run.

    Attributes:
        output: directory of everything the run writes; a run continues from a checkpoint in it.
        steps: optimizer steps in all.
        seed: of the initial weights and of all random numbers.
        learning_rate: after the warm-up; it then falls along a half cosine.
        warmup: steps over which the learning rate rises from nothing.
        last_share: the learning rate of the last step, as a share of the highest.
        optimizer: `adamw` for all weights, or `muon` for the matrices of transformer blocks and
            AdamW for the rest, at one learning rate; not for tokenizers.
        betas: of AdamW.
        weight_decay: of either optimizer, on matrices and kernels only.
        clip_norm: the largest norm of all gradients together.
        ema: decay of the moving average of the weights, which is what samples and exports use;
            it starts faster: min(ema, (1 + step) / (10 + step)).
        precision: what the forward pass computes in; weights and optimizer are float32.
        workers: processes that make batches; 0 makes them in the training process.
        shard: of several processes each holds a part of weights, average and optimizer; `false`
            keeps them whole in every one, which is faster where they fit.
        save_every: steps between checkpoints.
        keep: how many checkpoints stay.
        sample_every: steps between contact sheets.
        log_every: steps between lines of the log.
    """

    output: Path
    steps: int
    seed: int = 0
    learning_rate: float = 1e-3
    warmup: int = 100
    last_share: float = 0.02
    optimizer: Literal["adamw", "muon"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.97)
    weight_decay: float = 0.0
    clip_norm: float = 5.0
    ema: float = 0.999
    precision: FloatType = "fp32"
    workers: int = 0
    shard: bool = True
    save_every: int = 500
    keep: int = 2
    sample_every: int = 500
    log_every: int = 10

    def __post_init__(self) -> None:
        at_least(self, 1, "steps", "save_every", "sample_every", "log_every", "keep")
        at_least(self, 0, "seed", "warmup", "workers", "weight_decay")
        below_seed_limit(self.seed)
        positive(self, "learning_rate", "clip_norm")
        share(self, "ema", "last_share")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UsageError("run: betas must be from 0 up to 1")


@dataclass(frozen=True, kw_only=True)
class ClipsConfig:
    """Pictures to train a tokenizer on.

    Attributes:
        source: `shapes`, the procedural world, or `list`, local clips.
        list: the JSON-lines file that lists them, or a directory of such files.
        lengths: pictures of a clip, each 4n + 1; one is chosen at random for every batch.
        aspects: heights divided by widths; one is chosen at random for every batch.
        pictures: how many pictures a batch holds, about.
        crop: shapes only: the share of clips that are crops of larger pictures.
        window: shapes only: pixels of a side of the square around a subject that is cut out of
            each clip and quantized by a pyramid of its own; 0 takes all of it.
        world: shapes only: what its scenes may hold.
    """

    source: Literal["shapes", "list"] = "shapes"
    list: Path | None = None
    lengths: tuple[int, ...] = (1, 5, 9)
    aspects: tuple[float, ...] = (1.0,)
    pictures: int = 36
    crop: float = 0.5
    window: int = 0
    world: World = WHOLE_WORLD

    def __post_init__(self) -> None:
        at_least(self, 1, "pictures")
        check_source("data", self, "crop", "window", "world")
        if self.window < 0 or self.window % SPATIAL_STRIDE:
            raise UsageError(f"data: a window is a multiple of {SPATIAL_STRIDE}, not {self.window}")
        share(self, "crop")
        if not self.lengths or any(count < 1 or count % 4 != 1 for count in self.lengths):
            raise UsageError(f"data: lengths must be 4n + 1 pictures, not {self.lengths}")
        check_aspects("data", self.aspects)


@dataclass(frozen=True, kw_only=True)
class QuantizerConfig:
    """The quantizer's terms of a tokenizer's loss.

    Attributes:
        from_step: before it the autoencoder is trained without bits, as a continuous one.
        commitment: weight of the squared distance between a latent and the sum of its codes.
        entropy: weight of the entropy of single bits, which training lowers.
        diversity: weight of the entropy of bits over the batch, which training raises.
        sharpness: how steeply the probability of a bit rises with the residual, in units of the
            code's own length.
        drop_probability: stochastic quantizer depth: the chance of each of a clip's last scales to
            be left out.
        drop_most: how many scales, from the last on, may be left out.
    """

    from_step: int = 0
    commitment: float = 0.25
    entropy: float = 0.02
    diversity: float = 0.02
    sharpness: float = 2.0
    drop_probability: float = 0.3
    drop_most: int = 3

    def __post_init__(self) -> None:
        at_least(self, 0, "from_step", "commitment", "entropy", "diversity", "drop_most")
        positive(self, "sharpness")
        share(self, "drop_probability")


@dataclass(frozen=True, kw_only=True)
class ReconstructionConfig:
    """The reconstruction loss of a tokenizer.

    Attributes:
        absolute: weight of the mean absolute error.
        squared: weight of the mean squared error.
        relative: these two errors count in units of each clip's own standard deviation, so that
            low contrast counts as much; otherwise in those of pictures in [-1, 1].
        perceptual: weight of LPIPS, which needs the package `lpips`.
        adversarial: weight of the discriminator's term; 0 trains without one.
        adversarial_from: the step from which it counts.
    """

    absolute: float = 1.0
    squared: float = 0.0
    relative: bool = False
    perceptual: float = 0.0
    adversarial: float = 0.0
    adversarial_from: int = 0

    def __post_init__(self) -> None:
        at_least(self, 0, "absolute", "squared", "perceptual", "adversarial", "adversarial_from")


@dataclass(frozen=True, kw_only=True)
class InheritanceConfig:
    """Knowledge inheritance: a tokenizer that starts from another's weights.

    Attributes:
        weights: a tokenizer file.
        rescale: it was trained without bits: scale its latents to the length of a code.
        freeze: parts that are frozen at first: `encoder`, `decoder`.
        until: the step at which they begin to learn.
    """

    weights: Path | None = None
    rescale: bool = False
    freeze: tuple[Literal["encoder", "decoder"], ...] = ()
    until: int = 0

    def __post_init__(self) -> None:
        at_least(self, 0, "until")
        if bool(self.freeze) != (self.until > 0):
            raise UsageError(
                "inherit: freeze and until go together: which parts are frozen, and for how long"
            )
        if self.weights is None and (self.rescale or self.freeze):
            raise UsageError("inherit: there are no weights to rescale or to freeze")


@dataclass(frozen=True, kw_only=True)
class TokenizerTraining:
    """A run that trains a video tokenizer.

    Attributes:
        model: the manifest of the model to train.
    """

    model: Path
    run: RunConfig
    data: ClipsConfig = field(default_factory=ClipsConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    reconstruction: ReconstructionConfig = field(default_factory=ReconstructionConfig)
    inherit: InheritanceConfig = field(default_factory=InheritanceConfig)


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """A kind of example and its share of the batches.

    Attributes:
        kind: `start`, a video from its first picture on, or `interact`, a clip that continues the
            one before.
        seconds: `start`: its length; 0 is a picture.
        weight: how often it is the first example of a row, among all kinds; others that fit, more
            often short ones, fill the row up.
    """

    kind: Literal["start", "interact"] = "start"
    seconds: float = 0
    weight: float = 1

    def __post_init__(self) -> None:
        at_least(self, 0, "seconds", "weight")
        if self.seconds % SECONDS_STEP:
            raise UsageError(f"mix: seconds must be a multiple of {SECONDS_STEP}")
        if self.kind == "interact" and self.seconds:
            raise UsageError("mix: interact has no seconds, its length is a clip of the model's")


@dataclass(frozen=True, kw_only=True)
class LatentsConfig:
    """Prepared latents as training sequences.

    Attributes:
        sets: directories of prepared sets.
        mix: kinds of examples.
        rows: lengths of packed rows in tokens; one is chosen at random for every batch.
        tokens: of a batch, about.
        text_dropout: how often the learned unconditional features stand in for the text.
        shorten_dropped: half of the dropped texts are as short as an empty prompt; with `false` all
            keep their length.
        most_flips: bitwise self-correction: a step's bits flip with a chance of 0 up to this.
        finest_share: how often an example holds the finest scale of its last clip. Without it, an
            example learns the coarser scales alone, on which more hangs, in fewer tokens.
        short_captions: how often an example has a clip's short caption, or where it has none the
            first sentences of a caption.
        condition_noise: standard deviations of the noise on the context of interactive clips, of
            which each of its two blocks has one, chosen at random.
        weigh_by_magnitude: a bit's weight in the loss is proportional to the magnitude of the
            number whose sign it is; otherwise all bits of a step weigh the same, as in the paper.
    """

    sets: tuple[Path, ...]
    mix: tuple[MixConfig, ...]
    rows: tuple[int, ...] = (1024,)
    tokens: int = 8192
    text_dropout: float = 0.1
    shorten_dropped: bool = True
    most_flips: float = 0.3
    finest_share: float = 1.0
    short_captions: float = 0.0
    condition_noise: tuple[float, ...] = (0.0, 0.15, 0.3)
    weigh_by_magnitude: bool = False

    def __post_init__(self) -> None:
        at_least(self, 1, "tokens")
        share(self, "text_dropout", "most_flips", "finest_share", "short_captions")
        positive(self, "finest_share")
        if not self.rows or min(self.rows) < 1 or not self.sets or not self.condition_noise:
            raise UsageError("data: sets, rows and condition_noise cannot be empty")
        if min(self.condition_noise) < 0:
            raise UsageError("data: condition_noise must be at least 0")
        if sum(kind.weight for kind in self.mix) <= 0:
            raise UsageError("data: the weights of mix must have a sum above 0")


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The text encoder.

    Attributes:
        start: directory of an encoder to start from; without one a small new T5 with a byte-level
            tokenizer is trained.
        train: the encoder is trained too.
        layers: of a new one, whose features are the transformer's text channels.
        heads: of a new one's attention; they share the features.
        mlp_width: features inside the MLP of a new one.
    """

    start: Path | None = None
    train: bool = True
    layers: int = 3
    heads: int = 4
    mlp_width: int = 256

    def __post_init__(self) -> None:
        of_new = "layers", "heads", "mlp_width"
        at_least(self, 1, *of_new)
        if self.start:
            check_unchanged("text", self, of_new, "a new encoder, without start")
        elif not self.train:
            raise UsageError("text: a new encoder has to learn; give start to train = false")


@dataclass(frozen=True, kw_only=True)
class TransformerTraining:
    """A run that trains a transformer.

    Attributes:
        model: the manifest of the model to train.
        tokenizer: the file of its tokenizer, which is not trained.
        start: a transformer's weights to start from.
        recompute: gradient checkpointing, block by block.
        compile: fuse the operations of the transformer's blocks; the first steps take a minute
            longer. On a CPU it needs a C++ compiler.
    """

    model: Path
    tokenizer: Path
    run: RunConfig
    data: LatentsConfig
    text: TextConfig = field(default_factory=TextConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    start: Path | None = None
    recompute: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if both := set(self.data.sets) & set(self.validation.sets):
            raise UsageError(f"validation: {min(both)} is trained on")
