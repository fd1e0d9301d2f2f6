"""What the doctor finds, with a machine that is made up."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
import torch

from hub_server import COMMIT, REPO, TOKEN, Hub, serving
from istar.checkpoint.read import on_meta, transformer_dtype
from istar.doctor import Cuda, CudaDevice, Report
from istar.doctor.hub import Cache, Token, ask_hub, read_cache, read_token
from istar.doctor.hub import Hub as HubFacts
from istar.doctor.machine import Gpu, Gpus, Host, read_cuda, read_gpus, read_host
from istar.doctor.needs import (
    ModelNeeds,
    TextEncoderSizes,
    fit,
    needs_of,
    text_encoder_parameters,
    tokenizer_parameters,
    transformer_parameters,
    weight_bytes_on_cpu,
    weight_bytes_on_gpu,
)
from istar.doctor.report import diagnosed, usable_gpu_memory
from istar.doctor.software import Codecs, Software, read_codecs, read_software
from istar.models.released import RELEASED_MODELS
from istar.transformer.config import TransformerConfig
from istar.transformer.model import Transformer
from istar.video_tokenizer.config import VideoTokenizerConfig
from istar.video_tokenizer.model import VideoTokenizer

MEBIBYTE = 1 << 20


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home of one's own, an empty PATH, no settings."""
    for name in list(os.environ):
        if name.startswith(("HF_", "HUGGING", "XDG_", "CUDA_", "TRANSFORMERS_")) or (
            name.lower().endswith("_proxy")
        ):
            monkeypatch.delenv(name)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def nvidia_smi(tmp_path: Path, body: str) -> None:
    script = tmp_path / "bin" / "nvidia-smi"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)


# Graphics cards


def test_cards_are_read_in_bytes(tmp_path: Path) -> None:
    line = "NVIDIA H200, 143771, 143134, 570.86.15"
    shared = "NVIDIA GB10, [N/A], [Not Supported], 580.1"
    asks = "--query-gpu=name,memory.total,memory.free,driver_version --format=csv,noheader,nounits"
    nvidia_smi(tmp_path, f'[ "$*" = "{asks}" ] && echo "{line}" && echo "{shared}"')
    gpus = read_gpus()
    assert gpus.problem is None
    assert gpus.found[0] == Gpu(
        index=0,
        name="NVIDIA H200",
        total_bytes=143771 * MEBIBYTE,
        free_bytes=143134 * MEBIBYTE,
        driver="570.86.15",
    )
    assert (gpus.found[1].index, gpus.found[1].free_bytes) == (1, None)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("echo 'NVIDIA-SMI has failed: no driver'; exit 9", "exit code 9: NVIDIA-SMI has failed"),
        ("echo usage: something else", "makes no sense: usage: something else"),
        ("echo H200, lots, 3, 570", "makes no sense: H200, lots, 3, 570"),
        (r"printf '\377\376,\000'", "makes no sense"),
        ("kill -SEGV $$", "exit code -11"),
    ],
)
def test_a_driver_that_fails_is_no_card_but_a_problem(tmp_path: Path, body: str, said: str) -> None:
    nvidia_smi(tmp_path, body)
    gpus = read_gpus()
    assert gpus.found == ()
    assert gpus.installed
    assert said in str(gpus.problem)


def test_a_driver_that_hangs_is_given_up(tmp_path: Path) -> None:
    # The child keeps the pipe open after the script is gone.
    nvidia_smi(tmp_path, "/bin/sleep 30 & wait")
    start = time.monotonic()
    gpus = read_gpus(seconds=0.2)
    assert time.monotonic() - start < 15
    assert "no answer within 0.2 s" in str(gpus.problem)


def test_no_driver_and_no_cards_are_no_problem(tmp_path: Path) -> None:
    gpus = read_gpus()
    assert (gpus.found, gpus.installed, gpus.problem) == ((), False, None)
    nvidia_smi(tmp_path, "echo No devices were found; exit 6")
    gpus = read_gpus()
    assert (gpus.found, gpus.installed, gpus.problem) == ((), True, None)
    script = tmp_path / "bin" / "nvidia-smi"
    script.write_bytes(b"\x7fELF for another machine")
    assert "cannot be run" in str(read_gpus().problem)


