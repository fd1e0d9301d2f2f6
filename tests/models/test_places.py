"""A model of a repository on the Hub leaves its place in files, and is found by it again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_server import COMMIT, LATER, REPO, Hub, serving
from istar.cli.app import run
from istar.models.find import find_model
from istar.models.released import RELEASED_MODELS
from istar.models.repository import HubPlace

PLACE = f"{REPO}@{COMMIT}:small"
MAKE = ("t2i", "a cat", "--model", f"{REPO}:small", "--seed", "1")


@pytest.fixture
def hub(checkpoint: Path) -> Iterator[Hub]:
    """A repository with a model in a folder, and a later commit with the same weights."""
    files = {
        f"small/{path.relative_to(checkpoint).as_posix()}": path.read_bytes()
        for path in checkpoint.rglob("*")
        if path.is_file()
    }
    commits = {COMMIT: files, LATER: files | {"README.md": b"later"}}
    with serving(Hub(commits, {"main": COMMIT})) as server:
        yield server


@pytest.fixture
def take(hub: Hub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The take of a picture, `a.png`, by the repository's model; its branch has moved since."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    assert run([*MAKE, "-o", "a.png"]) == 0
    hub.branches["main"] = LATER
    (take,) = tmp_path.glob("state/istar/takes/*.take")
    return take


def test_a_file_names_the_commit_and_is_made_again_with_it(
    take: Path, hub: Hub, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(["info", "a.png", str(take)]) == 0
    assert capsys.readouterr().out.count(f"model     random ({PLACE})\n") == 2
    assert run(["info", "a.png", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["istar"]
    assert (told["repository"], told["revision"], told["folder"]) == (REPO, COMMIT, "small")
    asked = len(hub.log)
    assert run(["t2i", "--from", "a.png", "-o", "b.png"]) == 0
    assert run(["finish", str(take), "-o", "c.png"]) == 0
    assert run(["t2i", "--from", str(take), "-o", "d.png"]) == 0
    assert len(hub.log) == asked
    for name in ("b.png", "c.png", "d.png"):
        assert Path(name).read_bytes() == Path("a.png").read_bytes()
    # Nothing is fetched because a file says so: neither all of it, nor what a plan left out.
    shutil.rmtree(cache)
    capsys.readouterr()
    assert run(["t2i", "--from", "a.png"]) == 1
    assert f"of {PLACE}, which was not fetched here" in capsys.readouterr().err
    assert len(hub.log) == asked
    find_model(PLACE)
    assert len(hub.log) > asked
    asked = len(hub.log)
    for command in (("t2i", "--from", "a.png"), ("finish", str(take), "-o", "e.png")):
        assert run(command) == 1
        assert f"of {PLACE}, which was not fetched here" in capsys.readouterr().err
    assert len(hub.log) == asked


def test_the_same_weights_elsewhere_continue_a_take(
    take: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model in (str(checkpoint), f"{REPO}:small"):
        assert run(["finish", str(take), "--model", model, "--overwrite", "-o", "b.png"]) == 0
    capsys.readouterr()
    assert run(["info", "b.png", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["istar"]["revision"] == LATER


def test_a_released_transformer_in_a_repository_is_named_by_its_folder(
    hub: Hub, cache: Path
) -> None:
    shared = RELEASED_MODELS[0]
    files = {f"old/{spec.transformer}/model.safetensors": b"x" for spec in RELEASED_MODELS}
    files |= {f"old/{shared.tokenizer}": b"x", f"old/{shared.text_encoder}/config.json": b"{}"}
    hub.commits[LATER] = files
    for spec in RELEASED_MODELS:
        found = find_model(f"{REPO}@{LATER}:old/{spec.transformer}/")
        assert found.spec == spec
        place = HubPlace(repository=REPO, revision=LATER, folder=f"old/{spec.transformer}")
        assert found.files(lambda _: None).place == place
    assert find_model(f"{REPO}@{LATER}:old").files(lambda _: None).place == HubPlace(
        repository=REPO, revision=LATER, folder=f"old/{shared.transformer}"
    )
