"""`istar doctor`, as a person or a script sees it, on machines that are made up."""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hub_server import Hub, serving
from istar.checkpoint.read import on_meta, transformer_dtype
from istar.cli.app import run
from istar.models.bundled import DIRECTORY, bundled_bytes
from istar.models.released import RELEASED_MODELS, WEIGHT_BYTES_ON_CPU, WEIGHT_BYTES_ON_GPU
from istar.models.store import known_models
from istar.transformer.config import TransformerConfig
from istar.transformer.model import Transformer
from istar.video_tokenizer.config import VideoTokenizerConfig
from istar.video_tokenizer.model import VideoTokenizer
from processes import run_warm

MODEL = RELEASED_MODELS[1]
assert MODEL.source is not None
COMMIT, REPO = MODEL.source.revision, MODEL.source.repo
SECRET = "hf_abcdefSECRETghijkl"
GIGABYTE = 10**9
Patch = pytest.MonkeyPatch


class Machine:
    """A machine with 64 GB of memory, a large disk, and neither GPU nor model."""

    def __init__(self, home: Path, hub: Hub, monkeypatch: Patch, capfd: Any) -> None:
        self.home, self.hub, self.patch, self.capfd = home, hub, monkeypatch, capfd
        (home / "bin").mkdir()
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "CUDA_VISIBLE_DEVICES"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PATH", str(home / "bin"))
        monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
        monkeypatch.setattr("istar.host_memory.MEMINFO", home / "meminfo")
        monkeypatch.setattr("istar.host_memory.CGROUP", home)
        monkeypatch.setattr("istar.host_memory.OWN_CGROUP", home / "no-cgroup")
        disk(10**12)(self)
        monkeypatch.setattr(torch.version, "cuda", "12.8")
        self.constant(HF_HUB_CACHE=str(home / "hub"), HF_TOKEN_PATH=str(home / "token"))
        self.constant(ENDPOINT=hub.address, HF_HUB_OFFLINE=False)
        self.memory(64)
        self.gpus()

    def constant(self, **values: object) -> None:
        """Change what the Hub's client read from the environment."""
        for name, value in values.items():
            self.patch.setattr(f"huggingface_hub.constants.{name}", value)

    def memory(self, gigabytes: int) -> None:
        kilobytes = gigabytes * GIGABYTE // 1024
        text = f"MemTotal: {2 * kilobytes} kB\nMemFree: 1 kB\nMemAvailable: {kilobytes} kB\n"
        (self.home / "meminfo").write_text(text)

    def gpus(self, *free: int, bf16: bool = True) -> None:
        """Let torch see GPUs with so many gigabytes free."""
        made_up: dict[str, Callable[..., object]] = {
            "is_available": lambda: bool(free),
            "device_count": lambda: len(free),
            "mem_get_info": lambda index: (free[index] * GIGABYTE, 150 * GIGABYTE),
            "device": lambda index: nullcontext(),
            "is_bf16_supported": lambda including_emulation: bf16,
            "get_device_name": lambda index: "NVIDIA H200",
            "get_device_capability": lambda index: (9, 0),
        }
        for name, function in made_up.items():
            self.patch.setattr(torch.cuda, name, function)

    def nvidia_smi(self, body: str) -> None:
        script = self.home / "bin" / "nvidia-smi"
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)

    def report(self, *arguments: str, code: int) -> str:
        """What the doctor prints."""
        assert run(["doctor", *arguments]) == code
        out, err = self.capfd.readouterr()
        assert err == ""
        assert "\x1b" not in out
        return str(out)

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.report("--json", *arguments, code=code))


Change = Callable[[Machine], object]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub({COMMIT: {}}, {"main": COMMIT}, REPO)) as server:
        yield server


@pytest.fixture
def machine(tmp_path: Path, hub: Hub, monkeypatch: Patch, capfd: Any) -> Machine:
    return Machine(tmp_path, hub, monkeypatch, capfd)