@pytest.mark.parametrize(
    ("visible", "hidden"), [(None, False), ("", True), ("-1", True), ("1,0", False), ("-1,0", True)]
)
def test_hidden_cards(visible: str | None, hidden: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert read_gpus().all_hidden is hidden


def test_what_torch_tells_of_its_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up = {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "mem_get_info": lambda i: (10 + i, 20 + i),
        "device": lambda i: nullcontext(),
        "is_bf16_supported": lambda including_emulation: False,
        "get_device_name": lambda i: f"card {i}",
        "get_device_capability": lambda i: (7, 5 + i),
    }
    for name, function in made_up.items():
        monkeypatch.setattr(torch.cuda, name, function)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    cuda = read_cuda()
    assert (cuda.available, cuda.cudnn, cuda.problem) == (True, 91002, None)
    assert cuda.devices[1] == CudaDevice(
        index=1, name="card 1", capability="7.6", bf16=False, total_bytes=21, free_bytes=11
    )

    def fails(index: int) -> tuple[int, int]:
        raise RuntimeError("CUDA error: out of memory\nand more")

    monkeypatch.setattr(torch.cuda, "mem_get_info", fails)
    assert read_cuda().problem == "RuntimeError: CUDA error: out of memory and more"


def test_a_driver_too_old_for_torch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    def is_available() -> bool:
        warnings.warn("CUDA initialization: the driver is too old", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    cuda = read_cuda()
    assert cuda == Cuda(
        available=False,
        cudnn=None,
        devices=(),
        problem="CUDA initialization: the driver is too old",
    )


@pytest.mark.gpu
def test_a_real_device() -> None:
    (device, *_) = read_cuda().devices
    assert device.name == torch.cuda.get_device_name(0)
    assert 0 < device.free_bytes <= device.total_bytes


# Processor and memory


def test_memory_is_read_from_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    monkeypatch.setattr("istar.doctor.machine._MEMINFO", meminfo)
    monkeypatch.setattr("istar.doctor.machine._CGROUP_LIMIT", limit)
    meminfo.write_text("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:  600 kB\n")
    host = read_host()
    assert (host.total_bytes, host.available_bytes) == (1_024_000, 614_400)
    assert host.cores
    limit.write_text("max\n")
    assert read_host() == host
    limit.write_text("700000\n")
    assert (read_host().total_bytes, read_host().available_bytes) == (700_000, 614_400)
    limit.unlink()
    meminfo.write_text("nothing of the kind")
    assert read_host().total_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.delattr(os, "sysconf")
    assert read_host() == Host(cores=host.cores, total_bytes=None, available_bytes=None)


# Software


def test_versions_are_those_installed() -> None:
    import av
    import transformers

    software = read_software()
    assert software.torch == torch.__version__
    assert software.transformers == transformers.__version__
    assert software.av == av.__version__
    built = {"cuda": torch.version.cuda, "rocm": torch.version.hip}
    kind = next((name for name, version in built.items() if version), "cpu")
    assert (software.torch_build, software.torch_build_version) == (kind, built.get(kind))


@pytest.mark.parametrize(
    ("text", "version", "build"),
    [
        ("cuda: Optional[str] = '12.8'\nhip: Optional[str] = None", "2.9.0", ("cuda", "12.8")),
        ("cuda = None\nhip = '6.4.1'", "2.9.0+rocm6.4", ("rocm", "6.4.1")),
        ("cuda: Optional[str] = None\nraise SystemExit", "2.9.0", ("cpu", None)),
        (None, "2.9.0+cpu", ("cpu", None)),
        (None, "2.9.0+cu128", ("cuda", None)),
        ("not python (", "2.9.0", ("unknown", None)),
        (None, "2.9.0", ("unknown", None)),
    ],
)
def test_what_torch_was_built_for_is_read_without_running_it(
    text: str | None,
    version: str,
    build: tuple[str, str | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('torch was imported')")
    if text is not None:
        (package / "version.py").write_text(text)
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("istar.doctor.software._version", lambda package: version)
    software = read_software()
    assert (software.torch_build, software.torch_build_version) == build


def test_codecs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_codecs() == Codecs(importable=True, encoder=True, decoder=True, problem=None)
    monkeypatch.setattr("istar.doctor.software._ENCODER", "no such encoder")
    # An encoder of the name is no decoder.
    monkeypatch.setattr("istar.doctor.software._DECODER", "libx264")
    assert read_codecs() == Codecs(importable=True, encoder=False, decoder=False, problem=None)
    monkeypatch.delitem(sys.modules, "av")
    (tmp_path / "av.py").write_text("raise OSError('libavcodec.so.61: wrong ELF class')")
    monkeypatch.syspath_prepend(tmp_path)
    codecs = read_codecs()
    assert not codecs.importable
    assert codecs.problem == "OSError: libavcodec.so.61: wrong ELF class"


# The Hub


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"XDG_CACHE_HOME": "/somewhere"},
        {"HF_HOME": "~/hf"},
        {"HF_HOME": "$PLACE/hf", "HF_HUB_CACHE": "${PLACE}/cache", "XDG_CACHE_HOME": "/x"},
        {"HF_HUB_CACHE": "relative", "HF_TOKEN_PATH": "~/token"},
        {"HF_ENDPOINT": "http://mirror.example/", "HF_HUB_OFFLINE": "yes", "HF_HOME": ""},
    ],
)
def test_settings_are_read_as_the_client_reads_them(
    settings: dict[str, str], tmp_path: Path
) -> None:
    script = (
        "from pathlib import Path; from istar.doctor import hub; import sys;"
        "assert 'huggingface_hub' not in sys.modules;"
        "from huggingface_hub import constants as c;"
        "assert hub._cache_path()[0] == Path(c.HF_HUB_CACHE).absolute(), hub._cache_path();"
        "place = Path(c.HF_TOKEN_PATH); place.parent.mkdir(parents=True, exist_ok=True);"
        "place.write_text('x'); found = hub.read_token();"
        "assert found.source == str(place.absolute()), found;"
        "asked = hub.ask_hub('a/b', 'main', ask=False);"
        "assert asked.endpoint == c.ENDPOINT;"
        "assert (asked.state == 'offline') == c.HF_HUB_OFFLINE"
    )
    environment = {**os.environ, "PLACE": str(tmp_path / "place"), **settings}
    subprocess.run([sys.executable, "-c", script], env=environment, cwd=tmp_path, check=True)


def test_the_cache_and_what_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(place))
    cache = read_cache([REPO])
    assert (cache.path, cache.setting, cache.exists) == (place, "HF_HUB_CACHE", False)
    assert (cache.state, cache.problem, cache.model_bytes) == ("writable", None, 0)
    assert cache.free_bytes
    assert not place.exists()
    blobs = place / "models--someone--model" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "a").write_bytes(b"12345")
    (blobs / "b.part").write_bytes(b"123")
    other = place / "models--someone--other" / "blobs"
    other.mkdir(parents=True)
    (other / "c").write_bytes(b"1")
    cache = read_cache([REPO, REPO])
    assert (cache.exists, cache.model_bytes) == (True, 8)


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_cache_that_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "file" / below))
    cache = read_cache([REPO])
    assert cache.state == "unusable"
    assert "file is not a directory" in str(cache.problem)


