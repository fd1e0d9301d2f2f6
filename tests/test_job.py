"""A job is saved after any step and finished as if it had never stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from asking import frames_of, pictures, request, with_spec
from istar import (
    GenerationRequest,
    InfinityStarPipeline,
    Job,
    Note,
    Progress,
    Take,
    networks,
)
from istar.events import ClipReady, Event, GenerationResult
from istar.generation.state import Position
from istar.media import probe_clip, write_clip
from istar.memory_plan import WHOLE
from istar.networks import Networks
from media_files import encode


@pytest.fixture(scope="module")
def pipeline(checkpoint: Path) -> InfinityStarPipeline:
    """Clips of a second, one pass of two: several windows are quickly made."""
    whole = InfinityStarPipeline.from_pretrained(checkpoint, device="cpu")
    return with_spec(whole, replace(whole.spec, clip_frames=4, max_seconds=2))


REQUESTS: dict[str, GenerationRequest] = {
    "t2i": request("t2i"),
    "t2v in one window": request(seconds=2),
    "t2v in two windows": request(seconds=3),
    "i2v": request("i2v", image=pictures(1, 40, 50)[0], seconds=1),
    "i2v in two windows": request("i2v", image=pictures(1)[0], seconds=3),
    "extend by two windows": request("extend", clip=pictures(20), seconds=2),
    "interact": request("interact", prompt=("one", "two", "three")),
    "interact from a clip": request("interact", prompt=("one", "two"), clip=pictures(17)),
    "a negative prompt, no suffix": request(negative_prompt="grey", suffix=False, aspect=1.0),
    "no guidance": request(guidance_scale=1, tau_video=0.7),
}


def bits_of(job: Job) -> list[Tensor]:
    """Every bit of every window."""
    return [bits for window in job.state.windows for _, bits in sorted(window.bits.items())]


def finished(job: Job) -> tuple[list[Event], Job]:
    return list(job.run()), job


def saved_after_each_advance(job: Job, path: Path) -> Iterator[int]:
    """Save a job, take a step, until it is finished; gives the number of steps before."""
    count = 0
    while True:
        job.take().save(path, overwrite=True)
        yield count
        if job.finished:
            return
        job.advance()
        count += 1


SHORT = ("t2i", "i2v")
LONG = ("extend by two windows", "interact from a clip", "no guidance")


@pytest.mark.parametrize(
    ("name", "stride"),
    [
        *((name, 1) for name in SHORT),
        *((name, 9) for name in LONG),
        *(pytest.param(name, 1, marks=pytest.mark.slow) for name in REQUESTS if name not in SHORT),
    ],
)
def test_resumed_equals_uninterrupted_after_every_step(
    pipeline: InfinityStarPipeline, tmp_path: Path, name: str, stride: int
) -> None:
    """Without `slow`, some long ones after every ninth step only."""
    wanted = REQUESTS[name]
    events, whole = finished(pipeline.job(wanted))
    path = tmp_path / "job.take"
    seen = set()
    for _ in saved_after_each_advance(pipeline.job(wanted), path):
        # Between two pictures of a clip nothing new is saved.
        if (content := path.read_bytes()) in seen:
            continue
        seen.add(content)
        if len(seen) % stride:
            continue
        again, resumed = finished(pipeline.job(Take.load(path)))
        assert torch.equal(frames_of(again), frames_of(events))
        for ours, theirs in zip(bits_of(resumed), bits_of(whole), strict=True):
            assert torch.equal(ours, theirs)
        assert torch.equal(resumed.state.generator, whole.state.generator)


def test_a_job_interrupted_again_and_again_ends_the_same(
    pipeline: InfinityStarPipeline, tmp_path: Path
) -> None:
    wanted = REQUESTS["t2v in two windows"]
    events, _ = finished(pipeline.job(wanted))
    path = tmp_path / "job.take"
    pipeline.job(wanted).take().save(path, overwrite=True)
    # One step more each time; all that was known before is kept, though it was not reached.
    for count in (9, 3, 14, 1, 17, 6):
        job = pipeline.job(Take.load(path))
        for _ in range(count):
            job.advance()
        job.take().save(path, overwrite=True)
    again, _ = finished(pipeline.job(Take.load(path)))
    assert torch.equal(frames_of(again), frames_of(events))


def test_what_is_known_is_not_sampled_again(pipeline: InfinityStarPipeline, tmp_path: Path) -> None:
    job = pipeline.job(REQUESTS["t2v in two windows"])
    while job.state.window == 0 or job.state.generation is None:
        job.advance()
    job.advance()
    job.take().save(tmp_path / "job.take", overwrite=True)
    visited: list[int] = []
    hook = pipeline.networks.transformer.blocks[0].register_forward_pre_hook(
        lambda *_: visited.append(1)
    )
    try:
        resumed = pipeline.job(Take.load(tmp_path / "job.take"))
        given = []
        while resumed.state.window == 0 or resumed.state.generation is None:
            events = resumed.advance()
            given += [event.given for event in events if isinstance(event, Progress)]
    finally:
        hook.remove()
    assert given
    assert all(given)
    # Of the first window only pictures are made; the second has read its two texts.
    assert len(visited) == 1


def test_prompts_that_were_added_are_saved(pipeline: InfinityStarPipeline, tmp_path: Path) -> None:
    job = pipeline.job(request("interact", prompt=("one",)))
    list(job.run())
    job.add_prompt("two")
    job.take().save(tmp_path / "job.take", overwrite=True)
    resumed = pipeline.job(Take.load(tmp_path / "job.take"))
    assert resumed.request.prompts == ("one", "two")
    wanted = request("interact", prompt=("one", "two"))
    assert torch.equal(frames_of(resumed.run()), pipeline.generate(wanted).frames)


def test_a_step_that_is_interrupted_has_not_happened(
    pipeline: InfinityStarPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = REQUESTS["i2v in two windows"]
    events, _ = finished(pipeline.job(wanted))
    job = pipeline.job(wanted)
    shown: list[Event] = []
    interrupted = 0
    while not job.finished:
        # Everything a step may be doing, interrupted once each time: drawing, decoding, encoding.
        with monkeypatch.context() as patched:
            for owner, name in ((networks, "_to_bytes"), (Networks, "encode"), (Networks, "texts")):
                patched.setattr(owner, name, after(getattr(owner, name)))
            patched.setattr("istar.generation.loop.commit", interrupt)
            before = job.state
            try:
                shown += job.advance()
            except KeyboardInterrupt:
                interrupted += 1
                assert job.state is before
            else:
                continue
        shown += job.advance()
    assert torch.equal(frames_of(shown), frames_of(events))
    assert interrupted > 10


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def after(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call, interrupted when its work is done."""

    def called(*given: object, **named: object) -> None:
        call(*given, **named)
        raise KeyboardInterrupt

    return called


