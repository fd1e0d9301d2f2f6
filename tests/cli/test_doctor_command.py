"""`istar doctor`, as a person or a script sees it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hub_server import Hub, serving
from istar.models.released import RELEASED_MODELS
from istar.models.store import known_models

SOURCE = RELEASED_MODELS[0].source
assert SOURCE is not None
COMMIT, REPO = SOURCE.revision, SOURCE.repo
SECRET = "hf_abcdefSECRETghijkl"

APP = "import typer; from istar.cli.doctor import doctor; a = typer.Typer(); a.command()(doctor);"
RUN = "a(standalone_mode=True)"
WITH_A_LARGE_MACHINE = """
from istar.doctor import Host, report
report.read_host = lambda: Host(cores=8, total_bytes=10**12, available_bytes=10**12)
"""

IMPATIENT = """
from functools import partial
from istar.doctor import report
report.ask_hub = partial(report.ask_hub, seconds=0.2)
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub({COMMIT: {}}, {"main": COMMIT}, REPO)) as server:
        yield server


class Patient:
    """A machine with an empty home."""

    def __init__(self, home: Path, hub: Hub) -> None:
        self.home = home
        (home / "bin").mkdir(parents=True)
        dropped = ("HF_", "HUGGING", "XDG_", "CUDA_", "TRANSFORMERS_", "NO_COLOR", "FORCE_COLOR")
        self.environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(dropped) and not name.lower().endswith("_proxy")
            },
            "HOME": str(home),
            "PATH": str(home / "bin"),
            "XDG_DATA_HOME": str(home / "data"),
            "HF_HOME": str(home / "hf"),
            "HF_ENDPOINT": hub.address,
        }

    def nvidia_smi(self, body: str) -> None:
        script = self.home / "bin" / "nvidia-smi"
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)

    def run(
        self, *arguments: str, code: int | None = None, before: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-c", f"{APP}{before}\n{RUN}", *arguments],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode in ((0, 1) if code is None else (code,)), done.stdout
        return done

    def json(self, *arguments: str, **options: Any) -> Any:
        return json.loads(self.run("--json", *arguments, **options).stdout)


@pytest.fixture
def patient(tmp_path: Path, hub: Hub) -> Patient:
    return Patient(tmp_path / "home", hub)


def keys(value: Any) -> Any:
    return {key: keys(inner) for key, inner in value.items()} if isinstance(value, dict) else None


def test_a_machine_on_which_it_runs(patient: Patient, hub: Hub) -> None:
    done = patient.run(code=0, before=WITH_A_LARGE_MACHINE)
    assert done.stderr == ""
    assert f"{hub.address} answers" in done.stdout
    assert "prevent" not in done.stdout
    assert "weights alone; more is needed while generating" in done.stdout
    assert "21.2 GB" in done.stdout
    assert "\x1b" not in done.stdout
    assert len(hub.log) == 1


def test_json_keys_and_exact_sizes(patient: Patient) -> None:
    patient.nvidia_smi("echo 'NVIDIA H200, 143771, 143134, 570.86.15'")
    found = patient.json()
    (gpu,) = found["gpus"]["found"]
    assert gpu == {
        "index": 0,
        "name": "NVIDIA H200",
        "total_bytes": 143771 * 1024 * 1024,
        "free_bytes": 143134 * 1024 * 1024,
        "driver": "570.86.15",
    }
    assert [model["name"] for model in found["models"]] == [m.name for m in known_models()]
    assert found["models"][0]["gpu_bytes"] == 21_227_042_652
    assert found["models"][0]["fetch_bytes"] == SOURCE.expected_bytes  # type: ignore[union-attr]
    assert all(type(found["host"][name]) is int for name in ("total_bytes", "available_bytes"))
    assert list(found) == [
        "can_generate",
        "software",
        "codecs",
        "gpus",
        "cuda",
        "host",
        "cache",
        "hub",
        "token",
        "models",
        "problems",
    ]
    assert set(keys(found["cache"])) == {
        "path",
        "setting",
        "exists",
        "state",
        "problem",
        "free_bytes",
        "model_bytes",
    }
    assert set(found["models"][0]) == {
        "name",
        "gpu_bytes",
        "host_bytes",
        "fetch_bytes",
        "fits_gpu",
        "fits_host",
        "fits_disk",
    }


@pytest.mark.parametrize("body", ["exit 1", "echo '\033[31m, [/oops], 3'"])
def test_a_driver_that_fails(patient: Patient, body: str) -> None:
    patient.nvidia_smi(body)
    done = patient.run("--offline")
    assert "nvidia-smi" in done.stdout
    assert "problems\n" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_the_token_is_never_told(patient: Patient, hub: Hub, arguments: tuple[str, ...]) -> None:
    hub.faults.status = {"api": (401, "GatedRepo")}
    endpoint = hub.address.replace("://", f"://me:{SECRET}@")
    for settings in ({"HF_TOKEN": SECRET}, {"HF_TOKEN": f"{SECRET}\x07", "HF_ENDPOINT": endpoint}):
        done = patient.run(*arguments, **settings)
        told = done.stdout + done.stderr
        assert "HF_TOKEN" in told
        assert not any(SECRET[i : i + 6] in told for i in range(len(SECRET) - 5))
    assert not any("Bearer" in (request.authorization or "") for request in hub.log)


def test_a_cache_that_is_a_file(patient: Patient) -> None:
    (patient.home / "file").write_text("")
    cache = str(patient.home / "file" / "hub")
    done = patient.run("--offline", code=1, before=WITH_A_LARGE_MACHINE, HF_HUB_CACHE=cache)
    assert "file is not a directory" in done.stdout
    assert "set HF_HUB_CACHE" in done.stdout
    found = patient.json("--offline", code=1, HF_HUB_CACHE=cache)
    assert found["cache"]["state"] == "unusable"


def test_a_hub_that_fails(patient: Patient, hub: Hub) -> None:
    hub.faults.status = {"api": (500, None)}
    done = patient.run(code=1, before=WITH_A_LARGE_MACHINE)
    assert "error 500" in done.stdout
    assert "server text" not in done.stdout
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        found = patient.json(code=1, before=IMPATIENT, HF_ENDPOINT=address)
    assert "no answer within 0.2 s" in found["hub"]["problem"]


def test_a_model_that_is_here_needs_no_hub(patient: Patient, hub: Hub) -> None:
    spec = RELEASED_MODELS[1]
    names = (
        f"{spec.transformer}/model.safetensors",
        spec.tokenizer,
        f"{spec.text_encoder}/config.json",
    )
    hub.commits[COMMIT] = dict.fromkeys(names, b"x" * (1 << 17))
    pull = "from istar.models.find import released_files; from istar.models.released import *;"
    subprocess.run(
        [sys.executable, "-c", f"{pull} released_files(RELEASED_MODELS[1])"],
        env=patient.environment,
        check=True,
    )
    found = patient.json(code=0, before=WITH_A_LARGE_MACHINE, HF_HUB_OFFLINE="1")
    by_name = {model["name"]: model for model in found["models"]}
    assert by_name["480p"]["fetch_bytes"] == 0
    assert by_name["720p"]["fetch_bytes"] > 0
    assert found["cache"]["model_bytes"] >= 1 << 17
    assert found["hub"]["state"] == "offline"


def test_torch_is_imported_only_for_the_gpu(patient: Patient) -> None:
    told = "print('torch' in sys.modules, file=sys.stderr)"
    check = f"import atexit, sys; atexit.register(lambda: {told})"
    assert patient.run("--offline", before=check).stderr == "False\n"
    done = patient.run("--gpu", "--offline", before=check, HF_TOKEN=SECRET)
    assert done.stderr == "True\n"
    assert "SECRET" not in done.stdout
    assert "CUDA in torch" in done.stdout or "cuda:0" in done.stdout


def test_colour_is_for_terminals_that_want_it(patient: Patient) -> None:
    import pty

    def shown(**environment: str) -> bytes:
        master, slave = pty.openpty()
        settings = {**patient.environment, "HF_HUB_OFFLINE": "1", "TERM": "xterm", **environment}
        process = subprocess.Popen(
            [sys.executable, "-c", APP + RUN], stdout=slave, stderr=slave, env=settings
        )
        os.close(slave)
        text = b""
        try:
            while piece := os.read(master, 4096):
                text += piece
        except OSError:
            pass
        finally:
            os.close(master)
        assert process.wait() == 1
        return text

    assert b"\x1b[31mx\x1b[0m" in shown()
    assert b"\x1b" not in shown(NO_COLOR="1")
    assert b"\x1b" not in shown(TERM="dumb")
