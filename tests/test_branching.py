"""A take is continued by its tokens: extended, prompt by prompt, and from where it was before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from asking import frames_of, pictures, request, with_spec
from istar import ClipReady, InfinityStarPipeline, Job, StateError, Take, UsageError
from istar.generation.state import Position, TakeWindow
from istar.media import write_clip
from istar.networks import Networks


@pytest.fixture(scope="module")
def pipeline(checkpoint: Path) -> InfinityStarPipeline:
    """Clips of a second, one pass of two."""
    whole = InfinityStarPipeline.from_pretrained(checkpoint, device="cpu")
    return with_spec(whole, replace(whole.spec, clip_frames=4, max_seconds=2))


@pytest.fixture(scope="module")
def bundled() -> InfinityStarPipeline:
    whole = InfinityStarPipeline.from_pretrained("tiny", device="cpu")
    return with_spec(whole, replace(whole.spec, clip_frames=4, max_seconds=2))


@pytest.fixture(params=["pipeline", "bundled"])
def each(request: pytest.FixtureRequest) -> InfinityStarPipeline:
    """Random weights, and those of the bundled model."""
    found: InfinityStarPipeline = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures are encoded at a time, from now on."""
    counts: list[int] = []
    encode = Networks.encode

    def watched(self: Networks, pictures: Tensor) -> Tensor:
        counts.append(len(pictures))
        return encode(self, pictures)

    monkeypatch.setattr(Networks, "encode", watched)
    return counts


def done(job: Job) -> tuple[Tensor, Take]:
    """The pictures of a job, and its finished take."""
    frames = frames_of(job.run())
    return frames, job.take()


def clip_bits(window: TakeWindow, clip: int) -> list[Tensor]:
    """The bits of a window's clip, step by step."""
    return [window.bits[step.index] for step in window.schedule.steps if step.clip == clip]


