"""The file of a take: strict, whole, and refused where it does not belong."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from asking import pictures, request, with_spec
from istar import InfinityStarPipeline, Note, StateError, Take
from istar.generation.guidance import GuidanceConfig
from istar.generation.sampling import SamplingConfig
from istar.generation.state import Position
from istar.model_spec import PromptForm
from istar.take_file import digest


@pytest.fixture(scope="module")
def pipeline(checkpoint: Path) -> InfinityStarPipeline:
    """Clips of a second, one pass of two: several windows are quickly made."""
    whole = InfinityStarPipeline.from_pretrained(checkpoint, device="cpu")
    return with_spec(whole, replace(whole.spec, clip_frames=4, max_seconds=2))


@pytest.fixture(scope="module")
def original(pipeline: InfinityStarPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A take of two windows, after three steps of the second."""
    job = pipeline.job(request("extend", clip=pictures(16), seconds=2))
    list(job.run(until=Position(1, 3)))
    return job.take().save(tmp_path_factory.mktemp("take") / "a.take")


@pytest.fixture
def saved(original: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return shutil.copy(original, tmp_path / "a.take")


Change = Callable[[dict[str, Tensor], dict[str, Any]], object]


def rewrite(path: Path, change: Change) -> None:
    """Write a take again with its tensors and its header changed, and the hash made to fit."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["take"])
        tensors = {name: file.get_tensor(name).clone() for name in list(file.keys())}
    del header["sha256"]
    change(tensors, header)
    header["sha256"] = digest(tensors, header)
    save_file(tensors, path, metadata={"take": json.dumps(header)})


def plain(value: Any) -> Any:
    """A take, or a part of one, in values that compare."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in sorted(value.items())}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    return round(value, 6) if isinstance(value, float) else value


def same(one: Take, other: Take) -> bool:
    return bool(plain(one) == plain(other))


def test_what_is_written_is_read(pipeline: InfinityStarPipeline, saved: Path) -> None:
    job = pipeline.job(request(seconds=3))
    list(job.run(until=Position(1, 2)))
    take = job.take()
    assert same(Take.load(take.save(saved, overwrite=True)), take)


def test_a_take_says_how_far_it_is(pipeline: InfinityStarPipeline) -> None:
    job = pipeline.job(request(seconds=1))
    assert job.take().last_step is None
    assert job.take().position == (0, 0)
    while not job.finished:
        job.advance()
        taken = job.state.windows or (job.state.current,)
        count = len(taken[-1].seconds) if taken[-1] else 0
        assert job.take().position == (0, count)
        if count:
            assert job.take().last_step == job.plan.steps(0)[count - 1]
        assert job.take().finished == (count == len(job.plan.steps(0)))


def test_steps_that_are_drawn_take_time(pipeline: InfinityStarPipeline) -> None:
    job = pipeline.job(request("i2v", image=pictures(1)[0]))
    list(job.run())
    (window,) = job.take().windows
    given = {step.index for step in window.schedule.steps if step.clip == 0}
    assert window.given == given
    assert [seconds > 0 for seconds in window.seconds] == [
        step.index not in given for step in window.schedule.steps
    ]
    # A step that is passed again keeps its time.
    again = pipeline.job(job.take())
    list(again.run())
    assert again.take().windows[0].seconds == window.seconds


def test_a_file_is_as_large_as_its_bits(pipeline: InfinityStarPipeline, tmp_path: Path) -> None:
    job = pipeline.job(request(seconds=2))
    list(job.run())
    take = job.take()
    bits = sum(bits.numel() for window in take.windows for bits in window.bits.values())
    steps = sum(len(window.bits) for window in take.windows)
    assert take.save(tmp_path / "a.take").stat().st_size < bits / 8 + 100 * steps + 16_000


# --- Files that are no take, or another model's -------------------------------------------------


def test_a_rewritten_take_is_still_read(saved: Path) -> None:
    before = Take.load(saved)
    rewrite(saved, lambda tensors, header: None)
    assert same(Take.load(saved), before)


@pytest.mark.parametrize("place", [100, 1500, -6000, -100])
def test_changed_bytes_are_refused(saved: Path, place: int) -> None:
    content = bytearray(saved.read_bytes())
    content[place] ^= 1
    saved.write_bytes(content)
    with pytest.raises(StateError, match=r"a\.take' is "):
        Take.load(saved)


def test_a_take_of_other_weights_is_refused(pipeline: InfinityStarPipeline, saved: Path) -> None:
    rewrite(saved, lambda _, header: header["model"].update(fingerprint="0" * 64))
    with pytest.raises(StateError, match="made by the random model, and these are other weights"):
        pipeline.job(Take.load(saved))


def test_the_dtype_does_not_change_what_weights_are_called(checkpoint: Path) -> None:
    full, half = (
        InfinityStarPipeline.from_pretrained(checkpoint, device="cpu", dtype=dtype).networks
        for dtype in ("fp32", "bf16")
    )
    assert full.fingerprint == half.fingerprint
    half.transformer.detail_head.weight.data[0, 0] += 1
    assert full.fingerprint != half.fingerprint


@pytest.mark.parametrize("change", [{"clip_frames": 8}, {"video_repeats": (2, 1)}])
def test_another_schedule_is_refused(
    pipeline: InfinityStarPipeline, saved: Path, change: dict[str, Any]
) -> None:
    other = with_spec(pipeline, replace(pipeline.spec, **change))
    with pytest.raises(StateError, match="another schedule than the random model"):
        other.job(Take.load(saved))


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": PromptForm(prefix="now: ")},
        {
            "sampling": SamplingConfig(
                guidance=GuidanceConfig(kind="cfg", scale=2), tau_image=1, tau_video=1
            )
        },
    ],
)
def test_other_settings_are_refused(
    pipeline: InfinityStarPipeline, saved: Path, change: dict[str, Any]
) -> None:
    other = with_spec(pipeline, replace(pipeline.spec, **change))
    with pytest.raises(StateError, match="other settings of the random model"):
        other.job(Take.load(saved))
    # What decides no bits may differ.
    renamed = with_spec(pipeline, replace(pipeline.spec, name="other", notice="", extends=False))
    assert not renamed.job(Take.load(saved)).finished


