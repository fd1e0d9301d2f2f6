"""The interactive mode, prompt by prompt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asking import clips_of, frames_of, pictures, request, short_clips, with_spec
from istar import (
    ClipReady,
    GenerationRequest,
    InfinityStarPipeline,
    Take,
    UsageError,
)
from istar.generation.loop import advance
from istar.generation.sampling import SamplingConfig
from istar.generation.state import GenerationState
from istar.job import Job
from istar.media import write_picture
from istar.transformer.model import Transformer


@pytest.fixture(scope="module")
def pipeline(checkpoint: Path) -> InfinityStarPipeline:
    """Clips of two seconds are sooner made than those of five."""
    return short_clips(InfinityStarPipeline.from_pretrained(checkpoint, device="cpu"))


def test_interact_starts_by_itself_and_continues(pipeline: InfinityStarPipeline) -> None:
    wanted = request("interact", prompt=("one", "two", "three"))
    events = list(pipeline.stream(wanted))
    assert [len(clip) for clip in clips_of(events)] == [33, 32, 32]
    job = pipeline.job(replace(wanted, prompt=("one",)))
    added = list(job.run())
    assert job.finished
    for prompt in ("two", "three"):
        job.add_prompt(prompt)
        assert not job.finished
        added += job.run()
    assert torch.equal(frames_of(added), frames_of(events))
    assert job.request == wanted


def test_only_an_interactive_job_takes_more_prompts(pipeline: InfinityStarPipeline) -> None:
    with pytest.raises(UsageError, match="t2v takes one prompt"):
        pipeline.job(request()).add_prompt("two")
    job = pipeline.job(request("interact", prompt=("one",)))
    for prompt in ("", "  ", "a\0b"):
        with pytest.raises(UsageError, match="prompt"):
            job.add_prompt(prompt)
    assert job.request.prompts == job.plan.prompts == ("one",)


@pytest.mark.parametrize("given", [32, 33, 50])
def test_interact_continues_a_clip(pipeline: InfinityStarPipeline, given: int) -> None:
    clip = pictures(given)
    frames = pipeline.generate(request("interact", prompt=("one",), clip=clip)).frames
    assert len(frames) == given + 32
    assert torch.equal(frames[:given], clip)


def test_interact_remembers_the_videos_first_frame(pipeline: InfinityStarPipeline) -> None:
    job = pipeline.job(request("interact", prompt=("one",), clip=pictures(33)))
    list(job.run())
    first, former = job.state.first, job.state.former
    assert first is not None
    assert former is not None
    assert first.shape[2] == 1
    assert former.shape[2] == 9
    job.add_prompt("two")
    list(job.run())
    assert job.state.first is first
    assert job.state.former is not None
    assert torch.equal(job.state.former[:, :, 0], former[:, :, -1])


def test_interact_refuses_a_clip_below_the_models(pipeline: InfinityStarPipeline) -> None:
    with pytest.raises(UsageError, match="interact needs 2 s or more") as refused:
        pipeline.job(request("interact", prompt=("one",), clip=pictures(31)))
    assert refused.value.remedies == ("extend_first",)


def samplings(
    pipeline: InfinityStarPipeline, wanted: GenerationRequest, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[SamplingConfig, int]]:
    """How clips were sampled, and with how many branches; no two alike in a row."""
    used: list[tuple[SamplingConfig, int]] = []

    def watched(
        model: Transformer, state: GenerationState, sampling: SamplingConfig, *, together: bool
    ) -> object:
        if not used or used[-1] != (sampling, len(state.branches)):
            used.append((sampling, len(state.branches)))
        return advance(model, state, sampling, together=together)

    with monkeypatch.context() as patched:
        patched.setattr("istar.job.advance", watched)
        list(pipeline.stream(wanted))
    return used


def test_interact_continues_with_its_own_guidance_and_temperature(
    pipeline: InfinityStarPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = pipeline.spec
    assert spec.interact is not None
    assert spec.interact.sampling != spec.sampling
    wanted = request("interact", prompt=("one", "two"))
    used = samplings(pipeline, wanted, monkeypatch)
    assert used == [(spec.sampling, 2), (spec.interact.sampling, 2)]
    used = samplings(
        pipeline, replace(wanted, guidance_scale=2.0, tau_video=0.7, tau_image=0.9), monkeypatch
    )
    assert [sampling.guidance for sampling, _ in used] == [
        replace(spec.sampling.guidance, scale=2),
        replace(spec.interact.sampling.guidance, scale=2),
    ]
    assert [(s.tau_image, s.tau_video) for s, _ in used] == [(0.9, 0.7)] * 2
    alone = replace(
        spec.interact.sampling, guidance=replace(spec.interact.sampling.guidance, scale=1)
    )
    unguided = replace(spec, interact=replace(spec.interact, sampling=alone))
    used = samplings(with_spec(pipeline, unguided), wanted, monkeypatch)
    assert used == [(spec.sampling, 2), (alone, 1)]


def test_interact_hands_over_the_new_pictures(pipeline: InfinityStarPipeline) -> None:
    job = pipeline.job(request("interact", prompt=("one",), clip=pictures(42)))
    given, *new = [event for event in job.run() if isinstance(event, ClipReady)]
    assert given.from_input
    assert job.state.former is not None
    former = pipeline.networks.encode(pictures(42)[-33:])
    assert torch.equal(job.state.former[:, :, :1], former[:, :, -1:])
    both = torch.cat((former[:, :, 1:], job.state.former[:, :, 1:]), dim=2)
    decoded = pipeline.networks.decode(both)
    assert len(decoded) == 61
    assert torch.equal(frames_of(new), decoded[29:])


def test_clips_of_five_seconds_are_the_usual_ones(checkpoint: Path) -> None:
    model = InfinityStarPipeline.from_pretrained(checkpoint, device="cpu")
    job = model.job(request("interact", prompt=("one", "two")))
    assert [len(clip) for clip in clips_of(job.run())] == [81, 80]
    assert job.state.former is not None
    assert job.state.former.shape[2] == 21
    with pytest.raises(UsageError, match="5 s or more"):
        model.job(request("interact", prompt=("one",), clip=pictures(79)))


def test_only_the_last_clips_length_of_pictures_is_read(pipeline: InfinityStarPipeline) -> None:
    clip = pictures(50)
    new, same = (
        pipeline.generate(request("interact", prompt=("one",), clip=shown)).frames[-32:]
        for shown in (clip, clip[-33:])
    )
    assert torch.equal(new, same)


def test_a_picture_begins_a_new_shot(pipeline: InfinityStarPipeline, tmp_path: Path) -> None:
    """What comes before it does not matter, and what follows continues it alone."""
    picture = write_picture(pictures(1)[0], tmp_path / "boat.png")
    job = pipeline.job(request("interact", prompt=("one",)))
    before = list(job.run())
    job.add_prompt("two", seed=8, image=picture)
    after = list(job.run())
    job.add_prompt("three")
    after += job.run()
    alone = request("interact", prompt=("two", "three"), seed=8, images=(picture,))
    shot = frames_of(pipeline.stream(alone))
    assert [len(clip) for clip in clips_of(after)] == [33, 32]
    assert torch.equal(frames_of(after), shot)
    assert torch.equal(shot[0], pictures(1)[0])
    # Its take makes the same without the picture's file.
    picture.unlink()
    job.take().save(tmp_path / "a.take")
    take = Take.load(tmp_path / "a.take")
    assert take.pictures == 33 + 33 + 32
    films = [
        frames_of(kind(pipeline.networks, take).run()) for kind in (Job.from_take, Job.rendering)
    ]
    assert all(torch.equal(film, torch.cat((frames_of(before), shot))) for film in films)
    last = take.without_last_prompt().without_last_prompt()
    assert (last.request.images, dict(last.images)) == ((None,), {})
    hidden = frames_of(Job.from_take(pipeline.networks, take, hidden=2).run())
    assert torch.equal(hidden, shot[33:])


def test_only_prompts_of_an_interactive_video_have_pictures() -> None:
    for wrong in (
        {"mode": "t2v", "images": (Path("a.png"),)},
        {"mode": "interact", "prompt": ("one",), "images": (None, Path("a.png"))},
        {"mode": "interact", "prompt": ("one",), "images": ("a.png",), "clip": "a.mp4"},
    ):
        with pytest.raises(UsageError, match=r"images are for the prompts|with no picture"):
            request(**wrong)  # type: ignore[arg-type]
    wanted = request("interact", prompt=("one", "two"), images=(None, Path("a.png")))
    assert GenerationRequest.from_json(wanted.to_json()) == wanted
    with pytest.raises(UsageError, match="images are names of files"):
        GenerationRequest.from_json(wanted.to_json().replace('"a.png"', "1"))
