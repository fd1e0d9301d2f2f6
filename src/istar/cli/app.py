"""The command line, and the one place where exceptions become a line and an exit code.

Exit codes: 0; 1 failure; 2 usage; 130 interrupted; 128 + N ended by signal N.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Annotated, Any

import typer
from typer._click.exceptions import NoArgsIsHelpError
from typer.completion import install_callback, show_callback
from typer.exceptions import Abort, TyperException

from istar import __version__
from istar.cli.commands import MainGroup
from istar.cli.completion import prepare_completion
from istar.cli.console import (
    BROKEN_PIPE,
    emit_error,
    fill_closed_streams,
    say_anyway,
    silence,
    speak,
    write_stderr,
)
from istar.cli.remedies import remedy_words
from istar.errors import IstarError

_KINDS = {"int": "a whole number", "float": "a number"}
_BY_SIGNAL = 128
_INTERRUPTED = _BY_SIGNAL + signal.SIGINT

app = typer.Typer(
    name="istar",
    cls=MainGroup,
    no_args_is_help=True,
    add_completion=False,  # typer's own options guess the shell
    rich_markup_mode=None,  # whose help takes as long to import as typer
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"istar {__version__}")
        raise typer.Exit


class Shell(str, Enum):
    """The shells that completion is for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"
    POWERSHELL = "powershell"
    PWSH = "pwsh"


def _install_completion(
    context: typer.Context, option: typer.CallbackParam, shell: Shell | None
) -> None:
    install_callback(context, option, shell and shell.value)


def _show_completion(
    context: typer.Context, option: typer.CallbackParam, shell: Shell | None
) -> None:
    show_callback(context, option, shell and shell.value)


@app.callback()
def istar(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
    install_completion: Annotated[
        Shell | None,
        typer.Option(
            "--install-completion",
            callback=_install_completion,
            is_eager=True,
            help="Install completion for a shell.",
        ),
    ] = None,
    show_completion: Annotated[
        Shell | None,
        typer.Option(
            "--show-completion",
            callback=_show_completion,
            is_eager=True,
            help="Print the completion for a shell.",
        ),
    ] = None,
) -> None:
    """Pictures and video from your own GPU with InfinityStar.

    The written file's path is all that goes to stdout. Options have defaults of your own by
    `istar config`; ISTAR_DEBUG=1 shows tracebacks.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; every failure becomes one line on stderr.

    Returns:
        the exit code.
    """
    speak()
    try:
        fill_closed_streams()
        if sys.stdout is None:
            raise IstarError("stdout is closed; the written file's path has nowhere to go")
        prepare_completion()
        code = app(args=arguments, prog_name="istar", standalone_mode=False)
        sys.stdout.flush()
        if code == _INTERRUPTED:
            return _ended_by("interrupted", _INTERRUPTED)
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, Abort):
        return _ended_by("interrupted", _INTERRUPTED)
    except SystemExit as end:
        return _ended(end)
    except NoArgsIsHelpError as error:
        write_stderr(f"{error.format_message()}\n")
        return error.exit_code
    except TyperException as error:
        return _fail(error, _one_line(error), error.exit_code)
    except IstarError as error:
        return _fail(error, str(error), error.exit_code, remedy=remedy_words(error.remedies))
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            silence(sys.stdout)
            return BROKEN_PIPE
        code = _fail(error, f"{error.filename or 'output'}: {error.strerror or error}", 1)
        silence(sys.stdout)
        return code
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        return _fail(error, f"unexpected {what}; ISTAR_DEBUG=1 shows where", 1)


def _ended(end: SystemExit) -> int:
    """The exit code of what ended itself: by a signal, or typer for a reader that left."""
    if isinstance(end.__context__, BrokenPipeError):
        silence(sys.stdout)
        return BROKEN_PIPE
    code = end.code if isinstance(end.code, int) else 0
    if code > _BY_SIGNAL:
        return _ended_by(f"ended by {signal.Signals(code - _BY_SIGNAL).name}", code)
    return code


def _ended_by(what: str, code: int) -> int:
    say_anyway(what)
    emit_error(what, code)
    return code


def _fail(error: BaseException, text: str, code: int, *, remedy: str = "") -> int:
    if _shows_where():
        import traceback

        write_stderr("".join(traceback.format_exception(error)))
    say_anyway(f"error: {text}; {remedy}" if remedy else f"error: {text}")
    emit_error(text, code, remedy=remedy)
    return code


def _shows_where() -> bool:
    from istar.cli.settings import setting

    try:
        return bool(setting("debug"))
    except IstarError:  # the settings themselves are wrong; if that matters, it is what failed
        return False


def _one_line(error: TyperException) -> str:
    for found in getattr(error.__cause__, "errors", list)()[:1]:
        error.message = _refused_value(found)
    message = " ".join(error.format_message().split())
    context = getattr(error, "ctx", None)
    return f"{message} (see {context.command_path} --help)" if context else message


def _refused_value(found: Mapping[str, Any]) -> str:
    """What is wrong with a value, out of an error of pydantic, with which typer checks it."""
    kind = str(found["type"]).partition("_")[0]
    if kind in _KINDS:
        return f"{found['input']!r} is not {_KINDS[kind]}"
    return str(found["msg"]).removeprefix("Value error, ")
