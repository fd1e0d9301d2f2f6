"""How every test runs, and small models with random weights, the same in every run."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn

from istar.models import bundled
from istar.network_files import NetworkFiles
from istar.transformer.config import TransformerConfig
from istar.transformer.model import Transformer
from istar.video_tokenizer.config import VideoTokenizerConfig
from istar.video_tokenizer.model import VideoTokenizer
from random_checkpoint import write_checkpoint, write_quick_tiny

GOLDEN = Path(__file__).parent / "golden"


def pytest_configure() -> None:
    """One thread per process, here and in children: small tensors are slower on two."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Spare every collection of garbage the look at all that is imported, which stays."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def default_signals_in_children() -> None:
    """Let children start with default handlers, also under nohup or in a shell's background.

    A child inherits that a signal is ignored, but not a handler: what was ignored here gets one
    that does nothing, and so goes unheeded here as before.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda number, frame: None)


@pytest.fixture(scope="session", autouse=True)
def state_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Commands of the tests leave their takes in a directory of the tests, and find no settings."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("config"))
    for name in [name for name in os.environ if name.startswith("ISTAR_")]:
        del os.environ[name]


def read_once(part: Literal["tokenizer", "text_encoder"], label: str) -> Callable[..., Any]:
    """What reads a part of a model, but each state of its files once."""
    usual, kept = getattr(NetworkFiles, part), dict[Any, Any]()

    def read(source: NetworkFiles, **settings: Any) -> Any:
        if source.placement.device.type != "cpu":  # whose memory is measured
            return usual(source, **settings)
        path: Path = getattr(source._files, part)
        states = [one.stat() for one in (path, *sorted(path.rglob("*"))) if one.exists()]
        written = tuple((state.st_ino, state.st_size, state.st_mtime_ns) for state in states)
        key = (path, written, source._spec.tokenizer_config, source.placement, *settings.items())
        if key not in kept:
            kept[key] = usual(source, **settings)
        else:
            with source._progress.part(label):
                pass
        return kept[key]

    return read


@pytest.fixture(scope="session", autouse=True)
def networks_are_read_once() -> Iterator[None]:
    """Commands and pipelines of this process share what they read, which takes half of their time.

    Nothing changes a video tokenizer or a text encoder that was read. Processes of the tests read
    their own.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NetworkFiles, "tokenizer", read_once("tokenizer", "video tokenizer"))
        patch.setattr(NetworkFiles, "text_encoder", read_once("text_encoder", "text encoder"))
        yield


def randomize(module: nn.Module, seed: int) -> None:
    """Give every parameter seeded values under which activations neither vanish nor explode."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name and name.endswith(
            ("norm.weight", "norm.gain", "norm1.gain", "norm2.gain")
        ):
            value = 1 + 0.3 * noise
        elif name == "latent_scales":
            value = 1 + 0.3 * noise.abs()
        elif name == "unconditional" or parameter.dim() == 1:
            value = 0.3 * noise
        else:
            value = noise / parameter[0].numel() ** 0.5
        parameter.data.copy_(value)
    module.requires_grad_(False).eval()


@pytest.fixture(scope="session")
def golden() -> Path:
    """The directory of the reference's tensors."""
    return GOLDEN


@pytest.fixture(scope="session")
def small_config() -> TransformerConfig:
    """Sizes of a transformer that runs in milliseconds."""
    return TransformerConfig(
        width=32,
        depth=3,
        heads=4,
        key_value_heads=2,
        head_size=8,
        mlp_width=64,
        text_channels=12,
        text_positions=16,
    )


@pytest.fixture
def transformer(small_config: TransformerConfig) -> Transformer:
    """A small transformer, anew for every test."""
    model = Transformer(small_config)
    randomize(model, seed=1)
    return model


@pytest.fixture
def tokenizer() -> VideoTokenizer:
    """A small video tokenizer of 64-channel latents, anew for every test."""
    model = VideoTokenizer(VideoTokenizerConfig(channels=(8, 8, 16, 16, 16)))
    randomize(model, seed=2)
    return model


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint directory with a manifest, whose pictures are 32 by 48."""
    return write_checkpoint(tmp_path_factory.mktemp("small") / "checkpoint", sides=(1, 2))


@pytest.fixture(scope="session")
def brief_checkpoint(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with clips of a second, and two of them in a pass."""
    copy = shutil.copytree(checkpoint, tmp_path_factory.mktemp("brief") / "checkpoint")
    file = copy / "istar.json"
    changed = json.loads(file.read_text()) | {"clip_frames": 4, "max_seconds": 2}
    file.write_text(json.dumps(changed))
    return copy


@pytest.fixture(scope="session")
def _quick_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_quick_tiny(tmp_path_factory.mktemp("quick") / "tiny")


@pytest.fixture(scope="module")
def quick_tiny(_quick_tiny: Path) -> Iterator[None]:
    """For a whole module `tiny` is a model as that one, but of noise, in half of its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundled, "DIRECTORY", _quick_tiny)
        yield


@pytest.fixture
def random() -> torch.Generator:
    """A seeded generator for a test's own inputs."""
    return torch.Generator().manual_seed(3)