def test_other_caches_that_do_not_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "link"))
    cache = read_cache([REPO])
    assert cache.state == "unusable"
    assert "a link to nowhere" in str(cache.problem)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "closed" / "hub"))
    monkeypatch.setattr(os, "access", lambda place, mode: mode != os.W_OK)
    cache = read_cache([REPO])
    assert cache.state == "read-only"
    assert "cannot be written" in str(cache.problem)


def test_where_the_token_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    none = Token(present=False, source=None, problem=None)
    assert read_token() == none
    monkeypatch.setenv("HF_TOKEN", " \n")
    assert read_token() == none
    file = tmp_path / ".cache" / "huggingface" / "token"
    file.parent.mkdir(parents=True)
    file.write_text(f"{TOKEN}\n")
    assert read_token() == Token(present=True, source=str(file), problem=None)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert read_token() == Token(present=True, source="HF_TOKEN", problem=None)
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}\x07")
    assert read_token().problem == "the token holds characters that none has"
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path))
    found = read_token()
    assert not found.present
    assert "cannot be read: Is a directory" in str(found.problem)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub({COMMIT: {}}, {"main": COMMIT})) as server:
        yield server


def ask(monkeypatch: pytest.MonkeyPatch, endpoint: str, seconds: float = 3.0) -> HubFacts:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    return ask_hub(REPO, COMMIT, seconds=seconds)


