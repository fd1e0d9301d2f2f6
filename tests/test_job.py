"""A job is saved after any step and finished as if it had never stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from asking import frames_of, pictures, request, with_spec
from istar import (
    GenerationRequest,
    InfinityStarPipeline,
    Job,
    Note,
    Progress,
    StateError,
    networks,
)
from istar.events import ClipReady, Event
from istar.generation.guidance import GuidanceConfig
from istar.generation.sampling import SamplingConfig
from istar.memory_plan import WHOLE
from istar.model_spec import PromptForm
from istar.networks import Networks
from istar.saved_job import _digest


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
    return [bits for window in job.state.bits for _, bits in sorted(window.items())]


def finished(job: Job) -> tuple[list[Event], Job]:
    return list(job.run()), job


def saved_after_each_advance(job: Job, path: Path) -> Iterator[int]:
    """Save a job, take a step, until it is finished; gives the number of steps before."""
    count = 0
    while True:
        job.save(path)
        yield count
        if job.finished:
            return
        job.advance()
        count += 1


@pytest.mark.parametrize("name", REQUESTS)
def test_resumed_equals_uninterrupted_after_every_step(
    pipeline: InfinityStarPipeline, tmp_path: Path, name: str
) -> None:
    wanted = REQUESTS[name]
    events, whole = finished(pipeline.job(wanted))
    path = tmp_path / "job"
    seen = set()
    for _ in saved_after_each_advance(pipeline.job(wanted), path):
        # Between two pictures of a clip nothing new is saved.
        if (content := path.read_bytes()) in seen:
            continue
        seen.add(content)
        again, resumed = finished(pipeline.load_job(path))
        assert torch.equal(frames_of(again), frames_of(events))
        for ours, theirs in zip(bits_of(resumed), bits_of(whole), strict=True):
            assert torch.equal(ours, theirs)
        assert torch.equal(resumed.state.generator, whole.state.generator)


def test_a_job_interrupted_again_and_again_ends_the_same(
    pipeline: InfinityStarPipeline, tmp_path: Path
) -> None:
    wanted = REQUESTS["t2v in two windows"]
    events, _ = finished(pipeline.job(wanted))
    path = tmp_path / "job"
    pipeline.job(wanted).save(path)
    # One step more each time; all that was known before is kept, though it was not reached.
    for count in (9, 3, 14, 1, 17, 6):
        job = pipeline.load_job(path)
        for _ in range(count):
            job.advance()
        job.save(path)
    again, _ = finished(pipeline.load_job(path))
    assert torch.equal(frames_of(again), frames_of(events))


def test_what_is_known_is_not_sampled_again(pipeline: InfinityStarPipeline, tmp_path: Path) -> None:
    job = pipeline.job(REQUESTS["t2v in two windows"])
    while job.state.window == 0 or job.state.generation is None:
        job.advance()
    job.advance()
    job.save(tmp_path / "job")
    visited: list[int] = []
    hook = pipeline.networks.transformer.blocks[0].register_forward_pre_hook(
        lambda *_: visited.append(1)
    )
    try:
        resumed = pipeline.load_job(tmp_path / "job")
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
    job.save(tmp_path / "job")
    resumed = pipeline.load_job(tmp_path / "job")
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
    job.save(tmp_path / "job")
    still.unlink()
    resumed = pipeline.load_job(tmp_path / "job")
    assert resumed.request.image == still
    assert torch.equal(frames_of(resumed.run()), frames)


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


# --- Files that are no job, or another model's --------------------------------------------------


@pytest.fixture
def saved(pipeline: InfinityStarPipeline, tmp_path: Path) -> Path:
    path = tmp_path / "job"
    job = pipeline.job(request("extend", clip=pictures(16)))
    for _ in range(4):
        job.advance()
    job.save(path)
    return path


def rewrite(path: Path, change: Callable[[dict[str, Tensor], dict[str, Any]], object]) -> None:
    """Write a saved job again with its tensors and its header changed."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["job"])
        names = list(file.keys())
        tensors = {name: file.get_tensor(name).clone() for name in names}
    change(tensors, header)
    if "sha256" in header:
        header["sha256"] = _digest(tensors)
    save_file(tensors, path, metadata={"job": json.dumps(header)})


