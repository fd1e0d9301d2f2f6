"""The released models, and which of several to use.

A custom checkpoint describes itself in an `istar.json` beside its weights, see
`istar.models.manifest`.
"""

from __future__ import annotations

from dataclasses import replace

from istar.errors import CheckpointError
from istar.generation.guidance import GuidanceConfig
from istar.generation.sampling import SamplingConfig
from istar.generation.schedule import PIXEL_BUDGETS
from istar.model_spec import InteractConfig, ModelSpec, PromptForm, Source
from istar.request import Mode

_RELEASED_APG = SamplingConfig(
    guidance=GuidanceConfig(kind="apg", scale=34), tau_image=1.0, tau_video=0.4
)
_RELEASED_CFG = SamplingConfig(
    guidance=GuidanceConfig(kind="cfg", scale=3), tau_image=0.5, tau_video=0.5
)
_RELEASED_PROMPT = PromptForm(
    prefix="<<<t={seconds}s>>>",
    suffix=", Close-up on big objects, emphasize scale and detail",
)

WEIGHT_BYTES_ON_GPU = 20_967_201_750
"""All weights of a released model in a GPU's default dtypes: bf16, and float16 for the text
encoder; the heads, what encodes pictures and the last layers of the text encoder's MLPs are
float32."""

WEIGHT_BYTES_ON_CPU = 40_706_226_012
"""The same in float32."""

_INTERACT_REPEATS = (3,) * 12 + (2, 1)

_REPO = "FoundationVision/InfinityStar"
_BASE_REVISION = "3314b0be103da41aea086bcde67e7a47b5218b0a"
_BASE = Source(
    repo=_REPO,
    revision=_BASE_REVISION,
    transformer_revision=_BASE_REVISION,
    licence="MIT",
    # In float32 8.77 B parameters of the transformer and 2.85 B of Flan-T5-XL; the tokenizer.
    expected_bytes=47_000_000_000,
)

RELEASED_MODELS = (
    ModelSpec(
        name="720p",
        transformer="infinitystar_8b_720p_weights",
        pixel_budget=PIXEL_BUDGETS["0.90M"],
        semantic_scales=12,
        image_repeats=(3,) * 15,
        video_repeats=(3,) * 12 + (2, 1, 1),
        sampling=_RELEASED_APG,
        prompt=_RELEASED_PROMPT,
        max_seconds=5,
        extends=False,
        source=_BASE,
    ),
    ModelSpec(
        name="480p",
        transformer="infinitystar_8b_480p_weights",
        pixel_budget=PIXEL_BUDGETS["0.40M"],
        semantic_scales=11,
        image_repeats=(3,) * 14,
        video_repeats=(3,) * 12 + (2, 1),
        sampling=_RELEASED_APG,
        prompt=_RELEASED_PROMPT,
        max_seconds=10,
        source=_BASE,
    ),
    ModelSpec(
        name="interact",
        transformer="InfinityStarInteract_24K_iters",
        pixel_budget=PIXEL_BUDGETS["0.40M"],
        semantic_scales=11,
        image_repeats=_INTERACT_REPEATS,
        video_repeats=_INTERACT_REPEATS,
        sampling=_RELEASED_CFG,
        prompt=_RELEASED_PROMPT,
        max_seconds=5,
        extends=False,
        interact=InteractConfig(repeats=_INTERACT_REPEATS, sampling=_RELEASED_CFG),
        # The interactive transformer came after the commit of the base models.
        source=replace(_BASE, transformer_revision="main"),
    ),
)
"""The released models, in the order in which they are preferred."""


def fitting(
    models: tuple[ModelSpec, ...],
    mode: Mode,
    *,
    resolution: str | None = None,
    seconds: float | None = None,
) -> tuple[ModelSpec, ...]:
    """The models that fit best of those that a checkpoint directory holds, in their order.

    First those of the resolution asked for; then those that were trained for the mode; then those
    that make `seconds` in one pass.

    Raises:
        CheckpointError: none makes that resolution, or can do that at all.
    """
    if len(models) == 1:  # several are released ones, which have no such bounds
        models[0].check_possible(mode, seconds)
    able = [model for model in models if model.interact or mode != "interact"]
    if not able:
        raise CheckpointError(
            "this checkpoint cannot interact: it has no interactive model "
            "(InfinityStarInteract_24K_iters)",
            remedies=("extend", "other_model"),
        )
    if resolution:
        offered = ", ".join(dict.fromkeys(model.pixel_budget.resolution for model in able))
        able = [model for model in able if model.pixel_budget.resolution == resolution]
        if not able:
            raise CheckpointError(
                f"this checkpoint makes {offered}, not {resolution}",
                remedies=("any_model", "other_model"),
            )
    misfits = [
        (
            mode == "extend" and not model.extends,
            seconds is not None and mode != "extend" and seconds > model.max_seconds,
            mode != "interact" and model.interact is not None and not model.extends,
        )
        for model in able
    ]
    least = min(misfits)
    return tuple(model for model, misfit in zip(able, misfits, strict=True) if misfit == least)


def choose(
    models: tuple[ModelSpec, ...],
    mode: Mode,
    *,
    resolution: str | None = None,
    seconds: float | None = None,
) -> ModelSpec:
    """The first of the models that fit best, see `fitting`; so does it raise."""
    return fitting(models, mode, resolution=resolution, seconds=seconds)[0]
