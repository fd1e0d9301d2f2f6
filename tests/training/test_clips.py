"""Lists of local clips: what is understood, what is read, what is skipped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from istar.errors import MediaError, UsageError
from istar.generation.schedule import PixelBudget
from istar.lab.world import random_scene
from istar.media import read_clip, write_clip, write_picture
from istar.training.clips import read_list
from istar.training.config import ClipsConfig
from istar.training.distributed import Share
from istar.training.pictures import ClipSource
from istar.training.skipped import skipped_notes

BUDGET = PixelBudget(name="test", resolution="32p", sides=(1, 2))
ALONE = Share()


def write_list(path: Path, *entries: object) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A list of two clips of 33 pictures, one that is no video and one that is missing."""
    for seed in range(2):
        write_clip(random_scene(seed).frames(33, 32, 48), tmp_path / f"{seed}.mp4")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    return write_list(
        tmp_path / "clips.jsonl",
        {"path": "0.mp4", "caption": "one", "begin": 0.5, "end": 2},
        {"path": "broken.mp4", "caption": "broken"},
        {"path": str(tmp_path / "1.mp4"), "captions": ["two", "zwei"]},
        {"path": "missing.mp4", "caption": "missing"},
    )


@pytest.mark.parametrize(
    ("reason", "entry"),
    [
        ("path", {"caption": "a"}),
        ("path", {"path": "", "caption": "a"}),
        ("path", {"path": "a\0.mp4", "caption": "a"}),
        ("home directory", {"path": "~nobody-of-this-name/a.mp4", "caption": "a"}),
        ("no caption", {"path": "a.mp4"}),
        ("no caption", {"path": "a.mp4", "caption": ""}),
        ("no caption", {"path": "a.mp4", "captions": []}),
        ("no caption", {"path": "a.mp4", "caption": ["a", "b"]}),
        ("no caption", {"path": "a.mp4", "caption": "half a pair \ud800"}),
        ("not a list", {"path": "a.mp4", "captions": "a text"}),
        ("begin", {"path": "a.mp4", "caption": "a", "begin": -1}),
        ("begin", {"path": "a.mp4", "caption": "a", "begin": 2, "end": 1}),
        ("begin", {"path": "a.mp4", "caption": "a", "begin": "soon"}),
        ("begin", {"path": "a.mp4", "caption": "a", "begin": True}),
        ("begin", {"path": "a.mp4", "caption": "a", "begin": float("nan")}),
        ("begin", {"path": "a.mp4", "caption": "a", "begin": 1e15}),
        ("begin", {"path": "a.mp4", "caption": "a", "end": 10**400}),
        ("object", ["a.mp4", "a"]),
        ("object", 3),
    ],
)
def test_a_line_that_makes_no_sense_is_skipped(tmp_path: Path, reason: str, entry: object) -> None:
    good = {"path": "a.mp4", "caption": "a"}
    clips, skipped = read_list(write_list(tmp_path / "clips.jsonl", entry, good))
    assert [(clip.path, clip.captions, clip.line) for clip in clips] == [
        (tmp_path / "a.mp4", ("a",), 2)
    ]
    assert [one.number for one in skipped] == [1]
    assert reason in skipped[0].reason


def test_the_first_skipped_line_of_each_kind_is_named(tmp_path: Path) -> None:
    path = write_list(tmp_path / "clips.jsonl", {"path": "a.mp4", "caption": "a"}, 3)
    path.write_text(path.read_text() + "\n{not json\n" + "[" * 100_000 + "\n3\nno\n")
    _, skipped = read_list(path)
    assert skipped_notes(skipped) == (
        f"{path}: line 2 is skipped: it is not a JSON object; so is 1 more",
        f"{path}: line 4 is skipped: it is not JSON; so are 2 more",
    )


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "clips.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"path": "a.mp4", "caption": "a"}\n')
    assert read_list(path)[1] == []


def test_only_line_feeds_end_a_line(tmp_path: Path) -> None:
    path = tmp_path / "clips.jsonl"
    path.write_text('{"path": "a.mp4", "caption": "a\u2028boat\u0085"}\r\n', encoding="utf-8")
    assert read_list(path)[0][0].captions == ("a\u2028boat\u0085",)


def test_a_list_without_clips_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.jsonl cannot be read: No such file"):
        read_list(tmp_path / "absent.jsonl")
    with pytest.raises(UsageError, match=r"lists no clips.*line 1 is skipped: its path"):
        read_list(write_list(tmp_path / "clips.jsonl", {}))


def test_a_piece_lies_between_begin_and_end(videos: Path) -> None:
    clip = read_list(videos)[0][0]
    whole = read_clip(clip.path, size=(32, 32)).frames
    assert torch.equal(clip.pictures(9, 32, 32), whole[8:17])
    generator = torch.Generator().manual_seed(1)
    starts = set()
    for _ in range(20):
        piece = clip.pictures(9, 32, 32, first=clip.first_picture(9, generator))
        starts |= {n for n in range(25) if torch.equal(whole[n : n + 9], piece)}
    assert min(starts) >= 8
    assert max(starts) <= 32 - 9
    assert len(starts) > 5


def test_without_an_end_a_piece_begins_anywhere_up_to_the_videos(videos: Path) -> None:
    clip = read_list(videos)[0][2]
    assert clip.end is None
    whole = read_clip(clip.path, size=(32, 32)).frames
    assert torch.equal(clip.pictures(9, 32, 32), whole[:9])
    generator = torch.Generator().manual_seed(1)
    starts = set()
    for _ in range(20):
        piece = clip.pictures(9, 32, 32, first=clip.first_picture(9, generator))
        starts |= {n for n in range(25) if torch.equal(whole[n : n + 9], piece)}
    assert len(starts) > 5
    assert max(starts) > 16