def test_a_machine_on_which_it_runs(machine: Machine) -> None:
    machine.gpus(140)
    lines = machine.report(code=0).splitlines()
    assert f"  torch            {torch.__version__}" in lines
    assert "  torch built for  CUDA 12.8" in lines
    assert f"  PyAV             {version('av')}" in lines
    assert "  H.264            written: yes, read: yes" in lines
    gpu = "NVIDIA H200, 140.0 GB free of 150.0 GB, capability 9.0, bf16"
    assert f"  GPU 0            {gpu}" in lines
    assert f"  cache            {machine.home / 'hub'}" in lines
    assert f"  address          {machine.hub.address}, answers" in lines
    assert "  token            none, and none is needed" in lines
    (row,) = (line for line in lines if line.startswith("  480p "))
    assert row.split()[-1] == "fits"
    assert " max " in row
    assert lines[-1] == "no problems"
    (request,) = machine.hub.log
    assert request.path == f"/api/models/{REPO}/revision/{COMMIT}"
    assert not (machine.home / "hub").exists()


def test_json_keys_and_exact_sizes(machine: Machine) -> None:
    machine.gpus(2, 8)
    (machine.home / "memory.max").write_text(f"{50 * GIGABYTE}\n")
    found = machine.json("--offline")
    assert not machine.hub.log
    assert (found["can_generate"], found["hub"]["state"]) == (True, "not asked")
    assert found["codecs"] == {"written": True, "read": True}
    assert (found["memory_bytes"], found["available_bytes"]) == (50 * GIGABYTE, 50 * GIGABYTE)
    assert found["gpus"][1] == {
        "index": 1,
        "name": "NVIDIA H200",
        "capability": "9.0",
        "has_bf16": True,
        "total_bytes": 150 * GIGABYTE,
        "free_bytes": 8 * GIGABYTE,
    }
    assert [model["name"] for model in found["models"]] == [m.name for m in known_models()]
    assert found["models"][0] == {
        "name": "720p",
        "plans": found["models"][0]["plans"],
        "cpu_bytes": found["models"][0]["cpu_bytes"],
        "missing_bytes": 47 * GIGABYTE,
        "gpu_plans": [None, "stream"],
        "fits_cpu": True,
        "fits_disk": True,
    }
    plans = found["models"][0]["plans"]
    assert [plan["name"] for plan in plans] == ["max", "balanced", "low", "stream"]
    sizes = [plan["device_bytes"] for plan in plans]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > WEIGHT_BYTES_ON_GPU
    assert WEIGHT_BYTES_ON_CPU < found["models"][0]["cpu_bytes"] < 50 * GIGABYTE
    (finding,) = found["findings"]
    assert (finding["remedies"], finding["prevents_generating"]) == (["other_gpu"], False)


def test_the_table_of_models_counts_their_weights(tmp_path: Path) -> None:
    from transformers import T5Config, T5EncoderModel

    def t5(**sizes: int) -> torch.nn.Module:
        return T5EncoderModel(T5Config(feed_forward_proj="gated-gelu", **sizes))

    small = t5(d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=50)
    small.save_pretrained(tmp_path)  # type: ignore[operator]
    halved = T5EncoderModel.from_pretrained(tmp_path, dtype=torch.float16)
    kept = {name for name, value in halved.named_parameters() if value.dtype == torch.float32}
    assert kept == {name for name, _ in small.named_parameters() if name.endswith(".wo.weight")}
    large = {"d_model": 2048, "d_kv": 64, "d_ff": 5120, "num_layers": 24, "num_heads": 32}
    transformer = on_meta(lambda: Transformer(TransformerConfig()))
    tokenizer = on_meta(lambda: VideoTokenizer(VideoTokenizerConfig()))
    text_encoder = on_meta(lambda: t5(**large, vocab_size=32128))
    sizes = [
        *((p, transformer_dtype(n, torch.bfloat16)) for n, p in transformer.named_parameters()),
        *(
            (p, torch.bfloat16 if n.startswith("decoder.") else torch.float32)
            for n, p in tokenizer.named_parameters()
        ),
        *(
            (p, torch.float32 if n.endswith(".wo.weight") else torch.float16)
            for n, p in text_encoder.named_parameters()
        ),
    ]
    assert sum(p.numel() * dtype.itemsize for p, dtype in sizes) == WEIGHT_BYTES_ON_GPU
    assert sum(4 * p.numel() for p, _ in sizes) == WEIGHT_BYTES_ON_CPU
    if known_models()[-1].source is None:  # of the bundled model twice its files is said
        numbers = 0
        for file in DIRECTORY.rglob("*.safetensors"):
            numbers += sum(tensor.numel() for tensor in load_file(file).values())
        assert 4 * numbers <= 2 * bundled_bytes() <= 4.1 * numbers


