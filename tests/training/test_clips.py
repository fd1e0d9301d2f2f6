"""Lists of local clips: what is understood, what is read, what is skipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from istar.errors import MediaError, UsageError
from istar.generation.schedule import PixelBudget
from istar.lab.world import random_scene
from istar.media import read_clip, write_clip, write_picture
from istar.training.clip_captions import ClipCaptions
from istar.training.clips import ListedClip, list_digest, read_list
from istar.training.config import ClipsConfig
from istar.training.distributed import Share
from istar.training.pictures import ClipSource
from istar.training.skipped import FirstOfEachKind

BUDGET = PixelBudget(name="test", resolution="32p", sides=(1, 2))
ALONE = Share()


def write_list(path: Path, *entries: object) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


RELEASED = {
    "video_path": "videos/a.mp4",
    "begin_frame_id": 24,
    "end_frame_id": 144,
    "tarsier2_caption": "a boat",
    "width": 1280,
    "height": 720,
    "h_div_w": 0.5625,
    "fps": 24,
}
"""A line of the released code's lists."""

A_BOAT = ClipCaptions(whole=("a boat",))


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
        ("clip_captions are not a list", {"path": "a.mp4", "caption": "a", "clip_captions": "b"}),
        ("of its clip_captions", {"path": "a.mp4", "caption": "a", "clip_captions": ["b", 3]}),
        ("of its clip_captions", {"path": "a.mp4", "caption": "a", "clip_captions": ["b", []]}),
        ("of its clip_captions", {"path": "a.mp4", "caption": "a", "clip_captions": ["b", [""]]}),
        ("no caption", {"path": "a.mp4", "clip_captions": ["b", "c"]}),
        ("short_captions", {"path": "a.mp4", "caption": "a", "short_captions": "b"}),
        ("short_captions", {"image_path": "a.jpg", "long_caption": "a", "text": 3}),
        ("its ending", {"path": "a.mp4", "caption": "a", "ending": ["b"]}),
        ("begin", {"path": "a.mp4", "caption": "a", "begin": -1}),
        ("begin", {"path": "a.mp4", "caption": "a", "begin": 2, "end": 1}),
        ("begin", {"path": "a.mp4", "caption": "a", "begin": "soon"}),
        ("begin", {"path": "a.mp4", "caption": "a", "begin": True}),
        ("begin", {"path": "a.mp4", "caption": "a", "begin": float("nan")}),
        ("begin", {"path": "a.mp4", "caption": "a", "begin": 1e15}),
        ("begin", {"path": "a.mp4", "caption": "a", "end": 10**400}),
        ("not the number of a frame", RELEASED | {"begin_frame_id": -1}),
        ("not the number of a frame", RELEASED | {"begin_frame_id": "0"}),
        ("not the number of a frame", {"video_path": "a.mp4", "tarsier2_caption": "a", "fps": 24}),
        ("not the number of a frame", RELEASED | {"end_frame_id": 10**400}),
        ("fps", RELEASED | {"fps": 0}),
        ("fps", RELEASED | {"fps": None}),
        ("after its begin", RELEASED | {"begin_frame_id": 144}),
        ("no caption", RELEASED | {"tarsier2_caption": ""}),
        ("no caption", RELEASED | {"tarsier2_caption": 3}),
        ("no caption", RELEASED | {"tarsier2_caption": "", "text": "a picture's"}),
        ("no caption", {"image_path": "a.jpg", "tarsier2_caption": "a video's"}),
        ("path", RELEASED | {"video_path": ""}),
        ("path", RELEASED | {"video_path": None}),
        ("object", ["a.mp4", "a"]),
        ("object", 3),
    ],
)
def test_a_line_that_makes_no_sense_is_skipped(tmp_path: Path, reason: str, entry: object) -> None:
    good = {"path": "a.mp4", "caption": "a"}
    clips, skipped = read_list(write_list(tmp_path / "clips.jsonl", entry, good))
    assert [(clip.path, clip.captions.whole, clip.line) for clip in clips] == [
        (tmp_path / "a.mp4", ("a",), 2)
    ]
    assert [one.number for one in skipped] == [1]
    assert reason in skipped[0].reason


def test_every_clip_of_a_line_may_have_captions_of_its_own(tmp_path: Path) -> None:
    entry = {"path": "a.mp4", "caption": "whole", "clip_captions": ["first", ["second", "zweite"]]}
    (clip,), _ = read_list(write_list(tmp_path / "clips.jsonl", entry))
    by_clip = (("first",), ("second", "zweite"))
    assert clip.captions == ClipCaptions(whole=("whole",), by_clip=by_clip)


