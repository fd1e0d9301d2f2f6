"""The directory of an interactive session: a take for every branch, and what else it needs."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from istar.errors import StateError, UsageError
from istar.files import replace_text, writing_failed
from istar.tables import decode, encode

if TYPE_CHECKING:
    from istar.take import Take

SESSION_SUFFIX = ".session"
FIRST_BRANCH = "main"

_FORMAT = "istar-session-1"
_SETTINGS = "session.json"
_TAKE_SUFFIX = ".take"
_BRANCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class HeldVideo:
    """What the video's file holds, and how to know it again.

    Attributes:
        windows: a hash of every window whose clip is in it, in order.
        pictures: how many there are up to the end of each.
        bytes_here: its size.
        modified: when it was written, in nanoseconds since 1970.
    """

    windows: tuple[str, ...]
    pictures: tuple[int, ...]
    bytes_here: int
    modified: int


@dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """What a session's `session.json` says.

    Attributes:
        format: its version.
        branch: the branch that the next prompt goes to.
        video: the video's file, seen from the directory that the session lies in.
        model: how the model is named.
        seed: of the next clip; None to draw on.
        held: what the video holds; None before it is there.
        is_writing: the video is about to be another one.
    """

    format: str
    branch: str
    video: str
    model: str
    seed: int | None = None
    held: HeldVideo | None = None
    is_writing: bool = False


class Session:
    """A session's directory. Whatever it is in the middle of, what is in it is whole.

    Attributes:
        directory: where.
        settings: as they are in the file.
        stays: it outlasts the command.
    """

    def __init__(self, directory: Path, settings: SessionSettings, *, stays: bool = True) -> None:
        self.directory = directory
        self.settings = settings
        self.stays = stays

    @classmethod
    def create(cls, directory: Path, *, video: Path, model: str, stays: bool = True) -> Session:
        """A new session, in a directory with a number if the name is taken.

        Raises:
            StateError: it cannot be made.
        """
        names = (directory.with_stem(f"{directory.stem}-{number}") for number in count(1))
        while True:
            try:
                directory.mkdir()
                break
            except FileExistsError:
                directory = next(names)
            except OSError as error:
                raise StateError(str(writing_failed(directory, error))) from error
        settings = SessionSettings(format=_FORMAT, branch=FIRST_BRANCH, video="", model=model)
        session = cls(directory, settings, stays=stays)
        session.update(video=session.seen_from_here(video))
        return session

    @classmethod
    def open(cls, directory: Path) -> Session:
        """A session that was made before.

        Raises:
            StateError: it is none, or of another version.
        """
        path = directory / _SETTINGS
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise StateError(f"'{directory}' is no readable session: {error}") from error
        version = table.get("format") if isinstance(table, dict) else None
        if version != _FORMAT:
            raise StateError(f"'{directory}' is no session that this istar reads")
        settings = decode(SessionSettings, table, name=f"'{path}'", error=StateError)
        held = settings.held
        if held is not None and len(held.windows) != len(held.pictures):
            raise StateError(f"'{path}' does not say what the video holds")
        if not _BRANCH.fullmatch(settings.branch):
            raise StateError(f"'{path}' names a branch that cannot be, {settings.branch!r:.80}")
        return cls(directory, settings)

    def update(self, **changes: Any) -> None:
        """Change settings, in the file too.

        Raises:
            StateError: it cannot be written.
        """
        settings = replace(self.settings, **changes)
        try:
            replace_text(self.directory / _SETTINGS, json.dumps(encode(settings), indent=2) + "\n")
        except OSError as error:
            raise StateError(str(writing_failed(self.directory, error))) from error
        self.settings = settings

    @property
    def video(self) -> Path:
        """The video's file."""
        return self.directory.parent / self.settings.video

    def has_video(self) -> bool:
        """Whether the video's file is there, as it was written."""
        held = self.settings.held
        if held is None or not self.video.is_file():
            return False
        found = self.video.stat()
        return (found.st_size, found.st_mtime_ns) == (held.bytes_here, held.modified)

    def owns_video(self) -> bool:
        """Whether the video's file may be replaced: the session wrote it."""
        return self.has_video() or (self.settings.is_writing and self.video.is_file())

    def seen_from_here(self, video: Path) -> str:
        """How a video's file is named in the settings, so that both may be moved together."""
        is_beside = video.absolute().parent == self.directory.absolute().parent
        return video.name if is_beside else str(video.absolute())

    @property
    def take_path(self) -> Path:
        """The take of the branch that the next prompt goes to."""
        return self._path(self.settings.branch)

    @property
    def branches(self) -> tuple[str, ...]:
        """The names of all branches."""
        return tuple(sorted(path.stem for path in self.directory.glob(f"[!.]*{_TAKE_SUFFIX}")))

    def take(self) -> Take:
        """The take of the branch.

        Raises:
            StateError: it cannot be read.
        """
        from istar.take import Take

        return Take.load(self.take_path)

    def save(self, take: Take) -> None:
        """Keep a take as that of the branch.

        Raises:
            StateError: it cannot be written.
        """
        take.save(self.take_path, overwrite=True)

    def has(self, branch: str) -> bool:
        """Whether there is a branch of a name."""
        return os.path.lexists(self._path(branch))

    def switch(self, branch: str) -> None:
        """Let the next prompt go to another branch, or to a new one."""
        self.update(branch=branch)

    def _path(self, branch: str) -> Path:
        return self.directory / f"{branch}{_TAKE_SUFFIX}"


def is_session(path: Path) -> bool:
    """Whether a path is that of a session's directory."""
    return (path.expanduser() / _SETTINGS).is_file()


def check_branch(name: str) -> None:
    """Refuse a branch's name that is not fit for a file.

    Raises:
        UsageError: it is not.
    """
    if not _BRANCH.fullmatch(name):
        raise UsageError(f"a branch's name is of letters, digits, '-', '_' and '.', not {name!r}")