def test_a_rewritten_job_is_still_read(pipeline: InfinityStarPipeline, saved: Path) -> None:
    before = bits_of(finished(pipeline.load_job(saved))[1])
    rewrite(saved, lambda tensors, header: None)
    for ours, theirs in zip(bits_of(finished(pipeline.load_job(saved))[1]), before, strict=True):
        assert torch.equal(ours, theirs)


def test_changed_bytes_are_refused(pipeline: InfinityStarPipeline, saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[-100] ^= 1
    saved.write_bytes(content)
    with pytest.raises(StateError, match="damaged job: its bytes have changed"):
        pipeline.load_job(saved)


def test_a_job_of_other_weights_is_refused(pipeline: InfinityStarPipeline, saved: Path) -> None:
    rewrite(saved, lambda _, header: header.update(fingerprint="0" * 64))
    with pytest.raises(StateError, match="made by the random model, and these are other weights"):
        pipeline.load_job(saved)


def test_the_dtype_does_not_change_what_weights_are_called(checkpoint: Path) -> None:
    full, half = (
        InfinityStarPipeline.from_pretrained(checkpoint, device="cpu", dtype=dtype).networks
        for dtype in ("fp32", "bf16")
    )
    assert full.fingerprint == half.fingerprint
    half.transformer.detail_head.weight.data[0, 0] += 1
    assert full.fingerprint != half.fingerprint


def test_another_schedule_is_refused(pipeline: InfinityStarPipeline, saved: Path) -> None:
    other = with_spec(pipeline, replace(pipeline.spec, clip_frames=8))
    other.job(request("extend", clip=pictures(32), seconds=2)).save(saved)
    job = other.load_job(saved)
    for _ in range(8):
        job.advance()
    job.save(saved)
    with pytest.raises(StateError, match="other settings of the random model"):
        pipeline.load_job(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": PromptForm(prefix="now: ")},
        {
            "sampling": SamplingConfig(
                guidance=GuidanceConfig(kind="cfg", scale=2), tau_image=1, tau_video=1
            )
        },
        {"video_repeats": (2, 1)},
    ],
)
def test_other_settings_are_refused(
    pipeline: InfinityStarPipeline, saved: Path, change: dict[str, Any]
) -> None:
    other = with_spec(pipeline, replace(pipeline.spec, **change))
    with pytest.raises(StateError, match="other settings of the random model"):
        other.load_job(saved)
    # What decides no bits may differ.
    renamed = with_spec(pipeline, replace(pipeline.spec, name="other", notice="", extends=False))
    assert not renamed.load_job(saved).finished


def test_another_dtype_is_noted(checkpoint: Path, tmp_path: Path) -> None:
    full, half = (
        InfinityStarPipeline.from_pretrained(checkpoint, device="cpu", dtype=dtype)
        for dtype in ("fp32", "bf16")
    )
    full.job(request("t2i")).save(tmp_path / "job")
    notes = [e.text for e in half.load_job(tmp_path / "job").run() if isinstance(e, Note)]
    assert any("saved in fp32 and continues in bf16" in note for note in notes)
    notes = [e.text for e in full.load_job(tmp_path / "job").run() if isinstance(e, Note)]
    assert not any("saved in" in note for note in notes)


def test_a_picture_that_was_given_as_a_file_must_be_there(
    pipeline: InfinityStarPipeline, tmp_path: Path
) -> None:
    still = pipeline.generate(request("t2i")).save(tmp_path / "still.png")
    pipeline.job(request("i2v", image=still)).save(tmp_path / "job")
    rewrite(tmp_path / "job", lambda tensors, _: tensors.pop("image"))
    with pytest.raises(StateError, match="its image is missing"):
        pipeline.load_job(tmp_path / "job")
    pipeline.job(request("i2v", image=still)).save(tmp_path / "job")
    rewrite(
        tmp_path / "job",
        lambda tensors, _: tensors.update(image=tensors["image"].repeat(2, 1, 1, 1)),
    )
    with pytest.raises(StateError, match="its image has the wrong size"):
        pipeline.load_job(tmp_path / "job")


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
    wanted = REQUESTS["t2v in two windows"]
    events, _ = finished(together.job(wanted))
    for _ in saved_after_each_advance(together.job(wanted), tmp_path / "job"):
        again, _ = finished(together.load_job(tmp_path / "job"))
        assert torch.equal(frames_of(again), frames_of(events))


