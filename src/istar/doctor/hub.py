"""The Hub: its cache on this machine, whether it answers, whether there is a token.

The Hub's client reads its settings when it is imported and raises on some of them, so they are
read here as it documents them, without it.
"""

from __future__ import annotations

import os
import shutil
import ssl
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException, RemoteDisconnected
from pathlib import Path
from socket import gaierror
from threading import Thread
from typing import Literal, NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit

from istar import __version__

HUB_SECONDS = 3.0

_ENDPOINT = "https://huggingface.co"
_TRUE = ("1", "ON", "YES", "TRUE")
_AGAIN = "then `istar doctor` again"


@dataclass(frozen=True, kw_only=True)
class Cache:
    """The directory that models are fetched into.

    Attributes:
        path: where it is, or will be.
        setting: the environment variable that says so; None for the default.
        exists: it is there.
        state: a model can be fetched into it; or it is only to be read; or it is no directory.
        problem: why it does not serve.
        free_bytes: of its disk; None if that cannot be told.
        model_bytes: what istar's models take in it, parts of files included.
    """

    path: Path
    setting: str | None
    exists: bool
    state: Literal["writable", "read-only", "unusable"]
    problem: str | None
    free_bytes: int | None
    model_bytes: int


@dataclass(frozen=True, kw_only=True)
class Hub:
    """Whether the Hub answers.

    Attributes:
        endpoint: its address, without a password that may be in it.
        state: it answers as it should; it does not; it was not asked; HF_HUB_OFFLINE forbids it.
        problem: what is wrong.
        advice: what to do about that.
    """

    endpoint: str
    state: Literal["reached", "failed", "not asked", "offline"]
    problem: str | None = None
    advice: str | None = None


@dataclass(frozen=True, kw_only=True)
class Token:
    """Whether there is a token; the released models need none.

    Attributes:
        present: there is one.
        source: the environment variable or the file that it is in.
        problem: why it cannot be used.
    """

    present: bool
    source: str | None
    problem: str | None


class _Failure(NamedTuple):
    problem: str
    advice: str


def read_cache(repos: Iterable[str]) -> Cache:
    """The Hub's cache, which is only looked at.

    Args:
        repos: `owner/name` of the repositories that istar's models come from.
    """
    path, setting = _cache_path()
    state, problem = _cache_state(path)
    return Cache(
        path=path,
        setting=setting,
        exists=path.is_dir() if state != "unusable" else False,
        state=state,
        problem=problem,
        free_bytes=_free_bytes(path),
        model_bytes=sum(
            _size_of(path / f"models--{repo.replace('/', '--')}" / "blobs") for repo in set(repos)
        ),
    )


