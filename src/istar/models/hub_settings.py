"""How the Hub's client is set up on this machine.

The client reads its settings when it is imported, and raises on some, so it is imported inside.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from istar.errors import HubError

_TIMEOUTS = ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT")
_LONGEST_TIMEOUT = 10**9  # seconds; the system takes no more than some
_PASSWORD = re.compile(r"^(\w+://)?.*@")


@dataclass(frozen=True, kw_only=True)
class HubSettings:
    """The settings of the Hub's client."""

    endpoint: str  # the Hub's address, without a password that may be in it
    cache: Path  # may not exist yet
    is_offline: bool  # HF_HUB_OFFLINE forbids requests
    has_token: bool


def hub_settings() -> HubSettings:
    """The settings of the Hub's client; nothing is requested.

    Raises:
        HubError: the client refuses one of them.
    """
    try:
        from huggingface_hub import constants, get_token

        parts = urlsplit(constants.ENDPOINT)
        has_token = get_token() is not None
    except Exception as error:
        raise _refusal(error) from error
    for name in _TIMEOUTS:
        if not 0 <= getattr(constants, name) <= _LONGEST_TIMEOUT:
            raise HubError(
                f"{name}={os.environ.get(name)} is not a number of seconds to wait; "
                f"correct or unset {name}"
            )
    return HubSettings(
        endpoint=parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
        cache=Path(constants.HF_HUB_CACHE).absolute(),
        is_offline=bool(constants.HF_HUB_OFFLINE),
        has_token=has_token and not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN,
    )


def import_client() -> None:
    """Import the Hub's client before another library does, which would not say what it refuses.

    Raises:
        HubError: the client refuses one of its settings.
    """
    try:
        import_module("huggingface_hub.constants")
    except Exception as error:
        raise _refusal(error) from error


def _refusal(error: Exception) -> HubError:
    """The client quotes a setting's value, but does not name the variable."""
    text = " ".join(str(error).split())
    names = [
        name
        for name, value in os.environ.items()
        if name.startswith("HF_")
        and (repr(value) in text or (os.sep in value.rstrip(os.sep) and value in text))
    ]
    which = " and ".join(names) or "the variables that begin with HF_"
    return HubError(f"the Hub's client refuses its settings: {text}; correct or unset {which}")


def proxy_of(address: str) -> str:
    """The variable that names the proxy on the way to an address and its value, or nothing."""
    from urllib.request import proxy_bypass

    parts = urlsplit(address)
    variables = _proxy_variables(parts.scheme, "all")
    return "" if not variables or proxy_bypass(parts.hostname or "") else _shown(variables[0])


def proxy_fault() -> str:
    """What is wrong with a proxy's variable and what helps, or nothing.

    Most such variables keep the Hub's client from starting, whatever it is about to ask.
    """
    for variable in _proxy_variables("https", "http", "all"):
        value = os.environ[variable]
        scheme, separator, _ = value.partition("://")
        scheme = scheme.lower() if separator else "http"
        try:
            parts = urlsplit(value if separator else f"http://{value}")
            is_address = bool(parts.hostname) and parts.port != 0
        except ValueError:  # an invalid bracket or port
            is_address = False
        if not is_address or scheme not in ("http", "https", "socks5", "socks5h"):
            return (
                f"{_shown(variable)} is not the address of a proxy; write it like "
                f"http://host:port, or unset {variable}"
            )
        if scheme.startswith("socks") and find_spec("socksio") is None:
            return (
                f"{_shown(variable)} is a SOCKS proxy, which needs a package that is missing: "
                f"`pip install socksio`, or set {variable} to an HTTP proxy"
            )
    return ""


def _proxy_variables(*schemes: str) -> list[str]:
    """Those that are set; in capitals only if the same in small letters is not."""
    named = [(f"{scheme}_proxy", f"{scheme}_proxy".upper()) for scheme in schemes]
    found = (next(filter(os.environ.get, names), "") for names in named)
    return [name for name in found if name]


def _shown(variable: str) -> str:
    """A variable with its value, without a password that may be in it."""
    value = _PASSWORD.sub(r"\1", os.environ[variable])
    return f"{variable}={value}"