def test_another_dtype_is_noted(checkpoint: Path) -> None:
    full, half = (
        InfinityStarPipeline.from_pretrained(checkpoint, device="cpu", dtype=dtype)
        for dtype in ("fp32", "bf16")
    )
    take = full.job(request("t2i")).take()
    notes = [e.text for e in half.job(take).run() if isinstance(e, Note)]
    assert any("made in fp32 and continues in bf16" in note for note in notes)
    notes = [e.text for e in full.job(take).run() if isinstance(e, Note)]
    assert not any("made in" in note for note in notes)


@pytest.mark.parametrize("size", [(1, 32, 32, 3), (1, 16, 48, 3)])
def test_pictures_of_another_size_are_refused(
    pipeline: InfinityStarPipeline, tmp_path: Path, size: tuple[int, ...]
) -> None:
    take = pipeline.job(request("i2v", image=pictures(1)[0])).take()
    with pytest.raises(StateError, match="image has the wrong size"):
        pipeline.job(replace(take, image=torch.zeros(size, dtype=torch.uint8)))


@pytest.mark.parametrize("keep", [0, 7, 1000, -1])
def test_a_cut_file(saved: Path, keep: int) -> None:
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(StateError, match="is no take, or it was cut short"):
        Take.load(saved)


def test_files_that_are_no_takes(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="nowhere"):
        Take.load(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(StateError, match="not a readable take: it is no plain file"):
            Take.load(path)
    (tmp_path / "text").write_text("a job well done\n" * 100)
    with pytest.raises(StateError, match="is no take, or it was cut short"):
        Take.load(tmp_path / "text")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"take": "{"}, {"take": "[]"}])
def test_safetensors_without_a_takes_header(saved: Path, metadata: dict[str, str] | None) -> None:
    save_file({"generator": torch.zeros(1)}, saved, metadata=metadata)
    with pytest.raises(StateError, match=r"is no"):
        Take.load(saved)


def test_another_version_is_refused(saved: Path) -> None:
    rewrite(saved, lambda _, header: header.update(format="istar-take-9"))
    with pytest.raises(StateError, match="no take of the version 'istar-take-9' that this istar"):
        Take.load(saved)


