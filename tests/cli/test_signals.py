"""Signals end a command quietly, whenever they come."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from istar import Take
from processes import await_line, started, started_warm

pytestmark = pytest.mark.signals

STOPS_AT_IMPORT = """
import sys, time
class Stop:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "{module}":
            print("importing", file=sys.stderr, flush=True)
            time.sleep(60)
sys.meta_path.insert(0, Stop)
from istar.__main__ import main
main()
"""

UNFINISHED = """
import sys, time
from pathlib import Path
from istar.cli.signals import SignalWatch
from istar.files import PendingFile, temporary_path
SignalWatch()
Path("directory").mkdir()
Path("directory/file").touch()
with PendingFile(Path("a.txt"), overwrite=False), temporary_path(Path("directory")):
    try:
        print("working", file=sys.stderr, flush=True)
        time.sleep(60)
    finally:
        print("unwinding", file=sys.stderr, flush=True)
        time.sleep(60)
"""

SWALLOWED = """
import sys, time
from istar.cli.signals import SignalWatch
SignalWatch()
class Slow:
    def __del__(self):
        print("deleting", file=sys.stderr, flush=True)
        time.sleep(60)
Slow()
print("still here", file=sys.stderr, flush=True)
"""

IGNORED = """
import signal
from istar.cli.signals import SignalWatch
signal.signal(signal.SIGINT, signal.SIG_IGN)
SignalWatch()
assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
"""

STAGES = {
    "load": "istar.network_files:NetworkFiles.load_blocks",
    "text": "istar.text_encoder:TextEncoder.encode",
    "step": "istar.transformer.block:attend",
    "decode": "istar.networks:_to_bytes",
    "encode": "istar.media.clip_writer:ClipWriter._encode",
    "write": "istar.files:_sync",
}
"""Where a command that makes a video is at work, from stage to stage."""
NOTHING_MADE = ("load", "text", "step")

CODES = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


@pytest.mark.parametrize(
    ("module", "number", "code"),
    [
        ("typer", *CODES[0]),
        ("numpy", *CODES[0]),  # which torch imports from C, and swallows what that raises
        ("numpy", *CODES[1]),
        ("typer", *CODES[2]),
    ],
)
def test_while_modules_are_imported(
    tmp_path: Path, module: str, number: signal.Signals, code: int
) -> None:
    script = STOPS_AT_IMPORT.format(module=module)
    command = [sys.executable, "-c", script, "t2i", "x", "--model", "tiny", "--seed", "1"]
    with started([*command, "-o", str(tmp_path / "a.png")]) as process:
        await_line(process, b"importing")
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (code, b"", b"")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_second_one_ends_at_once_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    with started([sys.executable, "-c", UNFINISHED]) as process:
        await_line(process, b"working")
        assert len(list(tmp_path.iterdir())) == 2
        process.send_signal(number)
        await_line(process, b"unwinding")
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (code, b"")
    assert not list(tmp_path.iterdir())


def test_where_an_exception_would_be_lost() -> None:
    with started([sys.executable, "-c", SWALLOWED]) as process:
        await_line(process, b"deleting")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (143, b"")


def test_ignored_ones_stay_ignored() -> None:
    with started([sys.executable, "-c", IGNORED]) as process:
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, b"")


@pytest.mark.parametrize(
    ("stage", "number", "code"),
    [
        pytest.param(stage, *one, marks=() if place % 3 == other else pytest.mark.slow)
        for place, stage in enumerate(STAGES)
        for other, one in enumerate(CODES)
    ],
)
def test_at_every_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, number: signal.Signals, code: int
) -> None:
    """What was made is kept, and all that is left; without `slow` a signal meets two stages."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    command = ("t2v", "x", "--model", "tiny", "--seconds", "1", "--seed", "1", "-o", "a.mp4")
    with started_warm(*command, stops_in=STAGES[stage]) as process:
        await_line(process, b"stopped")
        process.send_signal(number)
        found, said = process.ended()
    assert found == code, said
    *kept, last = said.decode().splitlines()
    assert last == f"istar: {'interrupted' if code == 130 else f'ended by {number.name}'}"
    takes = list(tmp_path.glob("state/istar/takes/*"))
    assert list(tmp_path.iterdir()) == [tmp_path / "state"][: len(takes)]
    if stage in NOTHING_MADE:
        assert (kept, takes) == ([], [])
        return
    (path,) = takes
    command = f"istar finish --model tiny -o {tmp_path / 'a.mp4'} {path}"
    assert kept == [f"istar: what was made is kept; `{command}` continues it"]
    Take.load(path)
