"""What `--json` writes, and what `--quiet` and `--verbose` say."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from istar.cli.app import run
from istar.cli.console import speak
from istar.cli.display import DownloadDisplay, StepDisplay
from istar.cli.json_events import VERSION, preview_event
from istar.events import Loading, Preview
from istar.models.download_events import DownloadProgress
from processes import started_warm

PAGE = Path(__file__).parent.parent.parent / "docs" / "json.md"
pytestmark = pytest.mark.usefixtures("quick_tiny")
TINY = ("--model", "tiny", "--seconds", "2")

Events = list[dict[str, Any]]


def events_of(text: str) -> Events:
    return [json.loads(line) for line in text.splitlines()]


def documented() -> dict[str, set[str]]:
    """The fields of every event in the page's table: the names in a cell before its remarks."""
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| (.*) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    found = {}
    for event, cell in rows:
        names = (re.match(r"`\w+`(?:, `\w+`)*", part) for part in cell.split("; "))
        found[event] = {name for one in names if one for name in re.findall(r"`(\w+)`", one[0])}
    return found


def fields_of(events: Events) -> dict[str, set[str]]:
    """The fields of every event; all of one name have the same."""
    found: dict[str, set[str]] = {}
    for number, event in enumerate(events):
        assert ("version" in event) == (number == 0)
        own = {*event} - {"event", "version"}
        assert found.setdefault(event["event"], own) == own
    return found


@pytest.fixture
def shown(capfd: pytest.CaptureFixture[str]) -> Any:
    """The events of a command, its exit code, and what it says on stderr."""

    def run_it(*arguments: str) -> tuple[Events, int, str]:
        code = run([*arguments, "--json"])
        out, err = capfd.readouterr()
        return events_of(out), code, err

    return run_it