def test_a_line_may_have_short_captions_and_an_ending(tmp_path: Path) -> None:
    entry = {"path": "a.mp4", "caption": "whole", "short_captions": ["a", "b"], "ending": "sharp"}
    (clip,), _ = read_list(write_list(tmp_path / "clips.jsonl", entry))
    assert clip.captions == ClipCaptions(whole=("whole",), short=("a", "b"), ending="sharp")


@pytest.mark.parametrize(
    ("change", "captions"),
    [
        ({}, A_BOAT),
        ({"MiniCPM_V_2_6_caption": "a ship"}, ClipCaptions(whole=("a boat", "a ship"))),
        ({"MiniCPM_V_2_6_caption": "", "caption": "ignored there"}, A_BOAT),
        ({"quality_prompt": "very sharp"}, ClipCaptions(whole=("a boat",), ending="very sharp")),
        ({"tarsier2_caption": "", "caption": "a ship"}, ClipCaptions(whole=("a ship",))),
        ({"text": "a picture's", "long_caption": "a picture's, too"}, A_BOAT),
    ],
)
def test_lines_of_the_released_code_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], captions: ClipCaptions
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_list(tmp_path / "clips.jsonl", RELEASED | change)
    (clip,), skipped = read_list(path)
    assert (clip.path, clip.begin, clip.end) == (tmp_path / "videos" / "a.mp4", 1, 6)
    assert clip.captions == captions
    assert skipped == []


def test_so_are_its_pictures(tmp_path: Path) -> None:
    """Their `text` is the short caption, or the only one."""
    texts = {"long_caption": "A boat in a harbour.", "text": "a boat"}
    entry = {"image_path": str(tmp_path / "a.jpg"), "tarsier2_caption": "a video's"}
    lines = (entry | texts, entry | {"text": "a boat"})
    (clip, other), _ = read_list(write_list(tmp_path / "pictures.jsonl", *lines))
    assert clip.path == tmp_path / "a.jpg"
    assert clip.captions == ClipCaptions(whole=("A boat in a harbour.",), short=("a boat",))
    assert other.captions == A_BOAT
    assert clip.may_hold(1)
    assert not clip.may_hold(5)


def test_its_frames_are_those_of_the_file(tmp_path: Path) -> None:
    """Frames 14 up to 32 at 16 a second are pictures 14 to 31."""
    write_clip(random_scene(1).frames(33, 32, 32), tmp_path / "clip.mp4")
    frames = {"begin_frame_id": 14, "end_frame_id": 32, "fps": 16}
    entry = RELEASED | frames | {"video_path": str(tmp_path / "clip.mp4")}
    (clip,), _ = read_list(write_list(tmp_path / "clips.jsonl", entry))
    whole = read_clip(tmp_path / "clip.mp4").frames
    assert torch.equal(clip.pictures(17, 32, 32), whole[14:31])
    assert clip.may_hold(17)
    assert not clip.may_hold(21)


@pytest.mark.parametrize("begin", [0, 97, 100])  # 217/24 - 97/24 is a little less than 5
def test_five_seconds_hold_81_pictures_wherever_they_begin(tmp_path: Path, begin: int) -> None:
    frames = {"begin_frame_id": begin, "end_frame_id": begin + 120}
    (clip,), _ = read_list(write_list(tmp_path / "clips.jsonl", RELEASED | frames))
    assert clip.may_hold(81)
    assert clip.first_picture(81) == round(begin * 16 / 24)


def test_a_directory_is_all_lists_below_it_in_order(tmp_path: Path) -> None:
    """As the released code splits its own; the digest follows names and contents."""
    for number, part in enumerate(("000002/0003_0003_000000001", "000001/0002_0003_000000001")):
        (tmp_path / part).parent.mkdir()
        write_list(tmp_path / f"{part}.jsonl", {"path": f"{number}.mp4", "caption": "a"}, 3)
    (tmp_path / "README.md").write_text("no list")
    clips, skipped = read_list(tmp_path)
    assert [clip.path.relative_to(tmp_path).as_posix() for clip in clips] == [
        "000001/1.mp4",
        "000002/0.mp4",
    ]
    assert [one.list.parent.name for one in skipped] == ["000001", "000002"]
    assert [clip.list for clip in clips] == [one.list for one in skipped]
    digest = list_digest(tmp_path)
    renamed = clips[0].list.rename(clips[0].list.with_name("0001.jsonl"))
    assert list_digest(tmp_path) != digest
    renamed.rename(clips[0].list)
    assert list_digest(tmp_path) == digest
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"empty holds no \.jsonl files"):
        read_list(tmp_path / "empty")


