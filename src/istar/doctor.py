"""What this machine has, what the models need of it, and what is wrong.

Packages are imported where they are asked, so that one that is missing or broken is a finding.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from istar import __version__
from istar.errors import HubError, Remedy
from istar.models.bundled import bundled_bytes, is_bundled
from istar.models.hub_settings import HubSettings, ask_hub, hub_settings
from istar.models.released import RELEASED_MODELS, WEIGHT_BYTES_ON_CPU, WEIGHT_BYTES_ON_GPU
from istar.models.store import known_models, state_of

_NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
_MEMINFO = Path("/proc/meminfo")
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_LONGEST_REASON = 200


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is wrong.

    Attributes:
        text: what, in a sentence.
        advice: what to do about it outside of istar.
        remedies: what to do about it within istar.
        prevents_generating: istar makes nothing until that is done.
    """

    text: str
    advice: str = ""
    remedies: tuple[Remedy, ...] = ()
    prevents_generating: bool = False


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU as torch sees it: its memory in bytes, the capability of its arithmetic as `9.0`."""

    index: int
    name: str
    capability: str
    has_bf16: bool
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, kw_only=True)
class Machine:
    """GPUs that torch can use, cores and memory that this process may use, by what is known."""

    gpus: tuple[Gpu, ...]
    cores: int | None
    total_bytes: int | None
    available_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Hub:
    """The Hub as its client is set up, its cache, and whether it answers.

    Attributes:
        settings: of the client.
        state: it answers; it does not; it was not asked; HF_HUB_OFFLINE forbids asking.
        is_writable: models can be downloaded into the cache.
        free_bytes: of the cache's disk.
        model_bytes: what istar's models take in the cache.
    """

    settings: HubSettings
    state: Literal["reached", "failed", "not asked", "offline"]
    is_writable: bool
    free_bytes: int
    model_bytes: int


@dataclass(frozen=True, kw_only=True)
class ModelNeeds:
    """What a model needs in bytes, and whether that is here; None where it is not known.

    Attributes:
        name: of the model.
        gpu_bytes: weights in a GPU's default dtypes, mostly bf16; generating needs more.
        cpu_bytes: weights in float32; generating needs more.
        missing_bytes: what is still to be downloaded.
        fits_gpu: the weights fit the free memory of one GPU; None without a GPU.
        fits_cpu: the weights fit the memory that is available.
        fits_disk: what is to be downloaded fits the disk.
    """

    name: str
    gpu_bytes: int
    cpu_bytes: int
    missing_bytes: int | None
    fits_gpu: bool | None
    fits_cpu: bool | None
    fits_disk: bool | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """What there is, and what is wrong with it.

    Attributes:
        software: versions, and what torch was built for; None for what is missing or broken.
        codecs: whether clips can be `written` and `read`; empty if that cannot be asked.
        machine: GPUs, processor and memory.
        hub: None if its client does not start.
        models: what each needs.
        findings: what is wrong, what prevents generating first.
    """

    software: dict[str, str | None]
    codecs: dict[str, bool]
    machine: Machine
    hub: Hub | None
    models: tuple[ModelNeeds, ...]
    findings: tuple[Finding, ...]

    @property
    def can_generate(self) -> bool:
        """Nothing that was found prevents generating with a released model; it may be slow."""
        return not any(finding.prevents_generating for finding in self.findings)


def examine(*, ask: bool = True) -> Report:
    """Look at everything that decides whether istar runs here; nothing is changed.

    Args:
        ask: send the Hub a request, a single one.
    """
    findings: list[Finding] = []
    software = _read_software(findings)
    has_torch = software["torch_build"] is not None
    codecs = _read_codecs(findings) if has_torch else {}
    machine = _read_machine(_read_gpus(software, findings) if has_torch else ())
    if has_torch:
        findings.extend(_memory_findings(machine))
    hub, missing = _read_hub(ask, findings)
    return Report(
        software=software,
        codecs=codecs,
        machine=machine,
        hub=hub,
        models=tuple(_model_needs(machine, hub, missing)),
        findings=tuple(sorted(findings, key=lambda finding: not finding.prevents_generating)),
    )


def _read_software(findings: list[Finding]) -> dict[str, str | None]:
    found: dict[str, str | None] = {
        "istar": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
    }
    for package in ("torch", "transformers", "huggingface-hub", "av"):
        found[package] = None
        with suppress(PackageNotFoundError):
            found[package] = version(package)
        if found[package] is None:
            text, advice = f"{package} is not installed", f"`pip install {package}`"
            findings.append(Finding(text=text, advice=advice, prevents_generating=True))
    found["torch_build"] = None
    try:
        import torch

        builds = (("CUDA", torch.version.cuda), ("ROCm", torch.version.hip))
        found["torch_build"] = next((f"{name} {built}" for name, built in builds if built), "CPU")
    except Exception as error:
        # A library that is missing, or does not fit, may raise anything.
        text, advice = f"torch cannot be imported: {_reason(error)}", "install torch again"
        findings.append(Finding(text=text, advice=advice, prevents_generating=True))
    return found


def _read_codecs(findings: list[Finding]) -> dict[str, bool]:
    codecs, reason = {}, "PyAV has no H.264"
    try:
        from istar.media.codecs import has_h264

        codecs = {"written": has_h264("w"), "read": has_h264("r")}
    except Exception as error:
        reason = _reason(error)
    for done in ("written", "read"):
        if not codecs.get(done):
            finding = Finding(
                text=f"clips cannot be {done}: {reason}",
                advice="`pip install --force-reinstall av`, whose wheels bring the codecs",
                prevents_generating=done == "written",
            )
            findings.append(finding)
    return codecs


def _read_machine(gpus: tuple[Gpu, ...]) -> Machine:
    total = available = None
    with suppress(AttributeError, OSError, ValueError):
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError):  # only Linux reports what is available
        sizes = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        total, available = (1024 * int(sizes[k].split()[0]) for k in ("MemTotal", "MemAvailable"))
    with suppress(OSError, ValueError):  # "max" where the container has no limit
        limit = int(_CGROUP_LIMIT.read_text())
        total, available = (size and min(size, limit) for size in (total, available))
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    return Machine(gpus=gpus, cores=cores, total_bytes=total, available_bytes=available)


def _read_gpus(software: dict[str, str | None], findings: list[Finding]) -> tuple[Gpu, ...]:
    import torch

    gpus: tuple[Gpu, ...] = ()
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            count = torch.cuda.device_count() if torch.cuda.is_available() else 0
            gpus = tuple(_gpu(index) for index in range(count))
        failure = _reason(heard[0].message) if heard else ""
    except Exception as error:
        # A driver that does not fit may raise anything.
        failure = _reason(error)
    if not gpus:
        findings.extend(_why_no_gpu(software, failure))
    for gpu in gpus:
        if not gpu.has_bf16:
            text = f"GPU {gpu.index}, {gpu.name}, computes bf16 only slowly"
            findings.append(Finding(text=text, remedies=("fp32",)))
    return gpus


def _gpu(index: int) -> Gpu:
    import torch

    free, total = torch.cuda.mem_get_info(index)
    with torch.cuda.device(index):
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return Gpu(
        index=index,
        name=torch.cuda.get_device_name(index),
        capability="{}.{}".format(*torch.cuda.get_device_capability(index)),
        has_bf16=has_bf16,
        total_bytes=total,
        free_bytes=free,
    )


def _why_no_gpu(software: dict[str, str | None], failure: str) -> list[Finding]:
    """Why torch sees no GPU though one may be there: by what torch said and nvidia-smi says."""
    card, visible = "", os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        done = subprocess.run(
            _NVIDIA_SMI, capture_output=True, check=False, errors="replace", timeout=5
        )
        card = done.stdout.partition("\n")[0]
        if done.returncode:
            card, failure = "", failure or f"nvidia-smi says {_reason(done.stdout)}"
    except FileNotFoundError:
        pass
    except (OSError, subprocess.SubprocessError) as error:
        failure = failure or f"nvidia-smi fails: {_reason(error)}"
    advice = "update the NVIDIA driver, or install another build of torch"
    if card and software["torch_build"] == "CPU":
        text = f"torch {software['torch']} is built for the CPU and does not use the GPU: {card}"
        advice = "install torch for CUDA as https://pytorch.org/get-started/locally says"
    elif card and visible is not None:
        text = f"CUDA_VISIBLE_DEVICES={visible!r} hides the GPU from torch: {card}"
        advice = "unset CUDA_VISIBLE_DEVICES"
    elif card or failure:
        text = f"torch cannot use the GPU: {failure or card}"
    else:
        return []
    return [Finding(text=text, advice=advice)]


def _memory_findings(machine: Machine) -> list[Finding]:
    rooms = [gpu.free_bytes for gpu in machine.gpus]
    most, available = max(rooms, default=0), machine.available_bytes
    gpu = f"the GPU has {_gigabytes(most)} free" if rooms else "torch sees no GPU"
    if rooms and rooms[0] >= WEIGHT_BYTES_ON_GPU:
        return []
    if most >= WEIGHT_BYTES_ON_GPU:
        text = f"the first GPU has {_gigabytes(rooms[0])} free, too little for any released model"
        return [Finding(text=text, advice=f"set CUDA_VISIBLE_DEVICES={rooms.index(most)}")]
    if available is None or available >= WEIGHT_BYTES_ON_CPU:
        remedies: tuple[Remedy, ...] = ("cpu",) if rooms else ("lower_resolution", "fewer_seconds")
        return [Finding(text=f"{gpu}, so models run on the CPU, very slowly", remedies=remedies)]
    text = (
        f"no released model fits: the weights alone take {_gigabytes(WEIGHT_BYTES_ON_GPU)} of a "
        f"GPU's memory, and {gpu}; on the CPU they take {_gigabytes(WEIGHT_BYTES_ON_CPU)}, and "
        f"{_gigabytes(available)} are available"
    )
    advice = "end other programs, or use a machine with more memory"
    return [Finding(text=text, advice=advice, prevents_generating=True)]


def _read_hub(ask: bool, findings: list[Finding]) -> tuple[Hub | None, dict[str, int]]:
    """The Hub, and what is still to be downloaded of each released model."""
    try:
        settings = hub_settings()
    except HubError as error:
        findings.append(Finding(text=str(error), prevents_generating=True))
        return None, {}
    # 1. The cache, and what is in it.
    path, missing = settings.cache, {}
    there = next(place for place in (path, *path.parents) if os.path.exists(place))
    free, is_writable = shutil.disk_usage(there).free, os.access(there, os.W_OK | os.X_OK)
    problem = "" if is_writable else f"the Hub's cache {path} cannot be written"
    if not there.is_dir():
        is_writable = False
        problem = f"the Hub's cache cannot be {path}, because {there} is not a directory"
    else:
        missing = _missing_bytes()
        if min(missing.values()) > free:
            least = min(missing.values())
            problem = f"{_gigabytes(least)} are to be downloaded to {path}, and {_gigabytes(free)} are free"
    prevents = 0 not in missing.values()
    if problem:
        advice = "set HF_HUB_CACHE to a directory that can be written, on a disk with room"
        findings.append(Finding(text=problem, advice=advice, prevents_generating=prevents))
    # 2. The way to what is not here.
    state: Literal["reached", "failed", "not asked", "offline"] = "not asked"
    if settings.is_offline:
        state = "offline"
        if prevents:
            text = "HF_HUB_OFFLINE forbids downloading a model, and none is here"
            findings.append(
                Finding(text=text, advice="unset HF_HUB_OFFLINE", prevents_generating=True)
            )
    elif ask and (source := RELEASED_MODELS[0].source):
        try:
            ask_hub(source, settings)
            state = "reached"
        except HubError as error:
            state = "failed"
            found = Finding(text=str(error), remedies=error.remedies, prevents_generating=prevents)
            findings.append(found)
    # 3. The space that they take.
    repos = {spec.source.repo for spec in RELEASED_MODELS if spec.source}
    blobs = [path / f"models--{repo.replace('/', '--')}" / "blobs" for repo in repos]
    size = sum(file.stat().st_size for place in blobs for file in place.glob("*"))
    hub = Hub(
        settings=settings, state=state, is_writable=is_writable, free_bytes=free, model_bytes=size
    )
    return hub, missing


def _missing_bytes() -> dict[str, int]:
    missing = {}
    for spec in RELEASED_MODELS:
        state = state_of(spec)
        total = state.bytes_total or (spec.source.expected_bytes if spec.source else 0)
        is_here = state.state == "ready" or bool(state.copies)
        # Something is missing, even where the Hub has less than was expected.
        missing[spec.name] = 0 if is_here else max(1, total - state.bytes_here)
    return missing


def _model_needs(
    machine: Machine, hub: Hub | None, missing: dict[str, int]
) -> Iterator[ModelNeeds]:
    most = max((gpu.free_bytes for gpu in machine.gpus), default=None)
    for spec in known_models():
        on_gpu, on_cpu, download = WEIGHT_BYTES_ON_GPU, WEIGHT_BYTES_ON_CPU, missing.get(spec.name)
        if is_bundled(spec):  # its files are float16, and it is small: float32 everywhere
            on_gpu, on_cpu, download = 2 * bundled_bytes(), 2 * bundled_bytes(), 0
        yield ModelNeeds(
            name=spec.name,
            gpu_bytes=on_gpu,
            cpu_bytes=on_cpu,
            missing_bytes=download,
            fits_gpu=_fits(on_gpu, most),
            fits_cpu=_fits(on_cpu, machine.available_bytes),
            fits_disk=_fits(download, hub.free_bytes if hub else None),
        )


def _fits(needed: int | None, room: int | None) -> bool | None:
    return None if needed is None or room is None else needed <= room


def _reason(error: object) -> str:
    """One line of an error or a warning."""
    return " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
