"""Requests to the Hub, and what their failures mean.

They go through the session of `huggingface_hub`, which drops the token when another host is
redirected to. The headers are our own: those that the client builds cost a request for telemetry.
"""

from __future__ import annotations

import errno
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from huggingface_hub import constants, get_session, get_token, hf_raise_for_status

from istar import __version__
from istar.errors import HubError
from istar.models.hub.listing import RepoFile, RepoRevision, files_from_tree, is_commit

RETRY_SECONDS = (0.5, 1.0)
"""The pauses before a question is asked again."""

CONNECT_SECONDS = 5.0
_LONGEST_PAUSE = 10.0
_ANSWER_SECONDS = 60.0
_LARGEST_ANSWER = 64 << 20
_MOST_PAGES = 1000


class UnreachableError(HubError):
    """The Hub cannot be reached or does not serve at the moment."""


class CorruptError(Exception):
    """What came, or was kept from before, is not the file."""


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids requests."""
    return bool(constants.HF_HUB_OFFLINE)


def endpoint() -> str:
    """The Hub's address.

    Raises:
        HubError: HF_ENDPOINT is not a web address.
    """
    address = str(constants.ENDPOINT)
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise HubError(
            f"HF_ENDPOINT is {address!r}, which is no web address; write it with https:// in "
            "front, or unset it"
        )
    return address


def resolve(where: RepoRevision, *, patient: bool) -> str:
    """The commit that a branch stands for now.

    Args:
        where: the repository and the branch.
        patient: ask again when the Hub cannot be reached.

    Raises:
        HubError: the Hub does not tell, or does not tell a commit.
    """
    revision = quote(where.revision, safe="")
    address = f"{endpoint()}/api/models/{where.repo}/revision/{revision}"
    answer, _ = _asked(address, where, RETRY_SECONDS if patient else ())
    commit = answer.get("sha") if isinstance(answer, dict) else None
    if not isinstance(commit, str) or not is_commit(commit):
        raise HubError(f"the Hub names {commit!a:.80} as the commit of {where}, which is none")
    return commit


def list_files(where: RepoRevision, commit: str) -> tuple[RepoFile, ...]:
    """All files of a commit.

    Raises:
        HubError: the Hub does not tell, or something in its list is malformed or hostile.
    """
    base = endpoint()
    address: str | None = f"{base}/api/models/{where.repo}/tree/{commit}?recursive=true"
    entries: list[object] = []
    for _ in range(_MOST_PAGES):
        if address is None:
            return files_from_tree(entries)
        if urlsplit(address)[:2] != urlsplit(base)[:2]:
            raise HubError("the Hub's list of files goes on at another host; nothing was fetched")
        answer, address = _asked(address, where, RETRY_SECONDS)
        if not isinstance(answer, list):
            raise HubError("the Hub's list of files is damaged; try again later")
        entries += answer
    raise HubError(f"the Hub's list of files of {where} has no end; nothing was fetched")


@contextmanager
def open_body(
    where: RepoRevision, commit: str, file: RepoFile, start: int
) -> Iterator[tuple[int, Iterator[bytes]]]:
    """The bytes of a file from a position on, and the position at which they really begin.

    Raises:
        HubError: the Hub serves another commit or file than the one asked for.
        CorruptError: it serves another range.
    """
    path = quote(file.path)
    address = f"{endpoint()}/{where.repo}/resolve/{commit}/{path}"
    headers = _headers() | ({"range": f"bytes={start}-"} if start else {})
    seconds = float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
    timeout = (CONNECT_SECONDS, seconds, seconds, seconds)
    with get_session().stream("GET", address, headers=headers, timeout=timeout) as response:
        if response.status_code == 416:
            raise CorruptError("it is shorter than what was fetched before")
        hf_raise_for_status(response)
        for answer in (*response.history, response):
            served = answer.headers.get(constants.HUGGINGFACE_HEADER_X_REPO_COMMIT)
            tag = answer.headers.get(constants.HUGGINGFACE_HEADER_X_LINKED_ETAG)
            if not tag and served and not answer.has_redirect_location:
                tag = answer.headers.get("etag")
            tag = tag.removeprefix("W/").strip('"') if tag else file.blob
            if (served or commit) != commit or tag != file.blob:
                raise HubError(
                    f"the Hub served another state of {file.path} than {commit} lists; nothing of "
                    "it was kept. Run the same command again later"
                )
        begin = 0
        if response.status_code == 206:
            span = response.headers.get("content-range", "")
            if not span.startswith(f"bytes {start}-"):
                raise CorruptError(f"the Hub sent the range {span!a:.60} instead of {start}-")
            begin = start
        yield begin, response.iter_bytes()


def wished_pause(error: Exception) -> float | None:
    """Seconds that the Hub wants to be left alone; None where asking again soon does not help."""
    is_passing = _status(408, 429, 500, 502, 503, 504)(error) or _named(
        "TimeoutException", "NetworkError", "RemoteProtocolError"
    )(error)
    wished = _retry_after(error) or 0.0
    return wished if is_passing and wished <= _LONGEST_PAUSE else None


@contextmanager
def told(where: RepoRevision, place: object) -> Iterator[None]:
    """Turn what the Hub, the network and the disk raise into a `HubError` that says what to do.

    Args:
        where: what was asked for.
        place: the cache, for messages.
    """
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        for row in _MEANINGS:
            if row.matches(error):
                text = row.text.format(
                    repo=where.repo,
                    where=where,
                    hub=urlsplit(str(constants.ENDPOINT)).hostname,
                    endpoint=constants.ENDPOINT,
                    place=place,
                    file=getattr(error, "filename", None) or place,
                    status=_status_of(error),
                    reason=getattr(error, "strerror", None) or type(error).__name__,
                    pause=_pause_of(error),
                )
                # What a client says of a header may hold the token, so it is not chained.
                cause = None if _named("ProtocolError")(error) else error
                raise (UnreachableError if row.passing else HubError)(text) from cause
        raise


@dataclass(frozen=True)
class _Meaning:
    matches: Callable[[Exception], bool]
    text: str
    passing: bool = False


def _named(*names: str) -> Callable[[Exception], bool]:
    """By name, since the Hub's client changed the library whose exceptions these are."""
    return lambda error: any(kind.__name__ in names for kind in type(error).__mro__)


