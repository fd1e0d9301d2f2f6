from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from torch import Tensor

from asking import HEIGHT, WIDTH, clips_of, frames_of, pictures, request, short_clips, with_spec
from istar import (
    CheckpointError,
    ClipReady,
    GenerationError,
    InfinityStarPipeline,
    MediaError,
    Note,
    Progress,
    UsageError,
)
from istar.generation.state import Position
from istar.media import cover_and_crop, read_clip, read_picture, write_clip
from istar.opening import last_pictures
from istar.text_encoder import EncodedText, TextEncoder
from istar.transformer.block import Block
from istar.transformer.rows import LayerRow
from istar.video_tokenizer.conv import CausalConv3d, FrameHistory
from media_files import texts_in
from random_checkpoint import NOTICE, write_checkpoint


@pytest.fixture(scope="module")
def pipeline(checkpoint: Path) -> InfinityStarPipeline:
    """Clips of two seconds, one pass of two: several windows are quickly made."""
    whole = InfinityStarPipeline.from_pretrained(checkpoint, device="cpu")
    return with_spec(whole, replace(whole.spec, clip_frames=8, max_seconds=4))


def test_a_picture_is_one_frame_of_the_templates_size(pipeline: InfinityStarPipeline) -> None:
    assert pipeline.generate(request("t2i")).frames.shape == (1, HEIGHT, WIDTH, 3)
    tall = pipeline.generate(request("t2i", aspect=16 / 9)).frames
    assert tall.shape == (1, WIDTH, HEIGHT, 3)


def test_the_default_ratio_is_the_models(pipeline: InfinityStarPipeline) -> None:
    upright = with_spec(pipeline, replace(pipeline.spec, aspect=16 / 9))
    assert upright.generate(request("t2i", aspect=None)).frames.shape == (1, WIDTH, HEIGHT, 3)


@pytest.mark.parametrize("seconds", [1, 1.25, pytest.param(2, marks=pytest.mark.slow), 3])
def test_a_video_has_one_picture_more_than_sixteen_a_second(
    pipeline: InfinityStarPipeline, seconds: float
) -> None:
    frames = pipeline.generate(request(seconds=seconds)).frames
    assert len(frames) == 16 * seconds + 1
    assert torch.equal(frames[0], frames[1])


