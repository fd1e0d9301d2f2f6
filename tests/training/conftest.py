"""Prepared clips of a small model, and a run that learns from them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from istar.training.config import TransformerTraining
from small_training import prepared, run_config, transformer_run


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest, a tokenizer and prepared sets; `held-out` is as `long`. No test changes them."""
    directory = tmp_path_factory.mktemp("place")
    *_, long = prepared(directory)
    shutil.copytree(long, long.with_name("held-out"))
    return directory


@pytest.fixture(scope="session")
def sets(place: Path) -> tuple[Path, ...]:
    return tuple(place / "latents" / name for name in ("pictures", "clips", "long"))


@pytest.fixture
def config(place: Path, sets: tuple[Path, ...], tmp_path: Path) -> TransformerTraining:
    """A run of a few steps."""
    return transformer_run(place, sets, run=run_config(tmp_path / "run", steps=4))