@pytest.mark.parametrize("keep", [0, 7, 1000, -1])
def test_a_cut_file(pipeline: InfinityStarPipeline, saved: Path, keep: int) -> None:
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(StateError, match="not a readable job"):
        pipeline.load_job(saved)


def test_files_that_are_not_jobs(pipeline: InfinityStarPipeline, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="nowhere"):
        pipeline.load_job(tmp_path / "nowhere")
    (tmp_path / "text").write_text("a job well done\n" * 100)
    with pytest.raises(StateError, match="not a readable job"):
        pipeline.load_job(tmp_path / "text")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"job": "{"}, {"job": "[]"}])
def test_safetensors_without_a_jobs_header(
    pipeline: InfinityStarPipeline, saved: Path, metadata: dict[str, str] | None
) -> None:
    save_file({"generator": torch.zeros(1)}, saved, metadata=metadata)
    with pytest.raises(StateError, match="not a"):
        pipeline.load_job(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "istar-job-0"},
        {"request": None},
        {"request": {"mode": "nonsense"}},
        {"request": {"mode": "extend", "prompt": "a", "pages": 3}},
        {"template": "0.5"},
        {"template": None},
        {"model": 3},
        {"settings": None},
    ],
)
def test_a_wrong_header(
    pipeline: InfinityStarPipeline, saved: Path, change: dict[str, Any]
) -> None:
    rewrite(saved, lambda _, header: header.update(change))
    with pytest.raises(StateError, match="job"):
        pipeline.load_job(saved)


def _grow(tensors: dict[str, Tensor], name: str, renamed: str) -> None:
    tensors[renamed] = tensors.pop(name)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, _: tensors.pop("generator"),
        lambda tensors, _: tensors.pop("clip"),
        lambda tensors, _: tensors.pop("bits.0.0"),
        lambda tensors, _: tensors.pop("bits.0.2"),
        lambda tensors, _: tensors.update(image=tensors["clip"][:1].clone()),
        lambda tensors, _: tensors.update(generator=torch.zeros(3, dtype=torch.uint8)),
        lambda tensors, _: tensors.update(clip=torch.zeros(3)),
        lambda tensors, _: tensors.update({"bits.0.0": torch.zeros(99, dtype=torch.uint8)}),
        lambda tensors, _: tensors.update({"bits.0.0": torch.zeros(8)}),
        lambda tensors, _: _grow(tensors, "bits.0.0", "bits.0.99"),
        lambda tensors, _: _grow(tensors, "bits.0.0", "bits.7.0"),
        lambda tensors, _: _grow(tensors, "bits.0.0", "bits.-1.0"),
        lambda tensors, _: _grow(tensors, "bits.0.0", "bits.0.-6"),
        lambda tensors, _: _grow(tensors, "bits.0.0", "bits.0"),
        lambda tensors, _: _grow(tensors, "bits.0.0", "keys.0.0"),
    ],
)
def test_a_wrong_tensor(
    pipeline: InfinityStarPipeline,
    saved: Path,
    change: Callable[[dict[str, Tensor], dict[str, Any]], object],
) -> None:
    rewrite(saved, change)
    with pytest.raises(StateError, match="damaged"):
        pipeline.load_job(saved)


# --- Writing that fails ------------------------------------------------------------------------


def test_saving_replaces_the_former_file(pipeline: InfinityStarPipeline, saved: Path) -> None:
    job = pipeline.job(request())
    job.save(saved)
    assert pipeline.load_job(saved).request == request()
    assert [path.name for path in saved.parent.iterdir()] == ["job"]


def test_a_failed_write_leaves_the_former_file_and_nothing_else(
    pipeline: InfinityStarPipeline, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def half(path: Path, data: bytes) -> int:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(StateError, match="No space left"):
        pipeline.job(request()).save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["job"]


@pytest.mark.parametrize("name", ["taken", "nowhere/job", "a\0b"])
def test_a_place_that_cannot_be_written(
    pipeline: InfinityStarPipeline, tmp_path: Path, name: str
) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(StateError, match=r"cannot write|not a plain file|exists"):
        pipeline.job(request()).save(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
