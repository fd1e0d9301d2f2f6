"""One reader for all text."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest

from istar.errors import CheckpointError, UsageError
from istar.text_files import read_json, read_text


@pytest.mark.parametrize("data", [b"a\nboat", b"\xef\xbb\xbfa\nboat", b"a\r\nboat"])
def test_marks_and_line_ends_make_no_difference(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "text").write_bytes(data)
    assert read_text(tmp_path / "text") == "a\nboat"
    assert read_text(BytesIO(data), "the prompt") == "a\nboat"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"a boat \xff", "the prompt is not UTF-8 text"),
        ("a boat".encode("utf-16"), "the prompt is UTF-16 text; save it as UTF-8"),
        (b"a\0boat", "the prompt holds a NUL"),
    ],
)
def test_other_bytes_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        read_text(BytesIO(data), "the prompt")


def test_no_more_than_the_limit_is_read() -> None:
    assert read_text(BytesIO(b"abcd"), "it", limit=4) == "abcd"
    with Path("/dev/zero").open("rb") as endless, pytest.raises(UsageError, match="longer than"):
        read_text(endless, "it", limit=2000)


def test_missing_files_and_impossible_names_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent cannot be read: No such file"):
        read_text(tmp_path / "absent", error=CheckpointError)
    with pytest.raises(UsageError, match="cannot be read: embedded null"):
        read_text(Path("a\0b"))


@pytest.mark.parametrize("text", ["{", "[" * 100_000])
def test_what_is_not_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(UsageError, match=r"file\.json is not readable JSON: "):
        read_json(tmp_path / "file.json")