def read_token() -> Token:
    """Whether the Hub's client will find a token, and where."""
    token, source = os.environ.get("HF_TOKEN"), "HF_TOKEN"
    if not token:
        token, source = os.environ.get("HUGGING_FACE_HUB_TOKEN"), "HUGGING_FACE_HUB_TOKEN"
    token, problem = _clean(token or ""), None
    if not token:
        file = _expanded(os.environ.get("HF_TOKEN_PATH", str(_home() / "token")))
        source = str(file)
        try:
            token = _clean(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return Token(present=False, source=None, problem=None)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            return Token(present=False, source=source, problem=f"{source} cannot be read: {reason}")
    if not (token.isascii() and token.isprintable()):
        problem = "the token holds characters that none has"
    return Token(present=bool(token), source=source if token else None, problem=problem)


def ask_hub(repo: str, revision: str, *, ask: bool = True, seconds: float = HUB_SECONDS) -> Hub:
    """Put the first question of every download to the Hub, once and without the token.

    Args:
        repo: the `owner/name` to ask about.
        revision: the commit or branch to ask about.
        ask: may be false, then nothing is sent.
        seconds: how long it may take, the search for the address included.
    """
    endpoint = os.environ.get("HF_ENDPOINT", _ENDPOINT).rstrip("/")
    shown = _without_password(endpoint)
    offline = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    if offline.upper() in _TRUE:
        return Hub(endpoint=shown, state="offline")
    if not _is_address(endpoint):
        return Hub(
            endpoint=shown,
            state="failed",
            problem=f"HF_ENDPOINT is {shown!r}, which is no web address",
            advice="write it with https:// in front, or `unset HF_ENDPOINT`",
        )
    if not ask:
        return Hub(endpoint=shown, state="not asked")
    failure = _patient_ask(f"{endpoint}/api/models/{repo}/revision/{revision}", repo, seconds)
    if failure is None:
        return Hub(endpoint=shown, state="reached")
    problem = f"{shown} {failure.problem}"
    return Hub(endpoint=shown, state="failed", problem=problem, advice=failure.advice)


# Settings


def _home() -> Path:
    """The Hub's home: HF_HOME, else below XDG_CACHE_HOME, else below ~/.cache."""
    below = os.environ.get("XDG_CACHE_HOME", str(Path("~", ".cache")))
    return _expanded(os.environ.get("HF_HOME", str(Path(below, "huggingface"))))


def _cache_path() -> tuple[Path, str | None]:
    """The cache, and the variable that decides where it is."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if name in os.environ:
            return _expanded(os.environ[name]), name
    setting = next((name for name in ("HF_HOME", "XDG_CACHE_HOME") if name in os.environ), None)
    return _expanded(str(_home() / "hub")), setting


def _expanded(path: str) -> Path:
    with suppress(RuntimeError):  # there may be no home
        path = str(Path(path).expanduser())
    return Path(os.path.expandvars(path)).absolute()


def _clean(token: str) -> str:
    """A token as the Hub's client takes it."""
    return token.replace("\r", "").replace("\n", "").strip()


def _is_address(endpoint: str) -> bool:
    try:
        parts = urlsplit(endpoint)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def _without_password(endpoint: str) -> str:
    scheme, mark, rest = endpoint.rpartition("://")
    shown = rest.rpartition("@")[2].partition("?")[0].partition("#")[0]
    return scheme.rpartition("@")[2] + mark + shown


# The cache


def _cache_state(
    path: Path,
) -> tuple[Literal["writable", "read-only", "unusable"], str | None]:
    """Whether a directory, or the nearest one above it, can be written."""
    try:
        there = _nearest(path)
        if not there.is_dir():
            what = "a link to nowhere" if there.is_symlink() else "not a directory"
            return "unusable", f"the Hub's cache cannot be {path}, because {there} is {what}"
        if not os.access(there, os.X_OK):
            return "unusable", f"the Hub's cache {path} cannot be read, because {there} is closed"
        if not os.access(there, os.W_OK):
            return "read-only", f"the Hub's cache {path} cannot be written"
    except OSError as error:
        return "unusable", f"the Hub's cache cannot be {path}: {error.strerror}"
    return "writable", None


def _nearest(path: Path) -> Path:
    """The path, or the nearest one above it where something is."""
    return next(part for part in (path, *path.parents) if os.path.lexists(part))


def _free_bytes(path: Path) -> int | None:
    try:
        return shutil.disk_usage(_nearest(path)).free
    except OSError:
        return None


def _size_of(directory: Path) -> int:
    with suppress(OSError), os.scandir(directory) as entries:
        return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
    return 0


# The question


def _patient_ask(address: str, repo: str, seconds: float) -> _Failure | None:
    """Ask, and give up in time.

    The search for a host's address cannot be given a limit, so a thread is left to it.
    """
    silence = _Failure(
        f"gave no answer within {seconds:g} s",
        f"check the network, the proxy and HF_ENDPOINT, {_AGAIN}",
    )
    answers: list[_Failure | None] = []
    thread = Thread(
        target=lambda: answers.append(_asked(address, repo, seconds, silence)), daemon=True
    )
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else silence


def _asked(address: str, repo: str, seconds: float, silence: _Failure) -> _Failure | None:
    try:
        with urllib.request.urlopen(_request(address), timeout=seconds) as answer:
            kind = answer.headers.get_content_type()
    except urllib.error.HTTPError as error:
        error.close()
        return _refusal(error.code, repo)
    except Exception as error:
        # Whatever it is, the thread has to tell it.
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        return silence if isinstance(reason, TimeoutError) else _breakdown(reason)
    if kind == "text/html":
        return _Failure(
            "does not answer as the Hub does, but with a page for people",
            f"log in to the network if it asks for that, check HF_ENDPOINT, {_AGAIN}",
        )
    return None


def _request(address: str) -> urllib.request.Request:
    """A request to an address, whose name and password go to that host only."""
    parts = urlsplit(address)
    person, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(
        parts._replace(netloc=host).geturl(), headers={"User-Agent": f"istar/{__version__}"}
    )
    if person:
        secret = b64encode(unquote_to_bytes(person)).decode("ascii")
        request.add_unredirected_header("Authorization", f"Basic {secret}")
    return request


def _refusal(status: int, repo: str) -> _Failure:
    problem = f"answers with the error {status} when asked for {repo}"
    if status == 429 or status >= 500:
        return _Failure(problem, f"wait a while, {_AGAIN}")
    return _Failure(problem, f"check HF_ENDPOINT and the proxy, {_AGAIN}")


def _breakdown(reason: object) -> _Failure:
    network = f"check the network, the proxy and HF_ENDPOINT, {_AGAIN}"
    if isinstance(reason, gaierror):
        return _Failure("cannot be found: no such name is known (DNS)", network)
    if isinstance(reason, ConnectionRefusedError):
        return _Failure("refuses the connection", network)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return _Failure(
            "shows a certificate that cannot be trusted (TLS)",
            "set the clock, or name your network's certificates in SSL_CERT_FILE, " + _AGAIN,
        )
    if isinstance(reason, ssl.SSLError):
        return _Failure("does not come to a secure connection (TLS)", network)
    if isinstance(reason, ConnectionResetError | RemoteDisconnected):
        return _Failure("breaks off the connection", network)
    if isinstance(reason, HTTPException):
        return _Failure("does not answer as a web server does", network)
    # What else an error says may hold the address, and the address a password.
    text = getattr(reason, "strerror", None) or type(reason).__name__
    return _Failure(f"cannot be reached ({text})", network)