def warn_of_the_driver() -> bool:
    warnings.warn("CUDA initialization: the driver is too old", stacklevel=1)
    return False


def fail(error: Exception) -> Callable[..., Any]:
    def failing(*_: object) -> None:
        raise error

    return failing


def refuse_writing(machine: Machine) -> None:
    machine.patch.setattr(os, "access", lambda place, mode: not mode & os.W_OK)


def card(machine: Machine) -> None:
    machine.nvidia_smi("echo 'NVIDIA H200, 570.86.15'")


def replace(name: str, value: object) -> Change:
    return lambda machine: machine.patch.setattr(name, value)


def disk(free: int) -> Change:
    return replace("shutil.disk_usage", lambda place: SimpleNamespace(free=free))


def constant(**values: object) -> Change:
    return lambda machine: machine.constant(**values)


def env(name: str, value: str) -> Change:
    return lambda machine: machine.patch.setenv(name, value)


def gpus(*free: int, bf16: bool = True) -> Change:
    return lambda machine: machine.gpus(*free, bf16=bf16)


def without(name: str) -> Change:
    return lambda machine: machine.patch.setitem(sys.modules, name, None)


def both(first: Change, second: Change) -> Change:
    return lambda machine: (first(machine), second(machine))


BROKEN = r"printf '\033[31mNVIDIA-SMI has failed\377\n'; exit 9"
BAD_GPU = replace("torch.cuda.mem_get_info", fail(RuntimeError("CUDA error:\nunknown")))
BAD_VALUE = replace("huggingface_hub.get_token", fail(ValueError("invalid: 'soon'")))
CPU_BUILD = replace("torch.version.cuda", None)
DRIVER = "update the NVIDIA driver"
SLOW: dict[str, tuple[Change, str, str]] = {
    "no GPU": (lambda m: None, "torch sees no GPU, so models run on the CPU", "a lower --res"),
    "a small GPU": (gpus(2), "the GPU has 2.0 GB free", "--device cpu"),
    "a first GPU that is small": (gpus(2, 140), "GPU 0 has 2.0 GB", "--device cuda:N"),
    "no bf16": (gpus(140, bf16=False), "bf16 only slowly", "--dtype fp32"),
    "torch for the CPU": (both(card, CPU_BUILD), "GPU: NVIDIA H200", "pytorch"),
    "a hidden GPU": (both(card, env("CUDA_VISIBLE_DEVICES", "")), "'' hides the GPU", "unset CUDA"),
    "a GPU not seen": (card, "cannot use the GPU: NVIDIA H200", DRIVER),
    "an old driver": (replace("torch.cuda.is_available", warn_of_the_driver), "too old", DRIVER),
    "a GPU that fails": (both(gpus(140), BAD_GPU), "the GPU: CUDA error: unknown", DRIVER),
    "a failing driver": (lambda m: m.nvidia_smi(BROKEN), r"says \x1b[31mNVIDIA-SMI has", DRIVER),
}
PREVENTED: dict[str, tuple[Change, str, str]] = {
    "no torch": (replace("istar.doctor.version", fail(PackageNotFoundError())), "torch is", "pip"),
    "a broken torch": (without("torch"), "torch cannot be imported: import", "install torch again"),
    "a broken PyAV": (without("istar.media.codecs"), "cannot be written: import", "install av"),
    "no encoder": (replace("istar.media.codecs.has_h264", "r".__eq__), "no H.264", "install av"),
    "no room": (both(gpus(8), lambda m: m.memory(15)), "and 15.0 GB are available", "more memory"),
    "a file as cache": (constant(HF_HUB_CACHE=__file__), "not a dir", "HF_HUB_CACHE"),
    "a read-only cache": (refuse_writing, "hub cannot be written", "set HF_HUB_CACHE"),
    "a full disk": (disk(GIGABYTE), "1.0 GB free, and 47.0", "set HF_HUB"),
    "offline": (constant(HF_HUB_OFFLINE=True), "no model is here", "unset HF_HUB_OFF"),
    "spoilt settings": (both(env("HF_HUB_ETAG_TIMEOUT", "soon"), BAD_VALUE), "soon", "HF_HUB_ETAG"),
    "a token's directory": (constant(HF_TOKEN_PATH="/"), "Is a directory: '/'", "HF_"),
    "nobody": (constant(ENDPOINT="http://127.0.0.1:1"), "be reached", "HF_ENDPOINT"),
    "no address": (constant(ENDPOINT="nowhere"), "not a web address", "HF_ENDPOINT"),
    "a failing Hub": (lambda m: m.hub.faults.status.update(api=(500, None)), "500", "wait"),
    "another server": (lambda m: m.hub.faults.answer.update({COMMIT: ""}), "as the Hub", "HF_ENDP"),
}


