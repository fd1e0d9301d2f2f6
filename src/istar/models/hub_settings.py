"""How the Hub's client is set up on this machine, and whether the Hub answers it.

The client reads its settings when it is imported, and raises on some, so it is imported inside.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from istar import __version__
from istar.errors import HubError
from istar.models.hub import RepoRevision

_SECONDS = 3.0


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
        # The client quotes the value, but does not name the variable.
        names = [name for name, value in os.environ.items() if repr(value) in str(error)]
        which = " and ".join(filter(lambda name: name.startswith("HF_"), names))
        raise HubError(
            f"the Hub's client refuses its settings: {error}; correct or unset "
            f"{which or 'the variables that begin with HF_'}"
        ) from error
    return HubSettings(
        endpoint=parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
        cache=Path(constants.HF_HUB_CACHE).absolute(),
        is_offline=bool(constants.HF_HUB_OFFLINE),
        has_token=has_token and not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN,
    )


def ask_hub(where: RepoRevision, settings: HubSettings) -> None:
    """Ask for a repository, in one request, as a download does first.

    Raises:
        HubError: the Hub does not answer within seconds, or refuses.
    """
    from huggingface_hub import constants, get_session, get_token, hf_raise_for_status

    from istar.models.hub.client import told

    # Headers that the client builds would cost a second request, for its telemetry.
    headers = {b"user-agent": f"istar/{__version__}".encode()}
    if settings.has_token:
        headers[b"authorization"] = f"Bearer {get_token()}".encode()
    address = f"{constants.ENDPOINT}/api/models/{where.repo}/revision/{where.revision}"
    with told(where, settings.cache):
        response = get_session().get(address, headers=headers, timeout=_SECONDS)
        hf_raise_for_status(response)
    if not response.text.startswith("{"):
        raise HubError(
            f"{settings.endpoint} does not answer as the Hub does; check HF_ENDPOINT and the proxy"
        )