def test_a_file_of_pictures_finishes_where_they_are_gone(
    pipeline: InfinityStarPipeline, tmp_path: Path
) -> None:
    still = pipeline.generate(request("t2i", aspect=1.0)).save(tmp_path / "still.png")
    wanted = request("i2v", image=still)
    frames = pipeline.generate(wanted).frames
    job = pipeline.job(wanted)
    job.advance()
    job.take().save(tmp_path / "job.take", overwrite=True)
    still.unlink()
    resumed = pipeline.job(Take.load(tmp_path / "job.take"))
    assert resumed.request.image == still
    assert torch.equal(frames_of(resumed.run()), frames)


def test_a_take_of_a_long_clip_holds_what_windows_read(
    pipeline: InfinityStarPipeline, tmp_path: Path
) -> None:
    film = write_clip(pictures(48), tmp_path / "film.mp4")
    wanted = request("extend", clip=film, seconds=2)
    frames = pipeline.generate(wanted).frames
    job = pipeline.job(wanted)
    list(job.run(until=Position(1, 2)))
    take = job.take()
    take.save(tmp_path / "job.take")
    take = Take.load(tmp_path / "job.take")
    assert take.clip is not None
    assert len(take.clip) == 17
    assert torch.equal(pipeline.finish(take).frames, frames)
    # Another film of that name is not what the take continues, nor is none.
    for change in (lambda: write_clip(pictures(60, seed=1), film, overwrite=True), film.unlink):
        change()
        result = pipeline.finish(take)
        assert torch.equal(result.frames, frames[48 - 17 :])
        assert any("is not there as it was: the video begins with" in note for note in result.notes)
    # What resumes from its end is still a take of the whole, should the film come back.
    job = pipeline.job(take)
    job.advance()
    assert job.take().clip_file == take.clip_file
    assert job.take().given_pictures == 48


