"""What only happens on a CUDA device, held against the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asking import pictures
from istar.generation.loop import advance, predict, start
from istar.generation.schedule import nearest_template
from istar.generation.state import GenerationState
from istar.job import Job
from istar.networks import Networks
from istar.pipeline import InfinityStarPipeline
from istar.plan import windows_from_start
from istar.request import GenerationRequest
from istar.take import Take
from istar.transformer.attention import attend

DEVICE = "cuda:0"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def heads(
    length: int, seen: int, random: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries of eight heads, keys and values of two that they share."""
    return (
        torch.randn(1, 8, length, 64, generator=random),
        torch.randn(1, 2, seen, 64, generator=random),
        torch.randn(1, 2, seen, 64, generator=random),
    )


@pytest.mark.parametrize("masked", [False, True])
def test_bf16_attention_with_shared_heads_equals_float32_on_the_cpu(
    random: torch.Generator, masked: bool
) -> None:
    queries, keys, values = (x.bfloat16() for x in heads(150, 340, random))
    mask = None
    if masked:
        mask = torch.rand(150, 340, generator=random) < 0.5
        mask[:, 0] = True
    expected = attend(queries.float(), keys.float(), values.float(), mask)
    found = attend(
        queries.to(DEVICE),
        keys.to(DEVICE),
        values.to(DEVICE),
        None if mask is None else mask.to(DEVICE),
    )
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.cpu().float(), expected, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_attention_never_holds_all_scores(random: torch.Generator, dtype: torch.dtype) -> None:
    tokens = 8192
    queries, keys, values = (x.to(DEVICE, dtype) for x in heads(tokens, tokens, random))
    torch.cuda.reset_peak_memory_stats(DEVICE)
    before = torch.cuda.memory_allocated(DEVICE)
    attend(queries, keys, values)
    scores = 8 * tokens * tokens * dtype.itemsize
    assert torch.cuda.max_memory_allocated(DEVICE) - before < scores / 4


@pytest.fixture(scope="module")
def engines(checkpoint: Path) -> tuple[Networks, Networks]:
    """The same model in float32 on the CPU and on the device."""
    cpu, cuda = (
        InfinityStarPipeline.from_pretrained(checkpoint, device=device, dtype="fp32").networks
        for device in ("cpu", DEVICE)
    )
    return cpu, cuda


def begin(networks: Networks) -> GenerationState:
    """A second of video before its first step."""
    (window,) = windows_from_start(1, networks.spec)
    texts = networks.texts("a red circle", "", guided=True).features
    steps = window.steps(networks.spec, nearest_template(9 / 16))
    return start(networks.transformer, steps, texts, torch.Generator().manual_seed(5).get_state())


def finish(networks: Networks, state: GenerationState) -> GenerationState:
    with torch.inference_mode():
        while not state.finished:
            state = advance(networks.transformer, state, networks.spec.sampling)
    return state


def test_a_video_has_the_same_bits_as_on_the_cpu(engines: tuple[Networks, Networks]) -> None:
    ours, theirs = (finish(networks, begin(networks)) for networks in engines)
    assert theirs.latents[0].device == torch.device(DEVICE)
    for step, one, two in zip(ours.steps, ours.bits, theirs.bits, strict=True):
        assert torch.equal(one, two), step.index
    frames = []
    for networks, state in zip(engines, (ours, theirs), strict=True):
        frames.append(networks.decode(torch.cat(state.latents, dim=2)).int())
    # The same levels, but for a rounding at the edge of one.
    assert (frames[0] - frames[1]).abs().max() <= 1


def test_a_job_is_finished_on_the_device(
    engines: tuple[Networks, Networks], tmp_path: Path
) -> None:
    cpu, cuda = engines
    request = GenerationRequest(mode="t2v", prompt="a red circle", seconds=1, seed=5)
    whole = Job.begin(cpu, request)
    list(whole.run())
    job = Job.begin(cpu, request)
    while job.state.generation is None or job.state.generation.position < 3:
        job.advance()
    job.take().save(tmp_path / "job.take")
    resumed = Job.from_take(cuda, Take.load(tmp_path / "job.take"))
    list(resumed.run())
    for index, bits in whole.state.windows[0].bits.items():
        assert torch.equal(bits, resumed.state.windows[0].bits[index])


def test_branches_in_one_batch_are_near_branches_alone(engines: tuple[Networks, Networks]) -> None:
    _, cuda = engines
    state = begin(cuda)
    with torch.inference_mode():
        while not state.finished:
            apart, together = (
                predict(cuda.transformer, state, together=one) for one in (False, True)
            )
            for ours, theirs in zip(apart.logits, together.logits, strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
            state = advance(cuda.transformer, state, cuda.spec.sampling)


def test_pictures_are_encoded_without_tf32(engines: tuple[Networks, Networks]) -> None:
    ours, theirs = (networks.encode(pictures(17)).cpu() for networks in engines)
    # TF32 would be a thousandth off.
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)


def test_by_default_a_video_is_made_in_bf16(checkpoint: Path) -> None:
    pipeline = InfinityStarPipeline.from_pretrained(checkpoint, device=DEVICE)
    assert pipeline.networks.transformer.dtype == torch.bfloat16
    assert pipeline.networks.tokenizer.latent_scales.dtype == torch.float32
    request = GenerationRequest(mode="t2v", prompt="a red circle", seconds=1, seed=5)
    frames = pipeline.generate(request).frames
    assert frames.shape == (17, 32, 48, 3)
    assert torch.equal(frames, pipeline.generate(request).frames)
