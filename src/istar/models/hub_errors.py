"""What the Hub, the network and the disk raise, as one line that says what to do."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from istar.errors import HubError
from istar.models.hub_settings import hub_settings, proxy_fault, proxy_of
from istar.models.repository import RepoRevision

_LONGEST_PAUSE = 10.0
_PASSING_STATUSES = (408, 429, 500, 502, 503, 504)
_BROKEN_OFF = ("TimeoutException", "NetworkError", "RemoteProtocolError")
_WITH_PROXIES = ("ImportError", "ValueError", "InvalidURL", "ConnectError", "ConnectTimeout")
_ABOUT_HEADERS = ("LocalProtocolError", "UnicodeEncodeError")


class HubUnreachableError(HubError):
    """The Hub cannot be reached, may not be asked, or does not serve at the moment."""


def pause_before_retry(error: Exception) -> float | None:
    """Seconds that the Hub wants to be left alone; None where asking again soon does not help."""
    passing = _status_of(error) in _PASSING_STATUSES or _named(*_BROKEN_OFF)(error)
    wished = _retry_after(error) or 0.0
    return wished if passing and wished <= _LONGEST_PAUSE else None


@contextmanager
def explained_hub_errors(where: RepoRevision, cache: Path) -> Iterator[None]:
    """Turn whatever the Hub, the network and the disk raise into a `HubError`.

    Raises:
        HubUnreachableError: it may be gone the next time.
        HubError: anything else.
    """
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        status, seconds = _status_of(error), _retry_after(error)
        text = next((text for matches, text in _MEANINGS if matches(error)), None)
        if text is None:
            raise
        endpoint = hub_settings().endpoint
        proxy = proxy_of(endpoint)
        text = text.format(
            fault=proxy_fault(),
            certificates=os.environ.get("SSL_CERT_FILE"),
            through=f" through {proxy}" if proxy else "",
            repo=where.repo,
            where=where,
            hub=urlsplit(endpoint).hostname or endpoint,
            endpoint=endpoint,
            cache=cache,
            file=getattr(error, "filename", None) or cache,
            reason=status or getattr(error, "strerror", None) or type(error).__name__,
            pause="some minutes" if seconds is None else f"{math.ceil(seconds)} seconds",
        )
        passing = _status(*_PASSING_STATUSES)(error) or _named(*_BROKEN_OFF, "ProxyError")(error)
        # The text of an error about a header may hold the token, so that one is not chained.
        cause = None if _named(*_ABOUT_HEADERS)(error) else error
        raise (HubUnreachableError if passing else HubError)(text) from cause


def _named(*names: str) -> Callable[[Exception], bool]:
    """By name, since the Hub's client has changed the library whose exceptions these are."""
    return lambda error: any(kind.__name__ in names for kind in type(error).__mro__)


def _status(*statuses: int) -> Callable[[Exception], bool]:
    return lambda error: _status_of(error) in statuses


def _errno(*numbers: int) -> Callable[[Exception], bool]:
    return lambda error: isinstance(error, OSError) and error.errno in numbers


def _status_of(error: Exception) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _retry_after(error: Exception) -> float | None:
    value = getattr(getattr(error, "response", None), "headers", {}).get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() else None


def _not_connected_for(word: str) -> Callable[[Exception], bool]:
    return lambda error: _named("ConnectError")(error) and word in str(error)


def _certificates_unread(error: Exception) -> bool:
    """Python names no file where it reads certificates, before it connects."""
    file = os.environ.get("SSL_CERT_FILE")
    if file and isinstance(error, OSError):
        import ssl

        try:
            ssl.create_default_context(cafile=file)
        except OSError:
            return True
    return False


def _token_refused(error: Exception) -> bool:
    from huggingface_hub import get_token

    return _status_of(error) == 401 and get_token() is not None


_AGAIN = "try again; a download continues where it stopped"
_MEANINGS: tuple[tuple[Callable[[Exception], object], str], ...] = (
    (
        lambda error: _named(*_WITH_PROXIES)(error) and proxy_fault(),
        "{fault}",
    ),
    (
        _certificates_unread,
        "SSL_CERT_FILE={certificates} is not a readable file of certificates; correct or unset it",
    ),
    (
        _named("OfflineModeIsEnabled"),
        "HF_HUB_OFFLINE forbids fetching {repo}; unset it and try again",
    ),
    (
        _named("GatedRepoError"),
        "{repo} is gated: ask for access at {endpoint}/{repo}, then log in with `hf auth login` "
        "and try again",
    ),
    (
        _named("RevisionNotFoundError"),
        "{repo} has no such revision: {where}; check the spelling of the revision",
    ),
    (
        _named("EntryNotFoundError"),
        "{hub} lists a file of {where} that it does not have; try again later",
    ),
    (
        _token_refused,
        "{hub} refused your token for {repo}; check the spelling of {repo}, log in again with "
        "`hf auth login`, or unset HF_TOKEN",
    ),
    (
        lambda error: _named("RepositoryNotFoundError")(error) or _status(401, 404, 410)(error),
        "{hub} has no repository {repo}, or it is private; check the spelling, or log in with "
        "`hf auth login`",
    ),
    (
        _status(403),
        "{hub} does not let you fetch {repo}: ask for access at {endpoint}/{repo}, or log in with "
        "`hf auth login` under another account",
    ),
    (_status(429), "{hub} asks for a pause (429); wait {pause} and " + _AGAIN),
    (
        lambda error: (_status_of(error) or 0) >= 500,
        "{hub} fails at the moment ({reason}); wait a while and " + _AGAIN,
    ),
    (
        _not_connected_for("CERTIFICATE_VERIFY_FAILED"),
        "the certificate of {hub} cannot be trusted; set the clock, or name your network's "
        "certificates in SSL_CERT_FILE",
    ),
    (
        _not_connected_for("SSL"),
        "no secure connection to {hub}{through} is possible; check HF_ENDPOINT and the proxy, and "
        + _AGAIN,
    ),
    (
        _named("ConnectError", "ConnectTimeout", "ProxyError"),
        "{hub} cannot be reached{through}; check the network, the proxy and HF_ENDPOINT, and "
        + _AGAIN,
    ),
    (_named(*_BROKEN_OFF), "the connection to {hub} broke off; " + _AGAIN),
    (
        _named(*_ABOUT_HEADERS),
        "the Hub's token holds characters that no token has; log in again with `hf auth login`, "
        "or set HF_TOKEN anew",
    ),
    (
        _named("UnsupportedProtocol", "InvalidURL"),
        "HF_ENDPOINT is {endpoint!r}, which is not a web address, or redirects to something else; "
        "write it with https:// in front, or unset it",
    ),
    (
        _named("HTTPError", "InvalidJSONError", "JSONDecodeError"),
        "{endpoint} does not answer as the Hub does ({reason}); check HF_ENDPOINT and the proxy",
    ),
    (
        _errno(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
        "the disk of {cache} is full, or a limit on files is reached ({reason}); what was fetched "
        "is kept. Free space, or move the cache with HF_HUB_CACHE, and " + _AGAIN,
    ),
    (
        _errno(errno.EROFS, errno.EACCES, errno.EPERM),
        "{file} cannot be written ({reason}); make the Hub's cache {cache} writable, or set "
        "HF_HUB_CACHE to a directory that is",
    ),
    (
        lambda error: isinstance(error, OSError),
        "the Hub's cache {cache} cannot be used: {file}: {reason}",
    ),
)
"""The meaning of each failure, the first that matches."""
