"""A Hub on the loopback, and a cache that is this process's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

from hub_server import COMMIT, FILES, LATER, PULLS, Hub, serving
from istar.models import download
from processes import end


@pytest.fixture(autouse=True)
def no_pull_survives() -> Iterator[None]:
    """End the pulls that a failed test left behind."""
    yield
    end(PULLS)
    PULLS.clear()


@pytest.fixture
def hub() -> Iterator[Hub]:
    later = FILES | {"config.json": b'{"a": 2}'}
    with serving(Hub({COMMIT: dict(FILES), LATER: later}, {"main": COMMIT})) as hub:
        yield hub


@pytest.fixture
def cache(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """This process's cache, where `start_pull(tmp_path)` has its own."""
    cache = tmp_path / "hf" / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(download, "SMALLEST_RANGE", 1 << 20)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield cache
    close_session()
