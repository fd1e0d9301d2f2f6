"""The command table, and the one place where exceptions become a line and an exit code.

Exit codes: 0; 1 failure; 2 usage; 130 interrupted; 128 + N ended by signal N.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType

import typer
from typer.exceptions import Abort, TyperException

from istar import __version__
from istar.cli.console import say, silence_stdout
from istar.cli.doctor import doctor
from istar.cli.generate import extend, i2v, t2i, t2v
from istar.cli.interact import interact
from istar.cli.lab import evaluate
from istar.cli.models import models
from istar.cli.remedies import message
from istar.cli.train import prepare, train
from istar.errors import IstarError

DEBUG_VARIABLE = "ISTAR_DEBUG"
_INTERRUPTED = 128 + signal.SIGINT

# The panels of the main help, in the order of their first commands.
_GENERATION = "Make pictures and video"
_MODELS = "Models and this machine"
_TRAINING = "Train and measure a model of your own"

app = typer.Typer(
    name="istar",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (t2i, t2v, i2v, extend, interact):
    app.command(rich_help_panel=_GENERATION)(command)
app.add_typer(models, name="models", rich_help_panel=_MODELS)
app.command(rich_help_panel=_MODELS)(doctor)
app.command(rich_help_panel=_TRAINING)(prepare)
app.add_typer(train, name="train", rich_help_panel=_TRAINING)
app.add_typer(evaluate, name="eval", rich_help_panel=_TRAINING)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"istar {__version__}")
        raise typer.Exit


@app.callback()
def istar(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Pictures and video from your own GPU with InfinityStar.

    The written file's path is all that goes to stdout; ISTAR_DEBUG=1 shows tracebacks.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; every failure becomes one line on stderr.

    Returns:
        the exit code.
    """
    _leave_tidily_on_signals()
    try:
        if sys.stdout is None:
            raise IstarError("stdout is closed; the written file's path has nowhere to go")
        code = app(args=arguments, prog_name="istar", standalone_mode=False)
        sys.stdout.flush()
        if code == _INTERRUPTED:
            say("interrupted")
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, Abort):
        say("interrupted")
        return _INTERRUPTED
    except TyperException as error:
        if not error.format_message():  # the help was shown in its place
            return error.exit_code
        return _fail(error, _one_line(error), error.exit_code)
    except IstarError as error:
        return _fail(error, message(error), error.exit_code)
    except OSError as error:
        silence_stdout()
        return _fail(error, f"{error.filename or 'output'}: {error.strerror or error}", 1)
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        return _fail(error, f"unexpected {what}; {DEBUG_VARIABLE}=1 shows where", 1)


def _fail(error: BaseException, message: str, code: int) -> int:
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exception(error)
    say(f"error: {message}")
    return code


def _one_line(error: TyperException) -> str:
    message = " ".join(error.format_message().split())
    context = getattr(error, "ctx", None)
    return f"{message} (see {context.command_path} --help)" if context else message


def _leave_tidily_on_signals() -> None:
    """Unwind on SIGTERM and SIGHUP, so that temporary files go; a second signal leaves at once."""

    def leave(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        say(f"ended by {signal.Signals(number).name}")
        sys.exit(128 + number)

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, leave)
