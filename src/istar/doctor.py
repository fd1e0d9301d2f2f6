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
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from istar import __version__
from istar.byte_size import readable_size
from istar.errors import HubError, Remedy
from istar.files import existing_parent
from istar.host_memory import host_memory
from istar.models.bundled import DIRECTORY, is_bundled
from istar.models.find import ModelFiles, wanted_files
from istar.models.hub import ask_hub
from istar.models.hub_settings import HubSettings, hub_settings
from istar.models.released import RELEASED_MODELS
from istar.models.store import ModelState, known_models, state_of

_NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
_LONGEST_REASON = 200
_BUILD = "torch built for"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is wrong: in a sentence, with what helps outside of istar and within it."""

    text: str
    advice: str = ""
    remedies: tuple[Remedy, ...] = ()
    prevents_generating: bool = False


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU as torch sees it."""

    index: int
    name: str
    capability: str  # such as 9.0
    has_bf16: bool  # in hardware
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, kw_only=True)
class HubReport:
    """Whether the Hub answers, and the cache that models are downloaded into."""

    settings: HubSettings
    state: Literal["reached", "failed", "not asked", "offline"]
    is_writable: bool  # the cache
    free_bytes: int  # of its disk
    model_bytes: int  # istar's models in it


@dataclass(frozen=True, kw_only=True)
class PlanNeeds:
    """What five seconds of video, or a model's clip, take under a memory plan; in bf16 on a GPU."""

    name: str
    device_bytes: int
    host_bytes: int


@dataclass(frozen=True, kw_only=True)
class ModelNeeds:
    """What a model needs, and whether there is room. None where that is not known."""

    name: str
    plans: tuple[PlanNeeds, ...]  # on a GPU
    cpu_bytes: int  # of the smallest on the CPU, in float32
    missing_bytes: int | None  # still to be downloaded
    gpu_plans: tuple[str | None, ...]  # the fastest that fits each GPU that is here
    fits_cpu: bool | None
    fits_disk: bool | None  # what is missing


@dataclass(frozen=True, kw_only=True)
class Report:
    """What there is, and what is wrong, what prevents generating first."""

    software: dict[str, str | None]  # versions; None of what is missing
    codecs: dict[str, bool]  # whether clips can be `written` and `read`
    gpus: tuple[Gpu, ...]  # those that torch can use
    cores: int | None  # that this process may use
    memory_bytes: int | None  # what the container may use of it
    available_bytes: int | None  # of memory, without swapping
    hub: HubReport | None  # None if its client or its cache does not work
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
    has_torch = software[_BUILD] is not None
    codecs = _read_codecs(findings) if has_torch and software["PyAV"] else {}
    gpus = _read_gpus(software, findings) if has_torch else ()
    memory, available = host_memory()
    hub, missing = _read_hub(ask, findings)
    models = tuple(_model_needs(gpus, available, hub, missing)) if has_torch else ()
    if models:
        findings.extend(_memory_findings(models, gpus, available))
    affinity = getattr(os, "sched_getaffinity", None)
    return Report(
        software=software,
        codecs=codecs,
        gpus=gpus,
        cores=len(affinity(0)) if affinity else os.cpu_count(),
        memory_bytes=memory,
        available_bytes=available,
        hub=hub,
        models=models,
        findings=tuple(sorted(findings, key=lambda finding: not finding.prevents_generating)),
    )


def _read_software(findings: list[Finding]) -> dict[str, str | None]:
    found: dict[str, str | None] = {
        "istar": __version__,
        "Python": f"{platform.python_version()}, {sys.executable}",
        "platform": platform.platform(),
        "torch": None,
        _BUILD: None,
    }
    for name in ("torch", "transformers", "huggingface-hub", "PyAV"):
        package = "av" if name == "PyAV" else name
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            found[name] = None
            text, advice = f"{package} is not installed", f"`pip install {package}`"
            findings.append(Finding(text=text, advice=advice, prevents_generating=True))
    if found["torch"] is None:
        return found
    try:
        import torch

        for name, attribute in (("XPU", "xpu"), ("ROCm", "hip"), ("CUDA", "cuda")):
            if built_for := getattr(torch.version, attribute, None):
                found[_BUILD] = f"{name} {built_for}"
        found[_BUILD] = found[_BUILD] or "the CPU"
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
    if card and software[_BUILD] == "the CPU":
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


def _memory_findings(
    models: tuple[ModelNeeds, ...], gpus: tuple[Gpu, ...], available: int | None
) -> list[Finding]:
    """Whether any released model fits, and where."""
    released = models[: len(RELEASED_MODELS)]
    fits = [any(model.gpu_plans[number] for model in released) for number in range(len(gpus))]
    most = max((gpu.free_bytes for gpu in gpus), default=0)
    gpu = f"the GPU has {readable_size(most)} free" if gpus else "torch sees no GPU"
    if fits and fits[0]:
        return []
    if any(fits):
        first, other = (readable_size(room) for room in (gpus[0].free_bytes, most))
        text = f"GPU 0 has {first} free, too little, and another {other}"
        return [Finding(text=text, remedies=("other_gpu",))]
    if any(model.fits_cpu is not False for model in released):
        remedies: tuple[Remedy, ...] = ("cpu",) if gpus else ("lower_resolution", "fewer_seconds")
        return [Finding(text=f"{gpu}, so models run on the CPU, very slowly", remedies=remedies)]
    least = min(released, key=lambda model: model.plans[-1].device_bytes)
    streamed = least.plans[-1]
    text = (
        f"no released model fits: {least.name} takes {readable_size(streamed.device_bytes)} of a "
        f"GPU's memory and {readable_size(streamed.host_bytes)} of the host's, and {gpu}; on the "
        f"CPU it takes {readable_size(least.cpu_bytes)}, and {readable_size(available or 0)} are "
        "available"
    )
    advice = "end other programs, or use a machine with more memory"
    return [Finding(text=text, advice=advice, remedies=("tiny",), prevents_generating=True)]


