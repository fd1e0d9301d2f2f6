"""What a model is and can do: files, sizes, schedule, guidance, temperature, prompt form."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal, get_args

from istar.errors import CheckpointError
from istar.generation.sampling import SamplingConfig
from istar.generation.schedule import (
    LATENT_FRAMES_PER_SECOND,
    ContextKind,
    PixelBudget,
    PyramidKind,
)
from istar.request import SECONDS_STEP, GenerationRequest, Mode
from istar.transformer.config import TransformerConfig
from istar.video_tokenizer.config import VideoTokenizerConfig

FloatType = Literal["bf16", "fp32"]
"""The types of number that a transformer computes in; `istar.placement.DTYPES` are torch's."""

EightBitType = Literal["int8", "fp8"]
"""The 8-bit types of the linear weights in its blocks; see `istar.transformer.eight_bit`."""

Precision = Literal["bf16", "fp32", "int8", "fp8"]
"""A `FloatType`, or an `EightBitType` whose other weights are of the device's usual `FloatType`."""

_SECONDS_FIELD = "{seconds}"


@dataclass(frozen=True, kw_only=True)
class PromptForm:
    """What stands around a prompt before it is encoded.

    Attributes:
        prefix: before the prompt of every video; `{seconds}` is the whole video's length.
        suffix: after the prompt, but never in `interact`; a request can leave it out.
    """

    prefix: str = ""
    suffix: str = ""

    def __post_init__(self) -> None:
        if set("{}") & set(self.prefix.replace(_SECONDS_FIELD, "")):
            raise CheckpointError(
                f"the prompt prefix {self.prefix!r} may hold {_SECONDS_FIELD} and no other braces"
            )

    def apply(self, prompt: str, mode: Mode, seconds: float, *, suffix: bool) -> str:
        """The text to encode for `prompt`, in a video of `seconds` (ignored for an image)."""
        before = "" if mode == "t2i" else self.prefix.replace(_SECONDS_FIELD, f"{seconds:g}")
        after = self.suffix if suffix and mode != "interact" else ""
        return before + prompt + after