def test_a_picture_is_a_clip_of_one(tmp_path: Path) -> None:
    frame = random_scene(1).frames(1, 48, 64)[0]
    write_picture(frame, tmp_path / "boat.PNG")
    entry = {"path": "boat.PNG", "caption": "a boat"}
    clip = read_list(write_list(tmp_path / "pictures.jsonl", entry))[0][0]
    assert clip.aspect() == 0.75
    assert torch.equal(clip.pictures(1, 48, 64), frame[None])
    assert clip.first_picture(1, torch.Generator()) == 0
    with pytest.raises(MediaError, match=r"boat\.PNG' is one picture, not 5"):
        clip.pictures(5, 48, 64)


def test_where_one_picture_is_missing_the_first_counts_twice(tmp_path: Path) -> None:
    """n seconds are 16n pictures; what is asked for is 16n + 1."""
    write_clip(random_scene(1).frames(32, 32, 32), tmp_path / "clip.mp4")
    whole = read_clip(tmp_path / "clip.mp4").frames
    entry = {"path": "clip.mp4", "caption": "two seconds"}
    (clip,), _ = read_list(write_list(tmp_path / "clips.jsonl", entry))
    for generator in (None, torch.Generator().manual_seed(1)):
        shown = clip.pictures(33, 32, 32, first=clip.first_picture(33, generator))
        assert torch.equal(shown[1:], whole)
        assert torch.equal(shown[0], whole[0])
    with pytest.raises(MediaError, match="does not have 34 pictures from 0 s on"):
        clip.pictures(34, 32, 32)


def test_pieces_longer_than_the_clip_are_refused(videos: Path) -> None:
    clips, _ = read_list(videos)
    with pytest.raises(MediaError, match=r"0.5 to 2 s do not hold 33 pictures"):
        clips[0].pictures(33, 32, 32)
    with pytest.raises(MediaError, match="does not have 65 pictures"):
        clips[2].pictures(65, 32, 32)


def test_unreadable_clips_are_replaced_and_counted(videos: Path) -> None:
    config = ClipsConfig(source="list", list=videos, lengths=(5,), aspects=(1.0,), pictures=40)
    source = ClipSource(config, BUDGET)
    batch, skipped = source.batch(seed=0, step=0, share=ALONE)
    assert batch.shape == (8, 5, 32, 32, 3)
    assert {one.number for one in skipped} <= {2, 4}
    assert skipped
    again, _ = source.batch(seed=0, step=0, share=ALONE)
    assert torch.equal(batch, again)


def test_clips_are_drawn_among_those_that_are_long_enough(videos: Path) -> None:
    """Many pictures and short pieces in a list hold up nothing: they are no failures."""
    piece = {"path": "0.mp4", "caption": "short", "begin": 0.5, "end": 0.6}
    write_picture(random_scene(1).frames(1, 32, 32)[0], videos.parent / "still.png")
    still = {"path": "still.png", "caption": "still"}
    good = {"path": "0.mp4", "caption": "one", "begin": 0.5, "end": 2}
    path = write_list(videos.parent / "mixed.jsonl", *[still, piece] * 100, good)

    def source(length: int) -> ClipSource:
        config = ClipsConfig(source="list", list=path, lengths=(length,), pictures=36)
        return ClipSource(config, BUDGET)

    clips, skipped = source(9).batch(seed=0, step=0, share=ALONE)
    assert clips.shape == (4, 9, 32, 32, 3)
    assert skipped == []
    assert source(1).batch(seed=0, step=0, share=ALONE)[1] == []
    with pytest.raises(UsageError, match=r"no clip of .*mixed\.jsonl has 33 pictures"):
        source(33)


def test_a_window_larger_than_the_pictures_is_refused() -> None:
    config = ClipsConfig(window=48)
    with pytest.raises(UsageError, match="window of 48 does not fit into 32 by 32 pixels"):
        ClipSource(config, BUDGET)


def test_a_list_of_which_nothing_can_be_read_is_refused(tmp_path: Path) -> None:
    path = write_list(tmp_path / "clips.jsonl", {"path": "missing.mp4", "caption": "missing"})
    source = ClipSource(ClipsConfig(source="list", list=path), BUDGET)
    with pytest.raises(MediaError, match=r"20 clips in a row .*missing\.mp4"):
        source.batch(seed=0, step=0, share=ALONE)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_a_batch(processes: int) -> None:
    source = ClipSource(ClipsConfig(lengths=(5,), pictures=30), BUDGET)
    whole, _ = source.batch(seed=3, step=7, share=ALONE)
    parts = [
        source.batch(seed=3, step=7, share=Share(rank=rank, processes=processes))[0]
        for rank in range(processes)
    ]
    for number, clip in enumerate(whole):
        assert torch.equal(clip, parts[number % processes][number // processes])


def test_windows_are_cut_out(videos: Path) -> None:
    config = ClipsConfig(lengths=(1,), pictures=4, window=16)
    batch, _ = ClipSource(config, BUDGET).batch(seed=0, step=0, share=ALONE)
    assert batch.shape == (4, 1, 16, 16, 3)


def test_a_window_has_a_subject_in_it() -> None:
    """On the background alone there would be nothing to learn."""
    config = ClipsConfig(lengths=(5,), pictures=100, window=48, crop=0.0)
    budget = PixelBudget(name="test", resolution="64p", sides=(1, 4))
    batch, _ = ClipSource(config, budget).batch(seed=1, step=0, share=ALONE)
    busy = [clip for clip in batch if len(clip.flatten(0, 2).unique(dim=0)) > 1]
    assert len(busy) == len(batch)