def _first(header: dict[str, Any]) -> dict[str, Any]:
    window: dict[str, Any] = header["windows"][0]
    return window


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.update(request=None),
        lambda header: header.update(request="[" * 100_000),
        lambda header: header.update(request='{"mode": "nonsense"}'),
        lambda header: header.update(request='{"mode": "extend", "prompt": "a", "pages": 3}'),
        lambda header: header.update(request='{"mode": "t2v", "prompt": "a"}'),
        lambda header: header.update(template=None),
        lambda header: header["model"].update(name=3),
        lambda header: header["model"].pop("settings"),
        lambda header: header.update(unknown=3),
        lambda header: header.update(taken=header["taken"] + 1),
        lambda header: header.update(total=1),
        lambda header: header.update(semantic_bits=0),
        lambda header: header.update(detail_bits=10**9),
        lambda header: header.update(clip_file={"pictures": 3, "sha256": "0"}),
        lambda header: header["windows"].pop(),
        lambda header: header["windows"].append(header["windows"][0]),
        lambda header: _first(header).update(clips=[]),
        lambda header: _first(header).update(scales=[]),
        lambda header: _first(header).update(scales=[[2**40, 1]]),
        lambda header: _first(header).update(context="all"),
        lambda header: _first(header).update(given=[99]),
        lambda header: _first(header)["seconds"].pop(),
        lambda header: _first(header)["seconds"].append(1.0),
        lambda header: _first(header)["scores"].pop(),
        lambda header: _first(header)["scores"][0].pop(),
        lambda header: _first(header)["clips"][0].update(frames=0),
        lambda header: _first(header)["clips"][0].update(repeats=[2**19, 2**19, 2**19]),
        lambda header: _first(header)["clips"][0].update(repeats=[1]),
        lambda header: _first(header).update(clips=[{"frames": 1, "repeats": [9] * 4}] * 10**4),
    ],
)
def test_a_wrong_header(saved: Path, change: Callable[[dict[str, Any]], object]) -> None:
    rewrite(saved, lambda _, header: change(header))
    with pytest.raises(StateError, match="damaged take"):
        Take.load(saved)


def test_an_unknown_ratio(pipeline: InfinityStarPipeline, saved: Path) -> None:
    rewrite(saved, lambda _, header: header.update(template="0.5123"))
    with pytest.raises(StateError, match="unknown ratio"):
        pipeline.job(Take.load(saved))


def _rename(tensors: dict[str, Tensor], name: str, renamed: str) -> None:
    tensors[renamed] = tensors.pop(name)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, _: tensors.pop("generator"),
        lambda tensors, _: tensors.pop("generator.1"),
        lambda tensors, _: tensors.pop("clip"),
        lambda tensors, _: tensors.pop("bits.0.0"),
        lambda tensors, _: tensors.pop("bits.1.2"),
        lambda tensors, _: tensors.update(image=tensors["clip"][:1].clone()),
        lambda tensors, _: tensors.update(generator=torch.zeros(3, dtype=torch.uint8)),
        lambda tensors, _: tensors.update(clip=torch.zeros(3)),
        lambda tensors, _: tensors.update({"bits.0.0": torch.zeros(99, dtype=torch.uint8)}),
        lambda tensors, _: tensors.update({"bits.0.0": torch.zeros(8)}),
        lambda tensors, _: tensors.update({"mask.0.0": torch.zeros(99, dtype=torch.uint8)}),
        lambda tensors, _: _rename(tensors, "bits.1.2", "bits.1.99"),
        lambda tensors, _: _rename(tensors, "bits.1.2", "bits.7.0"),
        lambda tensors, _: _rename(tensors, "bits.1.2", "bits.-1.0"),
        lambda tensors, _: _rename(tensors, "bits.1.2", "bits.1"),
        lambda tensors, _: _rename(tensors, "bits.1.2", "keys.1.2"),
        lambda tensors, _: _rename(tensors, "bits.1.2", "mask.1.2"),
    ],
)
def test_a_wrong_tensor(saved: Path, change: Change) -> None:
    rewrite(saved, change)
    with pytest.raises(StateError, match="damaged take"):
        Take.load(saved)