def test_the_same_seed_gives_the_same_video_and_another_seed_another(
    pipeline: InfinityStarPipeline,
) -> None:
    first, again, other = (
        pipeline.generate(request(seed=seed)).frames for seed in (2**64 - 1, 2**64 - 1, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_prompt_the_suffix_and_the_negative_prompt_matter(
    pipeline: InfinityStarPipeline,
) -> None:
    variants = (
        request("t2i", tau_image=0.2),
        request("t2i", tau_image=0.2, prompt="a blue square"),
        request("t2i", tau_image=0.2, suffix=False),
        request("t2i", tau_image=0.2, negative_prompt="grey " * 300),
        request("t2i", tau_image=0.2, guidance_scale=1),
        request("t2i", tau_image=2.0),
    )
    made = [pipeline.generate(variant).frames for variant in variants]
    for i, frames in enumerate(made):
        for other in made[i + 1 :]:
            assert not torch.equal(frames, other)


def test_a_negative_prompt_changes_nothing_without_guidance(
    pipeline: InfinityStarPipeline,
) -> None:
    plain = pipeline.generate(request("t2i", guidance_scale=1))
    against = pipeline.generate(request("t2i", guidance_scale=1, negative_prompt="grey"))
    assert torch.equal(plain.frames, against.frames)


def test_streaming_gives_what_generating_gives(pipeline: InfinityStarPipeline) -> None:
    wanted = request(seconds=3)
    events = list(pipeline.stream(wanted))
    assert torch.equal(frames_of(events), pipeline.generate(wanted).frames)
    progress = [event for event in events if isinstance(event, Progress)]
    assert [event.done for event in progress] == list(range(1, progress[0].total + 1))
    assert {event.total for event in progress} == {len(progress)}
    assert [len(clip) for clip in clips_of(events)] == [33, 16]
    # A few pictures at a time, never a whole clip.
    assert max(len(event.frames) for event in events if isinstance(event, ClipReady)) == 5


def test_a_clip_is_handed_over_before_the_next_is_begun(pipeline: InfinityStarPipeline) -> None:
    stream = pipeline.stream(request(seconds=3))
    for event in stream:
        if isinstance(event, ClipReady):
            break
        assert not isinstance(event, Progress) or event.clip < 2
    assert any(isinstance(event, Progress) and event.clip == 2 for event in stream)


def test_a_video_longer_than_one_pass_is_made_window_by_window(
    pipeline: InfinityStarPipeline,
) -> None:
    frames = pipeline.generate(request(seconds=5)).frames
    assert len(frames) == 16 * 5 + 1
    one_pass = pipeline.generate(request(seconds=4)).frames
    assert torch.equal(frames[:65], one_pass)


def test_a_video_from_a_picture_begins_with_that_very_picture(
    pipeline: InfinityStarPipeline, tmp_path: Path
) -> None:
    image = pictures(1, 100, 150)[0]
    events = list(pipeline.stream(request("i2v", image=image)))
    frames = frames_of(events)
    assert len(frames) == 17
    assert torch.equal(frames[0], cover_and_crop(image, HEIGHT, WIDTH))
    assert not torch.equal(frames[1], frames[0])
    given = [event for event in events if isinstance(event, Progress) and event.given]
    assert {event.clip for event in given} == {0}
    assert len(given) == 2


def test_the_picture_decides_the_video_and_its_ratio(pipeline: InfinityStarPipeline) -> None:
    image = pictures(1, 160, 90)[0]
    tall = pipeline.generate(request("i2v", image=image, prompt="", aspect=None))
    assert tall.frames.shape[1:3] == (WIDTH, HEIGHT)
    one, other = (
        pipeline.generate(request("i2v", image=pictures(1, seed=seed)[0])).frames[1:]
        for seed in (1, 2)
    )
    assert not torch.equal(one, other)


def test_a_given_picture_costs_only_the_passes_that_are_read(
    pipeline: InfinityStarPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    forward, keys_values = Block.forward, Block.keys_values

    def counted(self: Block, rows: Sequence[LayerRow], **options: Any) -> object:
        lengths.extend(row.x.shape[1] for row in rows)
        return forward(self, rows, **options)

    def counted_context(self: Block, rows: Sequence[LayerRow]) -> object:
        lengths.extend(row.x.shape[1] for row in rows)
        return keys_values(self, rows)

    monkeypatch.setattr(Block, "forward", counted)
    monkeypatch.setattr(Block, "keys_values", counted_context)
    list(pipeline.stream(request("i2v", image=pictures(1)[0], guidance_scale=1)))
    depth = pipeline.networks.transformer.config.depth
    # After the text only the image's largest scale, and the two scales of four latent frames.
    assert lengths[depth:] == [6] * depth + [4] * depth + [24] * depth


@pytest.mark.parametrize(
    ("given", "used"),
    [
        (16, 1),
        pytest.param(17, 1, marks=pytest.mark.slow),
        pytest.param(40, 2, marks=pytest.mark.slow),
        pytest.param(48, 3, marks=pytest.mark.slow),
        (49, 3),
        (70, 3),
    ],
)
def test_extending_keeps_the_clip_and_adds_seconds(
    pipeline: InfinityStarPipeline, given: int, used: int
) -> None:
    model = with_spec(pipeline, replace(pipeline.spec, clip_frames=12, max_seconds=6))
    clip = pictures(given)
    events = list(model.stream(request("extend", clip=clip, seconds=1.5)))
    frames = frames_of(events)
    assert len(frames) == given + 24
    assert torch.equal(frames[:given], clip)
    untrained = [event for event in events if isinstance(event, Note) and "suffer" in event.text]
    assert bool(untrained) == (used < 3)
    if untrained:
        assert f"gives {used} s" in untrained[0].text
    tokens = {e.tokens for e in events if isinstance(e, Progress) and e.clip == 1 and e.scale == 0}
    assert tokens == {4 * used}


@pytest.mark.slow
def test_only_the_last_clips_length_of_pictures_matters(pipeline: InfinityStarPipeline) -> None:
    clip = pictures(50)
    long, short = (
        pipeline.generate(request("extend", clip=given)).frames[-16:]
        for given in (clip, clip[-33:])
    )
    assert torch.equal(long, short)
    other = clip.clone()
    other[-10:] = 255 - other[-10:]
    assert not torch.equal(long, pipeline.generate(request("extend", clip=other)).frames[-16:])


def test_extending_by_more_than_a_window_sees_its_own_pictures(
    pipeline: InfinityStarPipeline,
) -> None:
    clip = pictures(20)
    events = list(pipeline.stream(request("extend", clip=clip, seconds=3)))
    assert [len(clip) for clip in clips_of(events)] == [20, 32, 16]
    given = [len(e.frames) for e in events if isinstance(e, ClipReady) and e.from_input]
    assert given == [20]


def test_a_clip_below_a_second_is_refused(pipeline: InfinityStarPipeline) -> None:
    with pytest.raises(UsageError, match="1 s or more"):
        pipeline.generate(request("extend", clip=pictures(15)))


def test_the_prompt_states_the_whole_windows_seconds(
    pipeline: InfinityStarPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, read = TextEncoder.encode, []

    def watched(self: TextEncoder, text: str) -> EncodedText:
        read.append(text)
        return encode(self, text)

    monkeypatch.setattr(TextEncoder, "encode", watched)
    for wanted in (
        request(seconds=1.25),
        request("extend", clip=pictures(40), seconds=1.5),
        request("extend", clip=pictures(33), seconds=2.25),
    ):
        list(pipeline.job(wanted).run(until=Position(0, 1)))
    list(pipeline.stream(request("interact", prompt=("one", "two"))))
    seconds = [("1.25", "a red circle, in detail"), ("3.5", "a red circle, in detail")]
    seconds += [("4", "a red circle, in detail"), ("2.25", "a red circle, in detail")]
    seconds += [("2", "one"), ("2", "two")]
    assert read == [f"<<<t={length}s>>>{text}" for length, text in seconds]


def test_a_picture_that_is_missing_is_the_first_one_again() -> None:
    shown = pictures(4)
    pieces = shown.split([1, 3])
    assert torch.equal(last_pictures(pieces, 5), shown[[0, 0, 1, 2, 3]])
    assert torch.equal(last_pictures(pieces, 4), shown)
    assert torch.equal(last_pictures(pieces, 2), shown[2:])


def test_a_model_of_short_clips_makes_a_video_of_them(pipeline: InfinityStarPipeline) -> None:
    model = short_clips(pipeline)
    events = list(model.stream(request(seconds=3)))
    assert [len(clip) for clip in clips_of(events)] == [33, 16]
    first_scales = {e.clip: e.tokens for e in events if isinstance(e, Progress) and e.scale == 0}
    assert first_scales == {0: 1, 1: 8, 2: 4}


@pytest.mark.slow
def test_a_model_of_short_clips_extends_from_one_of_them(
    pipeline: InfinityStarPipeline,
) -> None:
    model = short_clips(pipeline)
    clip = pictures(50)
    events = list(model.stream(request("extend", clip=clip, seconds=3)))
    assert [len(clip) for clip in clips_of(events)] == [50, 32, 16]
    given = {e.tokens for e in events if isinstance(e, Progress) and e.clip == 1 and e.scale == 0}
    assert given == {8}
    assert not any("may suffer" in event.text for event in events if isinstance(event, Note))
    shorter = model.generate(request("extend", clip=clip[-33:], seconds=3))
    assert torch.equal(frames_of(events)[-48:], shorter.frames[-48:])
    (note,) = (
        event.text
        for event in model.stream(request("extend", clip=clip[:16]))
        if isinstance(event, Note) and "may suffer" in event.text
    )
    assert "gives 1 s" in note
    assert "continue 2 s" in note


def test_without_seconds_a_video_has_one_clip_of_the_model(pipeline: InfinityStarPipeline) -> None:
    model = short_clips(pipeline)
    assert len(model.generate(request(seconds=None)).frames) == 33
    extended = model.generate(request("extend", clip=pictures(16), seconds=None))
    assert len(extended.frames) == 48
    assert json.loads(extended.metadata["comment"])["istar"]["seconds"] == 2


def test_pixels_of_the_wrong_kind_are_refused(pipeline: InfinityStarPipeline) -> None:
    for wrong in (pictures(1)[0].float(), pictures(1), torch.zeros(3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(UsageError, match="uint8 pixels"):
            pipeline.generate(request("i2v", image=wrong))


def test_files_are_read_and_written(pipeline: InfinityStarPipeline, tmp_path: Path) -> None:
    result = pipeline.generate(request())
    path = result.save(tmp_path / "a.mp4")
    assert len(read_clip(path).frames) == 17
    assert result.seconds == 17 / 16
    comment = json.loads(texts_in(path)["comment"])
    assert comment["istar"]["seed"] == 5
    # What was used, though nobody asked for it.
    sampling = pipeline.spec.sampling
    assert comment["istar"]["guidance"] == asdict(sampling.guidance)
    assert comment["istar"]["tau"] == [sampling.tau_image, sampling.tau_video]
    assert comment["istar"]["seconds"] == 1
    assert comment["istar"]["model"] == "random"
    longer = pipeline.generate(request("extend", clip=path)).frames
    assert len(longer) == 33
    picture = pipeline.generate(request("t2i"))
    still = picture.save(tmp_path / "a.png")
    assert torch.equal(read_picture(still).pixels, picture.frames[0])
    assert picture.seconds == 0
    video = pipeline.generate(request("i2v", image=still)).frames
    assert torch.equal(video[0], picture.frames[0])
    with pytest.raises(MediaError, match="exists"):
        result.save(path)


def test_a_clip_of_another_size_is_read_at_the_models(
    pipeline: InfinityStarPipeline, tmp_path: Path
) -> None:
    path = write_clip(pictures(20, 100, 180), tmp_path / "large.mp4")
    frames = pipeline.generate(request("extend", clip=path)).frames
    assert frames.shape == (36, HEIGHT, WIDTH, 3)


def test_the_models_notice_and_a_cut_prompt_are_notes(pipeline: InfinityStarPipeline) -> None:
    notes = pipeline.generate(request("t2i", prompt="word " * 300)).notes
    assert NOTICE in notes
    assert any("longer than the model reads" in note for note in notes)
    assert pipeline.generate(request("t2i")).notes == (NOTICE,)


def test_an_output_of_nan_is_an_error(checkpoint: Path) -> None:
    broken = InfinityStarPipeline.from_pretrained(checkpoint, device="cpu")
    broken.networks.transformer.norm.weight.data.fill_(float("nan"))
    with pytest.raises(GenerationError, match="step 0"):
        broken.generate(request())


def test_bf16_generates(checkpoint: Path) -> None:
    half = InfinityStarPipeline.from_pretrained(checkpoint, device="cpu", dtype="bf16")
    assert half.networks.transformer.dtype == torch.bfloat16
    assert {p.dtype for p in half.networks.tokenizer.parameters()} == {torch.float32}
    assert len(half.generate(request()).frames) == 17


def test_the_tokenizer_never_computes_in_tf32(
    pipeline: InfinityStarPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    precise: list[bool] = []

    @contextmanager
    def watched() -> Iterator[None]:
        precise.append(True)
        yield
        precise.pop()

    forward = CausalConv3d.forward
    seen: list[bool] = []

    def convolution(self: CausalConv3d, x: Tensor, history: FrameHistory) -> Tensor:
        seen.append(bool(precise))
        return forward(self, x, history)

    monkeypatch.setattr("istar.networks.exact_convolutions", watched)
    monkeypatch.setattr(CausalConv3d, "forward", convolution)
    for wanted in (request("t2i"), request("i2v", image=pictures(1)[0])):
        seen.clear()
        pipeline.generate(wanted)
        assert seen
        assert all(seen)
    assert not precise


def test_the_released_layout_is_recognized(tmp_path: Path) -> None:
    root = write_checkpoint(tmp_path / "released", layout="released")
    name = "infinitystar_8b_480p_weights"
    for directory in (root, root / name):
        loaded = InfinityStarPipeline.from_pretrained(directory, device="cpu")
        assert loaded.spec.name == "480p"
        assert loaded.device == torch.device("cpu")
    interactive = InfinityStarPipeline.from_pretrained(root, mode="interact", device="cpu")
    assert interactive.spec.name == "interact"
    with pytest.raises(CheckpointError, match="makes 480p, not 720p"):
        InfinityStarPipeline.from_pretrained(root, resolution="720p")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mode": "nonsense"}, "mode is one of t2i, t2v, i2v, extend, interact, not 'nonsense'"),
        ({"mode": None}, "mode is one of"),
        ({"seconds": "5"}, "seconds must be a number"),
        ({"seconds": float("nan")}, "seconds"),
    ],
)
def test_invalid_settings_are_refused_before_any_download(
    settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        InfinityStarPipeline.from_pretrained(**settings)


def test_networks_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    from random_checkpoint import write_text_encoder

    root = write_checkpoint(tmp_path / "mixed", sides=(1, 2))
    write_text_encoder(root / "text_encoder", channels=16, seed=0)
    with pytest.raises(CheckpointError, match="do not belong together"):
        InfinityStarPipeline.from_pretrained(root, device="cpu")


def test_settings_of_other_code_change_nothing(checkpoint: Path, tmp_path: Path) -> None:
    fresh = copytree(checkpoint, tmp_path / "fresh")  # of which nothing was read before
    wanted = request("i2v", image=pictures(1)[0])
    expected = InfinityStarPipeline.from_pretrained(checkpoint, device="cpu").generate(wanted)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            other = InfinityStarPipeline.from_pretrained(fresh, device="cpu")
            assert torch.equal(other.generate(wanted).frames, expected.frames)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


def test_threads_may_share_a_pipeline(pipeline: InfinityStarPipeline) -> None:
    wanted = [
        request("t2i", prompt="word " * (150 * number), seed=number) for number in (1, 2, 3, 4)
    ]
    alone = [pipeline.generate(one).frames for one in wanted]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda one: pipeline.generate(one).frames, wanted * 2))
    for ours, theirs in zip(together, alone * 2, strict=True):
        assert torch.equal(ours, theirs)
