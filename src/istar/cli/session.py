"""The directory of an interactive session: a take for every branch, and what else it needs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from istar.errors import StateError, UsageError
from istar.files import expanded, locked, replace_text, writing_failed
from istar.tables import decode, encode
from istar.take_directory import TAKE_SUFFIX

if TYPE_CHECKING:
    from istar.take import Take

SESSION_SUFFIX = ".session"
FIRST_BRANCH = "main"

_FORMAT = "istar-session-1"
_SETTINGS = "session.json"
_LOCK = "session.lock"
_BRANCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class WrittenFile:
    """How to know a file again that was written here.

    Attributes:
        bytes_here: its size.
        modified: when it was written, in nanoseconds since 1970.
    """

    bytes_here: int
    modified: int

    @classmethod
    def of(cls, path: Path) -> WrittenFile:
        """A file as it is now."""
        found = path.stat()
        return cls(bytes_here=found.st_size, modified=found.st_mtime_ns)


@dataclass(frozen=True, kw_only=True)
class HeldVideo:
    """What the video's file holds.

    Attributes:
        windows: a hash of every window whose clip is in it, in order.
        pictures: how many there are up to the end of each.
        file: how to know it again.
    """

    windows: tuple[str, ...]
    pictures: tuple[int, ...]
    file: WrittenFile


@dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """What a session's `session.json` says.

    Attributes:
        format: its version.
        branch: the branch that the next prompt goes to.
        video: the video's file, seen from the directory that the session lies in.
        seed: of the next clip; None to draw on.
        held: what the video holds; None before it is there.
        next_file: what the video's file is about to be; None where it is what it should be.
    """

    format: str
    branch: str
    video: str
    seed: int | None = None
    held: HeldVideo | None = None
    next_file: WrittenFile | None = None


class Session:
    """A session's directory. Whatever it is in the middle of, what is in it is whole.

    Attributes:
        directory: where.
        settings: as they are in the file.
        stays: it outlasts the command.
        words: options of a command that continues it.
    """

    def __init__(
        self,
        directory: Path,
        settings: SessionSettings,
        *,
        stays: bool = True,
        words: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.settings = settings
        self.stays = stays
        self.words = words

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        video: Path,
        stays: bool = True,
        words: Sequence[str] = (),
    ) -> Session:
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
        settings = SessionSettings(format=_FORMAT, branch=FIRST_BRANCH, video="")
        session = cls(directory, settings, stays=stays, words=words)
        session.update(video=session.seen_from_here(video))
        return session

    @classmethod
    def open(cls, directory: Path, *, words: Sequence[str] = ()) -> Session:
        """A session that was made before.

        Raises:
            StateError: it holds no session, or one of another version.
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
        if not _is_beside(settings.video):
            raise StateError(f"'{path}' names a video elsewhere, {settings.video!r:.80}")
        if not _BRANCH.fullmatch(settings.branch):
            raise StateError(f"'{path}' names a branch that cannot be, {settings.branch!r:.80}")
        return cls(directory, settings, words=words)

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
        return held is not None and self._is_there(held.file)

    def owns_video(self) -> bool:
        """Whether the video's file may be replaced: the session wrote it."""
        coming = self.settings.next_file
        return self.has_video() or (coming is not None and self._is_there(coming))

    def _is_there(self, file: WrittenFile) -> bool:
        return self.video.is_file() and WrittenFile.of(self.video) == file

    def seen_from_here(self, video: Path) -> str:
        """How a video's file is named in the settings, so that both may be moved together."""
        is_beside = video.absolute().parent == self.directory.absolute().parent
        return video.name if is_beside else str(video.absolute())

    @property
    def take_path(self) -> Path:
        """The take of the branch that the next prompt goes to."""
        return self.path_of(self.settings.branch)

    @property
    def branches(self) -> tuple[str, ...]:
        """The names of all branches."""
        return tuple(sorted(path.stem for path in self.directory.glob(f"[!.]*{TAKE_SUFFIX}")))

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

    def keep(self, take: Take) -> str:
        """Keep a take that the branch is about to lose; gives the name of the branch that has it.

        Raises:
            StateError: it cannot be written.
        """
        return take.save(self.take_path, numbered=True).stem

    def prompts(self) -> dict[str, int | None]:
        """How many prompts every branch has; None of one that is no readable take."""
        from istar.take_file import TakeSummary

        counts: dict[str, int | None] = dict.fromkeys(self.branches)
        for name in counts:
            with suppress(StateError):
                counts[name] = len(TakeSummary.read(self.path_of(name)).prompts)
        return counts

    def rewritten(self) -> dict[str, str]:
        """The richer prompts of its takes by what was typed; those of the present branch first."""
        from istar.take import Take

        found: dict[str, str] = {}
        for name in (self.settings.branch, *self.branches):
            with suppress(StateError):
                request = Take.load(self.path_of(name)).request
                for prompt, typed in zip(request.prompts, request.typed_prompts, strict=True):
                    if typed != prompt:
                        found.setdefault(typed, prompt)
        return found

    def has(self, branch: str) -> bool:
        """Whether there is a branch of a name."""
        return os.path.lexists(self.path_of(branch))

    def switch(self, branch: str) -> None:
        """Let the next prompt go to another branch, or to a new one."""
        self.update(branch=branch)

    def path_of(self, branch: str) -> Path:
        """The take of a branch, there or not."""
        return self.directory / f"{branch}{TAKE_SUFFIX}"


@contextmanager
def held_alone(directory: Path) -> Iterator[None]:
    """Inside, no other process continues a session; the system frees it when this one dies.

    Raises:
        StateError: another one does already, or the directory cannot be written.
    """
    with locked(directory / _LOCK, f"'{directory}' is in use: another process continues it"):
        yield


def is_session(path: Path) -> bool:
    """Whether a path is that of a session's directory."""
    return (expanded(path) / _SETTINGS).is_file()


def _is_beside(video: str) -> bool:
    """Whether a session of somebody else's names its video by a plain file name."""
    return Path(video).name == video and video not in ("", "..") and not set(video) & {"\\", "\0"}


def check_branch(name: str) -> None:
    """Refuse a branch's name that is not fit for a file.

    Raises:
        UsageError: it is not.
    """
    if not _BRANCH.fullmatch(name):
        raise UsageError(f"a branch's name is of letters, digits, '-', '_' and '.', not {name!r}")
