"""Directories that appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from istar.errors import MediaError
from istar.files import PendingDirectory, working_directory


def content(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir() if path.is_file()}


def fail(pending: PendingDirectory, failure: BaseException) -> None:
    """Write half of a file, in a directory that was empty."""
    assert content(pending.temporary) == {}
    (pending.temporary / "a").write_text("half")
    raise failure


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models" / "small"


@pytest.fixture
def former(target: Path) -> Path:
    target.mkdir(parents=True)
    (target / "a").write_text("former")
    return target


def test_a_directory_appears_when_it_is_whole(target: Path) -> None:
    with PendingDirectory(target, overwrite=False) as pending:
        (pending.temporary / "a").write_text("new")
        assert not target.exists()
    assert content(target) == {"a": "new"}
    assert list(target.parent.iterdir()) == [target]


def test_the_former_one_stays_until_then(former: Path) -> None:
    with PendingDirectory(former, overwrite=True) as pending:
        (pending.temporary / "b").write_text("new")
        assert content(former) == {"a": "former"}
    assert content(former) == {"b": "new"}
    assert list(former.parent.iterdir()) == [former]


@pytest.mark.parametrize("failure", [OSError("no room"), KeyboardInterrupt()])
def test_a_failure_changes_nothing(former: Path, failure: BaseException) -> None:
    with (
        pytest.raises(type(failure)) as caught,
        PendingDirectory(former, overwrite=True) as pending,
    ):
        fail(pending, failure)
    assert caught.value is failure
    assert content(former) == {"a": "former"}
    assert list(former.parent.iterdir()) == [former]


def test_nothing_is_replaced_unless_asked_for(former: Path) -> None:
    with (
        pytest.raises(MediaError, match="exists"),
        PendingDirectory(former, overwrite=False),
    ):
        pytest.fail("it may not be written")
    assert content(former) == {"a": "former"}


def test_what_a_killed_process_left_is_removed_and_what_it_moved_away_is_back(
    former: Path,
) -> None:
    work = working_directory(former)
    work.mkdir()
    former.rename(work / "former")
    (work / "new").mkdir()
    (work / "new" / "a").write_text("half")
    with (
        pytest.raises(KeyboardInterrupt),
        PendingDirectory(former, overwrite=True) as pending,
    ):
        fail(pending, KeyboardInterrupt())
    assert content(former) == {"a": "former"}
    assert list(former.parent.iterdir()) == [former]


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(MediaError, match=f"cannot write '{tmp_path / 'file' / 'small'}'"),
        PendingDirectory(tmp_path / "file" / "small", overwrite=True),
    ):
        pytest.fail("it cannot be written")