@pytest.mark.parametrize("name", [*SLOW, *PREVENTED])
def test_what_is_wrong(name: str, machine: Machine) -> None:
    change, said, advice = (SLOW | PREVENTED)[name]
    prevents = name in PREVENTED
    change(machine)
    report = machine.report(code=int(prevents))
    found = re.findall(rf"^  {'x' if prevents else '-'} .*(?:\n    .*)?", report, re.MULTILINE)
    assert any(said in text and advice in text for text in found)
    assert ("\n  x " in report) == ("those marked x prevent generating" in report) == prevents


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("HTTP_PROXY", "socks5://127.0.0.1:9", b"is a SOCKS proxy"),
        ("HTTP_PROXY", "nonsense.invalid", b"cannot be reached through HTTP_PROXY=nonsense"),
    ],
)
def test_a_proxy_that_does_not_serve_is_a_finding(
    variable: str, value: str, said: bytes, hub: Hub, tmp_path: Path
) -> None:
    settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path), "NO_PROXY": ""}
    done = run_warm("doctor", environment={**os.environ, **settings, variable: value})
    assert done.returncode == 1
    assert said in done.stdout
    assert done.stderr == b""


def test_a_model_that_is_here_needs_neither_hub_nor_room(machine: Machine) -> None:
    parts = (f"{MODEL.transformer}/model.safetensors", MODEL.tokenizer)
    names = (*parts, f"{MODEL.text_encoder}/config.json")
    machine.hub.commits[COMMIT] = dict.fromkeys(names, b"x" * (1 << 17))
    settings = {"HF_ENDPOINT": machine.hub.address, "HF_HUB_CACHE": str(machine.home / "hub")}
    environment = {**os.environ, "NO_PROXY": "*", "HF_HUB_OFFLINE": "0", **settings}
    assert run_warm("models", "pull", MODEL.name, environment=environment).returncode == 0
    refuse_writing(machine)
    machine.constant(HF_HUB_OFFLINE=True)
    found = machine.json()
    missing = {model["name"]: model["missing_bytes"] for model in found["models"]}
    assert missing["480p"] == 0
    assert missing["720p"] > 0
    assert found["hub"]["model_bytes"] == 3 << 17
    assert (found["hub"]["state"], found["hub"]["is_writable"]) == ("offline", False)
    assert "- the Hub's cache" in machine.report(code=0)


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_the_token_is_never_shown(machine: Machine, arguments: tuple[str, ...]) -> None:
    machine.hub.faults.status = {"api": (401, None)}
    machine.constant(ENDPOINT=machine.hub.address.replace("://", f"://me:{SECRET}@"))
    for token in (SECRET, f"{SECRET}\x07", f"{SECRET}ü"):
        machine.patch.setenv("HF_TOKEN", token)
        shown = machine.report(*arguments, code=1)
        assert "present" in shown or '"has_token": true' in shown
        assert not any(SECRET[i : i + 6] in shown for i in range(len(SECRET) - 5))


@pytest.mark.parametrize(
    ("settings", "mark"),
    [({"TERM": "xterm"}, "\x1b[31mx\x1b[0m"), ({"TERM": "dumb"}, "x"), ({"NO_COLOR": "1"}, "x")],
)
def test_colour_is_for_terminals_that_want_it(
    settings: dict[str, str], mark: str, machine: Machine
) -> None:
    machine.patch.setattr(type(sys.stdout), "isatty", lambda self: True)
    machine.patch.delenv("NO_COLOR", raising=False)
    for name, value in settings.items():
        machine.patch.setenv(name, value)
    machine.constant(HF_HUB_OFFLINE=True)
    assert run(["doctor"]) == 1
    assert f"\n  {mark} no model is here" in machine.capfd.readouterr().out


@pytest.mark.gpu
def test_a_real_gpu(capfd: Any) -> None:
    run(["doctor", "--offline"])
    assert f"GPU 0            {torch.cuda.get_device_name(0)}" in capfd.readouterr().out
