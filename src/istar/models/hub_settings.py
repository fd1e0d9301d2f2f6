"""How the Hub's client is set up on this machine.

The client reads its settings when it is imported, and raises on some, so it is imported inside.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from istar.errors import HubError


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
