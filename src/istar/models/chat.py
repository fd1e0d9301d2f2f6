"""A language model behind an address that takes what OpenAI's chat completions take."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

from istar.errors import Remedy, RewriteError, UsageError
from istar.models.hub_settings import import_client, proxy_fault

_HUB = "huggingface.co"
_NO_TOKEN = "EMPTY"
_LONGEST_REASON = 200


@dataclass(frozen=True, kw_only=True)
class ChatEndpoint:
    """Where to ask, and as whom.

    Attributes:
        url: the address, with or without `/v1`; it is never shown whole.
        model: the name of the model there; None leaves it to the endpoint.
        token: what it is asked with. None is the Hub's own token at the Hub's addresses, and no
            token elsewhere.
        timeout: seconds without an answer.

    Raises:
        UsageError: the address is not one of the web, or has a password in it; no time to wait.
    """

    url: str
    model: str | None = None
    token: str | None = field(default=None, repr=False)
    timeout: float = 60.0

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            is_address = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # an invalid bracket or port
            is_address = False
        # Not quoted: what is wrong with it may be a password.
        if not is_address:
            raise UsageError(
                "the rewriter's address is not valid: write it like http://localhost:8080/v1"
            )
        if "@" in parts.netloc:
            raise UsageError(
                "the rewriter's address has credentials in it, where others may see them; leave "
                "them out",
                remedies=("rewrite_token",),
            )
        if not 0 < self.timeout <= 3600:
            raise UsageError(
                "the time to wait for the rewriter is more than 0 seconds and 3600 at most, not "
                f"{self.timeout:g}"
            )

    @property
    def host(self) -> str:
        """The part of the address that may be shown."""
        return urlsplit(self.url).netloc

    def answer(self, instructions: str, text: str) -> str:
        """The model's answer to a text, as it comes.

        Raises:
            RewriteError: no answer came; the message says why in a line.
            HubError: the Hub's client refuses its settings.
        """
        import_client()
        from huggingface_hub import InferenceClient, get_token

        token = self.token or (get_token() if is_hub_address(self.url) else None)
        messages = [
            {"role": "system", "content": instructions},
            {"role": "user", "content": text},
        ]
        try:
            # Without a token of its own the client would send the Hub's, to whatever address.
            client = InferenceClient(
                base_url=self.url, api_key=token or _NO_TOKEN, timeout=self.timeout
            )
            answer = client.chat_completion(messages, model=self.model)
            content = answer.choices[0].message.content
        except Exception as error:
            raise self._explained(error) from None  # its texts may hold the token and the address
        if content is not None and not isinstance(content, str):
            raise RewriteError(
                f"{self.host} does not answer as a chat endpoint does", remedies=("rewrite_url",)
            )
        return content or ""

    def _explained(self, error: Exception) -> RewriteError:
        """Whatever the client and the network raise, in one line."""
        status = getattr(getattr(error, "response", None), "status_code", None)
        signs = {status, *(kind.__name__ for kind in type(error).__mro__)}
        meant = (meaning for meaning in _MEANINGS if signs & meaning.signs)
        text, remedies = next(meant, _UNKNOWN)[1:]
        if not status and (fault := proxy_fault()):
            return RewriteError(f"{self.host} cannot be asked: {fault}")
        reason = status or type(error).__name__
        text = text.format(reason=reason, seconds=f"{self.timeout:g}")
        said = _said_by(error)
        return RewriteError(f"{self.host} {text}{f': {said}' if said else ''}", remedies=remedies)


def is_hub_address(url: str) -> bool:
    """Whether an address is one of the Hub's own, which its token is for."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return parts.scheme == "https" and (host == _HUB or host.endswith(f".{_HUB}"))


def _said_by(error: Exception) -> str:
    """What the endpoint itself says of an error, cut short."""
    with suppress(Exception):  # the body may be anything, or was not read
        body = json.loads(getattr(getattr(error, "response", None), "text", ""))
        said = body.get("error", body.get("message", body.get("detail")))
        said = said.get("message") if isinstance(said, dict) else said
        return " ".join(str(said or "").split())[:_LONGEST_REASON]
    return ""


class _Meaning(NamedTuple):
    """What a failure means, by its status or by the names of its exception's classes.

    By name, since the client has changed the library whose exceptions these are.
    """

    signs: set[str | int]
    text: str
    remedies: tuple[Remedy, ...] = ()


_UNKNOWN = _Meaning(set(), "gives no answer ({reason})")
_MEANINGS = (
    _Meaning({401, 403}, "refuses the token, or wants one ({reason})", ("rewrite_token",)),
    _Meaning({404}, "has no such address or model (404)", ("rewrite_url", "rewrite_model")),
    _Meaning({429}, "asks for a pause (429)"),
    _Meaning(
        {"TimeoutException", "InferenceTimeoutError"},
        "does not answer within {seconds} seconds",
        ("rewrite_timeout",),
    ),
    _Meaning({"OfflineModeIsEnabled"}, "is not asked, because HF_HUB_OFFLINE forbids requests"),
    _Meaning(
        {"ConnectError", "ProxyError"},
        "cannot be reached: its server does not run, or the network does not lead there",
        ("rewrite_url",),
    ),
    _Meaning({"NetworkError", "RemoteProtocolError"}, "broke off in its answer"),
    _Meaning(
        {"LocalProtocolError", "UnicodeEncodeError"},
        "cannot be asked: the token holds characters that no token has",
        ("rewrite_token",),
    ),
    _Meaning(
        {"ValueError", "TypeError", "LookupError", "AttributeError", "RecursionError"},
        "does not answer as a chat endpoint does",
        ("rewrite_url",),
    ),
)
"""The first that matches counts."""