def _read_hub(ask: bool, findings: list[Finding]) -> tuple[HubReport | None, dict[str, int]]:
    """The Hub, and what is still to be downloaded of each released model."""
    try:
        settings = hub_settings()
        states = [state_of(spec) for spec in RELEASED_MODELS]
    except HubError as error:
        findings.append(_of_error(error, prevents=True))
        return None, {}
    missing = {state.spec.name: _missing_bytes(state) for state in states}
    least = min(missing.values())
    # 1. Room for what is not here.
    there = existing_parent(settings.cache)
    is_writable, free = os.access(there, os.W_OK | os.X_OK), shutil.disk_usage(there).free
    problem = "" if is_writable else f"the Hub's cache {settings.cache} cannot be written"
    if least > free:
        problem = (
            f"the disk of {settings.cache} has {readable_size(free)} free, and "
            f"{readable_size(least)} are to be downloaded"
        )
    if problem:
        advice = "set HF_HUB_CACHE to a directory that can be written, on a disk with room"
        findings.append(Finding(text=problem, advice=advice, prevents_generating=least > 0))
    # 2. The way to it.
    state: Literal["reached", "failed", "not asked", "offline"] = "not asked"
    if settings.is_offline:
        state = "offline"
        if least:
            text, advice = "no model is here, and none may be downloaded", "unset HF_HUB_OFFLINE"
            findings.append(Finding(text=text, advice=advice, prevents_generating=True))
    elif ask:
        try:
            ask_hub(next(iter(wanted_files(RELEASED_MODELS[0]))), settings)
            state = "reached"
        except HubError as error:
            state = "failed"
            findings.append(_of_error(error, prevents=least > 0))
    # 3. What is here; models share some of it.
    parts = {(part.path, part.revision): part for here in states for part in here.parts}
    hub = HubReport(
        settings=settings,
        state=state,
        is_writable=is_writable,
        free_bytes=free,
        model_bytes=sum(part.bytes_here for part in parts.values()),
    )
    return hub, missing


def _missing_bytes(state: ModelState) -> int:
    if state.state == "ready" or state.copies:
        return 0
    expected = state.spec.source.expected_bytes if state.spec.source else 0
    # Something is missing, even where the Hub has less than was expected.
    return max(1, (state.bytes_total or expected) - state.bytes_here)


def _of_error(error: HubError, *, prevents: bool) -> Finding:
    return Finding(text=str(error), remedies=error.remedies, prevents_generating=prevents)


def _model_needs(
    gpus: tuple[Gpu, ...], available: int | None, hub: HubReport | None, missing: dict[str, int]
) -> Iterator[ModelNeeds]:
    import torch

    from istar.memory_plan import Room, memory_plans
    from istar.memory_use import NetworkSizes, Work
    from istar.placement import Placement

    on_gpu = Placement(device=torch.device("cuda", 0), dtype=torch.bfloat16)
    on_cpu = Placement(device=torch.device("cpu"), dtype=torch.float32)
    for spec in known_models():
        files, download = None, missing.get(spec.name)
        if is_bundled(spec):
            files, download = ModelFiles.below(DIRECTORY, spec), 0
        work = Work.usual(spec, "t2v" if "t2v" in spec.modes else spec.modes[0])
        sizes = NetworkSizes.of(files, spec, on_gpu)
        plans = tuple(
            PlanNeeds(name=plan.name, device_bytes=plan.device_bytes, host_bytes=plan.host_bytes)
            for plan in memory_plans(sizes, work, on_gpu)
        )
        slow = memory_plans(NetworkSizes.of(files, spec, on_cpu), work, on_cpu)
        cpu_bytes = min(plan.host_bytes for plan in slow)
        rooms = [Room(gpu.free_bytes, available) for gpu in gpus]
        yield ModelNeeds(
            name=spec.name,
            plans=plans,
            cpu_bytes=cpu_bytes,
            missing_bytes=download,
            gpu_plans=tuple(
                next(
                    (
                        plan.name
                        for plan in memory_plans(sizes, work, on_gpu, room=room.device)
                        if not room.lacking(plan)
                    ),
                    None,
                )
                for room in rooms
            ),
            fits_cpu=_fits(cpu_bytes, available),
            fits_disk=_fits(download, hub.free_bytes if hub else None),
        )


def _fits(needed: int | None, room: int | None) -> bool | None:
    return None if needed is None or room is None else needed <= room


def _reason(error: object) -> str:
    """One line of an error or a warning."""
    return " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
