"""Lines that say how far something is, where no bar can be."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from istar.cli import display
from istar.cli.console import animated_console, speak
from istar.cli.display import DownloadDisplay, StepDisplay
from istar.events import ClipReady, Decoding, Loading, Note, Progress, WorkDone
from istar.generation.schedule import Grid
from istar.models.download_events import DownloadPlanned, LoadProgress
from terminal import written_to_terminal


@pytest.fixture(autouse=True)
def every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "SECONDS_BETWEEN_LINES", 0)


def work(done: int, left: float | None) -> WorkDone:
    return WorkDone(done=done, total=200, seconds_taken=1.0, seconds_left=left)


def step(done: int, work: WorkDone) -> Progress:
    """One of the scale 80x45 of twenty latent frames."""
    return Progress(
        done=done,
        total=18,
        clip=1,
        scale=8,
        scales=14,
        grid=Grid(20, 45, 80),
        tokens=72000,
        given=False,
        work=work,
    )


def test_the_events_of_a_generation(capfd: pytest.CaptureFixture[str]) -> None:
    pictures = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    events = (
        Note(text="it rains", remedies=("cpu",)),
        Loading(part="transformer"),
        step(1, work(2, None)),
        step(18, work(90, 3725)),
        Decoding(clip=1, work=work(90, 62)),
        ClipReady(frames=pictures, work=work(200, 0)),
    )
    with StepDisplay() as steps:
        (found,) = steps.pictures_of(events)
        steps.writing(Path("waves.mp4"))
    assert found is pictures
    assert capfd.readouterr().err.splitlines() == [
        "istar: reading the text",
        "istar: it rains; compute with --device cpu",
        "istar: loading the transformer",
        "istar: step 1 of 18, scale 80x45 (9/14), 1%",
        "istar: step 18 of 18, scale 80x45 (9/14), 45%, 1:02:05 left",
        "istar: step 18 of 18, scale 80x45 (9/14), decoding, 45%, 1:02 left",
        "istar: step 18 of 18, scale 80x45 (9/14), decoding, 100%",
        "istar: writing waves.mp4, 100%",
    ]


def on_terminal(monkeypatch: pytest.MonkeyPatch, columns: int = 80) -> list[str]:
    """What a terminal shows one after the other while a model is loaded and a step is taken."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")

    def show(terminal: int) -> None:
        with os.fdopen(os.dup(terminal), "w") as stream:
            monkeypatch.setattr(sys, "stderr", stream)
            with DownloadDisplay() as loading:
                for done in (1, 12):
                    loading(LoadProgress(model="720p", part="transformer", done=done, total=35))
                    refresh(loading)
            with StepDisplay() as steps:
                for _ in steps.pictures_of([step(7, work(50, 62))]):
                    pass
                refresh(steps)

    written = written_to_terminal(show, columns=columns).decode()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written)
    return [line.rstrip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


def refresh(shown: display.Display) -> None:
    if shown._bar is not None:
        shown._bar.refresh()


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_the_bar_is_one_line_of_any_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = on_terminal(monkeypatch, columns)
    assert all(line.startswith("istar: ") and len(line) <= columns for line in lines)
    assert lines[-1].endswith(" 25% 1:02 left")
    if columns >= 60:
        assert lines[-1].startswith("istar: scale 80x45 (9/14), 72,000")
    if columns >= 80:
        assert "72,000 tokens ━" in lines[-1]
        assert any(line.startswith("istar: loading 720p: transformer ━") for line in lines)


def test_quiet_commands_show_nothing_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    speak(quiet=True)
    try:
        assert on_terminal(monkeypatch) == []
    finally:
        speak()


def test_a_dumb_terminal_has_no_bar_and_no_color_no_colours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    person, terminal = os.openpty()
    try:
        with os.fdopen(terminal, "w") as stream:
            monkeypatch.setattr(sys, "stderr", stream)
            monkeypatch.setenv("TERM", "dumb")
            assert animated_console() is None
            monkeypatch.setenv("TERM", "xterm-256color")
            assert (console := animated_console()) is not None
            assert console.color_system
            assert not console.no_color
            monkeypatch.setenv("NO_COLOR", "1")
            assert (console := animated_console()) is not None
            assert console.no_color
    finally:
        os.close(person)


def test_a_terminal_that_goes_away_ends_nothing() -> None:
    import pty

    script = (
        "import os, sys; from istar.cli.display import StepDisplay\n"
        "with StepDisplay() as steps:\n"
        "    steps.show(1, 18); sys.stdin.readline()\n"
        "    for done in range(2, 19):\n"
        "        steps.show(done, 18); steps._bar.refresh()\n"
        "print('done')\n"
    )
    person, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm"},
    )
    try:
        os.close(terminal)
        shown = b""
        while b"step 1 of 18" not in shown:
            shown += os.read(person, 1024)
        os.close(person)
        out, _ = process.communicate(b"\n", timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, out) == (0, b"done\n")


def test_loading_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    with DownloadDisplay() as loading:
        loading(LoadProgress(model="480p", part="transformer", done=10**9, total=35 * 10**9))
    assert capfd.readouterr().err == "istar: loading 480p: transformer, 1.0 GB of 35.0 GB, 3%\n"


def test_one_file_is_one_file(capfd: pytest.CaptureFixture[str]) -> None:
    planned = DownloadPlanned(
        files_total=1, files_missing=1, bytes_total=12, bytes_missing=12, free_bytes=10**9
    )
    with DownloadDisplay() as fetching:
        fetching(planned)
    assert "fetching 12 bytes in 1 file (of 12 bytes in 1);" in capfd.readouterr().err


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit, ValueError])
def test_a_fetch_that_is_stopped_says_what_is_kept(
    end: type[BaseException], capfd: pytest.CaptureFixture[str]
) -> None:
    planned = DownloadPlanned(
        files_total=2, files_missing=2, bytes_total=12, bytes_missing=12, free_bytes=10**9
    )
    loaded = LoadProgress(model="480p", part="transformer", done=1, total=2)
    for events, kept in (((planned,), end is not ValueError), ((planned, loaded), False)):
        with suppress(end), DownloadDisplay() as fetching:
            for event in events:
                fetching(event)
            raise end
        assert ("what was fetched is kept" in capfd.readouterr().err) == kept