def test_a_run_is_told_as_the_page_says(
    shown: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    prompt = ("t2v", "a red circle moves right", *TINY)
    # 1. A run from its start to its result.
    events, code, err = shown(*prompt, "-o", "a.mp4", "--preview-file", "p.png", "--seed", "7")
    assert (code, err) == (0, "")
    start, *_, result = events
    assert (start["event"], start["version"], start["command"]) == ("start", VERSION, "t2v")
    assert (start["settings"]["seeds"], start["settings"]["output"]) == ("7", "a.mp4")
    assert result["event"] == "result"
    assert (tmp_path / result["path"]).is_file()
    assert Path(result["take"]).is_file()
    assert (result["model"], result["seed"], result["frames"]) == ("tiny", 7, 33)
    assert result["seconds"] == 33 / 16
    progress = [event for event in events if event["event"] == "progress"]
    assert [event["step"] for event in progress] == [*range(1, progress[0]["steps"] + 1)]
    *_, decoded = (event for event in events if event["event"] == "decoding")
    assert decoded["pictures"] == 33
    assert decoded["work_done"] == decoded["work_total"] == progress[0]["work_total"]
    seen = fields_of(events)
    assert [event["path"] for event in events if event["event"] == "preview"]
    # 2. Drafts, a plan, and a failure; each begins anew.
    drafts, code, _ = shown("t2i", "a cat", "--model", "tiny", "--draft", "-o", "drafts")
    assert code == 0
    assert all(Path(path).is_file() for kind in ("sheets", "takes") for path in drafts[-1][kind])
    planned, code, _ = shown(*prompt, "--dry-run", "-o", "b.mp4")
    assert (code, planned[-1]["path"], (tmp_path / "b.mp4").exists()) == (0, "b.mp4", False)
    assert planned[-1]["steps"] == progress[0]["steps"]
    rendered, code, _ = shown("render", result["take"], "-o", "c.mp4")
    assert (code, rendered[-1]["frames"], rendered[-1]["take"]) == (0, 33, None)
    Path("list.txt").write_text('a cat\n{"seed": 0.5}\n{"prompt": "a dog", "output": "\\ud800"}\n')
    several = ("t2i", "--prompts", "list.txt", "--model", "tiny", "-o", "{number}.png")
    batch, code, err = shown(*several, "--seed", "1")
    lines = {event["label"]: event["message"] for event in batch if event["event"] == "failure"}
    assert code == 1
    assert lines == {
        "line 2": "seed is a whole number, not 0.5",
        "line 3": r"no file can be called '\ud800'",
    }
    assert all(f"error: {label}: {text}" in err for label, text in lines.items())
    (begun,) = (event for event in batch if event["event"] == "file")
    assert (begun["label"], begun["number"], begun["total"]) == ("line 1", 1, 3)
    again, _, _ = shown(*several, "--seed", "1", "--skip-existing")
    (there,) = (event for event in again if event["event"] == "skipped")
    assert (there["label"], there["path"]) == ("line 1", "1.png")
    summary, error = batch[-2:]
    assert (summary["made"], summary["failed"], summary["total"]) == (1, 2, 3)
    assert (error["event"], error["message"]) == ("error", "1 of 3 made, 2 failed")
    failed, code, err = shown("finish", "nothing.take")
    assert (failed[-1]["exit_code"], failed[0]["command"]) == (code, "finish")
    assert failed[-1]["message"] in err
    # 3. What no run here does: a file that is fetched.
    speak(as_json=True)
    with DownloadDisplay() as fetching:
        fetching(DownloadProgress(path="a", done=2, total=2))
    with StepDisplay() as steps:
        assert not list(steps.pictures_of([Loading(part="transformer")]))
    speak()
    fetched = events_of(capfd.readouterr().out)
    for more in (drafts, planned, rendered, batch, again, failed, fetched):
        for event, names in fields_of(more).items():
            assert seen.setdefault(event, names) == names
    assert seen == documented()


def test_a_preview_has_the_fields_of_the_page() -> None:
    frames = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    shown = Preview(frames=frames, clip=0, scale=1, scales=2, final=False)
    assert {*preview_event(shown, Path("p.png"))} - {"event"} == documented()["preview"]


def test_events_and_a_file_do_not_share_stdout(shown: Any) -> None:
    events, code, err = shown("t2v", "a cat", *TINY, "-o", "-")
    assert (code, events[-1]["event"], events[-1]["exit_code"]) == (2, "error", 2)
    assert "--json" in err
    # What is said before the command begins is an event, too.
    events, code, _ = shown("t2v", "a cat", *TINY, "--best", "2")
    assert (code, [event["event"] for event in events]) == (2, ["error"])
    assert events[0]["version"] == VERSION


def test_a_failure_of_the_system_is_an_event(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def failed(path: Path) -> Path:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr("istar.cli.finish.take_file", failed)
    written: list[str] = []
    monkeypatch.setattr(
        "istar.cli.app.silence", lambda stream: written.append(capfd.readouterr().out)
    )
    assert run(["finish", "a.take", "--json"]) == 1
    last = events_of(written[0])[-1]
    assert (last["event"], last["message"]) == ("error", "a.take: Input/output error")


@pytest.mark.signals
def test_an_interrupt_names_the_take() -> None:
    command = ("t2v", "a cat", "--model", "tiny", "--seconds", "30", "--json")
    read, write = os.pipe()
    with os.fdopen(read) as printed, started_warm(*command, stdout=write) as process:
        os.close(write)
        for line in printed:
            if '"progress"' in line and json.loads(line)["step"] == 3:
                break
        process.send_signal(signal.SIGINT)
        last = events_of(printed.read())[-1]
        code, err = process.ended()
    assert (code, last["event"], last["exit_code"]) == (130, "error", 130)
    assert Path(last["take"]).is_file()
    assert err == b"istar: interrupted\n"


def test_quiet_commands_speak_of_errors_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("istar.cli.display.SECONDS_BETWEEN_LINES", 0)
    assert run(["t2i", "a cat", "--model", "tiny", "-o", "a.png", "-q"]) == 0
    assert capfd.readouterr() == ("a.png\n", "")
    assert run(["t2i", "a cat", "--model", "tiny", "-o", "a.xyz", "-q"]) == 2
    assert "error: " in capfd.readouterr().err
    # It warns where the result is not what was asked for.
    command = ["t2i", "a cat", "--model", "tiny", "--aspect", "100:1", "-o", "c.png", "-q"]
    assert run(command) == 0
    assert capfd.readouterr().err.startswith("istar: no model makes that aspect; the nearest is")
    # The next command is as quiet as its own options say.
    assert run(["t2i", "a cat", "--model", "tiny", "-o", "b.png", "-v"]) == 0
    said = capfd.readouterr().err
    for stage in ("load", "text", "scales", "decode", "write"):
        assert re.search(rf"\b{stage} \d+\.\d s", said), stage
    assert re.search(r"step 15 of 15, scale 5x5 \(4/4\), \d+%, 0:0\d left\n", said)
