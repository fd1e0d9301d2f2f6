"""Clips as numbered pictures, written and read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from istar.errors import MediaError, UsageError
from istar.media import open_clip_writer, read_clip, read_piece, write_clip, write_picture
from istar.output_names import output_path
from media_files import grey_clip, levels_of, smooth_clip


def settled(wanted: Path, *, overwrite: bool = False) -> Path:
    return output_path(str(wanted), default_stem="istar", suffix=".mp4", overwrite=overwrite)


def test_pictures_are_named_as_asked_and_read_by_directory_or_name(tmp_path: Path) -> None:
    frames = smooth_clip(12)
    for pattern, first, last in (
        ("a-%03d.png", "a-001.png", "a-012.png"),
        ("%d.png", "1.png", "12.png"),
    ):
        path = write_clip(frames, tmp_path / pattern[0] / pattern)
        assert path == tmp_path / pattern[0]
        names = {one.name for one in path.iterdir()}
        assert (len(names), first in names, last in names) == (12, True, True)
        assert torch.equal(read_clip(path).frames, frames)
        assert torch.equal(read_clip(path / pattern).frames, frames)
        assert torch.equal(read_piece(path, begin=5 / 16, pictures=3), frames[5:8])


def test_they_are_read_in_the_order_of_their_numbers_and_beside_other_files(
    tmp_path: Path,
) -> None:
    for number, level in ((10, 30), (2, 10), (9, 20)):
        write_picture(grey_clip([level])[0], tmp_path / f"{number}.png")
    (tmp_path / "notes.txt").write_text("of a boat")
    assert levels_of(read_clip(tmp_path).frames) == [10, 20, 30]


def test_what_is_no_clip_is_refused(tmp_path: Path) -> None:
    for pattern in ("", "%04d.png"):
        with pytest.raises(
            MediaError, match=r"not hold several numbered pictures, such as 0001.png"
        ):
            read_clip(tmp_path / pattern)
    with pytest.raises(MediaError, match=r"cannot read .*missing"):
        read_clip(tmp_path / "missing" / "%d.png")
    write_picture(grey_clip([1])[0], tmp_path / "a1.png")
    write_picture(grey_clip([1], height=16)[0], tmp_path / "a2.png")
    with pytest.raises(MediaError, match=r"a2.png' is not 48×32 as .*a1.png"):
        read_clip(tmp_path)
    write_picture(grey_clip([1])[0], tmp_path / "b1.png")
    with pytest.raises(MediaError, match="several series"):
        read_clip(tmp_path)
    (tmp_path / "a2.png").write_bytes(b"no picture")
    with pytest.raises(MediaError, match=r"a2.png' is not a picture"):
        read_clip(tmp_path / "a%d.png")


def test_a_taken_directory_gets_a_number(tmp_path: Path) -> None:
    target = settled(tmp_path / "boat" / "%04d.png")
    assert target == tmp_path / "boat" / "%04d.png"
    write_clip(grey_clip([1, 2]), target)
    other = settled(target)
    assert other == tmp_path / "boat-1" / "%04d.png"
    with pytest.raises(MediaError, match="exists"):
        write_clip(grey_clip([3]), target)
    with open_clip_writer(other, 32, 48, numbered=True) as writer:
        writer.write(grey_clip([3, 4]))
        (tmp_path / "boat-1").mkdir()
        (tmp_path / "boat-1" / "mine.txt").write_text("mine")
    assert writer.target == tmp_path / "boat-1-1"
    assert levels_of(read_clip(writer.target).frames) == [3, 4]
    assert [one.name for one in (tmp_path / "boat-1").iterdir()] == ["mine.txt"]


def test_an_empty_directory_is_used(tmp_path: Path) -> None:
    (tmp_path / "boat").mkdir()
    target = settled(tmp_path / "boat" / "%d.png")
    with open_clip_writer(target, 32, 48, numbered=True) as writer:
        writer.write(grey_clip([1]))
    assert writer.target == tmp_path / "boat"
    assert [one.name for one in tmp_path.rglob("*")] == ["boat", "1.png"]


def test_only_a_directory_of_such_pictures_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "boat" / "%d.png"
    write_clip(grey_clip([1, 2, 3]), target)
    write_clip(grey_clip([4]), settled(target, overwrite=True), overwrite=True)
    assert [one.name for one in tmp_path.rglob("*")] == ["boat", "1.png"]
    (tmp_path / "boat" / "mine.txt").write_text("mine")
    with pytest.raises(MediaError, match=r"holds more than pictures numbered as '%d.png'"):
        settled(target, overwrite=True)


def test_they_need_a_directory_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("%04d.png", "../%04d.png", "/%04d.png"):
        with pytest.raises(UsageError, match="a directory of their own"):
            settled(Path(name))
    with pytest.raises(MediaError, match="does not exist"):
        settled(tmp_path / "missing" / "boat" / "%d.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(MediaError, match="is a file"):
        settled(tmp_path / "file" / "%d.png")
