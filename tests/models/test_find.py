"""Which model is used where some are here, and what is said where one cannot be fetched."""

from __future__ import annotations

import io
import shutil
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from hub_server import Hub, serving
from istar.cli.app import run
from istar.cli.memory_check import check_memory
from istar.errors import DeviceError, HubError, IstarError, UsageError
from istar.host_memory import HostMemory
from istar.memory_use import Work
from istar.models.download_events import DownloadNote
from istar.models.find import find_model, released_files
from istar.models.released import RELEASED_MODELS
from istar.pipeline import InfinityStarPipeline
from istar.placement import Placement
from istar.request import AUTO_MODEL, Mode

MODELS = {model.name: model for model in RELEASED_MODELS}
SOURCE = RELEASED_MODELS[0].source
assert SOURCE is not None
Patch = pytest.MonkeyPatch


@pytest.fixture
def hub() -> Iterator[Hub]:
    model = RELEASED_MODELS[0]
    files = {f"{spec.transformer}/model.safetensors": b"x" * 1000 for spec in RELEASED_MODELS}
    files |= {model.tokenizer: b"x" * 100, f"{model.text_encoder}/config.json": b"{}"}
    assert SOURCE is not None
    with serving(Hub({SOURCE.revision: files}, {"main": SOURCE.revision}, SOURCE.repo)) as server:
        yield server


@pytest.mark.parametrize(
    ("here", "mode", "resolution", "seconds", "used", "is_noted"),
    [
        ("480p", "t2v", None, 5, "480p", True),
        ("480p", "t2i", None, None, "480p", True),
        ("480p", "t2v", None, 10, "480p", False),  # 720p would not fit
        ("480p", "extend", None, None, "480p", False),
        ("480p", "t2v", "720p", 5, "720p", False),  # not here, but asked for
        ("480p 720p", "t2v", None, 5, "720p", False),
        ("720p", "extend", None, None, "480p", False),  # 720p was not trained for it
        ("interact", "t2v", None, 5, "720p", False),
        ("", "t2v", None, 5, "720p", False),
    ],
)
def test_a_fitting_model_that_is_here_comes_before_one_to_be_fetched(
    here: str,
    mode: Mode,
    resolution: str | None,
    seconds: float | None,
    used: str,
    is_noted: bool,
    hub: Hub,
    cache: Path,
) -> None:
    for name in here.split():
        released_files(MODELS[name])
    requests = len(hub.log)
    heard: list[object] = []
    found = find_model(
        AUTO_MODEL, mode=mode, resolution=resolution, seconds=seconds, on_event=heard.append
    )
    assert len(hub.log) == requests
    assert found.spec.name == used
    assert (found.bytes_to_fetch() > 0) == (used not in here)
    notes = [event for event in heard if isinstance(event, DownloadNote)]
    assert bool(notes) == is_noted
    if is_noted:
        assert notes[0].text == "using 480p, because 720p is not here"
        assert notes[0].remedies == ("pull",)


def test_the_size_of_a_model_is_that_of_its_files(hub: Hub, cache: Path) -> None:
    found = find_model("480p")
    assert found.bytes_to_fetch() == 1000 + 100 + 2
    found.files(lambda _: None)
    assert find_model("480p").bytes_to_fetch() == 0


@pytest.mark.parametrize("fault", ["no network", "no room"])
@pytest.mark.parametrize("name", [AUTO_MODEL, "480p"])
def test_a_model_that_cannot_be_fetched_leaves_the_small_one(
    name: str, fault: str, hub: Hub, cache: Path, monkeypatch: Patch
) -> None:
    if fault == "no network":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 5))
    with pytest.raises(HubError) as refusal:
        find_model(name).files(lambda _: None)
    assert "tiny" in refusal.value.remedies


def test_a_mistyped_directory_is_said_to_be_none(hub: Hub, cache: Path) -> None:
    with pytest.raises(
        HubError, match=r"^there is no directory out/modle, and 127\.0\.0\.1 has no"
    ):
        find_model("out/modle")
    with pytest.raises(HubError, match=r"^127\.0\.0\.1 has no repository"):
        find_model("out/modle@main")
    for name in ("./modle", "../modle", "~/modle"):
        with pytest.raises(IstarError, match="neither a directory"):
            find_model(name)


def test_damage_of_a_fetched_model_is_repaired_by_a_command(hub: Hub, cache: Path) -> None:
    released_files(MODELS["480p"])
    with pytest.raises(IstarError, match="describes no text encoder") as refusal:
        InfinityStarPipeline.from_pretrained("480p", device="cpu")
    assert refusal.value.remedies == ("repair",)


def room(monkeypatch: Patch, gigabytes: int) -> None:
    """Let so much host memory be available, and the files be as large as the released ones."""
    monkeypatch.setattr("istar.models.find.hub.bytes_of", lambda wanted: 47 * 10**9)
    memory = HostMemory(gigabytes * 10**9, gigabytes * 10**9)
    monkeypatch.setattr("istar.memory_plan.host_memory", lambda: memory)


@pytest.mark.parametrize(
    ("arguments", "answer", "fetches"),
    [((), None, False), ((), "n", False), ((), "y", True), (("--yes",), None, True)],
)
def test_fetching_what_does_not_fit_in_memory_is_asked_about(
    arguments: tuple[str, ...],
    answer: str | None,
    fetches: bool,
    hub: Hub,
    cache: Path,
    monkeypatch: Patch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stdin = io.StringIO(f"{answer}\n")
    monkeypatch.setattr(stdin, "isatty", lambda: answer is not None)
    monkeypatch.setattr(sys, "stdin", stdin)
    room(monkeypatch, 30)
    make = ("t2i", "a cat", "--model", "480p", "--seed", "1", "--device", "cpu")
    assert run([*make, *arguments]) == 1  # what is fetched is no model
    said = capsys.readouterr().err
    assert bool(hub.bodies()) == fetches
    if not fetches:
        assert "the memory plan low takes" in said
        assert "of memory, of which 30.0 GB are available" in said
        assert "--yes" in said
        assert "--model tiny" in said
    if answer:
        assert "? [y/N]" in said


def test_the_cpu_is_named_where_only_the_gpu_is_too_small(
    hub: Hub, cache: Path, monkeypatch: Patch
) -> None:
    placement = Placement(device=torch.device("cuda", 0), dtype=torch.bfloat16)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (1000, 2000))
    model = find_model("480p")
    work = Work.usual(model.spec, "t2v")
    for gigabytes, first in ((100, "cpu"), (5, "int8")):
        room(monkeypatch, gigabytes)
        with pytest.raises(DeviceError, match="the GPU's memory") as refusal:
            check_memory(model, placement, work, "auto", yes=False)
        assert refusal.value.remedies[0] == first
        assert refusal.value.remedies[-1] == "fetch_anyway"


def test_a_model_that_fits_or_is_here_is_not_asked_about(
    hub: Hub, cache: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    make = ("t2i", "a cat", "--model", "480p", "--seed", "1", "--device", "cpu")
    room(monkeypatch, 100)
    assert run(make) == 1
    assert hub.bodies()
    room(monkeypatch, 1)
    assert run(make) == 1
    assert "--yes" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="the model's name is empty"):
        find_model(name)