def alike(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


@pytest.fixture
def second(pipeline: InfinityStarPipeline, tmp_path: Path) -> tuple[Tensor, Path]:
    """The pictures of a second made from a text, and the file of its take."""
    frames, take = done(pipeline.job(request()))
    return frames, take.save(tmp_path / "second.take")


def test_take_and_extension_are_one_pass_whose_first_clips_are_given(
    each: InfinityStarPipeline, tmp_path: Path, encoded: list[int]
) -> None:
    seconds = each.spec.clip_seconds
    wanted = request(seconds=seconds, aspect=None)
    shown, take = done(each.job(wanted))
    path = take.save(tmp_path / "a.take")
    frames, longer = done(each.job(replace(wanted, mode="extend", clip=path, seed=9)))
    assert torch.equal(frames[: len(shown)], shown)
    assert len(frames) == longer.pictures == 32 * seconds + 1
    # One pass of twice the length, of which the first two clips are known.
    both = each.job(replace(wanted, seconds=2 * seconds)).take()
    schedule = longer.windows[0].schedule
    known = take.windows[0].bits
    whole = replace(
        both,
        windows=(
            TakeWindow(
                schedule=schedule,
                generator=torch.Generator().manual_seed(9).get_state(),
                bits=known,
                given=frozenset(known),
            ),
        ),
    )
    whole = replace(whole, generator=whole.windows[0].generator)
    expected, made = done(each.job(whole))
    assert torch.equal(frames, expected)
    assert alike(clip_bits(longer.windows[0], 2), clip_bits(made.windows[0], 2))
    assert {index: longer.windows[0].bits[index] for index in known}.keys() == known.keys()
    assert all(torch.equal(longer.windows[0].bits[index], known[index]) for index in known)
    assert encoded == []


def test_windows_after_an_extension_use_the_bits_of_its_new_clip(
    pipeline: InfinityStarPipeline, tmp_path: Path, encoded: list[int]
) -> None:
    seconds = pipeline.spec.clip_seconds
    _, take = done(pipeline.job(request(seconds=seconds)))
    path = take.save(tmp_path / "a.take")
    wanted = request("extend", clip=path, seconds=2 * seconds)
    frames, longer = done(pipeline.job(wanted))
    first, later = longer.windows
    assert alike(clip_bits(later, 1), clip_bits(first, 2))
    # The picture before that clip is one of a video, and has no image clip.
    assert encoded == [1]
    steps = {step.index for step in later.schedule.steps if step.clip < 2}
    assert later.given == steps
    # A take of two windows is extended alike.
    path = longer.save(tmp_path / "b.take")
    more, longest = done(pipeline.job(replace(wanted, clip=path, seconds=seconds)))
    assert torch.equal(more[: len(frames)], frames)
    assert alike(clip_bits(longest.windows[0], 1), clip_bits(later, 2))
    assert encoded == [1, 1]


@pytest.mark.parametrize(
    "made",
    [
        {"seconds": 1.25},
        pytest.param({"seconds": 1.5, "mode": "extend"}, marks=pytest.mark.slow),
    ],
)
def test_where_no_clip_is_what_is_shown_again_pictures_are_encoded(
    pipeline: InfinityStarPipeline, tmp_path: Path, encoded: list[int], made: dict[str, object]
) -> None:
    wanted = request(**made, clip=pictures(16)) if "mode" in made else request(**made)
    shown, take = done(pipeline.job(wanted))
    path = take.save(tmp_path / "a.take")
    encoded.clear()
    frames, longer = done(pipeline.job(request("extend", clip=path)))
    assert encoded == [17]
    # Just as when its pictures were handed over.
    again, same = done(pipeline.job(request("extend", clip=shown)))
    assert torch.equal(frames, again)
    assert alike(clip_bits(longer.windows[0], 1), clip_bits(same.windows[0], 1))


@pytest.mark.parametrize(
    "each", ["pipeline", pytest.param("bundled", marks=pytest.mark.slow)], indirect=True
)
def test_a_take_is_the_first_clip_of_an_interactive_video(
    each: InfinityStarPipeline, tmp_path: Path, encoded: list[int]
) -> None:
    # The text of a prompt has no suffix in an interactive video.
    wanted = request(seconds=each.spec.clip_seconds, aspect=None, suffix=False)
    _, take = done(each.job(wanted))
    path = take.save(tmp_path / "a.take")
    after = request("interact", prompt=("two",), clip=path, seed=9, aspect=None)
    frames, _ = done(each.job(after))
    job = each.job(request("interact", prompt=(str(wanted.prompt),), aspect=None))
    parts = [frames_of(job.run())]
    job.add_prompt("two", seed=9)
    parts.append(frames_of(job.run()))
    assert torch.equal(frames, torch.cat(parts))
    assert encoded == []


def test_an_interactive_take_is_continued_by_its_latents(
    pipeline: InfinityStarPipeline, tmp_path: Path, encoded: list[int]
) -> None:
    job = pipeline.job(request("interact", prompt=("one", "two")))
    shown, take = done(job)
    path = take.save(tmp_path / "a.take")
    after = pipeline.job(request("interact", prompt=("three",), clip=path, seed=9))
    frames = frames_of(after.run())
    job.add_prompt("three", seed=9)
    assert torch.equal(frames, torch.cat((shown, frames_of(job.run()))))
    assert after.state.first is not None
    assert job.state.first is not None
    assert torch.equal(after.state.first, job.state.first)
    assert encoded == []


def test_a_take_of_less_than_a_clip_of_latents_is_encoded(
    pipeline: InfinityStarPipeline, tmp_path: Path, encoded: list[int]
) -> None:
    model = with_spec(pipeline, replace(pipeline.spec, clip_frames=8))
    # Two seconds and a little, of which the last window has less.
    _, take = done(model.job(request("extend", clip=pictures(30), seconds=0.75)))
    path = take.save(tmp_path / "a.take")
    encoded.clear()
    frames, _ = done(model.job(request("interact", prompt=("one",), clip=path)))
    assert encoded == [33]
    assert len(frames) == 30 + 12 + 32


def saved_on_the_way(job: Job, path: Path) -> Iterator[Path]:
    """The file of a job's take, wherever there is something new in it."""
    seen = set()
    while True:
        job.take().save(path, overwrite=True)
        if (content := path.read_bytes()) not in seen:
            seen.add(content)
            yield path
        if job.finished:
            return
        job.advance()


@pytest.mark.parametrize(
    ("mode", "stride"),
    [
        *((mode, 4) for mode in ("extend", "interact")),
        *(pytest.param(mode, 1, marks=pytest.mark.slow) for mode in ("extend", "interact")),
    ],
)
def test_what_continues_a_take_finishes_where_that_is_gone(
    pipeline: InfinityStarPipeline,
    second: tuple[Tensor, Path],
    tmp_path: Path,
    mode: str,
    stride: int,
) -> None:
    """Without `slow`, from every fourth place only."""
    prompt = ("one",) if mode == "interact" else "one"
    wanted = request(mode, prompt=prompt, clip=second[1])
    frames, _ = done(pipeline.job(wanted))
    job = pipeline.job(wanted)
    second[1].unlink()
    for path in islice(saved_on_the_way(job, tmp_path / "b.take"), 0, None, stride):
        take = Take.load(path)
        assert take.before is not None
        assert torch.equal(pipeline.finish(take).frames, frames)


def test_a_step_that_is_interrupted_while_a_take_is_shown_has_not_happened(
    pipeline: InfinityStarPipeline, second: tuple[Tensor, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = request("extend", clip=second[1])
    frames, _ = done(pipeline.job(wanted))
    job, shown = pipeline.job(wanted), list[Tensor]()
    advance_before, interrupted = Job._advance_before, 0

    def interrupt(self: Job, before: Job) -> None:
        advance_before(self, before)
        raise KeyboardInterrupt

    while not job.finished:
        with monkeypatch.context() as patched:
            patched.setattr(Job, "_advance_before", interrupt)
            try:
                events = job.advance()
            except KeyboardInterrupt:
                interrupted += 1
                events = None
        events = job.advance() if events is None else events
        shown += [event.frames for event in events if isinstance(event, ClipReady)]
    assert interrupted > 5
    assert torch.equal(torch.cat(shown), frames)


def test_the_input_of_a_take_that_is_continued_comes_first(
    pipeline: InfinityStarPipeline, tmp_path: Path
) -> None:
    film = write_clip(pictures(40), tmp_path / "film.mp4")
    shown, take = done(pipeline.job(request("extend", clip=film)))
    path = take.save(tmp_path / "a.take")
    events = list(pipeline.stream(request("extend", clip=path)))
    clips = [event for event in events if isinstance(event, ClipReady)]
    assert torch.equal(frames_of([one for one in clips if one.from_input]), shown)
    assert sum(len(one.frames) for one in clips if not one.from_input) == 16


# --- What is refused --------------------------------------------------------------------------


def test_a_take_that_is_not_finished_is_refused(
    pipeline: InfinityStarPipeline, tmp_path: Path
) -> None:
    job = pipeline.job(request())
    list(job.run(until=Position(0, 2)))
    path = job.take().save(tmp_path / "a.take")
    with pytest.raises(StateError, match=r"a\.take' is not finished") as refused:
        pipeline.job(request("extend", clip=path))
    assert refused.value.remedies == ("finish",)


def test_a_take_of_another_model_is_refused(
    pipeline: InfinityStarPipeline, bundled: InfinityStarPipeline, tmp_path: Path
) -> None:
    _, take = done(bundled.job(request(seconds=1, aspect=None)))
    path = take.save(tmp_path / "a.take")
    with pytest.raises(StateError, match="made by the tiny model, and these are other weights"):
        pipeline.job(request("extend", clip=path, aspect=None))


def test_takes_that_cannot_be_continued_are_refused(
    pipeline: InfinityStarPipeline, second: tuple[Tensor, Path], tmp_path: Path
) -> None:
    _, take = done(pipeline.job(request("t2i")))
    picture = take.save(tmp_path / "picture.take")
    with pytest.raises(UsageError, match="extend needs 1 s or more"):
        pipeline.job(request("extend", clip=picture))
    with pytest.raises(UsageError, match="is 48×32 and is continued as it is"):
        pipeline.job(request("extend", clip=second[1], aspect=2))
    longer = with_spec(pipeline, replace(pipeline.spec, clip_frames=8))
    with pytest.raises(UsageError, match="interact needs 2 s or more"):
        longer.job(request("interact", prompt=("one",), clip=second[1]))


# --- Going back -------------------------------------------------------------------------------


def test_without_its_last_prompt_a_take_is_as_it_was(pipeline: InfinityStarPipeline) -> None:
    job = pipeline.job(request("interact", prompt=("one", "two")))
    list(job.run())
    before = job.take()
    job.add_prompt("three", seed=9)
    # Before it is begun, and in the midst of it.
    for until in (Position(2, 0), Position(2, 2)):
        list(job.run(until=until))
        take = job.take().without_last_prompt()
        assert take.request == before.request
        assert (take.position, take.total, take.finished) == (before.position, before.total, True)
        assert torch.equal(take.generator, before.generator)
        assert take.windows == before.windows
    again = pipeline.job(take)
    shown = frames_of(again.run())
    again.add_prompt("four")
    wanted = request("interact", prompt=("one", "two", "four"))
    assert torch.equal(torch.cat((shown, frames_of(again.run()))), pipeline.generate(wanted).frames)


def test_a_take_within_its_first_window_loses_its_last_prompt(
    pipeline: InfinityStarPipeline,
) -> None:
    job = pipeline.job(request("interact", prompt=("one", "two")))
    list(job.run(until=Position(0, 3)))
    again = pipeline.job(job.take().without_last_prompt())
    wanted = request("interact", prompt=("one",))
    assert torch.equal(frames_of(again.run()), pipeline.generate(wanted).frames)


@pytest.mark.parametrize("mode", ["t2v", "interact"])
def test_the_only_prompt_stays(pipeline: InfinityStarPipeline, mode: str) -> None:
    prompt = ("one",) if mode == "interact" else "one"
    with pytest.raises(UsageError, match="is the only one"):
        pipeline.job(request(mode, prompt=prompt)).take().without_last_prompt()


@pytest.mark.parametrize(
    ("hidden", "clip"),
    [
        (1, None),
        (2, pictures(20)),
        pytest.param(2, None, marks=pytest.mark.slow),
        pytest.param(1, pictures(20), marks=pytest.mark.slow),
    ],
)
def test_pictures_that_are_there_are_not_made_again(
    pipeline: InfinityStarPipeline, clip: Tensor | None, hidden: int
) -> None:
    job = pipeline.job(request("interact", prompt=("one", "two", "three"), clip=clip))
    list(job.run(until=Position(2, 3)))
    take = job.take()
    frames = pipeline.finish(take).frames
    again = Job.from_take(pipeline.networks, take, hidden=hidden)
    shown = frames_of(again.run())
    assert len(shown) == 16 * (3 - hidden)
    assert torch.equal(shown, frames[-len(shown) :])


def test_only_clips_that_nothing_reads_are_hidden(pipeline: InfinityStarPipeline) -> None:
    take = pipeline.job(request()).take()
    with pytest.raises(UsageError, match="pictures of t2v"):
        Job.from_take(pipeline.networks, take, hidden=1)


def test_a_clip_is_drawn_from_a_seed_of_its_own(pipeline: InfinityStarPipeline) -> None:
    job = pipeline.job(request("interact", prompt=("one",)))
    with pytest.raises(UsageError, match="when the prompts before are finished"):
        job.add_prompt("two", seed=9)
    list(job.run())
    for wrong in (-1, 2**64, True):
        with pytest.raises(UsageError, match="a seed is a whole number"):
            job.add_prompt("two", seed=wrong)
    state, asked, plan = job.state, job.request, job.plan
    made = []
    for seed in (9, 9, 10):
        job.state, job.request, job.plan = state, asked, plan
        job.add_prompt("two", seed=seed)
        made.append(frames_of(job.run()))
        expected = torch.Generator().manual_seed(seed).get_state()
        assert torch.equal(job.take().windows[1].generator, expected)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
