from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from istar.errors import GenerationError
from istar.generation.guidance import GuidanceConfig, guide
from istar.generation.loop import advance, commit, predict, read_conditions, start
from istar.generation.sampling import SamplingConfig, Temperature, probabilities, uniform_numbers
from istar.generation.schedule import ClipPlan, ContextKind, Step, steps
from istar.generation.state import GenerationState
from istar.transformer.config import TransformerConfig
from istar.transformer.model import Transformer
from istar.transformer.rope import rotation
from istar.transformer.rows import Row

SCALES = ((1, 1), (1, 2), (2, 3), (3, 4))
HEIGHT, WIDTH = SCALES[-1]
CHANNELS = 64
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
APG = SamplingConfig(guidance=GuidanceConfig(kind="apg", scale=34), tau_image=1.0, tau_video=0.4)


def sample_bits(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return uniform_numbers(logits, generator) < probabilities(logits)


def schedule(
    *frames: int, repeats: Sequence[tuple[int, ...]] = (), context: ContextKind = "sparse"
) -> tuple[Step, ...]:
    repeats = repeats or [(1, 2, 1, 2), (2, 1, 2, 1), (1, 1, 2, 3)]
    clips = [ClipPlan(frames=f, repeats=r) for f, r in zip(frames, repeats, strict=False)]
    return steps(clips, SCALES, semantic_scales=2, context=context)


def texts(random: torch.Generator) -> list[Tensor]:
    """A prompt and a shorter negative prompt."""
    return [torch.randn(length, 12, generator=random) for length in (5, 3)]


def random_bits(config: TransformerConfig, step: Step, random: torch.Generator) -> Tensor:
    shape = (step.grid.tokens, config.bits_per_token(semantic=step.semantic))
    return torch.rand(shape, generator=random) < 0.5


def finish(
    transformer: Transformer, state: GenerationState, sampling: SamplingConfig = APG
) -> GenerationState:
    while not state.finished:
        state = advance(transformer, state, sampling)
    return state


def equal(one: Sequence[Tensor], two: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


# --- One sequence, one mask: the rules of attention and position written out once more ---------


@dataclass
class TokenRow:
    """All tokens of a video in a row, with a block name and coordinates for each."""

    model: Transformer
    embedded: list[Tensor] = field(default_factory=list)
    blocks: list[object] = field(default_factory=list)
    coordinates: list[tuple[float, ...]] = field(default_factory=list)

    def text(self, features: Tensor) -> None:
        self.embedded.append(self.model.embed_text(features))
        self.blocks += ["text"] * len(features)
        self.coordinates += [(n, 0, 0, 0) for n in range(len(features))]

    def visual(self, block: object, latent: Tensor, scale: int, times: Sequence[int]) -> None:
        """Tokens of a `(C, T, h, w)` latent."""
        _, frames, height, width = latent.shape
        assert frames == len(times)
        self.embedded.append(self.model.embed_latents(latent.flatten(1).T))
        self.blocks += [block] * (frames * height * width)
        first = self.model.config.text_positions
        self.coordinates += [
            (
                first + scale,
                time,
                round(Fraction(row * HEIGHT, height)),
                round(Fraction(column * WIDTH, width)),
            )
            for time in times
            for row in range(height)
            for column in range(width)
        ]

    def run(self, sees: dict[object, set[object]]) -> dict[object, Tensor]:
        """The last block's output for the tokens of every block."""
        mask = torch.tensor([[key in sees[query] for key in self.blocks] for query in self.blocks])
        by = rotation(torch.tensor(self.coordinates), self.model.config.head_size)
        ((out, _),) = self.model([Row(torch.cat(self.embedded)[None], by, mask=mask)])
        return {
            block: out[:, [place for place, b in enumerate(self.blocks) if b == block]]
            for block in dict.fromkeys(self.blocks)
        }


def inputs_of_steps(plan: Sequence[Step], bits: Sequence[Tensor]) -> list[Tensor]:
    """What each step sees of its clip, `(C, t, h, w)`, from all steps' bits."""
    result = []
    total = torch.zeros(0)
    for step, drawn in zip(plan, bits, strict=True):
        frames, height, width = step.grid
        if step.starts_clip:
            total = torch.zeros(frames, CHANNELS, HEIGHT, WIDTH)
        result.append(F.adaptive_avg_pool2d(total, (height, width)).movedim(0, 1))
        d = drawn.shape[1]
        codes = torch.where(drawn, 1.0, -1.0) / d**0.5
        codes = codes.reshape(frames, height, width, d).permute(0, 3, 1, 2)[:, None]
        total = total + F.interpolate(codes, size=(CHANNELS, HEIGHT, WIDTH), mode="trilinear")[:, 0]
    return result


@pytest.mark.parametrize("context", ["sparse", "full"])
def test_cached_equals_one_masked_sequence(
    transformer: Transformer,
    small_config: TransformerConfig,
    random: torch.Generator,
    context: ContextKind,
) -> None:
    plan = schedule(1, 3, 2, context=context)
    bits = [random_bits(small_config, step, random) for step in plan]
    prompts = texts(random)
    state = start(transformer, plan, prompts, torch.Generator().get_state())
    cached = []
    for drawn in bits:
        prediction = predict(transformer, state)
        cached.append(prediction.logits)
        state = commit(state, drawn, prediction.contexts)

    first_frames = (0, 1, 4)
    sees: dict[object, set[object]] = {"text": {"text"}}
    last_of_clip = {step.clip: step.index for step in plan}  # later steps overwrite earlier ones
    last_of_scale = {(step.clip, step.scale): step.index for step in plan}
    for step in plan:
        sees[step.index] = {"text", step.index}
        if context == "full":
            scale = (step.clip, step.scale)
            sees[step.index] |= {last for other, last in last_of_scale.items() if other < scale}
        elif step.clip > 0:
            sees[step.index].add(last_of_clip[step.clip - 1])
    for branch, prompt in enumerate(prompts):
        row = TokenRow(transformer)
        row.text(prompt)
        for step, latent in zip(plan, inputs_of_steps(plan, bits), strict=True):
            start_ = first_frames[step.clip]
            times = range(start_, start_ + step.grid.frames)
            row.visual(step.index, latent, step.index, times)
        outputs = row.run(sees)
        for step in plan:
            expected = transformer.logits(outputs[step.index], semantic=step.semantic)[0]
            torch.testing.assert_close(cached[step.index][branch], expected, **TOLERANCE)


def test_what_is_looked_at_exists_once(
    transformer: Transformer, small_config: TransformerConfig, random: torch.Generator
) -> None:
    state = start(transformer, schedule(1, 2), texts(random), torch.Generator().get_state())
    before = [branch.text for branch in state.branches]
    while state.next_step.clip == 0:
        prediction = predict(transformer, state)
        state = commit(
            state, random_bits(small_config, state.next_step, random), prediction.contexts
        )
    assert prediction.contexts is not None
    # At full size a copy of text and clip in a row would be gigabytes.
    for branch, text, own in zip(state.branches, before, prediction.contexts, strict=True):
        assert branch.text is text
        assert branch.contexts[1] is own
        assert len(branch.contexts) == 2


def test_what_no_step_looks_at_any_more_is_dropped(
    transformer: Transformer, small_config: TransformerConfig, random: torch.Generator
) -> None:
    state = start(transformer, schedule(1, 2, 3), texts(random), torch.Generator().get_state())
    last_of_first_clip = 5
    while not state.finished:
        step = state.next_step
        held = [set(branch.steps) for branch in state.branches]
        assert held == [set() if step.clip == 0 else {last_of_first_clip + 6 * (step.clip - 1)}] * 2
        prediction = predict(transformer, state)
        state = commit(state, random_bits(small_config, step, random), prediction.contexts)
    assert not any(branch.steps for branch in state.branches)


def test_cached_conditions_equal_one_masked_sequence(
    transformer: Transformer, small_config: TransformerConfig, random: torch.Generator
) -> None:
    plan = schedule(20, repeats=[(2, 1, 1, 2)])
    bits = [random_bits(small_config, step, random) for step in plan]
    prompts = texts(random)
    former = torch.randn(1, CHANNELS, 21, HEIGHT, WIDTH, generator=random)
    first = torch.randn(1, CHANNELS, 1, HEIGHT, WIDTH, generator=random)
    conditions = read_conditions(transformer, former, first, (2, 3))
    state = start(transformer, plan, prompts, torch.Generator().get_state(), conditions=conditions)
    cached = []
    for drawn in bits:
        prediction = predict(transformer, state)
        cached.append(prediction.logits)
        state = commit(state, drawn, prediction.contexts)

    sees: dict[object, set[object]] = {name: {name} for name in ("text", "semantic", "detail")}
    for step in plan:
        sees[step.index] = {"text", "semantic", "detail", step.index}
    coarse = F.adaptive_avg_pool2d(former[0, :, 1:], (2, 3))
    detail = torch.cat((first[0], former[0, :, 19:]), dim=1)
    for branch, prompt in enumerate(prompts):
        row = TokenRow(transformer)
        row.text(prompt)
        row.visual("semantic", coarse, 800, range(1, 21))
        row.visual("detail", detail, 801, (0, 19, 20))
        for step, latent in zip(plan, inputs_of_steps(plan, bits), strict=True):
            row.visual(step.index, latent, step.index, range(20))
        outputs = row.run(sees)
        for step in plan:
            expected = transformer.logits(outputs[step.index], semantic=step.semantic)[0]
            torch.testing.assert_close(cached[step.index][branch], expected, **TOLERANCE)


def test_latents_are_the_sums_of_the_clips(
    transformer: Transformer, small_config: TransformerConfig, random: torch.Generator
) -> None:
    plan = schedule(1, 3, 2)
    state = start(transformer, plan, [], torch.Generator().get_state())
    for step in plan:
        assert state.next_step is step
        assert state.canvas.total.any() != step.starts_clip
        state = commit(state, random_bits(small_config, step, random), None)
    assert state.finished
    assert [tuple(latent.shape) for latent in state.latents] == [
        (1, CHANNELS, frames, HEIGHT, WIDTH) for frames in (1, 3, 2)
    ]
    # The input that a further step of full size would see is the clip's latent.
    for clip, latent in enumerate(state.latents):
        own = [step for step in plan if step.clip == clip]
        drawn = [state.bits[step.index] for step in own]
        once_more = inputs_of_steps([*own, own[-1]], [*drawn, drawn[-1]])[-1]
        torch.testing.assert_close(latent[0], once_more, **TOLERANCE)


# --- Given bits --------------------------------------------------------------------------------


@pytest.mark.parametrize("context", ["sparse", "full"])
def test_given_steps_equal_the_same_steps_sampled(
    transformer: Transformer, random: torch.Generator, context: ContextKind
) -> None:
    plan, prompts = schedule(1, 3, context=context), texts(random)
    sampled = start(transformer, plan, prompts, torch.Generator().manual_seed(5).get_state())
    while sampled.next_step.clip == 0:
        sampled = advance(transformer, sampled, APG)
    given = start(
        transformer,
        plan,
        prompts,
        torch.Generator().get_state(),
        given=dict(enumerate(sampled.bits)),
    )
    drawn_before = given.generator
    while given.next_step.clip == 0:
        given = advance(transformer, given, APG)
    assert torch.equal(given.generator, drawn_before)
    assert equal(given.bits, sampled.bits)
    assert equal(given.latents, sampled.latents)
    while not sampled.finished:
        one, two = predict(transformer, sampled), predict(transformer, given)
        assert equal(one.logits, two.logits)
        bits = sample_bits(one.logits[0], random)
        sampled = commit(sampled, bits, one.contexts)
        given = commit(given, bits, two.contexts)


def test_given_steps_that_no_step_reads_are_not_computed(
    transformer: Transformer, small_config: TransformerConfig, random: torch.Generator
) -> None:
    plan, prompts = schedule(1, 3), texts(random)
    given = {step.index: random_bits(small_config, step, random) for step in plan if step.clip == 0}
    state = start(transformer, plan, prompts, torch.Generator().get_state(), given=given)
    runs: list[int] = []
    for number, block in enumerate(transformer.blocks):
        block.register_forward_pre_hook(lambda *_, number=number: runs.append(number))
    transformer.norm.register_forward_pre_hook(lambda *_: runs.append(-1))
    while state.next_step.clip == 0:
        before = len(runs)
        read = state.next_step.read_later
        state = advance(transformer, state, APG)
        # Of the last block only keys and values, of the heads nothing.
        assert runs[before:] == ([0, 1] if read else [])
    before = len(runs)
    advance(transformer, state, APG)
    assert runs[before:] == [0, 1, 2, -1, -1]


# --- Sampling ----------------------------------------------------------------------------------


def test_a_seed_decides_every_bit(transformer: Transformer, random: torch.Generator) -> None:
    plan, prompts = schedule(1, 2), texts(random)

    def bits(seed: int) -> Sequence[Tensor]:
        generator = torch.Generator().manual_seed(seed).get_state()
        return finish(transformer, start(transformer, plan, prompts, generator)).bits

    one = bits(1)
    assert equal(one, bits(1))
    assert not any(torch.equal(a, b) for a, b in zip(one, bits(2), strict=True))


@pytest.mark.parametrize("kind", ["cfg", "apg"])
def test_guidance_of_1_equals_the_conditional_branch_alone(
    transformer: Transformer, random: torch.Generator, kind: str
) -> None:
    plan, prompts = schedule(1, 2), texts(random)
    sampling = SamplingConfig(
        guidance=GuidanceConfig(kind=kind, scale=1.0),  # type: ignore[arg-type]
        tau_image=1.0,
        tau_video=0.4,
    )

    def bits(branches: list[Tensor]) -> Sequence[Tensor]:
        generator = torch.Generator().manual_seed(5).get_state()
        return finish(transformer, start(transformer, plan, branches, generator), sampling).bits

    alone = bits(prompts[:1])
    assert equal(alone, bits(prompts))
    assert not equal(alone, bits(prompts[1:]))


@pytest.mark.parametrize(
    ("frames", "taus"),
    [
        ((1, 3, 2), (1.5, 0.1, 0.1)),
        ((1, 3, 1), (1.5, 0.1, 0.1)),  # a last clip of one frame is no picture
        ((3,), (0.1,)),
        ((1, 3), ((1.5, 0.4, 0.2, 0.1), 0.1)),
        ((1, 3), (1.5, (0.9, 0.5, 0.2, 0.1))),
    ],
)
def test_clips_and_scales_have_their_own_temperatures(
    transformer: Transformer,
    random: torch.Generator,
    frames: tuple[int, ...],
    taus: tuple[Temperature, ...],
) -> None:
    image = taus[0] if len(taus) > 1 else 1.5
    sampling = SamplingConfig(guidance=APG.guidance, tau_image=image, tau_video=taus[-1])
    generator = torch.Generator().manual_seed(5).get_state()
    state = start(transformer, schedule(*frames), texts(random), generator)
    while not state.finished:
        step = state.next_step
        tau = taus[step.clip]
        tau = tau[step.scale] if isinstance(tau, tuple) else tau
        cond, uncond = (x / tau for x in predict(transformer, state).logits)
        draws = torch.Generator()
        draws.set_state(state.generator)
        expected = sample_bits(guide(cond, uncond, sampling.guidance), draws)
        state = advance(transformer, state, sampling)
        assert torch.equal(state.bits[-1], expected), f"step {step.index} of clip {step.clip}"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_output_that_is_not_a_number_is_refused(
    transformer: Transformer, random: torch.Generator, value: float
) -> None:
    state = start(transformer, schedule(1, 2), texts(random), torch.Generator().get_state())
    state = advance(transformer, state, APG)
    transformer.blocks[1].mlp.down.weight[0, 0] = value  # type: ignore[union-attr,index]
    with pytest.raises(GenerationError, match=r"step 1 \(clip 0, scale 1\)"):
        advance(transformer, state, APG)
    assert state.position == len(state.bits) == 1


def test_a_single_number_that_is_not_finite_is_refused(
    transformer: Transformer, random: torch.Generator
) -> None:
    transformer.semantic_head.bias[5] = float("inf")
    state = start(transformer, schedule(1), texts(random)[:1], torch.Generator().get_state())
    with pytest.raises(GenerationError, match="not a number at step 0"):
        advance(transformer, state, APG)


def test_given_steps_that_only_given_steps_read_are_not_computed(
    transformer: Transformer, small_config: TransformerConfig, random: torch.Generator
) -> None:
    plan = schedule(1, 3, 2)
    given = {step.index: random_bits(small_config, step, random) for step in plan}
    visited: list[object] = []
    for block in transformer.blocks:
        block.register_forward_pre_hook(lambda *_: visited.append(None))
    # Everything is given: no text is needed and nothing passes the network.
    state = start(transformer, plan, [], torch.Generator().get_state(), given=given)
    assert state.needed == frozenset()
    finish(transformer, state)
    assert not visited
    # The last clip is sampled: it looks at the second clip, and that at the first.
    last = [step.index for step in plan if step.clip == 2]
    for index in last:
        del given[index]
    state = start(transformer, plan, texts(random), torch.Generator().get_state(), given=given)
    ends = [step.index for step in plan if step.ends_clip]
    assert state.needed == {*ends[:2]}


def test_a_step_that_fails_has_not_happened(
    transformer: Transformer, random: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, prompts = schedule(1, 2), texts(random)
    state = start(transformer, plan, prompts, torch.Generator().manual_seed(5).get_state())
    whole = finish(transformer, state)
    state = advance(transformer, state, APG)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        # After the draws, while the step is taken.
        patched.setattr("istar.generation.loop.commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            advance(transformer, state, APG)
    assert state.position == 1
    assert equal(finish(transformer, state).bits, whole.bits)


def test_guidance_visits_every_block_once_a_step(
    transformer: Transformer, random: torch.Generator
) -> None:
    visits: list[tuple[int, int]] = []
    for number, block in enumerate(transformer.blocks):
        block.register_forward_pre_hook(
            lambda _, args, number=number: visits.append((number, len(args[0])))
        )
    state = start(transformer, schedule(1, 2), texts(random), torch.Generator().get_state())
    while not state.finished:
        visits.clear()
        state = advance(transformer, state, APG)
        assert visits == [(0, 2), (1, 2), (2, 2)]
