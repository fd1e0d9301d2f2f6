"""Processes that tests start: warm ones for commands, real ones for signals and shutdown."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from io import TextIOWrapper
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

from istar.models import bundled

ISTAR = (sys.executable, "-m", "istar")
"""The command in a process of its own."""

_LINE_FOR_EVERY_STEP = {
    "istar.cli.display:SECONDS_BETWEEN_LINES": 0,
    "istar.cli.train:SECONDS_BETWEEN_LINES": 0,
}
"""Constants with which a command says on stderr how far it is: signs to wait for."""

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
"""What runs a script or a module in two processes."""

_PATH = (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, _PATH))
"""Processes of the tests can import what lies in `tests/`."""

_FORKS = get_context("forkserver")
_FORKS.set_forkserver_preload(["warm_istar"])


def run_warm(
    *arguments: str,
    input: bytes = b"",
    terminal: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float = 120,
) -> subprocess.CompletedProcess[bytes]:
    """Run `istar ARGUMENTS` in a process that has imported torch and transformers already.

    It is forked from a server that imports them once per session, which saves about two seconds a
    command. Working directory, environment, pipes and exit code are as for any process. The
    interpreter neither starts nor shuts down with the command: what depends on that, and signals,
    need `started`.

    Args:
        arguments: of the command line.
        input: up to 64 KiB for stdin, through a pipe.
        terminal: a descriptor for stdin in place of that pipe.
        stdout, stderr: descriptors to write to, in place of what is read here.
        directory: to work in; this process's own if None.
        environment: likewise.
        timeout: seconds to end in, once stdout is closed.
    """
    out, child_out = os.pipe()
    child_in, feed = os.pipe()
    with TemporaryFile() as err, os.fdopen(out, "rb") as reader, os.fdopen(feed, "wb") as writer:
        # A connection is what multiprocessing hands to a child as an open descriptor.
        descriptors = [Connection(number) for number in (child_in, child_out, os.dup(err.fileno()))]
        if terminal is not None:
            os.dup2(terminal, child_in)
        else:
            writer.write(input)
        writer.close()
        for own, theirs in ((child_out, stdout), (descriptors[2].fileno(), stderr)):
            if theirs is not None:
                os.dup2(theirs, own)
        surroundings = _Surroundings.of(directory, environment)
        child = _FORKS.Process(target=_serve, args=(arguments, surroundings, descriptors))
        child.start()
        for descriptor in descriptors:
            descriptor.close()
        try:
            written = reader.read()
            child.join(timeout)
            code = child.exitcode
        finally:
            child.kill()
            child.join()
        err.seek(0)
        assert code is not None, err.read()
        return subprocess.CompletedProcess(arguments, code, written, err.read())


def run_here(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run `istar ARGUMENTS` in this process; what it prints and says is read as from another.

    This is the cheapest. A command that reads stdin or meets signals needs a process of its own.
    """
    from istar.cli.app import run

    with TextIOWrapper(TemporaryFile()) as printed, TextIOWrapper(TemporaryFile()) as said:
        with redirect_stdout(printed), redirect_stderr(said):
            code = run(arguments)
        for stream in (printed, said):
            stream.seek(0)
        return subprocess.CompletedProcess(
            arguments, code, printed.buffer.read(), said.buffer.read()
        )


class WarmProcess:
    """A running `istar` that was forked; every step is a line on its stderr.

    Attributes:
        stderr: to be read.
    """

    def __init__(self, child: BaseProcess, stderr: BinaryIO) -> None:
        self.stderr = stderr
        self._child = child

    def send_signal(self, number: signal.Signals) -> None:
        assert self._child.pid is not None
        os.kill(self._child.pid, number)

    def ended(self, timeout: float = 60) -> tuple[int | None, bytes]:
        """The exit code, and what is left on stderr, once it has ended."""
        left = self.stderr.read()
        self._child.join(timeout)
        return self._child.exitcode, left


