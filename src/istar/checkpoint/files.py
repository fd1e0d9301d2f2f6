"""The files of a checkpoint, opened: whatever is wrong with one becomes a line that names it.

Every reader of weights, settings and vocabularies opens them here, so that one place knows the ways
in which a file came damaged, and no exception of another library reaches the person.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from istar.errors import CheckpointError
from istar.text_files import read_json

if TYPE_CHECKING:
    from safetensors import safe_open

INDEX_NAME = "model.safetensors.index.json"
_FETCH = "fetch it again from where it was published"
_POINTER = b"version https://git-lfs"
_WEB_PAGE = (b"<!doctype", b"<!--", b"<html", b"<head", b"<?xml")
_BEFORE_TEXT = b"\xef\xbb\xbf \t\r\n"
_LOOK_BYTES = 512
_LONGEST_REASON = 160


def look_at(path: Path) -> None:
    """Refuse a file whose first bytes show that something else came in its place.

    Raises:
        CheckpointError: it is missing, cannot be opened, is empty, a git-lfs pointer or a web page.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_LOOK_BYTES)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    text = start.lstrip(_BEFORE_TEXT).lower()
    if not start:
        raise CheckpointError(f"{path} is empty; {_FETCH}")
    if text.startswith(_POINTER):
        raise CheckpointError(
            f"{path} is a git-lfs pointer in place of the file; fetch it with `git lfs pull`"
        )
    if text.startswith(_WEB_PAGE):
        raise CheckpointError(f"{path} is a web page in place of the file; {_FETCH}")


@contextmanager
def explained_file_errors(path: Path) -> Iterator[None]:
    """Turn whatever reading a file raises into an error that names it and says what to do.

    Memory that ran out is no fault of a file and passes.

    Args:
        path: the file; of several that another library reads at once, the one to name.

    Raises:
        CheckpointError: something was raised.
    """
    try:
        yield
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # a damaged file fails in any way there is
        if "allocate memory" in str(error) or type(error).__name__ == "OutOfMemoryError":
            raise
        look_at(path)
        reason = " ".join(str(error).split()).partition(". ")[0][:_LONGEST_REASON].rstrip(".")
        raise CheckpointError(
            f"{path} is damaged or cut short ({reason or type(error).__name__}); {_FETCH}"
        ) from error


def read_table(path: Path) -> dict[str, Any]:
    """A JSON file that holds a table; UTF-8, with or without a byte order mark.

    Raises:
        CheckpointError: it is missing, or something else.
    """
    look_at(path)
    try:
        content = read_json(path, error=CheckpointError)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {_FETCH}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON table; {_FETCH}")
    return content


def open_safetensors(path: Path) -> safe_open:
    """A safetensors file, whose header says no more than the file has.

    Raises:
        CheckpointError: it is missing, damaged, cut short, or something else.
    """
    from safetensors import safe_open

    look_at(path)
    with explained_file_errors(path):
        return safe_open(path, framework="pt", device="cpu")


def safetensor_files(path: Path) -> list[Path]:
    """The safetensors files at a path: itself, or those of a directory, by its index if it has one.

    Raises:
        CheckpointError: no files, a malformed index, or a file that it lists is missing.
    """
    if not path.exists():
        raise CheckpointError(f"{path} is missing")
    if path.is_file():
        return [path]
    index = path / INDEX_NAME
    if not index.is_file():
        files = sorted(path.glob("*.safetensors"))
        if not files:
            raise CheckpointError(f"{path}: no safetensors files there")
        return files
    weight_map = read_table(index).get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{index} is not a safetensors index; {_FETCH}")
    for name in sorted(set(names)):
        if Path(name).name != name or set(name) & set("\\\0"):
            raise CheckpointError(f"{index} names a file outside its directory: {name!r}")
        if not (path / name).is_file():
            raise CheckpointError(f"{path / name} is missing; the index lists it")
    return [path / name for name in sorted(set(names))]
