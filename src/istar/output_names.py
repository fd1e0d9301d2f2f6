"""The names of outputs: settled, and refused early, before anything is made."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

from istar.clip_format import (
    CLIP_FORMATS,
    STREAMED_SUFFIX,
    clip_format,
    is_numbered,
    number_in,
)
from istar.errors import MediaError, UsageError
from istar.files import check_plain, expanded, numbered_names, writing_failed
from istar.request import Mode

CLIP_SUFFIXES = tuple(CLIP_FORMATS)
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

SLASHES = tuple(filter(None, (os.sep, os.altsep)))

_NO_DIRECTORIES = (Path("/dev"), Path("/dev/fd"))


def names_directory(text: str) -> bool:
    """Whether a name as typed is that of a directory: it is one, or ends in a slash.

    Raises:
        UsageError: it names a home directory that is unknown.
    """
    directory = expanded(text)
    return text.endswith(SLASHES) or directory.is_dir()


def check_name(name: str) -> None:
    """Refuse a text that can name no file.

    Raises:
        UsageError: it cannot.
    """
    if not name:
        raise UsageError("the output path is empty")
    if "\0" in name:
        raise UsageError("an output path cannot hold a NUL character")
    try:
        os.fsencode(name)
    except UnicodeEncodeError as error:
        raise UsageError(f"no file can be called {name!r}") from error


def usual_suffix(mode: Mode) -> str:
    """The suffix of what a mode makes, where none is asked for."""
    return ".png" if mode == "t2i" else STREAMED_SUFFIX


def output_path(
    wanted: str | Path | None, *, default_stem: str, suffix: str, overwrite: bool
) -> Path:
    """The name an output will get.

    None and directories get `{default_stem}-0001{suffix}`, counted up to a free name. A name
    without a suffix gets `suffix`. A name that is taken gets a number, `video-1.mp4`, unless
    `overwrite`. Numbered pictures, `boat/%04d.png`, have their directory for themselves, which gets
    the number.

    Args:
        wanted: a file, or a directory, as which a text with a slash at its end is taken; `~` is
            expanded.
        default_stem: how default names begin.
        suffix: `.mp4` for clips, `.png` for pictures; any suffix of the same kind may be asked
            for.
        overwrite: an existing file may be replaced.

    Raises:
        UsageError: the suffix belongs to another kind of file, or the path cannot be a file's.
        MediaError: the directory is missing or not writable, the target is no plain file, or a
            directory to be replaced holds more than numbered pictures.
    """
    try:
        return _output_path(wanted, default_stem, suffix, overwrite)
    except OSError as error:
        raise writing_failed(Path(wanted or ""), error) from error


def _output_path(
    wanted: str | Path | None, default_stem: str, suffix: str, overwrite: bool
) -> Path:
    text = "." if wanted is None else str(wanted)
    check_name(text)
    target = expanded(text)
    if names_directory(text):
        _check_directory(target)
        return next(
            name
            for number in count(1)
            if not os.path.lexists(name := target / f"{default_stem}-{number:04}{suffix}")
        )
    if target.parent in _NO_DIRECTORIES or target.parts[1:2] == ("proc",):
        raise MediaError(f"'{target}' is not a place for a file; choose another name")
    if suffix in CLIP_SUFFIXES and is_numbered(target):
        return _directory_of_numbered(target, overwrite) / target.name
    check_plain(target)
    if not target.suffix:
        target = target.with_name(target.name + suffix)
    if suffix in CLIP_SUFFIXES:
        clip_format(target)
    else:
        check_suffix(target, PICTURE_SUFFIXES)
    check_plain(target)
    _check_directory(target.parent)
    if os.path.lexists(target) and not overwrite:
        return next(name for name in numbered_names(target) if not os.path.lexists(name))
    return target


def _directory_of_numbered(target: Path, overwrite: bool) -> Path:
    """The directory that numbered pictures will get for themselves."""
    directory = target.parent
    if directory.name in ("", "..") or directory.is_mount():
        raise UsageError(
            f"'{target}': numbered pictures get a directory of their own; "
            f"name it, such as frames/{target.name}"
        )
    _check_directory(directory.parent)
    if not os.path.lexists(directory):
        return directory
    if not directory.is_dir():
        raise MediaError(f"'{directory}' is a file, not a directory; choose another directory")
    names = [path.name for path in directory.iterdir()]
    if not names or (overwrite and all(number_in(name, target) is not None for name in names)):
        return directory
    if overwrite:
        raise MediaError(
            f"'{directory}' holds more than pictures numbered as '{target.name}' and is not "
            "replaced; choose another directory"
        )
    return next(name for name in numbered_names(directory) if not os.path.lexists(name))


def check_suffix(target: Path, suffixes: tuple[str, ...]) -> None:
    """Refuse a name whose suffix is not one of `suffixes`.

    Raises:
        UsageError: the suffix is another.
    """
    if target.suffix.lower() not in suffixes:
        raise UsageError(f"cannot write '{target}': its name must end in {' or '.join(suffixes)}")


def _check_directory(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise MediaError(f"'{directory}' is a file, not a directory; choose another directory")
    if not directory.exists():
        raise MediaError(f"the directory '{directory}' does not exist; make it first")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise MediaError(f"the directory '{directory}' is not writable; choose another")