def test_the_first_skipped_line_of_each_kind_is_named(tmp_path: Path) -> None:
    path = write_list(tmp_path / "clips.jsonl", {"path": "a.mp4", "caption": "a"}, 3)
    path.write_text(path.read_text() + "\n{not json\n" + "[" * 100_000 + "\n3\nno\n")
    _, skipped = read_list(path)
    notes = FirstOfEachKind()
    assert notes(skipped[:1]) == (f"{path}: line 2 is skipped: it is not a JSON object",)
    assert notes(skipped) == (f"{path}: line 4 is skipped: it is not JSON",)
    assert notes(skipped) == ()


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "clips.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"path": "a.mp4", "caption": "a"}\n')
    assert read_list(path)[1] == []


def test_only_line_feeds_end_a_line(tmp_path: Path) -> None:
    path = tmp_path / "clips.jsonl"
    path.write_text('{"path": "a.mp4", "caption": "a\u2028boat\u0085"}\r\n', encoding="utf-8")
    assert read_list(path)[0][0].captions.whole == ("a\u2028boat\u0085",)


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


@pytest.mark.parametrize(
    "broken",
    [
        {"path": "broken.mp4", "caption": "no video"},
        pytest.param(
            {"path": "broken.mp4", "caption": "no video", "begin": 0, "end": 60},
            marks=pytest.mark.slow,
        ),
        pytest.param({"path": "missing.mp4", "caption": "missing"}, marks=pytest.mark.slow),
        {"path": "0.mp4", "caption": "too short", "begin": 1, "end": 2.8},
        {"path": "0.png", "caption": "no picture"},
    ],
)
def test_a_broken_clip_is_opened_once_and_replaced_as_if_it_were_opened_again(
    videos: Path, monkeypatch: pytest.MonkeyPatch, broken: dict[str, object]
) -> None:
    opened: list[str] = []
    seconds, pictures = ListedClip.seconds, ListedClip.pictures

    def remember(method: Any) -> Any:
        def called(clip: ListedClip, *arguments: Any, **settings: Any) -> Any:
            opened.append(clip.captions.whole[0])
            return method(clip, *arguments, **settings)

        return called

    monkeypatch.setattr(ListedClip, "seconds", remember(seconds))
    monkeypatch.setattr(ListedClip, "pictures", remember(pictures))
    (videos.parent / "0.png").write_bytes(b"no picture")
    length = 1 if broken["path"] == "0.png" else 29 if "end" in broken else 9
    good = {"path": "1.mp4", "caption": "good"}
    path = write_list(videos.parent / "some.jsonl", broken, good)
    config = ClipsConfig(source="list", list=path, lengths=(length,), pictures=3 * length)
    source = ClipSource(config, BUDGET)
    whole = [source.batch(seed=1, step=step, share=ALONE) for step in range(6)]
    assert {one.number for _, skipped in whole for one in skipped} == {1}
    assert sum(len(skipped) for _, skipped in whole) > 5
    assert opened.count(str(broken["caption"])) == 1
    for step in (5, 2):  # the resumed run remembers nothing of what was before
        clips, skipped = ClipSource(config, BUDGET).batch(seed=1, step=step, share=ALONE)
        assert torch.equal(clips, whole[step][0])
        assert skipped == whole[step][1]


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
    with pytest.raises(MediaError, match=r"no clip of .*clips\.jsonl can be read, .*missing\.mp4"):
        source.batch(seed=0, step=0, share=ALONE)


def test_the_few_whole_clips_of_a_list_are_found_at_every_step(tmp_path: Path) -> None:
    """Of a hundred; a step that gave up once would do so at every start, for good."""
    for seed in range(2):
        write_picture(random_scene(seed).frames(1, 32, 32)[0], tmp_path / f"{seed}.png")
    names = ["0.png", *(f"missing-{n}.png" for n in range(98)), "1.png"]
    path = write_list(tmp_path / "few.jsonl", *({"path": n, "caption": n} for n in names))
    config = ClipsConfig(source="list", list=path, lengths=(1,), pictures=1)
    source = ClipSource(config, BUDGET)
    found = [source.batch(seed=0, step=step, share=ALONE) for step in range(8)]
    assert max(len(skipped) for _, skipped in found) > 20
    assert len({clip.sum().item() for clip, _ in found}) == 2
    clip, skipped = ClipSource(config, BUDGET).batch(seed=0, step=5, share=ALONE)
    assert torch.equal(clip, found[5][0])
    assert skipped == found[5][1]


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