@pytest.fixture(scope="module")
def continued(pipeline: InfinityStarPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The take of a second that is added to a take, after three of its steps; beside that."""
    directory = tmp_path_factory.mktemp("continued")
    first = pipeline.job(request())
    list(first.run())
    clip = first.take().save(directory / "first.take")
    job = pipeline.job(request("extend", clip=clip))
    list(job.run(until=Position(0, 5)))
    return job.take().save(directory / "later.take")


@pytest.fixture
def later(continued: Path, tmp_path: Path) -> Path:
    """A copy of both, to be changed."""
    for path in continued.parent.iterdir():
        shutil.copy(path, tmp_path)
    return tmp_path / continued.name


def test_a_take_that_continues_one_is_read(pipeline: InfinityStarPipeline, later: Path) -> None:
    before = Take.load(later).before
    assert before is not None
    assert same(before, Take.load(later.with_name("first.take")))
    assert same(Take.load(Take.load(later).save(later, overwrite=True)), Take.load(later))


def _deep(header: dict[str, Any], levels: int) -> None:
    for _ in range(levels):
        header["before"] = {**header, "before": header["before"]}


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, _: tensors.pop("before.generator"),
        lambda tensors, _: tensors.pop("before.bits.0.1"),
        lambda tensors, _: tensors.update({"before.before.generator": torch.zeros(9)}),
        lambda tensors, _: tensors.update(clip=torch.zeros(17, 32, 48, 3, dtype=torch.uint8)),
        lambda _, header: header.pop("before"),
        lambda _, header: header.update(before=3),
        lambda _, header: header["before"].update(total=2),
        lambda _, header: header["before"].update(unknown=2),
        lambda _, header: header["before"]["windows"][0]["clips"][0].update(repeats=[2**19] * 3),
        lambda _, header: _deep(header, 3),
        lambda _, header: _deep(header, 300),
    ],
)
def test_a_wrong_take_before(later: Path, change: Change) -> None:
    rewrite(later, change)
    with pytest.raises(StateError, match="damaged take"):
        Take.load(later)


# --- Writing that fails -------------------------------------------------------------------------


def test_saving_replaces_only_where_it_may(pipeline: InfinityStarPipeline, saved: Path) -> None:
    take = pipeline.job(request()).take()
    with pytest.raises(StateError, match="exists"):
        take.save(saved)
    take.save(saved, overwrite=True)
    assert Take.load(saved).request == request()
    assert [path.name for path in saved.parent.iterdir()] == ["a.take"]


def test_a_failed_write_leaves_the_former_file_and_nothing_else(
    pipeline: InfinityStarPipeline, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def half(path: Path, data: bytes) -> int:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(StateError, match="No space left"):
        pipeline.job(request()).take().save(saved, overwrite=True)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["a.take"]


@pytest.mark.parametrize("name", ["taken", "nowhere/a.take", "a\0b"])
def test_a_place_that_cannot_be_written(
    pipeline: InfinityStarPipeline, tmp_path: Path, name: str
) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(StateError, match=r"cannot write|not a plain file|exists"):
        pipeline.job(request()).take().save(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


# --- What a step draws --------------------------------------------------------------------------


def test_of_a_step_with_a_mask_only_the_marked_tokens_are_drawn(
    pipeline: InfinityStarPipeline, tmp_path: Path
) -> None:
    job = pipeline.job(request())
    list(job.run())
    take = job.take()
    (window,) = take.windows
    draw = torch.Generator().manual_seed(9)
    masks = {
        step.index: torch.rand(step.grid.tokens, generator=draw) < 0.5
        for step in window.schedule.steps
        if step.scale
    }
    varied = replace(
        take,
        windows=(
            replace(
                window,
                generator=draw.get_state(),
                masks=masks,
                given=frozenset(window.bits) - set(masks),
                seconds=(),
                scores=(),
            ),
        ),
        generator=draw.get_state(),
    )
    whole = pipeline.job(varied)
    list(whole.run())
    (ours,) = whole.take().windows
    for step, bits in window.bits.items():
        if step in masks:
            assert torch.equal(ours.bits[step][~masks[step]], bits[~masks[step]])
        else:
            assert torch.equal(ours.bits[step], bits)
    assert any(not torch.equal(ours.bits[step], window.bits[step]) for step in masks)
    # Stopped anywhere, saved and continued, it ends the same.
    for stop in range(len(window.schedule.steps)):
        part = pipeline.job(varied)
        list(part.run(until=Position(0, stop)))
        part.take().save(tmp_path / "a.take", overwrite=True)
        again = pipeline.job(Take.load(tmp_path / "a.take"))
        list(again.run())
        assert same(replace(again.take(), windows=()), replace(whole.take(), windows=()))
        for step, bits in ours.bits.items():
            assert torch.equal(again.take().windows[0].bits[step], bits)
