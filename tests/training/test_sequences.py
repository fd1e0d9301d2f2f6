"""Training sequences: they are what the generation loop would go through."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from istar.generation.loop import commit, predict, read_conditions, start
from istar.generation.residual import bits_of_latent
from istar.generation.schedule import (
    PIXEL_BUDGETS,
    ClipPlan,
    ContextKind,
    Step,
    clip_lengths,
    clip_plans,
    nearest_template,
    steps,
)
from istar.training.packing import PackedBatch, pack, visible
from istar.training.sequences import (
    DETAIL,
    NO_LOSS,
    SEMANTIC,
    Example,
    Run,
    SequenceConfig,
    run_of,
    step_weight,
    tokens_of,
)
from istar.training.transformer import BatchLogits, block_mask
from istar.transformer.cache import Context
from istar.transformer.model import Transformer
from istar.transformer.rope import Rotation, rotation
from istar.transformer.rows import Row

SCALES = ((1, 1), (2, 3), (4, 6))
PLAIN = SequenceConfig(most_flips=0.0, condition_noise=(0.0,))


def schedule(
    *frames: int, repeats: tuple[int, ...] = (1, 1, 1), context: ContextKind = "sparse"
) -> tuple[Step, ...]:
    clips = [ClipPlan(frames=count, repeats=repeats) for count in frames]
    return steps(clips, SCALES, semantic_scales=1, context=context)


def latents(clips: tuple[Step, ...], random: torch.Generator) -> tuple[Tensor, ...]:
    grids = [step.full_grid for step in clips if step.starts_clip]
    return tuple(torch.randn(64, *grid, generator=random) / 4 for grid in grids)


def example(
    random: torch.Generator, *frames: int, length: int = 5, context: ContextKind = "sparse"
) -> Example:
    clips = schedule(*frames, context=context)
    return Example(
        text=torch.arange(1, length + 1),
        unconditional=False,
        steps=clips,
        latents=latents(clips, random),
    )


def features(texts: list[Tensor], channels: int) -> Tensor:
    """Stand-ins for a text encoder's features, a function of the ids."""
    angles = torch.cat(texts).float()[:, None] * torch.arange(1, channels + 1)
    return angles.sin()


def teacher_forced(transformer: Transformer, batch: PackedBatch, **others: object) -> BatchLogits:
    """Logits of packed rows, computed without the training network."""
    rows, length, _ = batch.inputs.shape
    texts = [t[:n] for t, n in zip(batch.texts, batch.text_lengths.tolist(), strict=True)]
    x = transformer.embed_latents(batch.inputs).flatten(0, 1)
    text = transformer.embed_text(features(texts, transformer.config.text_channels))
    x = x.index_copy(0, batch.text_positions, text).unflatten(0, (rows, length))
    turned = rotation(batch.coordinates.flatten(0, 1), transformer.config.head_size)
    turned = Rotation(*(value.unflatten(0, (rows, 1, length)) for value in turned))
    mask = others.get("mask", visible(batch.group, batch.looks_at).unsqueeze(1))
    ((y, _),) = transformer([Row(x, turned, mask=mask)])
    return BatchLogits(
        transformer.logits(y[batch.kind == SEMANTIC][None], semantic=True)[0],
        transformer.logits(y[batch.kind == DETAIL][None], semantic=False)[0],
    )


def stepwise(transformer: Transformer, one: Example) -> BatchLogits:
    """Logits of the same example out of the generation loop, every step's bits given late."""
    conditions: tuple[Context, ...] = ()
    if one.conditions is not None:
        former, first, grid = one.conditions
        conditions = read_conditions(transformer, former[None], first[None], grid)
    text = features([one.text], transformer.config.text_channels)
    draws = torch.Generator().get_state()
    state = start(transformer, one.steps, [text], draws, conditions=conditions)
    logits: dict[bool, list[Tensor]] = {True: [], False: []}
    for clip, latent in enumerate(one.latents):
        own = [step for step in one.steps if step.clip == clip]
        bits = bits_of_latent(latent[None], own, semantic_bits=transformer.config.semantic_bits)
        for step, value in zip(own, bits, strict=True):
            prediction = predict(transformer, state)
            logits[step.semantic].append(prediction.logits[0])
            state = commit(state, value, prediction.contexts)
    return BatchLogits(torch.cat(logits[True]), torch.cat(logits[False]))