@pytest.mark.parametrize(
    "name",
    [
        "t2i",
        "i2v",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("t2v in two windows", "interact")
        ),
    ],
)
def test_a_preview_after_a_clips_last_step_is_the_clip(
    pipeline: InfinityStarPipeline, name: str
) -> None:
    job = pipeline.job(REQUESTS[name])
    frames = pipeline.generate(REQUESTS[name]).frames
    assert len(job.preview()) == 0
    shown = 0
    while not job.finished:
        before = job.state.decoded
        seen = [event for event in job.advance() if isinstance(event, Progress)]
        if seen and job.state.decodes_next:
            preview = job.preview()
            assert torch.equal(preview, frames[shown : shown + len(preview)])
            shown += len(preview)
        elif seen and job.state.decoded == before:
            assert job.preview().shape[1:] == frames.shape[1:]
    assert shown == len(frames)


def test_a_job_stops_where_it_is_asked_to(pipeline: InfinityStarPipeline) -> None:
    job = pipeline.job(REQUESTS["t2v in two windows"])
    for position in (Position(0, 0), Position(0, 3), Position(1, 0), Position(1, 5)):
        list(job.run(until=position))
        assert job.state.position == position
        assert job.take().taken == job.take().position.step
    list(job.run(until=Position(0, 3)))
    assert job.state.position == Position(1, 5)


def test_events_come_as_they_do_in_a_stream(pipeline: InfinityStarPipeline) -> None:
    job = pipeline.job(request())
    first = job.advance()
    assert all(isinstance(event, Note) for event in first)
    kinds = [[type(event).__name__ for event in job.advance()] for _ in range(5)]
    step, last = ["Progress"], ["Progress", "Decoding"]
    # The image clip is not shown: it is decoded with the video's.
    assert kinds == [[], step, step, step, last]
    shown = [event for _ in range(4) for event in job.advance()]
    assert [len(event.frames) for event in shown if isinstance(event, ClipReady)] == [5, 4, 4, 4]
    assert job.finished


def test_a_finished_job_has_nothing_to_do(pipeline: InfinityStarPipeline) -> None:
    job = pipeline.job(request("t2i"))
    list(job.run())
    state = job.state
    assert job.advance() == ()
    assert job.state is state


def test_pictures_may_be_changed(pipeline: InfinityStarPipeline) -> None:
    wanted = REQUESTS["extend by two windows"]
    expected = pipeline.generate(wanted).frames
    shown = []
    for event in pipeline.stream(wanted):
        if isinstance(event, ClipReady):
            shown.append(event.frames.clone())
            event.frames[:] = 0
    assert torch.equal(torch.cat(shown), expected)


def test_branches_in_one_batch_are_saved_and_finished_the_same(
    pipeline: InfinityStarPipeline, tmp_path: Path
) -> None:
    own = pipeline.networks
    together = InfinityStarPipeline(
        Networks(
            replace(pipeline.spec),
            own.transformer,
            own.tokenizer,
            own.text_encoder,
            plans=(replace(WHOLE, together=True),),
        )
    )
    wanted = REQUESTS["i2v"]
    events, _ = finished(together.job(wanted))
    places = saved_after_each_advance(together.job(wanted), tmp_path / "job.take")
    for _ in islice(places, 0, None, 3):
        again, _ = finished(together.job(Take.load(tmp_path / "job.take")))
        assert torch.equal(frames_of(again), frames_of(events))


def test_sound_that_is_left_out_is_no_warning(
    tmp_path: Path, pipeline: InfinityStarPipeline
) -> None:
    clip = encode(tmp_path / "a.mkv", pictures(17), rate=16, sound=True, interlaced=True)
    (sound, *others) = (
        event
        for event in pipeline.job(request("extend", clip=clip)).advance()
        if isinstance(event, Note) and "a.mkv" in event.text
    )
    assert (sound.text, sound.warns) == (f"'{clip}': its sound is left out", False)
    assert [(note.text.count("a.mkv"), note.warns) for note in others] == [(1, True)]
    # Nor is it left out where it is kept, which the request says.
    kept = request("extend", clip=clip, keeps_sound=True)
    notes = [event for event in pipeline.job(kept).advance() if isinstance(event, Note)]
    assert not any("sound is left out" in note.text for note in notes)
    made = GenerationResult(request=kept, model="x", frames=pictures(17)).save(tmp_path / "b.mp4")
    assert probe_clip(made).has_sound
