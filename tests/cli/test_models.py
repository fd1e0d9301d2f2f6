"""Models by name, against a stand-in of the Hub, with the released layout at a small size."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
import torch

from hub_server import Hub, await_journal, await_sign, serving
from istar.checkpoint.read import load_transformer
from istar.media import read_picture
from istar.models.released import RELEASED_MODELS
from processes import end, run_warm
from random_checkpoint import write_checkpoint

BASE, INTERACT = RELEASED_MODELS[1], RELEASED_MODELS[2]
assert BASE.source is not None
COMMIT = BASE.source.revision
LATER = "decade00" * 5
REPO = BASE.source.repo


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every file of a small checkpoint in the released layout."""
    root = write_checkpoint(tmp_path_factory.mktemp("released") / "all", layout="released")
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def hub(released: dict[str, bytes]) -> Iterator[Hub]:
    early = {name: body for name, body in released.items() if INTERACT.transformer not in name}
    commits = {COMMIT: early, LATER: released}
    with serving(Hub(commits, {"main": LATER}, REPO)) as server:
        yield server


class Person:
    """Somebody with an empty home and a command line."""

    def __init__(self, home: Path, hub: Hub) -> None:
        self.home = home
        self.processes: list[subprocess.Popen[str]] = []
        home.mkdir()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "HOME": str(home),
            "XDG_DATA_HOME": str(home / "data"),
            "XDG_CACHE_HOME": str(home / "cache"),
            "HF_HOME": str(home / "hf"),
            "HF_ENDPOINT": hub.address,
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "istar", *arguments],
            cwd=self.home,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def run(
        self, *arguments: str, code: int = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        surroundings = {**self.environment, **environment}
        done = run_warm(*arguments, directory=self.home, environment=surroundings)
        out, err = done.stdout.decode(), done.stderr.decode()
        assert done.returncode == code, err
        assert "Traceback" not in err
        return subprocess.CompletedProcess(arguments, code, out, err)

    def locate(self, name: str, code: int = 0, **environment: str) -> str:
        """Where the transformer of a model lies, as generating finds it; or what it says."""
        script = """
            import sys
            from istar.errors import IstarError
            from istar.models.download_events import ignore
            from istar.models.find import find_model
            name, mode, dtype = sys.argv[1:]
            try:
                print(find_model(name, mode=mode, dtype=dtype).files(ignore).transformer)
            except IstarError as error:
                sys.exit(str(error))
            assert "torch" not in sys.modules
        """
        mode = "interact" if name == "interact" else "t2i"
        done = subprocess.run(
            [sys.executable, "-c", dedent(script), name, mode, "fp32"],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return (done.stderr if code else done.stdout).strip()

    def blobs(self) -> list[Path]:
        return sorted(self.home.glob("hf/hub/*/blobs/*"))

    def blob_of(self, part: str) -> Path:
        (entry,) = self.home.glob(f"hf/hub/*/snapshots/*/{part}")
        return entry.resolve()


@pytest.fixture
def person(tmp_path: Path, hub: Hub) -> Iterator[Person]:
    person = Person(tmp_path / "home", hub)
    yield person
    end(person.processes)


def listed(person: Person, name: str = "480p") -> dict[str, object]:
    models = json.loads(person.run("models", "list", "--json").stdout)
    (found,) = [model for model in models if model["name"] == name]
    return dict(found)


def test_pull_verify_generate_in_one_go(person: Person, hub: Hub) -> None:
    done = person.run("t2i", "a cat", "--res", "480p", "--aspect", "1:1", "--seed", "1")
    assert "fetching" in done.stderr
    assert "free" in done.stderr
    assert read_picture(person.home / done.stdout.strip()).pixels.shape == (640, 640, 3)
    assert INTERACT.transformer not in " ".join(request.path for request in hub.bodies())
    assert person.run("models", "verify", "480p").stdout == "480p: every file is right\n"
    assert listed(person)["state"] == "ready"
    assert listed(person, "720p")["state"] == "partial"
    path = Path(person.run("models", "path", "480p").stdout.strip())
    assert path.name == BASE.transformer
    assert (path / "model.safetensors.index.json").is_file()
    # Pinned and here: nothing is asked for, though nobody said that there is no network.
    before = len(hub.log)
    assert person.locate("480p") == str(path)
    assert len(hub.log) == before


@pytest.mark.signals
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_a_pull_that_was_ended_continues(person: Person, hub: Hub, number: signal.Signals) -> None:
    with hub.holding(after=150_000):
        process = person.start("models", "pull", "480p")
        await_journal(process, person.home, least=150_000)
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    state = listed(person)
    assert state["state"] == "partial"
    assert 0 < int(str(state["bytes_here"])) < int(str(state["bytes_total"]))
    person.run("models", "path", "480p", code=1)
    before = len(hub.log)
    person.run("models", "pull", "480p")
    assert any(request.range for request in hub.log[before:])
    assert person.run("models", "verify", "480p").stdout == "480p: every file is right\n"


def test_damage_is_found_offline_and_repaired(person: Person, hub: Hub) -> None:
    person.run("models", "pull", "480p")
    blob = person.blob_of(f"{BASE.transformer}/model-00001*")
    body = bytearray(blob.read_bytes())
    body[-5] ^= 1
    blob.write_bytes(body)
    before = len(hub.log)
    done = person.run("models", "verify", code=1)
    assert "model-00001" in done.stdout
    assert done.stderr.count("\n") == 1
    assert "--repair" in done.stderr
    assert len(hub.log) == before
    problems = json.loads(person.run("models", "verify", "--json", code=1).stdout)
    assert "480p" in [found["name"] for found in problems if found["problems"]]
    person.run("models", "verify", "480p", "--repair")
    fetched = [request.path for request in hub.log[before:] if request.method == "GET"]
    assert any("model-00001" in path or "cdn" in path for path in fetched)
    assert person.run("models", "verify", "480p").stdout == "480p: every file is right\n"


def test_the_interactive_model_comes_from_another_revision(person: Person, hub: Hub) -> None:
    done = person.run("models", "pull", "interact")
    assert LATER in done.stdout
    assert person.run("models", "path", "interact").stdout == done.stdout
    assert listed(person, "interact")["state"] == "ready"
    # A branch is asked for by a pull, and by nothing else once the model is here.
    before = len(hub.log)
    assert person.locate("interact") == done.stdout.strip()
    assert len(hub.log) == before
    person.run("models", "pull", "interact")
    assert [request.path for request in hub.log[before:]] == [f"/api/models/{REPO}/revision/main"]
    # What both need was fetched once.
    before = len(hub.bodies())
    person.run("models", "pull", "480p")
    paths = [request.path for request in hub.bodies()[before:]]
    assert len(paths) == 2, paths


def test_removing_keeps_what_another_model_needs(person: Person) -> None:
    person.run("models", "pull", "480p", "interact")
    assert "--yes" in person.run("models", "rm", "480p", code=2).stderr
    removed = json.loads(person.run("models", "rm", "480p", "--yes", "--json").stdout)
    assert removed["name"] == "480p"
    assert removed["bytes_freed"] > 100_000
    assert listed(person)["state"] == "partial"
    assert listed(person, "interact")["state"] == "ready"
    person.run("models", "verify", "interact")
    assert "freed" in person.run("models", "rm", "interact", "-y").stderr
    assert not [blob for blob in person.blobs() if blob.stat().st_size > 100_000]
    assert "nothing of" in person.run("models", "rm", "interact", "-y", code=1).stderr


def test_a_converted_copy_is_loaded_in_its_place(person: Person, hub: Hub) -> None:
    original = Path(person.run("models", "pull", "480p").stdout.strip())
    done = person.run("models", "convert", "480p", "--dtype", "bf16", "--json")
    assert all(line.startswith("istar: ") for line in done.stderr.splitlines()), done.stderr
    target = Path(json.loads(done.stdout)["path"])
    assert (target / "istar.json").is_file()
    manifest = json.loads((target / "istar.json").read_text())
    assert manifest["dtype"] == "bf16"
    assert manifest["source"]["revision"] == COMMIT
    assert set(manifest["hashes"]) == {
        path.relative_to(target).as_posix()
        for path in target.rglob("*")
        if path.is_file() and path.name != "istar.json"
    }
    (copy,) = listed(person)["copies"]  # type: ignore[misc]
    assert copy["dtype"] == "bf16"
    assert str(target) == copy["path"]
    one = load_transformer(original, dtype=torch.bfloat16).state_dict()
    two = load_transformer(target / "transformer", dtype=torch.bfloat16).state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    # Only the copy is left to load, and nothing is asked for.
    for blob in person.blobs():
        blob.unlink()
    before = len(hub.log)
    make = ("t2i", "a cat", "--model", "480p", "--aspect", "1:1", "--seed", "1", "--dtype", "bf16")
    picture = read_picture(person.home / person.run(*make).stdout.strip())
    assert picture.pixels.shape == (640, 640, 3)
    assert len(hub.log) == before
    # It is not used for another dtype.
    assert "unset HF_HUB_OFFLINE" in person.locate("480p", code=1, HF_HUB_OFFLINE="1")
    tensors = target / "transformer" / "model-00001.safetensors"
    body = bytearray(tensors.read_bytes())
    body[-1] ^= 1
    tensors.write_bytes(body)
    assert "model-00001" in person.run("models", "verify", "480p", code=1).stdout
    # It is not made again unasked, but that is said.
    repaired = person.run("models", "verify", "480p", "--repair")
    assert "istar models convert 480p --dtype bf16" in repaired.stderr
    assert not target.exists()


def test_an_8_bit_copy_serves_its_own_type_of_number_only(person: Person, hub: Hub) -> None:
    person.run("models", "pull", "480p")
    done = person.run("models", "convert", "480p", "--dtype", "int8", "--json")
    assert all(line.startswith("istar: ") for line in done.stderr.splitlines()), done.stderr
    copy = json.loads(done.stdout)["path"]
    (state,) = listed(person)["copies"]  # type: ignore[misc]
    assert (state["dtype"], state["path"]) == ("int8", copy)
    assert person.run("models", "verify", "480p").stdout == "480p: every file is right\n"
    # Only the copy is left to load: it is, in silence, and nothing is asked for.
    for blob in person.blobs():
        blob.unlink()
    before = len(hub.log)
    make = ("t2i", "a cat", "--model", "480p", "--aspect", "1:1", "--seed", "1", "--dtype", "int8")
    said = person.run(*make).stderr.splitlines()
    # On a busy machine it takes long enough to say how far it is.
    assert [line for line in said if "loading" not in line and "step" not in line] == []
    assert len(hub.log) == before
    refused = person.run("t2i", "a cat", "--model", copy, "--seed", "1", "--dtype", "bf16", code=1)
    assert "holds int8 weights" in refused.stderr
    assert "compute with --dtype int8" in refused.stderr


def test_a_pickle_with_code_is_refused(
    person: Person, hub: Hub, released: dict[str, bytes]
) -> None:
    import pickle

    class Runs:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {person.home}/ran",)

    hub.commits[COMMIT] = {**released, BASE.tokenizer: pickle.dumps({"vae": Runs()})}
    done = person.run("t2i", "a cat", "--model", "480p", "--seed", "1", code=1)
    assert BASE.tokenizer in done.stderr
    assert not (person.home / "ran").exists()


def test_any_repository(person: Person, hub: Hub, checkpoint: Path) -> None:
    own = {
        f"small/{path.relative_to(checkpoint).as_posix()}": path.read_bytes()
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file()
    }
    hub.commits[LATER] = own
    name = f"{REPO}@main:small"
    done = person.run("t2i", "a cat", "--model", name, "--seed", "1")
    assert read_picture(person.home / done.stdout.strip()).pixels.shape == (32, 48, 3)
    assert "holds no model" in person.locate(f"{REPO}@{LATER}", code=1)
    # With the branch known, the same works without a network.
    place = person.locate(name, HF_HUB_OFFLINE="1")
    assert place.endswith("small/transformer")
    assert Path(place).is_dir()


FAILURES = {
    "not there": ((404, "EntryNotFound"), ""),
    "not allowed": ((401, "GatedRepo"), "hf auth login"),
    "too many": ((429, None), "again"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_the_hub_refuses_is_one_line(person: Person, hub: Hub, name: str) -> None:
    answer, said = FAILURES[name]
    hub.faults.status = {"api": answer, "resolve": answer}
    asked = ("t2i", "a cat", "--seed", "1") if name == "not allowed" else ("models", "pull", "480p")
    done = person.run(*asked, code=1, HF_TOKEN="hf_secretsecret")
    assert done.stderr.count("\n") == 1, done.stderr
    assert said in done.stderr
    assert "secretsecret" not in done.stderr + done.stdout
    assert [path.name for path in person.home.glob("istar*")] == []


def test_what_is_not_here_says_how_to_get_it(person: Person) -> None:
    for command in (("verify",), ("verify", "--repair"), ("path",), ("rm", "--yes")):
        done = person.run("models", command[0], "480p", *command[1:], code=1)
        assert done.stderr.count("\n") == 1
        assert "`istar models pull 480p` fetches it" in done.stderr
        assert done.stdout == ""


def test_json_is_everywhere(person: Person) -> None:
    pulled = json.loads(person.run("models", "pull", "480p", "--json").stdout)
    path = json.loads(person.run("models", "path", "480p", "--json").stdout)
    assert pulled == [path]
    info = json.loads(person.run("models", "info", "480p", "--json").stdout)
    assert info == listed(person)
    assert {part["path"] for part in info["files"]} == {
        f"{BASE.transformer}/",
        BASE.tokenizer,
        f"{BASE.text_encoder}/",
    }
    assert all(0 < part["bytes_here"] == part["bytes_total"] for part in info["files"])
    verified = json.loads(person.run("models", "verify", "480p", "--json").stdout)
    assert verified == [{"name": "480p", "problems": []}]


def test_a_bare_group_shows_its_help_and_no_error(person: Person) -> None:
    done = person.run("models", code=2)
    assert "pull" in done.stdout + done.stderr
    assert "error" not in done.stderr


def test_unknown_names_are_refused(person: Person) -> None:
    assert "720p" in person.run("models", "pull", "1080p", code=2).stderr
    assert "owner/repo" in person.run("t2i", "x", "--model", "nowhere", code=2).stderr


def test_two_at_once_fetch_once(person: Person, hub: Hub) -> None:
    with hub.holding(after=150_000):
        first = person.start("models", "pull", "480p")
        await_sign(first, lambda: bool(hub.bodies()))
        second = person.start("models", "pull", "480p")
        assert second.stderr is not None
        assert any("waiting for another process" in line for line in second.stderr)
    heard = [process.communicate(timeout=120) for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), heard
    large = [name for name in hub.commits[COMMIT] if name.endswith((".safetensors", ".pth"))]
    bodies = [request.path for request in hub.bodies() if request.method == "GET"]
    assert len(bodies) == len(set(bodies)) == len({name for name in large if "720p" not in name})


def test_only_converting_loads_torch(person: Person) -> None:
    code = """
        import sys
        from istar.cli.app import run
        run(["models", "list", "--json"])
        run(["models", "pull", "480p"])
        run(["models", "info", "480p"])
        run(["models", "path", "480p"])
        run(["models", "verify", "--repair"])
        run(["models", "rm", "480p", "--yes"])
        run(["models", "verify"])
        sys.exit("torch" in sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-c", dedent(code)],
        env=person.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "480p: every file is right" in done.stdout
    assert "freed" in done.stderr