@dataclass(frozen=True, kw_only=True)
class InteractConfig:
    """How a model continues a video prompt by prompt.

    Attributes:
        repeats: predictions of each scale.
        sampling: guidance and temperature.
        context_scale: the scale, from 0, to whose grid the earlier frames are averaged.
    """

    repeats: tuple[int, ...]
    sampling: SamplingConfig
    context_scale: int = 7


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a model was published.

    Attributes:
        repo: the Hub's `owner/name`.
        revision: commit of the tokenizer and the text encoder, and a branch's name where the
            commit is not known.
        transformer_revision: of the transformer, where it came later.
        licence: of the weights.
        expected_bytes: approximate download size, until the Hub reports it.
    """

    repo: str
    revision: str
    transformer_revision: str
    licence: str
    expected_bytes: int


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One model: where its files lie in a checkpoint directory and how it is run.

    Attributes:
        name: what it is called.
        transformer: path, relative to the checkpoint directory, of its safetensors files.
        tokenizer: path of the video tokenizer, `.pth` or `.safetensors`.
        text_encoder: path of the directory that transformers loads.
        pixel_budget: the size of its pictures.
        semantic_scales: how many scales from the coarsest are semantic.
        image_repeats: predictions of each scale of the image clip.
        video_repeats: predictions of each scale of a video clip.
        sampling: guidance and temperature.
        prompt: what stands around prompts.
        aspect: height divided by width of what it makes where nothing else is asked for.
        clip_frames: latent frames of a full video clip, a multiple of 4: whole seconds. The
            released five seconds are 20.
        max_seconds: the longest video it makes in one pass.
        extends: it was trained to continue given clips.
        interact: how it runs prompt by prompt; None where it cannot.
        context: the tokens that a step looks at. With `full` there is no `interact`.
        pyramid: where a video's first frame belongs. With `one` a video cannot begin with a given
            picture or continue a given one: `extends` is false and `interact` None.
        transformer_config: the sizes, where they are stated; else they are read off the tensors.
        tokenizer_config: as `transformer_config`.
        notice: a line for everyone who uses the model.
        source: where it was published; None for a custom checkpoint.
        dtype: what its files hold, where they are a converted copy.

    Raises:
        CheckpointError: the settings do not fit together.
    """

    name: str
    transformer: str
    tokenizer: str = "infinitystar_videovae.pth"
    text_encoder: str = "text_encoder/flan-t5-xl-official"
    pixel_budget: PixelBudget
    semantic_scales: int
    image_repeats: tuple[int, ...]
    video_repeats: tuple[int, ...]
    sampling: SamplingConfig
    prompt: PromptForm = field(default_factory=PromptForm)
    aspect: float = 9 / 16
    clip_frames: int = 20
    max_seconds: float = 5
    extends: bool = True
    interact: InteractConfig | None = None
    context: ContextKind = "sparse"
    pyramid: PyramidKind = "image_first"
    transformer_config: TransformerConfig | None = None
    tokenizer_config: VideoTokenizerConfig | None = None
    notice: str = ""
    source: Source | None = None
    dtype: Precision | None = None

    @property
    def modes(self) -> tuple[Mode, ...]:
        """What it was trained for."""
        if self.interact and not self.extends:
            return ("interact",)
        if self.pyramid == "one":
            return ("t2i", "t2v")
        modes: tuple[Mode, ...] = ("t2i", "t2v", "i2v")
        if self.extends:
            modes += ("extend",)
        return (*modes, "interact") if self.interact else modes

    @property
    def clip_seconds(self) -> int:
        """Length of a full video clip."""
        return self.clip_frames // LATENT_FRAMES_PER_SECOND

    @property
    def default_seconds(self) -> float:
        """Default length: a full clip, or less if one pass makes no more."""
        return min(self.clip_seconds, self.max_seconds)

    def seconds_for(self, request: GenerationRequest) -> float:
        """The length that a request asks for, else the model's own; a picture has none."""
        if request.mode == "t2i":
            return 0
        # Whatever a prompt of `interact` brings is a full clip.
        own = self.clip_seconds if request.mode == "interact" else self.default_seconds
        return own if request.seconds is None else request.seconds

    @property
    def settings_hash(self) -> str:
        """A hash of the settings that decide bits, besides schedules: prompts and sampling."""
        settings = repr((self.prompt, self.sampling, self.interact))
        return sha256(settings.encode()).hexdigest()

    def check_possible(self, mode: Mode, seconds: float | None = None) -> None:
        """Refuse what its clips do not allow; a mode that it was not trained for is allowed.

        Args:
            mode: of the request.
            seconds: of the whole video; None for the model's own, which is always possible.

        Raises:
            CheckpointError: it has one pyramid, and would have to continue something given.
        """
        if self.pyramid != "one":
            return
        if mode not in self.modes:
            raise CheckpointError(
                f"the {self.name} model cannot do {mode}: it can continue neither a picture nor a "
                f"clip; it does {' and '.join(self.modes)}"
            )
        if mode == "t2v" and seconds is not None and seconds > self.max_seconds:
            raise CheckpointError(
                f"the {self.name} model makes at most {self.max_seconds:g} s, not {seconds:g}: it "
                "cannot continue a video",
                remedies=("fewer_seconds",),
            )

    def __post_init__(self) -> None:
        scales = len(self.pixel_budget.sides)
        repeats = {"image": self.image_repeats, "video": self.video_repeats}
        if self.interact:
            repeats["interact"] = self.interact.repeats
            if not 0 <= self.interact.context_scale < scales:
                raise CheckpointError(
                    f"{self.name}: interact's context scale must be one of the {scales} scales"
                )
        for kind, counts in repeats.items():
            if len(counts) != scales or min(counts) < 1:
                raise CheckpointError(
                    f"{self.name}: {kind} repeats must be {scales} positive numbers, not {counts}"
                )
        samplings = [self.sampling, *([self.interact.sampling] if self.interact else [])]
        if not all(sampling.suits(scales) for sampling in samplings):
            raise CheckpointError(
                f"{self.name}: a tau is one number, or one for each of the {scales} scales"
            )
        if not 0 <= self.semantic_scales <= scales:
            raise CheckpointError(f"{self.name}: semantic scales must be 0 to {scales}")
        if self.clip_frames < 1 or self.clip_frames % LATENT_FRAMES_PER_SECOND:
            raise CheckpointError(
                f"{self.name}: clip_frames must be a positive multiple of "
                f"{LATENT_FRAMES_PER_SECOND}, not {self.clip_frames}"
            )
        for name, value, kinds in (
            ("context", self.context, get_args(ContextKind)),
            ("pyramid", self.pyramid, get_args(PyramidKind)),
        ):
            if value not in kinds:
                raise CheckpointError(f"{self.name}: {name} is {' or '.join(kinds)}, not {value!r}")
        if self.context == "full" and self.interact:
            raise CheckpointError(f"{self.name}: with full context there can be no interact")
        if self.pyramid == "one" and (self.interact or self.extends):
            raise CheckpointError(
                f"{self.name}: with one pyramid extends must be false, and interact left out"
            )
        if not 0 < self.aspect < float("inf"):
            raise CheckpointError(f"{self.name}: aspect must be a positive number")
        if not 1 <= self.max_seconds < float("inf"):
            raise CheckpointError(f"{self.name}: max_seconds must be 1 or more")
        if self.max_seconds % SECONDS_STEP:
            raise CheckpointError(f"{self.name}: max_seconds must be a multiple of {SECONDS_STEP}")
