"""What `--json` writes: events as dictionaries, see docs/json.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from istar import __version__

if TYPE_CHECKING:
    from istar.events import Loading, Preview, Progress, WorkDone
    from istar.models.download_events import DownloadProgress, LoadProgress

VERSION = 1
"""Of the events; one that has another meaning or lacks a field gets another."""

JsonEvent = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Made:
    """What is in a file that was made.

    Attributes:
        model: the name of the model that made it.
        seed: of the request.
        frames: how many pictures it has; 1 is a picture.
        seconds: its length; 0 of a picture.
        width, height: in pixels.
    """

    model: str
    seed: int
    frames: int
    seconds: float
    width: int
    height: int


def start_event(command: str, settings: Mapping[str, Any]) -> JsonEvent:
    """A command begins.

    Args:
        command: its name.
        settings: its arguments and options, by their names in Python.
    """
    known = {name: _plain(value) for name, value in settings.items() if value is not None}
    return {"event": "start", "istar": __version__, "command": command, "settings": known}


def download_event(event: DownloadProgress) -> JsonEvent:
    """So many bytes of a file are here."""
    return {"event": "download", "file": event.path, "done": event.done, "total": event.total}


def loading_event(event: LoadProgress | Loading) -> JsonEvent:
    """Weights are loaded: before the run so many bytes of the model's, later a part of them."""
    names = ("model", "done", "total")
    return {
        "event": "loading",
        "part": event.part,
        **{name: getattr(event, name, None) for name in names},
    }


def progress_event(event: Progress) -> JsonEvent:
    """A step was taken."""
    return {
        "event": "progress",
        "step": event.done,
        "steps": event.total,
        "clip": event.clip,
        "scale": event.scale,
        "scales": event.scales,
        "grid": event.grid._asdict(),
        "tokens": event.tokens,
        "given": event.given,
        **_work(event.work),
    }


def decoding_event(pictures: int, work: WorkDone) -> JsonEvent:
    """So many pictures are decoded, of all clips together."""
    return {"event": "decoding", "pictures": pictures, **_work(work)}


def preview_event(event: Preview, file: Path) -> JsonEvent:
    """A preview was written."""
    return {
        "event": "preview",
        "path": str(file),
        "clip": event.clip,
        "scale": event.scale,
        "scales": event.scales,
        "final": event.final,
    }


def note_event(text: str) -> JsonEvent:
    """A remark, which is a line on stderr without `--json`."""
    return {"event": "note", "text": text}


def drafts_event(sheets: Sequence[Path], takes: Sequence[Path]) -> JsonEvent:
    """The drafts are written; the last event."""
    return {"event": "drafts", "sheets": list(map(str, sheets)), "takes": list(map(str, takes))}


def result_event(path: Path, take: Path | None, made: Made | None) -> JsonEvent:
    """A file is written.

    Args:
        path: the file.
        take: the file of its take; None where none is kept.
        made: what is in the file; None where the command made nothing new.
    """
    names = (field.name for field in fields(Made))
    return {
        "event": "result",
        "path": str(path),
        "take": None if take is None else str(take),
        **{name: getattr(made, name, None) for name in names},
    }


def file_event(label: str, number: int, total: int) -> JsonEvent:
    """One of several things is made next.

    Args:
        label: what it is called.
        number: which of them, from 1.
        total: how many there are.
    """
    return {"event": "file", "label": label, "number": number, "total": total}


def skipped_event(label: str, path: Path | None) -> JsonEvent:
    """One of several things is there already, under this name."""
    return {"event": "skipped", "label": label, "path": None if path is None else str(path)}


def failure_event(label: str, text: str, remedy: str) -> JsonEvent:
    """One of several things failed; the others go on.

    Args:
        label: what it is called.
        text: what failed, and why.
        remedy: what to type next; empty where nothing is known.
    """
    return {"event": "failure", "label": label, "message": text, "remedy": remedy}


def summary_event(*, made: int, skipped: int, failed: int, total: int) -> JsonEvent:
    """What became of several things."""
    return {
        "event": "summary",
        "made": made,
        "skipped": skipped,
        "failed": failed,
        "total": total,
    }


def error_event(text: str, remedy: str, exit_code: int, take: Path | None) -> JsonEvent:
    """The command failed, or was ended by a signal; the last event.

    Args:
        text: what failed, and why.
        remedy: what to type next; empty where nothing is known.
        exit_code: of the command.
        take: what was made until then, which `istar finish` continues.
    """
    return {
        "event": "error",
        "message": text,
        "remedy": remedy,
        "exit_code": exit_code,
        "take": None if take is None else str(take),
    }


def plan_event(
    *,
    model: str,
    bytes_to_fetch: int,
    device: str,
    dtype: str,
    memory: str | None,
    device_bytes: int | None,
    host_bytes: int | None,
    width: int,
    height: int,
    steps: int,
    seed: int,
    path: Path | None,
) -> JsonEvent:
    """What a command would do, with `--dry-run`; the last event.

    Args:
        model: the name of the model.
        bytes_to_fetch: what of it is not here.
        device, dtype: where it would compute, and in what.
        memory: the memory plan; None where it depends on files that are not here.
        device_bytes, host_bytes: its predicted peaks.
        width, height: of the pictures, in pixels.
        steps: of all windows.
        seed: of the request.
        path: the output.
    """
    return {
        "event": "plan",
        "model": model,
        "bytes_to_fetch": bytes_to_fetch,
        "device": device,
        "dtype": dtype,
        "memory": memory,
        "device_bytes": device_bytes,
        "host_bytes": host_bytes,
        "width": width,
        "height": height,
        "steps": steps,
        "seed": seed,
        "path": None if path is None else str(path),
    }


def _work(work: WorkDone) -> JsonEvent:
    return {
        "work_done": work.done,
        "work_total": work.total,
        "seconds_taken": round(work.seconds_taken, 3),
        "seconds_left": None if work.seconds_left is None else round(work.seconds_left, 3),
    }


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    match value:
        case Enum():
            return value.value
        case Path():
            return str(value)
        case tuple() | list():
            return [_plain(one) for one in value]
    return value
