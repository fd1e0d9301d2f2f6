"""Prepared latents: whole shards or none, and an interrupted `prepare` continues."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from errno import ENOSPC
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from istar.checkpoint.read import load_video_tokenizer
from istar.checkpoint.write import save_video_tokenizer
from istar.errors import CheckpointError, MediaError, UsageError
from istar.lab.world import World, random_scene
from istar.media import write_clip, write_picture
from istar.training import prepare as module
from istar.training.clip_captions import ClipCaptions
from istar.training.distributed import Share
from istar.training.latents import begin_set, read_prepared, shard_path, write_shard
from istar.training.prepare import plain_caption, prepare, scene_captions
from istar.training.prepare_config import PrepareConfig, SetConfig
from istar.training.seeds import seed_of
from istar.training.skipped import SKIPPED_NAME, SkippedLine, read_skipped
from small_training import CPU, files, prepare_run

A_CIRCLE = ClipCaptions(whole=("a circle",))


def write_set(directory: Path, latents: Sequence[Tensor], captions: Sequence[ClipCaptions]) -> None:
    """A set of one shard, of nothing in particular."""
    begin_set(directory, {}, shards=1)
    write_shard(directory, 0, latents, captions)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that one undisturbed run prepares."""
    config = prepare_run(tmp_path_factory.mktemp("whole"), count=4)
    events = list(prepare(config, CPU))
    assert [(event.clips, event.total, event.skipped) for event in events] == [
        (3, 10, 0),
        (4, 10, 0),
        (7, 10, 0),
        (8, 10, 0),
        (10, 10, 0),
    ]
    return config.output


def test_what_is_read_back_is_what_the_tokenizer_makes(whole: Path) -> None:
    tokenizer = load_video_tokenizer(whole.parent / "start.safetensors")
    clips = read_prepared(whole / "clips")
    assert [(clip.frames, clip.height, clip.width) for clip in clips] == [(5, 2, 2)] * 4
    for number, clip in enumerate(clips):
        seed = seed_of(0, "clips", number)
        scene = random_scene(seed)
        x = scene.frames(17, 32, 32).permute(3, 0, 1, 2).unsqueeze(0).float() / 127.5 - 1
        with torch.inference_mode():
            wanted = tokenizer.encode(x)[0]
        assert torch.allclose(clip.latent(), wanted, atol=2e-3)
        wanted_captions = (scene.caption(seed, clip=0), scene.caption(seed + 1, clip=0))
        assert clip.captions == ClipCaptions(whole=wanted_captions)


def test_captions_of_shapes_describe_what_is_shown() -> None:
    """Two seconds do not show a motion that follows, and four have a caption for each half."""
    scene = next(
        scene
        for scene in map(random_scene, range(9999))
        if scene.subjects[0].motions == ("up", "left")
    )
    seeds = range(40)

    def captions(length: int, clip_seconds: int) -> tuple[tuple[Any, ...], ...]:
        found = scene_captions(scene, length, seeds, clip_seconds)
        return found.whole, found.by_clip

    short, none = captions(33, 2)
    assert none == ()
    assert short == tuple(scene.caption(seed, clip=0) for seed in seeds)
    long, clips = captions(65, 2)
    assert long == tuple(scene.caption(seed) for seed in seeds)
    assert clips == (short, tuple(scene.caption(seed, clip=1) for seed in seeds))
    first, second = clips
    assert captions(65, 1) == (long, (first, first, second, second))
    assert captions(97, 3) == (long, (long, second))
    assert captions(65, 4) == (long, ())
    pictures, none = captions(1, 2)
    assert none == ()
    assert pictures[1::2] == tuple(scene.caption(s, clip=0, content="picture") for s in seeds[1::2])
    assert pictures[::2] == short[::2]


