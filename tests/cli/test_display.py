"""Lines that say how far something is, where no bar can be."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress

import pytest
import torch

from istar.cli import display
from istar.cli.display import DownloadDisplay, StepDisplay
from istar.events import ClipReady, Decoding, Note, Progress
from istar.models.download_events import DownloadPlanned, LoadProgress


@pytest.fixture(autouse=True)
def every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "SECONDS_BETWEEN_LINES", 0)


def test_the_events_of_a_generation(capfd: pytest.CaptureFixture[str]) -> None:
    pictures = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    events = (
        Note(text="it rains", remedies=("cpu",)),
        Progress(done=18, total=18, clip=1, scale=2, tokens=9, given=False),
        Decoding(clip=1),
        ClipReady(frames=pictures),
    )
    with StepDisplay() as steps:
        (found,) = steps.pictures_of(events)
    assert found is pictures
    assert capfd.readouterr().err.splitlines() == [
        "istar: it rains; compute with --device cpu",
        "istar: step 18 of 18",
        "istar: step 18 of 18, decoding",
    ]


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
    assert capfd.readouterr().err == "istar: loading 480p: transformer, 1.0 GB of 35.0 GB\n"


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