@contextmanager
def started_warm(
    *arguments: str,
    stops_in: str | None = None,
    stdout: int | None = None,
    constants: Mapping[str, object] | None = None,
) -> Iterator[WarmProcess]:
    """Start `istar ARGUMENTS` as `run_warm` does, with nothing on stdin; killed at the end.

    It meets signals as a process that was started, but for its first moments.

    Args:
        arguments: of the command line.
        stdout: a descriptor to write to; what is printed is lost if None.
        constants: values for `module:NAME`.
        stops_in: `module:function`, or `module:Class.method`: where it stops the first time that
            it comes there, with `stopped` in a line on stderr.
    """
    err, child_err = os.pipe()
    nothing = os.open(os.devnull, os.O_RDWR)
    with os.fdopen(err, "rb") as reader:
        printed = os.dup(nothing if stdout is None else stdout)
        descriptors = [Connection(number) for number in (nothing, printed, child_err)]
        surroundings = _Surroundings.of(constants={**_LINE_FOR_EVERY_STEP, **(constants or {})})
        child = _FORKS.Process(target=_serve, args=(arguments, surroundings, descriptors, stops_in))
        child.start()
        for descriptor in descriptors:
            descriptor.close()
        try:
            yield WarmProcess(child, reader)
        finally:
            child.kill()
            child.join()


@dataclass(frozen=True, kw_only=True)
class _Surroundings:
    """What a forked process takes over from the test.

    Attributes:
        directory: to work in.
        environment: its variables.
        constants: values for `module:NAME`.
    """

    directory: Path
    environment: Mapping[str, str]
    constants: Mapping[str, object]

    @classmethod
    def of(
        cls,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
        constants: Mapping[str, object] | None = None,
    ) -> _Surroundings:
        """This process's own where nothing else is given; the bundled model is its own, too."""
        return cls(
            directory=directory or Path.cwd(),
            environment=dict(os.environ if environment is None else environment),
            constants={"istar.models.bundled:DIRECTORY": bundled.DIRECTORY, **(constants or {})},
        )


def _serve(
    arguments: Sequence[str],
    surroundings: _Surroundings,
    descriptors: Sequence[Connection],
    stops_in: str | None = None,
) -> None:
    """The life of a forked process: become like one that was started with all this."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor.fileno(), number)
        descriptor.close()
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.chdir(surroundings.directory)
    os.environ.clear()
    os.environ.update(surroundings.environment)
    # The hub's client reads the environment when it is imported.
    importlib.reload(importlib.import_module("huggingface_hub.constants"))
    sys.argv = ["istar", *arguments]
    for name, value in surroundings.constants.items():
        module, _, constant = name.partition(":")
        setattr(importlib.import_module(module), constant, value)
    if stops_in is not None:
        _stop_in(stops_in)
    from istar.__main__ import main

    main()


def _stop_in(place: str) -> None:
    """Let the first call of a function stop there, and say so."""
    module, _, name = place.partition(":")
    *owners, name = name.split(".")
    owner = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    usual = getattr(owner, name)

    def stopped(*arguments: Any, **settings: Any) -> Any:
        setattr(owner, name, usual)
        print("stopped", file=sys.stderr, flush=True)
        time.sleep(60)
        return usual(*arguments, **settings)

    setattr(owner, name, stopped)


@contextmanager
def started(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process with pipes for stdout and stderr; it and its children are killed in the end."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def end(processes: Iterable[subprocess.Popen[Any]]) -> None:
    """Kill what still runs of some processes, and close their pipes."""
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def await_line(process: subprocess.Popen[bytes] | WarmProcess, part: bytes) -> None:
    """Read stderr up to the next line with `part` in it; fail where the process ends first."""
    assert process.stderr is not None
    read = []
    for line in process.stderr:
        if part in line:
            return
        read.append(line)
    raise AssertionError(f"ended without {part!r}: {b''.join(read)!r}")