@pytest.mark.parametrize("context", ["sparse", "full"])
@pytest.mark.parametrize(
    "frames",
    [(1,), (1, 2), (1, 4, 3), (1, 2, 2, 1), clip_lengths(3, 4, "one"), clip_lengths(7, 4, "one")],
)
def test_teacher_forced_logits_are_the_loops(
    transformer: Transformer,
    random: torch.Generator,
    frames: tuple[int, ...],
    context: ContextKind,
) -> None:
    one = example(random, *frames, context=context)
    run = run_of(one, transformer.config, PLAIN, random)
    together = teacher_forced(transformer, pack([[run]], run.tokens))
    alone = stepwise(transformer, one)
    assert torch.allclose(together.semantic, alone.semantic, atol=1e-5, rtol=1e-5)
    assert torch.allclose(together.detail, alone.detail, atol=1e-5, rtol=1e-5)


def test_so_are_those_of_an_interactive_clip(
    transformer: Transformer, random: torch.Generator
) -> None:
    clip = schedule(4)
    (latent,) = latents(clip, random)
    former = torch.randn(64, 5, 4, 6, generator=random) / 4
    one = Example(
        text=torch.arange(3),
        unconditional=False,
        steps=clip,
        latents=(latent,),
        conditions=(former, former[:, :1] * 2, SCALES[1]),
    )
    run = run_of(one, transformer.config, PLAIN, random)
    together = teacher_forced(transformer, pack([[run]], run.tokens))
    alone = stepwise(transformer, one)
    assert torch.allclose(together.semantic, alone.semantic, atol=1e-5, rtol=1e-5)
    assert torch.allclose(together.detail, alone.detail, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("context", ["sparse", "full"])
def test_packing_changes_no_logits(
    transformer: Transformer, random: torch.Generator, context: ContextKind
) -> None:
    examples = [
        example(random, *frames, length=length, context=context)
        for frames, length in (((1, 2), 4), ((1,), 5), ((1, 3), 5))
    ]
    runs = [run_of(one, transformer.config, PLAIN, random) for one in examples]
    length = max(runs[0].tokens + runs[1].tokens, runs[2].tokens) + 7
    packed = teacher_forced(transformer, pack([runs[:2], runs[2:]], length))
    alone = [teacher_forced(transformer, pack([[run]], run.tokens)) for run in runs]
    for packed_logits, kind in zip(packed, ("semantic", "detail"), strict=True):
        wanted = torch.cat([getattr(outcome, kind) for outcome in alone])
        assert torch.allclose(packed_logits, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("context", ["sparse", "full"])
def test_the_block_mask_is_the_mask(
    transformer: Transformer, random: torch.Generator, context: ContextKind
) -> None:
    examples = [example(random, *frames, context=context) for frames in ((1, 2), (1,), (1, 1))]
    runs = [run_of(one, transformer.config, PLAIN, random) for one in examples]
    batch = pack([runs[:1], runs[1:]], 128)
    dense = teacher_forced(transformer, batch)
    with torch.no_grad():
        blocks = teacher_forced(transformer, batch, mask=block_mask(batch))
    assert torch.allclose(dense.detail, blocks.detail, atol=1e-5)
    assert torch.allclose(dense.semantic, blocks.semantic, atol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_under_autocast_a_block_mask_gets_numbers_of_one_type(
    transformer: Transformer, random: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The norms' weights are float32, and make queries and keys so; values stay bfloat16."""

    def remember(*tensors: Tensor, **settings: Any) -> Any:
        types.update(tensor.dtype for tensor in tensors)
        return flex_attention(*tensors, **settings)

    types: set[torch.dtype] = set()
    monkeypatch.setattr("istar.transformer.attention.flex_attention", remember)
    batch = pack([[run_of(example(random, 1), transformer.config, PLAIN, random)]], 64)
    with torch.autocast("cpu", torch.bfloat16):
        teacher_forced(transformer, batch, mask=block_mask(batch))
    assert types == {torch.bfloat16}


def mask_of_two_clips(
    transformer: Transformer, random: torch.Generator, context: ContextKind
) -> list[list[int]]:
    """Who sees whom of two text tokens and two clips, each of one token and of two."""
    scales = ((1, 1), (1, 2))
    clips = [ClipPlan(frames=1, repeats=(1, 1))] * 2
    own = steps(clips, scales, semantic_scales=1, context=context)
    one = Example(
        text=torch.tensor([7, 8]), unconditional=False, steps=own, latents=latents(own, random)
    )
    run = run_of(one, transformer.config, PLAIN, random)
    seen: list[list[int]] = visible(run.group, run.looks_at).int().tolist()
    return seen


def test_the_mask_of_a_packed_row_is_this_one(
    transformer: Transformer, random: torch.Generator
) -> None:
    assert mask_of_two_clips(transformer, random, "sparse") == [
        [1, 1, 0, 0, 0, 0, 0, 0],  # text
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],  # first clip: the text and the step itself
        [1, 1, 0, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 1, 1, 0, 0],  # second clip: also the first one's largest scale
        [1, 1, 0, 1, 1, 0, 1, 1],
        [1, 1, 0, 1, 1, 0, 1, 1],
    ]


def test_the_mask_of_full_context_is_this_one(
    transformer: Transformer, random: torch.Generator
) -> None:
    assert mask_of_two_clips(transformer, random, "full") == [
        [1, 1, 0, 0, 0, 0, 0, 0],  # text
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],  # first clip
        [1, 1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 0, 0],  # second clip
        [1, 1, 1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1, 1, 1],
    ]


def test_bits_weigh_alike_or_as_their_numbers_are_far_from_zero(
    transformer: Transformer, random: torch.Generator
) -> None:
    one = example(random, 1, 2)
    alike, by_magnitude = (
        run_of(one, transformer.config, replace(PLAIN, weigh_by_magnitude=chosen), random)
        for chosen in (False, True)
    )
    for name in ("inputs", "targets", "weight"):
        assert torch.equal(getattr(alike, name), getattr(by_magnitude, name))
    bits = transformer.config.semantic_bits
    semantic, detail = (alike.kind == kind for kind in (SEMANTIC, DETAIL))
    assert (alike.bit_weight[detail] == 1).all()
    assert (alike.bit_weight[semantic][:, :bits] == 1).all()
    assert not alike.bit_weight[semantic][:, bits:].any()
    assert not alike.bit_weight[alike.kind == NO_LOSS].any()
    last = by_magnitude.group == by_magnitude.group.max()
    sizes = (one.latents[-1].flatten(1).T - by_magnitude.inputs[last]).abs()
    assert torch.allclose(by_magnitude.bit_weight[last], sizes / sizes.mean())


@pytest.mark.parametrize("context", ["sparse", "full"])
def test_any_repetition_of_every_scale_is_learned(
    transformer: Transformer, random: torch.Generator, context: ContextKind
) -> None:
    own = schedule(1, 2, 2, repeats=(3, 3, 2), context=context)
    one = Example(
        text=torch.arange(2), unconditional=False, steps=own, latents=latents(own, random)
    )
    seen = []
    for _ in range(40):
        run = run_of(one, transformer.config, PLAIN, random)
        indices = [
            int(run.coordinates[run.group == group][0, 0]) - transformer.config.text_positions
            for group in range(1, 10)
        ]
        assert [own[index].clip * 3 + own[index].scale for index in indices] == list(range(9))
        seen.append([own[index].repetition for index in indices])
    repetitions = [set(column) for column in zip(*seen, strict=True)]
    assert repetitions == [{0, 1, 2}, {0, 1, 2}, {0, 1}] * 3


@pytest.mark.parametrize("frames", [(1,), (1, 4), (1, 2, 2)])
def test_without_the_finest_scale_the_others_stay_as_they_are(
    transformer: Transformer, random: torch.Generator, frames: tuple[int, ...]
) -> None:
    one = replace(example(random, *frames), steps=schedule(*frames, repeats=(3, 3, 2)))
    whole, coarse = (
        run_of(
            one,
            transformer.config,
            SequenceConfig(finest_share=share),
            torch.Generator().manual_seed(4),
        )
        for share in (1.0, 0.0)
    )
    assert torch.equal(coarse.text, whole.text)
    finest = whole.group == whole.group.max()
    assert int(finest.sum()) == one.steps[-1].grid.tokens
    for name in Run._fields[2:]:
        assert torch.equal(getattr(coarse, name), getattr(whole, name)[~finest])


def test_the_finest_scale_is_held_as_often_as_wanted(
    transformer: Transformer, random: torch.Generator
) -> None:
    one, often = example(random, 1, 2), replace(PLAIN, finest_share=0.25)
    whole = tokens_of(one)
    lengths = [run_of(one, transformer.config, often, random).tokens for _ in range(400)]
    assert set(lengths) == {whole, whole - one.steps[-1].grid.tokens}
    assert 70 <= lengths.count(whole) <= 130  # 3.5 standard deviations


def test_with_full_context_a_long_example_loses_nothing(
    transformer: Transformer, random: torch.Generator
) -> None:
    one = replace(example(random, 1, 4), steps=schedule(1, 4, repeats=(3, 2, 2), context="full"))
    whole = tokens_of(one)
    for _ in range(10):
        assert run_of(one, transformer.config, PLAIN, random, longest=whole - 1).tokens == whole


def test_an_example_knows_its_token_count_before_its_tokens(
    transformer: Transformer, random: torch.Generator
) -> None:
    (latent,) = latents(schedule(4), random)
    former = torch.randn(64, 5, 4, 6, generator=random)
    interactive = replace(
        example(random, 4), latents=(latent,), conditions=(former, former[:, :1], SCALES[1])
    )
    repeated = replace(example(random, 1, 2), steps=schedule(1, 2, repeats=(3, 1, 2)))
    for one in (example(random, 1), example(random, 1, 4, 3), repeated, interactive):
        assert tokens_of(one) == run_of(one, transformer.config, PLAIN, random).tokens


def test_weights_follow_the_paper(random: torch.Generator) -> None:
    small, *_, large = schedule(4)
    assert step_weight(large, large.grid.tokens) == 1
    assert step_weight(small, large.grid.tokens) == pytest.approx(24**0.2)
    assert step_weight(small, 40_000 * 40_000) == 40


def image_share(*frames: int) -> float:
    """The share that the image clip has of the summed weights of a 480p video's loss."""
    scales = PIXEL_BUDGETS["0.40M"].scales(nearest_template(9 / 16))
    clips = clip_plans(frames, image_repeats=(3,) * 14, video_repeats=(3,) * 12 + (2, 1))
    of_scale = {
        (step.clip, step.scale): step for step in steps(clips, scales, semantic_scales=11)
    }.values()
    largest = max(step.grid.tokens for step in of_scale)
    weights = {step: step.grid.tokens * step_weight(step, largest) for step in of_scale}
    image = sum(weight for step, weight in weights.items() if step.image)
    return image / sum(weights.values())


def test_the_image_clip_weighs_as_in_the_released_training() -> None:
    assert image_share(1, 20) == pytest.approx(0.0834, abs=1e-4)
    # If its weights were of its own largest scale, the share were 1/21.
    ratio = image_share(1, 20) / (1 - image_share(1, 20)) * 20
    assert ratio == pytest.approx(20**0.2)


def test_weights_are_of_the_largest_step_of_the_whole_video(
    transformer: Transformer, random: torch.Generator
) -> None:
    """The image clip's too; of a video whose last clip is shorter the longest clip counts."""
    run = run_of(example(random, 1, 4, 2), transformer.config, PLAIN, random)
    found = [float(run.weight[run.group == group][0]) for group in range(1, 10)]
    tokens = [frames * size for frames in (1, 4, 2) for size in (1, 6, 24)]
    assert found == pytest.approx([(4 * 24 / count) ** 0.2 for count in tokens])
    clip = schedule(4)
    former = torch.randn(64, 5, 4, 6, generator=random)
    alone = replace(example(random, 4), steps=clip, conditions=(former, former[:, :1], SCALES[1]))
    run = run_of(alone, transformer.config, PLAIN, random)
    assert float(run.weight[run.group == run.group.max()][0]) == 1


def test_each_block_of_context_has_noise_of_its_own(
    transformer: Transformer, random: torch.Generator
) -> None:
    """None on the first frame, else in units of the deviation of what it is added to."""
    former = torch.randn(64, 5, 4, 6, generator=random) / 4
    first = 100 * torch.ones(64, 1, 4, 6)
    one = replace(example(random, 4), conditions=(former, first, SCALES[1]))
    config = replace(PLAIN, condition_noise=(0.0, 0.5))
    clean = run_of(one, transformer.config, PLAIN, random)
    levels = set()
    for _ in range(20):
        run = run_of(one, transformer.config, config, random)
        added = run.inputs - clean.inputs
        semantic, detail = (added[run.group == group] for group in (1, 2))
        assert not detail[:24].any()
        spread = (
            float(semantic.std() / clean.inputs[run.group == 1].std()),
            float(detail[24:].std() / clean.inputs[run.group == 2][24:].std()),
        )
        assert all(level == 0 or 0.45 < level < 0.55 for level in spread)
        levels.add(tuple(level > 0 for level in spread))
    assert len(levels) == 4


def test_texts_and_padding_have_no_loss(transformer: Transformer, random: torch.Generator) -> None:
    run = run_of(example(random, 1, 2), transformer.config, PLAIN, random)
    batch = pack([[run]], run.tokens + 3)
    silent = batch.kind == NO_LOSS
    assert silent.sum() == 5 + 3
    assert not batch.weight[silent].any()
    assert (batch.weight[~silent] >= 1).all()
