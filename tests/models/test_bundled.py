"""The model inside the package, with a directory that stands in for the package's."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree

import pytest

from istar import CheckpointError, InfinityStarPipeline
from istar.checkpoint.convert import convert
from istar.cli.app import run
from istar.doctor import examine
from istar.media import read_picture
from istar.models import bundled
from istar.models.find import ModelFiles, find_model
from istar.models.manifest import find_models
from istar.models.released import RELEASED_MODELS
from istar.models.store import known_models, remove_model, verify_model
from media_files import texts_in


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty current directory, an empty cache and nobody to ask."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture(scope="module")
def converted(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, (spec,) = find_models(checkpoint)
    target = tmp_path_factory.mktemp("package") / "tiny"
    return convert(spec, ModelFiles.below(root, spec), target, "fp32")


@pytest.fixture
def tiny(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundled model that is there."""
    directory = copytree(converted, tmp_path / "package" / "tiny")
    monkeypatch.setattr(bundled, "DIRECTORY", directory)
    return directory


@pytest.fixture
def none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without one."""
    monkeypatch.setattr(bundled, "DIRECTORY", tmp_path / "package" / "tiny")


def said(arguments: list[str], capfd: pytest.CaptureFixture[str], code: int = 0) -> str:
    """What a command prints: its stdout if it succeeds, else the line that says why."""
    assert run(arguments) == code
    out, err = capfd.readouterr()
    if code:
        assert out == "" or arguments[1] == "verify"
        assert err.count("\n") == 1
    return err if code else out


@pytest.mark.usefixtures("none")
def test_an_installation_without_one_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckpointError, match="this installation has no bundled model"):
        InfinityStarPipeline.from_pretrained("tiny", device="cpu")
    assert known_models() == RELEASED_MODELS
    for command in ("info", "path", "verify", "pull", "rm", "convert"):
        assert "no bundled model" in said(["models", command, "tiny"], capfd, code=1)
    assert "tiny" not in said(["models", "list"], capfd)
    assert [needs.name for needs in examine(ask=False).models] == [
        spec.name for spec in RELEASED_MODELS
    ]


def test_it_generates_by_its_name(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    written = said(["t2i", "a cat", "--model", "tiny", "--seed", "1"], capfd).strip()
    assert read_picture(Path(written)).pixels.shape == (32, 48, 3)
    assert json.loads(texts_in(Path(written))["comment"])["istar"]["model"] == "tiny"


@pytest.mark.usefixtures("tiny")
def test_auto_does_not_stand_for_it() -> None:
    found = find_model("auto", mode="t2v", resolution="480p").spec
    assert found in RELEASED_MODELS
    with pytest.raises(CheckpointError, match="not 192p"):
        find_model("auto", mode="t2v", resolution="192p")


def test_it_is_listed_and_described(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    size = sum(file.stat().st_size for file in tiny.rglob("*") if file.is_file())
    *released, own = json.loads(said(["models", "list", "--json"], capfd))
    assert [model["name"] for model in released] == [spec.name for spec in RELEASED_MODELS]
    assert (own["name"], own["state"], own["source"]) == ("tiny", "ready", None)
    assert own["bytes_here"] == own["bytes_total"] == size
    assert json.loads(said(["models", "info", "tiny", "--json"], capfd)) == own
    path = str(tiny / "transformer")
    for command in ("path", "pull"):
        assert said(["models", command, "tiny"], capfd) == f"{path}\n"


def test_it_is_verified_and_not_repaired(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert said(["models", "verify"], capfd) == "tiny: every file is right\n"
    tokenizer = tiny / "tokenizer.safetensors"
    body = bytearray(tokenizer.read_bytes())
    body[-1] ^= 1
    tokenizer.write_bytes(body)
    for repair in ([], ["--repair"]):
        assert run(["models", "verify", "tiny", *repair]) == 1
        out, err = capfd.readouterr()
        assert out == f"tiny: {tokenizer} is damaged or missing\n"
        assert "install istar again" in err
    assert tokenizer.is_file()


def test_it_is_never_removed_nor_converted(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = sorted(tiny.rglob("*"))
    for command, done in (("rm", "removed"), ("convert", "converted")):
        assert f"cannot be {done}" in said(["models", command, "tiny"], capfd, code=2)
    assert "cannot be removed" in said(["models", "rm", "tiny", "--yes"], capfd, code=2)
    assert sorted(tiny.rglob("*")) == before


@pytest.mark.usefixtures("tiny")
def test_removing_another_model_minds_it_not() -> None:
    assert [remove_model(spec) for spec in RELEASED_MODELS] == [0] * len(RELEASED_MODELS)


def test_the_one_of_this_installation_is_whole() -> None:
    spec = bundled.bundled_model()
    assert spec is None or verify_model(spec) == []