def test_the_hub_answers_one_question_without_the_token(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert ask(monkeypatch, f"{hub.address}/").state == "reached"
    (request,) = hub.log
    assert request.path == f"/api/models/{REPO}/revision/{COMMIT}"
    assert request.authorization is None
    assert ask_hub(REPO, COMMIT, ask=False).state == "not asked"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert ask_hub(REPO, COMMIT).state == "offline"
    assert len(hub.log) == 1


@pytest.mark.parametrize(
    ("status", "said", "advice"),
    [(500, "error 500", "wait"), (429, "error 429", "wait"), (404, "error 404", "HF_ENDPOINT")],
)
def test_what_the_hub_refuses(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, status: int, said: str, advice: str
) -> None:
    hub.faults.status = {"api": (status, None)}
    found = ask(monkeypatch, hub.address)
    assert found.state == "failed"
    assert said in str(found.problem)
    assert advice in str(found.advice)


def test_a_certificate_nobody_knows(monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    # A server without TLS is spoken to with it, and a certificate is refused.
    found = ask(monkeypatch, hub.address.replace("http://", "https://"))
    assert "secure connection" in str(found.problem)

    def refuse(*_: object, **__: object) -> None:
        raise ssl.SSLCertVerificationError("self-signed")

    monkeypatch.setattr("http.client.HTTPConnection.connect", refuse)
    found = ask(monkeypatch, hub.address)
    assert "certificate" in str(found.problem)
    assert "SSL_CERT_FILE" in str(found.advice)


def unknown_name(*_: object, **__: object) -> None:
    raise socket.gaierror(-2, "Name or service not known")


def test_nobody_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert "refuses" in str(ask(monkeypatch, f"http://127.0.0.1:{port}").problem)
    monkeypatch.setattr(socket, "getaddrinfo", unknown_name)
    assert "(DNS)" in str(ask(monkeypatch, "http://nobody.invalid").problem)


def test_silence_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        start = time.monotonic()
        found = ask(monkeypatch, address, seconds=0.2)
        assert time.monotonic() - start < 15
        assert "no answer within 0.2 s" in str(found.problem)
    found_at_last = Event()

    def slow_search(*_: object, **__: object) -> None:
        found_at_last.wait(30)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", slow_search)
    start = time.monotonic()
    assert "no answer within 0.1 s" in str(ask(monkeypatch, address, seconds=0.1).problem)
    assert time.monotonic() - start < 15
    found_at_last.set()


def test_something_else_answers(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        answers = [
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"",
            b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n",
        ]

        def serve() -> None:
            for answer in answers:
                connection, _ = server.accept()
                with connection:
                    connection.recv(10_000)
                    connection.sendall(answer)

        from threading import Thread

        thread = Thread(target=serve)
        thread.start()
        said = [str(ask(monkeypatch, address).problem) for _ in answers]
        thread.join()
    assert "not answer as a web server" in said[0]
    assert "breaks off" in said[1]
    assert "page for people" in said[2]


@pytest.mark.parametrize(
    "endpoint",
    ["mirror.example", "file:///etc/passwd", "http://", "", "http://[", "me:secret@host"],
)
def test_an_address_that_is_none_is_not_asked(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ask(monkeypatch, endpoint)
    assert found.state == "failed"
    assert "no web address" in str(found.problem)
    assert "https://" in str(found.advice)
    assert "secret" not in repr(found)


def test_a_password_in_the_address_is_used_and_not_told(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = hub.address.replace("://", "://me:secr%65t@")
    found = ask(monkeypatch, endpoint)
    assert (found.state, found.endpoint) == ("reached", hub.address)
    assert hub.log[0].authorization == f"Basic {b64encode(b'me:secret').decode()}"
    monkeypatch.setattr(socket, "getaddrinfo", unknown_name)
    for endpoint in (
        "http://me:secret@nobody.invalid/hub",
        "http://me:se#secret?x@nobody.invalid/hub?token=secret",
    ):
        found = ask(monkeypatch, endpoint)
        assert "secret" not in repr(found)
        assert found.endpoint == "http://nobody.invalid/hub"


# What models need


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_of_the_transformer(small_config: TransformerConfig) -> None:
    for config in (
        TransformerConfig(),
        small_config,
        replace(small_config, latent_channels=32, semantic_bits=8, head_size=16),
    ):
        module = on_meta(lambda config=config: Transformer(config))  # type: ignore[misc]
        assert transformer_parameters(config) == parameters(module)
    assert transformer_parameters(TransformerConfig()) == pytest.approx(8.768e9, rel=1e-4)


def test_parameters_of_the_tokenizer() -> None:
    for config in (
        VideoTokenizerConfig(),
        VideoTokenizerConfig(channels=(8, 8, 16, 16, 16), bottleneck_channels=4),
        VideoTokenizerConfig(channels=(4, 8, 16, 32, 32)),
    ):
        module = on_meta(lambda config=config: VideoTokenizer(config))  # type: ignore[misc]
        assert tokenizer_parameters(config) == parameters(module)


SMALL_T5 = TextEncoderSizes(
    width=12, mlp_width=20, depth=3, heads=2, head_size=5, vocabulary=50, distances=8
)


def t5(sizes: TextEncoderSizes) -> torch.nn.Module:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=sizes.vocabulary,
        d_model=sizes.width,
        d_kv=sizes.head_size,
        d_ff=sizes.mlp_width,
        num_layers=sizes.depth,
        num_heads=sizes.heads,
        relative_attention_num_buckets=sizes.distances,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config)


def test_parameters_of_the_text_encoder() -> None:
    for sizes in (TextEncoderSizes(), SMALL_T5):
        module = on_meta(lambda sizes=sizes: t5(sizes))  # type: ignore[misc]
        assert text_encoder_parameters(sizes) == parameters(module)


def test_bytes_are_those_of_the_dtypes_that_are_loaded(
    small_config: TransformerConfig, tmp_path: Path
) -> None:
    from transformers import T5EncoderModel

    tokenizer_config = VideoTokenizerConfig(channels=(8, 8, 16, 16, 16))
    tokenizer = on_meta(lambda: VideoTokenizer(tokenizer_config))
    t5(SMALL_T5).save_pretrained(tmp_path)  # type: ignore[operator]
    text_encoder = T5EncoderModel.from_pretrained(tmp_path, dtype=torch.float16)
    transformer = on_meta(lambda: Transformer(small_config))
    on_gpu = (
        sum(
            parameter.numel() * transformer_dtype(name, torch.bfloat16).itemsize
            for name, parameter in transformer.named_parameters()
        )
        + 4 * parameters(tokenizer)
        + sum(p.numel() * p.dtype.itemsize for p in text_encoder.parameters())
    )
    assert weight_bytes_on_gpu(small_config, tokenizer_config, SMALL_T5) == on_gpu
    everything = parameters(transformer) + parameters(tokenizer) + parameters(text_encoder)
    assert weight_bytes_on_cpu(small_config, tokenizer_config, SMALL_T5) == 4 * everything


@pytest.mark.parametrize(
    ("free", "fits"),
    [
        ([], "none"),
        ([9], "no"),
        ([9, 10], "yes"),
        ([None, 10], "yes"),
        ([9, None], "unknown"),
    ],
)
def test_what_fits(free: list[int | None], fits: str) -> None:
    assert fit(10, free) == fits


# What is wrong

SOFTWARE = Software(
    istar="0",
    python="3",
    executable="python",
    platform="Linux",
    torch="2.9.0",
    torch_build="cuda",
    torch_build_version="12.8",
    transformers="5",
    huggingface_hub="2",
    av="18",
)
CODECS = Codecs(importable=True, encoder=True, decoder=True, problem=None)
H200 = Gpu(index=0, name="H200", total_bytes=150 * 10**9, free_bytes=140 * 10**9, driver="570")
GPUS = Gpus(found=(H200,), visible=None, installed=True, problem=None)
NO_GPUS = replace(GPUS, found=(), installed=False)
DEVICE = CudaDevice(
    index=0, name="H200", capability="9.0", bf16=True, total_bytes=150 * 10**9, free_bytes=10**11
)
CUDA = Cuda(available=True, cudnn=9, devices=(DEVICE,), problem=None)
HOST = Host(cores=8, total_bytes=64 * 10**9, available_bytes=60 * 10**9)
SMALL_HOST = replace(HOST, available_bytes=16 * 10**9)
CACHE = Cache(
    path=Path("/cache"),
    setting=None,
    exists=True,
    state="writable",
    problem=None,
    free_bytes=10**12,
    model_bytes=0,
)
HUB = HubFacts(endpoint="https://hub", state="reached")
TOKENS = Token(present=False, source=None, problem=None)


def report(
    *,
    software: Software = SOFTWARE,
    codecs: Codecs = CODECS,
    gpus: Gpus = GPUS,
    cuda: Cuda | None = None,
    host: Host = HOST,
    cache: Cache = CACHE,
    hub: HubFacts = HUB,
    token: Token = TOKENS,
    here: bool = False,
) -> Report:
    models: list[ModelNeeds] = [
        needs_of(
            spec,
            0 if here and spec.name == "480p" else 47 * 10**9,
            gpu_free=usable_gpu_memory(software, gpus, cuda),
            host_free=host.available_bytes,
            disk_free=cache.free_bytes,
        )
        for spec in RELEASED_MODELS
    ]
    return diagnosed(
        software=software,
        codecs=codecs,
        gpus=gpus,
        cuda=cuda,
        host=host,
        cache=cache,
        hub=hub,
        token=token,
        models=models,
    )


HEALTHY = {
    "a large GPU": report(),
    "and torch asked": report(cuda=CUDA),
    "a GPU of unknown memory": report(gpus=replace(GPUS, found=(replace(H200, free_bytes=None),))),
    "an AMD GPU": report(software=replace(SOFTWARE, torch_build="rocm"), gpus=NO_GPUS),
    "offline with a model": report(hub=replace(HUB, state="offline"), here=True),
    "offline by choice": report(hub=replace(HUB, state="not asked")),
    "a full disk with a model": report(cache=replace(CACHE, free_bytes=0), here=True),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_wrong(name: str) -> None:
    assert HEALTHY[name].problems == ()
    assert HEALTHY[name].can_generate


FAILED = replace(HUB, state="failed", problem="https://hub fails", advice="wait")
READ_ONLY = replace(CACHE, state="read-only", problem="the cache cannot be written")
SLOW = {
    "no GPU": (report(gpus=NO_GPUS), "very slowly", "--res 480p"),
    "a small GPU": (
        report(gpus=replace(GPUS, found=(replace(H200, free_bytes=8 * 10**9),))),
        "the GPU has 8.0 GB free",
        "--device cpu",
    ),
    "torch for the CPU": (
        report(software=replace(SOFTWARE, torch="2.9.0+cpu", torch_build="cpu")),
        "there is H200, but torch 2.9.0+cpu is built for the CPU",
        "pip install --force-reinstall torch",
    ),
    "a first GPU that is small": (
        report(gpus=replace(GPUS, found=(replace(H200, free_bytes=8 * 10**9), H200))),
        "the first GPU has 8.0 GB free",
        "--device cuda:1",
    ),
    "hidden cards": (report(gpus=replace(GPUS, visible="")), "hides it", "unset CUDA_VISIBLE"),
    "a driver that hangs": (
        report(gpus=replace(GPUS, found=(), problem="nvidia-smi gave no answer")),
        "no answer",
        "doctor --gpu",
    ),
    "a driver too old": (
        report(cuda=replace(CUDA, available=False, devices=(), problem="too old")),
        "torch cannot use CUDA: too old",
        "update the driver",
    ),
    "a card torch does not see": (
        report(cuda=replace(CUDA, available=False, devices=())),
        "torch does not see it",
        "update the driver",
    ),
    "no bf16": (
        report(cuda=replace(CUDA, devices=(replace(DEVICE, bf16=False),))),
        "no bf16",
        "--dtype fp32",
    ),
    "no decoder": (report(codecs=replace(CODECS, decoder=False)), "decoder", "pip install"),
    "no Hub, but a model": (report(hub=FAILED, here=True), "https://hub fails", "wait"),
    "a read-only cache with a model": (
        report(cache=READ_ONLY, here=True),
        "cannot be written",
        "HF_HUB_CACHE",
    ),
}


@pytest.mark.parametrize("name", SLOW)
def test_what_is_wrong_but_does_not_prevent(name: str) -> None:
    found, said, advice = SLOW[name]
    assert found.can_generate, found.problems
    assert any(said in p.text and advice in p.advice for p in found.problems), found.problems


PREVENTED = {
    "no torch": (report(software=replace(SOFTWARE, torch=None, torch_build=None)), "torch", "pip"),
    "no transformers": (report(software=replace(SOFTWARE, transformers=None)), "transf", "pip"),
    "no encoder": (report(codecs=replace(CODECS, encoder=False)), "no encoder", "pip install"),
    "PyAV broken": (
        report(codecs=Codecs(importable=False, encoder=False, decoder=False, problem="ELF")),
        "imported: ELF",
        "pip install",
    ),
    "no room anywhere": (
        report(gpus=NO_GPUS, host=SMALL_HOST),
        "no released model fits: the weights alone take 21.2 GB",
        "more memory",
    ),
    "room on a card that torch cannot use": (
        report(gpus=replace(GPUS, visible="-1"), host=SMALL_HOST),
        "no released model fits",
        "let torch use the GPU",
    ),
    "a cache that is a file": (
        report(cache=replace(CACHE, state="unusable", problem="not a directory"), here=True),
        "not a directory",
        "HF_HUB_CACHE",
    ),
    "a read-only cache": (report(cache=READ_ONLY), "cannot be written", "HF_HUB_CACHE"),
    "a full disk": (
        report(cache=replace(CACHE, free_bytes=10**9)),
        "1.0 GB free, and 47.0 GB",
        "larger disk",
    ),
    "no Hub": (report(hub=FAILED), "https://hub fails", "wait"),
    "offline": (report(hub=replace(HUB, state="offline")), "HF_HUB_OFFLINE", "unset HF_HUB_OFF"),
    "a broken token": (report(token=replace(TOKENS, problem="odd")), "odd", "hf auth login"),
}


@pytest.mark.parametrize("name", PREVENTED)
def test_what_prevents_comes_first(name: str) -> None:
    found, said, advice = PREVENTED[name]
    assert not found.can_generate
    first = found.problems[0]
    assert said in first.text
    assert advice in first.advice
    assert first.prevents_generating