def _status(*statuses: int) -> Callable[[Exception], bool]:
    return lambda error: _status_of(error) in statuses


def _errno(*numbers: int) -> Callable[[Exception], bool]:
    return lambda error: isinstance(error, OSError) and error.errno in numbers


def _status_of(error: Exception) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _pause_of(error: Exception) -> str:
    seconds = _retry_after(error)
    return f"{math.ceil(seconds)} seconds" if seconds is not None else "some minutes"


def _retry_after(error: Exception) -> float | None:
    value = getattr(getattr(error, "response", None), "headers", {}).get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() and len(value) < 7 else None


def _has_cause(error: Exception, word: str) -> bool:
    return _named("ConnectError", "SSLError")(error) and word in str(error)


def _has_token(error: Exception) -> bool:
    return _status_of(error) == 401 and get_token() is not None


_AGAIN = "run the same command again to go on where it stopped"
_MEANINGS = (
    _Meaning(
        _named("OfflineModeIsEnabled"),
        "HF_HUB_OFFLINE forbids to fetch {repo}; unset it and run the same command again",
    ),
    _Meaning(
        _named("GatedRepoError"),
        "{repo} is gated: ask for access at {endpoint}/{repo}, then log in with `hf auth login` "
        "and run the same command again",
    ),
    _Meaning(_named("DisabledRepoError"), "{hub} has closed access to {repo} for everyone"),
    _Meaning(
        _named("RevisionNotFoundError"),
        "{repo} has no such revision: {where}; check the spelling of the revision",
    ),
    _Meaning(
        _named("EntryNotFoundError"),
        "{hub} lists a file of {where} that it does not have; run the same command again later",
    ),
    _Meaning(
        _has_token,
        "{hub} refused your token for {repo}; check the spelling of {repo}, log in again with "
        "`hf auth login`, or unset HF_TOKEN",
    ),
    _Meaning(
        lambda error: _named("RepositoryNotFoundError")(error) or _status(401)(error),
        "{hub} has no repository {repo}, or it is private; check the spelling, or log in with "
        "`hf auth login`",
    ),
    _Meaning(
        _status(403),
        "{hub} does not let you fetch {repo}: ask for access at {endpoint}/{repo}, or log in with "
        "`hf auth login` under another account",
    ),
    _Meaning(
        _status(404, 410),
        "{hub} has no {where}; check the spelling of the repository and the revision",
    ),
    _Meaning(
        _status(429),
        "{hub} asks for a pause (429); wait {pause} and " + _AGAIN,
        passing=True,
    ),
    _Meaning(
        lambda error: (_status_of(error) or 0) >= 500,
        "{hub} fails at the moment ({status}); wait a while and " + _AGAIN,
        passing=True,
    ),
    _Meaning(
        lambda error: _status_of(error) is not None,
        "{hub} answered {status} for {where}; check HF_ENDPOINT and " + _AGAIN,
    ),
    _Meaning(
        lambda error: _has_cause(error, "CERTIFICATE_VERIFY_FAILED"),
        "the certificate of {hub} cannot be trusted; set the clock, or name your network's "
        "certificates in SSL_CERT_FILE",
        passing=True,
    ),
    _Meaning(
        lambda error: _has_cause(error, "SSL"),
        "no secure connection to {hub} comes about; check HF_ENDPOINT and the proxy, and " + _AGAIN,
        passing=True,
    ),
    _Meaning(
        _named("ConnectError", "ConnectTimeout", "ProxyError"),
        "{hub} cannot be reached; check the network, the proxy and HF_ENDPOINT, and " + _AGAIN,
        passing=True,
    ),
    _Meaning(
        _named("TimeoutException", "NetworkError", "RemoteProtocolError"),
        "the connection to {hub} broke off; " + _AGAIN,
        passing=True,
    ),
    _Meaning(
        _named("LocalProtocolError"),
        "a request to {hub} cannot be written; is HF_TOKEN a token?",
    ),
    _Meaning(
        _named("UnsupportedProtocol", "InvalidURL"),
        "{hub} cannot be asked, or redirects to what is no web address; check HF_ENDPOINT",
    ),
    _Meaning(
        _named("TooManyRedirects", "DecodingError", "HTTPError"),
        "{hub} gave an answer that makes no sense ({reason}); check HF_ENDPOINT and the proxy",
    ),
    _Meaning(
        _errno(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
        "the disk of {place} is full, or a limit on files is reached ({reason}); what was fetched "
        "is kept. Free space, or move the cache with HF_HUB_CACHE, and " + _AGAIN,
    ),
    _Meaning(
        _errno(errno.EROFS, errno.EACCES, errno.EPERM),
        "{file} cannot be written ({reason}); make the Hub's cache {place} writable, or set "
        "HF_HUB_CACHE to a directory that is",
    ),
    _Meaning(
        _errno(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY),
        "{file} stands in the way ({reason}) in the Hub's cache {place}; remove it and run the "
        "same command again",
    ),
    _Meaning(
        lambda error: isinstance(error, OSError),
        "the Hub's cache {place} does not serve: {file}: {reason}",
    ),
)
"""What each failure means, the first that matches; `passing` ones may be gone the next time."""


def _headers() -> dict[str, str]:
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    if token and not (token.isascii() and token.isprintable()):
        raise HubError(
            "the Hub's token holds characters that none has; log in again with `hf auth login`, "
            "or set HF_TOKEN anew"
        )
    headers = {"user-agent": f"istar/{__version__}", "accept-encoding": "identity"}
    return headers | ({"authorization": f"Bearer {token}"} if token else {})


def _json(address: str, where: RepoRevision) -> tuple[Any, str | None]:
    """An answer, and the address of the page that follows."""
    seconds = float(constants.HF_HUB_ETAG_TIMEOUT)
    timeout = (min(CONNECT_SECONDS, seconds), seconds, seconds, seconds)
    until, content = time.monotonic() + _ANSWER_SECONDS, bytearray()
    with get_session().stream("GET", address, headers=_headers(), timeout=timeout) as response:
        hf_raise_for_status(response)
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) > _LARGEST_ANSWER or time.monotonic() > until:
                raise HubError(f"the Hub's answer about {where} does not end; try again later")
        following = response.links.get("next", {}).get("url")
    try:
        return json.loads(content), following
    except (ValueError, RecursionError) as error:
        raise HubError(
            f"{endpoint()} does not answer as the Hub does; check HF_ENDPOINT and the proxy"
        ) from error


def _asked(address: str, where: RepoRevision, pauses: tuple[float, ...]) -> tuple[Any, str | None]:
    with told(where, constants.HF_HUB_CACHE):
        for pause in pauses:
            try:
                return _json(address, where)
            except Exception as error:
                wished = wished_pause(error)
                if wished is None:
                    raise
                time.sleep(max(pause, wished))
        return _json(address, where)