def test_an_interrupted_preparation_continues_where_it_stopped(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = prepare_run(tmp_path, count=4)
    events = prepare(config, CPU)
    next(events)
    with pytest.raises(CheckpointError, match="pictures holds 1 of its 2 shards") as half:
        read_prepared(config.output / "pictures")
    assert half.value.remedies == ("finish_preparing",)
    next(events)
    assert len(read_prepared(config.output / "pictures")) == 4
    events.close()
    assert sum("latents-" in name for name in files(config.output)) == 4

    written: list[int] = []

    def remember(
        directory: Path,
        number: int,
        latents: list[Tensor],
        captions: list[ClipCaptions],
        **rest: Any,
    ) -> None:
        written.append(number)
        write_shard(directory, number, latents, captions, **rest)

    monkeypatch.setattr(module, "write_shard", remember)
    assert [event.clips for event in prepare(config, CPU)] == [3, 4, 7, 8, 10]
    assert written == [0, 1, 0]
    assert files(config.output) == files(whole)
    assert [event.clips for event in prepare(config, CPU)] == [3, 4, 7, 8, 10]
    assert written == [0, 1, 0]


@pytest.mark.parametrize("processes", [2, pytest.param(7, marks=pytest.mark.slow)])
def test_several_processes_prepare_what_one_does(
    whole: Path, tmp_path: Path, processes: int
) -> None:
    config = prepare_run(tmp_path, count=4)
    shares = [Share(rank=rank, processes=processes) for rank in range(processes)]
    parts = [list(prepare(config, CPU, share)) for share in shares]
    assert files(config.output) == files(whole)
    paths = [event.path for events in parts for event in events]
    assert len(paths) == len({*paths}) == 5
    assert sum(events[-1].total for events in parts if events) == 10
    assert all(events[-1].clips == events[-1].total for events in parts if events)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "another seed;"),
        ({"shard": 2}, "another shard;"),
        (
            {"sets": (SetConfig(name="clips", count=5, length=21),)},
            "another count, length, captions;",
        ),
    ],
)
def test_a_set_continues_with_the_same_settings_only(
    whole: Path, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    config = prepare_run(tmp_path, count=4)
    copytree(whole, config.output)
    with pytest.raises(UsageError, match=rf"clips was prepared with {named}") as refused:
        list(prepare(replace(config, **{"sets": config.sets[1:2], **change}), CPU))
    assert "remove it" in str(refused.value)
    assert files(config.output) == files(whole)


def test_a_set_of_a_small_world_has_its_scenes_in_plain_words(tmp_path: Path) -> None:
    world = World(colours=("red", "blue"), motions=("left", "up"), changes=0, pairs=0)
    one = SetConfig(name="few", count=3, length=17, wording="plain", world=world)
    config = replace(prepare_run(tmp_path), sets=(one,))
    list(prepare(config, CPU))
    scenes = [random_scene(seed_of(config.seed, "few", n), world=world) for n in range(3)]
    found = [clip.captions.whole for clip in read_prepared(config.output / "few")]
    assert found == [(plain_caption(scene, 17),) for scene in scenes]
    assert found == [(scene.canonical_caption(),) for scene in scenes]
    (picture, *_) = (plain_caption(scene, 1) for scene in scenes)
    assert picture == found[0][0].replace(f" moves {scenes[0].subjects[0].motion}", "")
    list(prepare(config, CPU))
    for change, named in (({"world": World()}, "world"), ({"wording": "varied"}, "wording")):
        with pytest.raises(UsageError, match=f"with another {named};"):
            list(prepare(replace(config, sets=(replace(one, **change),)), CPU))


def test_a_set_for_validation_has_scenes_that_training_never_sees(tmp_path: Path) -> None:
    one = SetConfig(name="few", count=3, length=17, wording="plain", held_out=True)
    config = replace(prepare_run(tmp_path), sets=(one,))
    list(prepare(config, CPU))
    scenes = [random_scene(seed_of(config.seed, "few", n), held_out=True) for n in range(3)]
    assert all(scene.held_out for scene in scenes)
    found = [clip.captions.whole for clip in read_prepared(config.output / "few")]
    assert found == [(plain_caption(scene, 17),) for scene in scenes]
    with pytest.raises(UsageError, match="with another held_out;"):
        list(prepare(replace(config, sets=(replace(one, held_out=False),)), CPU))
    with pytest.raises(UsageError, match='held_out is for source = "shapes" only'):
        replace(one, source="list", wording="varied", list=tmp_path / "list.jsonl")


@pytest.mark.parametrize("change", ["clip_seconds", "version of the world"])
def test_scenes_of_another_world_or_cut_otherwise_are_another_set(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    config = prepare_run(tmp_path, count=4)
    copytree(whole, config.output)
    if change == "clip_seconds":
        manifest = json.loads(config.model.read_text())
        config.model.write_text(json.dumps(manifest | {"clip_frames": 8}))
    else:
        monkeypatch.setattr(module, "WORLD_VERSION", module.WORLD_VERSION + 1)
    with pytest.raises(UsageError, match=f"pictures was prepared with another {change};"):
        list(prepare(config, CPU))


def test_nor_with_another_encoder_but_with_another_decoder(whole: Path, tmp_path: Path) -> None:
    config = prepare_run(tmp_path, count=4)
    copytree(whole, config.output)
    tokenizer = load_video_tokenizer(config.tokenizer)
    for parameter in (*tokenizer.decoder.parameters(), *tokenizer.project_out.parameters()):
        parameter.data += 0.1
    save_video_tokenizer(config.tokenizer, tokenizer, torch.float16)
    assert [event.clips for event in prepare(config, CPU)] == [3, 4, 7, 8, 10]
    tokenizer.latent_scales.data[0] *= 1.5
    save_video_tokenizer(config.tokenizer, tokenizer)
    with pytest.raises(UsageError, match="pictures was prepared with another tokenizer;"):
        list(prepare(config, CPU))


def test_shards_of_unknown_origin_are_left_alone(whole: Path, tmp_path: Path) -> None:
    config = prepare_run(tmp_path, count=4)
    copytree(whole, config.output)
    (config.output / "pictures" / "set.json").unlink()
    with pytest.raises(UsageError, match="pictures has no record of how it was prepared"):
        list(prepare(config, CPU))


def test_unreadable_clips_are_counted_also_after_a_pause(tmp_path: Path) -> None:
    """Of seven clips in shards of three, the second and the last are broken; a line is no clip.

    The last shard holds nothing then.
    """
    picture = random_scene(1).frames(1, 32, 32)[0]
    lines = ["{"]
    for number in range(7):
        path = tmp_path / f"{number}.png"
        write_picture(picture, path)
        if number in (1, 6):
            path.write_bytes(b"no picture")
        lines.append(json.dumps({"path": path.name, "caption": f"picture {number}"}))
    listed = tmp_path / "pictures.jsonl"
    listed.write_text("\n".join(lines))
    one = SetConfig(name="listed", source="list", list=listed, length=1)
    config = replace(prepare_run(tmp_path), sets=(one,))
    events = prepare(config, CPU)
    assert [next(events).skipped for _ in range(2)] == [2, 2]
    events.close()
    for _ in range(2):
        found = [(event.clips, event.total, event.skipped) for event in prepare(config, CPU)]
        assert found == [(3, 7, 2), (6, 7, 2), (7, 7, 3)]
    captions = [clip.captions.whole[0] for clip in read_prepared(config.output / "listed")]
    assert captions == [f"picture {number}" for number in (0, 2, 3, 4, 5)]


def test_of_a_set_of_which_nothing_can_be_read_the_reasons_stay(tmp_path: Path) -> None:
    """The same command makes it once the clips are in reach, or the list is right."""
    listed, lines = tmp_path / "pictures.jsonl", []
    for number in range(4):
        lines.append(json.dumps({"path": f"{number}.png", "caption": "a circle"}))
    listed.write_text("\n".join(lines))
    one = SetConfig(name="listed", source="list", list=listed, length=1)
    config = replace(prepare_run(tmp_path), sets=(one,))
    for _ in range(2):
        with pytest.raises(MediaError, match=r"set listed can be read; .*skipped\.jsonl says why"):
            list(prepare(config, CPU))
        assert [path.name for path in (config.output / "listed").iterdir()] == ["skipped.jsonl"]
        assert len(read_skipped(config.output / "listed")) == 4
        listed.write_text(listed.read_text() + "\n")
    for number in range(4):
        write_picture(random_scene(1).frames(1, 32, 32)[0], tmp_path / f"{number}.png")
    assert [event.skipped for event in prepare(config, CPU)] == [0, 0]
    assert len(read_prepared(config.output / "listed")) == 4
    assert not read_skipped(config.output / "listed")


def test_more_clips_than_a_list_has_are_refused(listed: PrepareConfig) -> None:
    more = replace(listed, sets=(replace(listed.sets[0], count=10),))
    with pytest.raises(UsageError, match=r"a count of 10, more than the 9 clips of .*lists"):
        list(prepare(more, CPU))
    assert not listed.output.exists()


@pytest.mark.parametrize("fails_at", ["index", "tensors"])
def test_a_shard_that_could_not_be_written_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: str
) -> None:
    latents, captions = [torch.zeros(64, 1, 2, 2)], [A_CIRCLE]
    begin_set(tmp_path, {}, shards=1)

    def fail(*_: object, **__: object) -> None:
        raise OSError(ENOSPC, "no space left") if fails_at == "index" else SafetensorError("full")

    target = (
        "pathlib.Path.write_text" if fails_at == "index" else "istar.checkpoint.write.save_file"
    )
    with monkeypatch.context() as patched:
        patched.setattr(target, fail)
        with pytest.raises(MediaError, match=r"cannot write '.*latents-00000\.[a-z]+': (no|full)"):
            write_shard(tmp_path, 0, latents, captions)
    assert not shard_path(tmp_path, 0).exists()
    assert not [path for path in tmp_path.iterdir() if ".tmp" in path.name]
    with pytest.raises(CheckpointError, match="holds no prepared clips"):
        read_prepared(tmp_path)
    write_shard(tmp_path, 0, latents, captions)
    assert len(read_prepared(tmp_path)) == 1


def test_a_set_without_a_record_of_its_shards_is_read_and_continued(tmp_path: Path) -> None:
    """As earlier versions wrote them."""
    write_set(tmp_path, [torch.zeros(64, 1, 2, 2)], [A_CIRCLE])
    assert json.loads((tmp_path / "set.json").read_text()) == {"shards": 1}
    (tmp_path / "set.json").write_text("{}")
    begin_set(tmp_path, {}, shards=2)
    assert len(read_prepared(tmp_path)) == 1


def test_a_rewritten_shard_is_read_again(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        write_set(tmp_path, [torch.full((64, 1, 2, 2), value)], [A_CIRCLE])
        (clip,) = read_prepared(tmp_path)
        assert (clip.latent() == value).all()


def test_captions_are_read_back(tmp_path: Path) -> None:
    described = ClipCaptions(
        whole=("a circle", "ein Kreis"),
        by_clip=(("first",), ("second", "zweite")),
        short=("round", "rund"),
        ending="very sharp",
    )
    write_set(tmp_path, [torch.zeros(64, 1, 2, 2)] * 2, [described, A_CIRCLE])
    assert [clip.captions for clip in read_prepared(tmp_path)] == [described, A_CIRCLE]


def test_captions_of_clips_come_from_the_list(tmp_path: Path) -> None:
    write_clip(random_scene(1).frames(33, 32, 32), tmp_path / "clip.mp4")
    entry = {"path": "clip.mp4", "caption": "whole", "clip_captions": ["first", ["second"]]}
    listed = tmp_path / "clips.jsonl"
    listed.write_text(json.dumps(entry))
    one = SetConfig(name="listed", source="list", list=listed, length=33)
    config = replace(prepare_run(tmp_path), sets=(one,))
    list(prepare(config, CPU))
    (clip,) = read_prepared(config.output / "listed")
    assert clip.captions == ClipCaptions(whole=("whole",), by_clip=(("first",), ("second",)))


@pytest.fixture
def listed(tmp_path: Path) -> PrepareConfig:
    """Three lists below a directory, each with a missing picture and a line that is none."""
    lists = tmp_path / "lists"
    lists.mkdir()
    write_picture(random_scene(1).frames(1, 32, 32)[0], lists / "whole.png")
    for part in range(3):
        names = [f"missing-{part}.png", "whole.png", "whole.png"]
        lines = [json.dumps({"path": name, "caption": name}) for name in names]
        (lists / f"{part}.jsonl").write_text("\n".join([*lines, "no line"]))
    one = SetConfig(name="listed", source="list", list=lists, length=1)
    return replace(prepare_run(tmp_path), sets=(one,))


def lines_of_record(config: PrepareConfig) -> list[tuple[str, int, str]]:
    path = config.output / "listed" / SKIPPED_NAME
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    return [(Path(e["list"]).name, e["line"], e["reason"].split(";")[0]) for e in entries]


def test_all_that_is_skipped_is_listed_once_also_after_a_pause(listed: PrepareConfig) -> None:
    events = prepare(listed, CPU)
    first = next(events)
    events.close()
    broken = [f"cannot read '{listed.sets[0].list}/missing-{part}.png'" for part in range(3)]
    invalid = "it is not JSON"
    found = lines_of_record(listed)
    assert [(name, line) for name, line, _ in found] == [
        ("0.jsonl", 1),
        *((f"{part}.jsonl", 4) for part in range(3)),
    ]
    assert [note.split(" is skipped: ")[1].split(":")[0] for note in first.notes] == [
        "it is not JSON",
        broken[0],
    ]
    for _ in range(2):
        events = list(prepare(listed, CPU))
        found = lines_of_record(listed)
        assert [(name, line) for name, line, _ in found] == [
            (f"{part}.jsonl", line) for part in range(3) for line in (1, 4)
        ]
        assert [reason.split(":")[0] for _, _, reason in found] == [
            reason for part in range(3) for reason in (broken[part], invalid)
        ]
        assert events[-1].notes[-1].endswith("skipped.jsonl lists all that is skipped")
        assert events[-1].skipped == 6


def test_every_set_names_the_first_line_of_each_kind_once(listed: PrepareConfig) -> None:
    one = listed.sets[0]
    two = replace(listed, shard=2, sets=(one, replace(one, name="again")))
    notes = [note for event in prepare(two, CPU) for note in event.notes]
    firsts = [note for note in notes if " is skipped: " in note]
    kinds = ["it is not JSON" in note for note in firsts]
    assert sorted(kinds) == [False, False, True, True]
    assert all("0.jsonl: line" in note for note in firsts)
    assert not any("more" in note for note in notes)
    records = [note.split("/")[-2] for note in notes if "lists all that is skipped" in note]
    assert records == ["listed", "again"]


def test_processes_list_together_what_they_skip(listed: PrepareConfig) -> None:
    for rank in (1, 0):
        list(prepare(listed, CPU, Share(rank=rank, processes=2)))
    assert len(lines_of_record(listed)) == 6


def test_what_another_process_skips_meanwhile_is_listed_too(
    listed: PrepareConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finishes the second shard after the first one's process has looked for the last time."""
    write_skipped, calls = module.write_skipped, 0

    def overtaken(directory: Path, skipped: list[SkippedLine]) -> Path:
        nonlocal calls
        calls += 1
        if calls == 1:
            other = SkippedLine(Path("other.jsonl"), 7, "elsewhere")
            write_shard(directory, 1, [torch.zeros(64, 1, 2, 2)], [A_CIRCLE], skipped=[other])
        return write_skipped(directory, skipped)

    monkeypatch.setattr(module, "write_skipped", overtaken)
    next(prepare(listed, CPU, Share(rank=0, processes=3)))
    assert calls == 2
    assert ("other.jsonl", 7, "elsewhere") in lines_of_record(listed)


GOOD = {"name": "0", "shape": [1, 2, 2], "captions": ["a circle"]}
BAD_LINES = {
    "no JSON": "{",
    "no object": "[1]",
    "a number": "3",
    "no name": json.dumps(GOOD | {"name": None}),
    "no shape": json.dumps({"name": "0", "captions": ["a"]}),
    "two sizes": json.dumps(GOOD | {"shape": [1, 2]}),
    "size of nothing": json.dumps(GOOD | {"shape": [0, 2, 2]}),
    "infinite size": '{"name": "0", "shape": [Infinity, 2, 2], "captions": ["a"]}',
    "no captions": json.dumps(GOOD | {"captions": []}),
    "one caption": json.dumps(GOOD | {"captions": "a circle"}),
    "clip captions of one text": json.dumps(GOOD | {"clip_captions": ["a circle"]}),
    "clip captions of nothing": json.dumps(GOOD | {"clip_captions": [[]]}),
    "short captions of one text": json.dumps(GOOD | {"short_captions": "circle"}),
    "an ending of numbers": json.dumps(GOOD | {"ending": 3}),
    "no reason": json.dumps({"skipped": {"list": "clips.jsonl", "line": 1}}),
    "captions of numbers": json.dumps(GOOD | {"captions": [3]}),
}


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES)
def test_a_malformed_index_is_said_in_a_line(tmp_path: Path, line: str) -> None:
    write_shard(tmp_path, 0, [torch.zeros(64, 1, 2, 2)] * 2, [A_CIRCLE] * 2)
    index = shard_path(tmp_path, 0).with_suffix(".jsonl")
    index.write_text(json.dumps(GOOD) + "\n" + line + "\n")
    with pytest.raises(CheckpointError, match=r"latents-00000.jsonl is not the index") as caught:
        read_prepared(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_so_is_one_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    write_shard(tmp_path, 0, [torch.zeros(64, 1, 2, 2)], [A_CIRCLE])
    index = shard_path(tmp_path, 0).with_suffix(".jsonl")
    index.unlink()
    if content:
        index.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"latents-00000.jsonl is not the index"):
        read_prepared(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "missing", "another name"])
def test_so_are_damaged_tensors(tmp_path: Path, damage: str) -> None:
    write_set(tmp_path, [torch.zeros(64, 1, 2, 2)], [A_CIRCLE])
    path = shard_path(tmp_path, 0)
    (clip,) = read_prepared(tmp_path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:40])
    elif damage == "missing":
        path.unlink()
    else:
        index = path.with_suffix(".jsonl")
        index.write_text(json.dumps(GOOD | {"name": "7"}))
        (clip,) = read_prepared(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"latents-00000.safetensors cannot be read"
    ) as caught:
        clip.latent()
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_is_not_there(tmp_path: Path) -> None:
    config = prepare_run(tmp_path)
    config.tokenizer.unlink()
    with pytest.raises((CheckpointError, UsageError), match=r"start.safetensors"):
        next(iter(prepare(config, CPU)))
    assert not config.output.exists()
