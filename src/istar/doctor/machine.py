"""The machine: graphics cards, processor, memory."""

from __future__ import annotations

import os
import subprocess
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SMI_SECONDS = 5.0

_SMI = (
    "nvidia-smi",
    "--query-gpu=name,memory.total,memory.free,driver_version",
    "--format=csv,noheader,nounits",
)
_NO_CARDS = "No devices were found"
_MEBIBYTE = 1 << 20
_MEMINFO = Path("/proc/meminfo")
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_LONGEST_REASON = 200


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A graphics card as its driver sees it.

    Attributes:
        index: the driver's number of it; CUDA may count in another order.
        name: the maker's.
        total_bytes: of its memory; None where the driver does not tell, as on chips that share
            the host's memory.
        free_bytes: likewise.
        driver: the driver's version.
    """

    index: int
    name: str
    total_bytes: int | None
    free_bytes: int | None
    driver: str


@dataclass(frozen=True, kw_only=True)
class Gpus:
    """What nvidia-smi tells.

    Attributes:
        found: the cards.
        visible: CUDA_VISIBLE_DEVICES, which hides cards from torch; None if it is not set.
        installed: there is an nvidia-smi.
        problem: why it told nothing, though it is there.
    """

    found: tuple[Gpu, ...]
    visible: str | None
    installed: bool
    problem: str | None

    @property
    def all_hidden(self) -> bool:
        """CUDA_VISIBLE_DEVICES hides every card: it is empty, or begins with -1."""
        return self.visible is not None and self.visible.split(",")[0].strip() in ("", "-1")


@dataclass(frozen=True, kw_only=True)
class CudaDevice:
    """A device as torch sees it.

    Attributes:
        index: N of `--device cuda:N`.
        name: the maker's.
        capability: of its arithmetic, such as `9.0`.
        bf16: it computes bf16 in hardware.
        total_bytes: of its memory.
        free_bytes: likewise.
    """

    index: int
    name: str
    capability: str
    bf16: bool
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, kw_only=True)
class Cuda:
    """What torch tells of CUDA.

    Attributes:
        available: torch can compute on a device.
        cudnn: version of cuDNN, as torch's number.
        devices: all of them.
        problem: what went wrong on the way.
    """

    available: bool
    cudnn: int | None
    devices: tuple[CudaDevice, ...]
    problem: str | None


@dataclass(frozen=True, kw_only=True)
class Host:
    """Processor and memory; None where the system does not tell.

    Attributes:
        cores: that this process may use.
        total_bytes: of memory, or of what the container may use of it.
        available_bytes: of it, without swapping.
    """

    cores: int | None
    total_bytes: int | None
    available_bytes: int | None


def read_gpus(*, seconds: float = SMI_SECONDS) -> Gpus:
    """Ask nvidia-smi, which tells of cards without torch.

    Args:
        seconds: how long it may take; with a driver that hangs it never answers.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        text = _run(_SMI, seconds)
        return Gpus(found=_parsed(text), visible=visible, installed=True, problem=None)
    except FileNotFoundError:
        return Gpus(found=(), visible=visible, installed=False, problem=None)
    except (OSError, ValueError) as error:
        system = getattr(error, "strerror", None)
        reason = f"cannot be run: {system}" if system else str(error)
        return Gpus(found=(), visible=visible, installed=True, problem=f"nvidia-smi {reason}")


def _run(command: tuple[str, ...], seconds: float) -> str:
    """What a command prints.

    Raises:
        OSError: it cannot be started, fails, or takes too long.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    try:
        text = process.communicate(timeout=seconds)[0].decode("utf-8", "replace")
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"gave no answer within {seconds:g} s") from error
    finally:
        process.stdout.close()
        if process.poll() is None:
            process.kill()
            # Inside a driver that hangs not even a kill ends it, so it is not waited for.
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1)
    if process.returncode and not text.startswith(_NO_CARDS):
        raise OSError(f"failed with exit code {process.returncode}: {_shortened(text)}")
    return text


def _parsed(text: str) -> tuple[Gpu, ...]:
    """The cards of nvidia-smi's lines of name, total and free MiB, and driver.

    Raises:
        ValueError: it is something else.
    """
    gpus = []
    for index, line in enumerate(filter(None, map(str.strip, text.splitlines()))):
        if line.startswith(_NO_CARDS):
            return ()
        try:
            name, total, free, driver = (part.strip() for part in line.rsplit(",", 3))
            gpu = Gpu(
                index=index,
                name=name,
                total_bytes=_bytes(total),
                free_bytes=_bytes(free),
                driver=driver,
            )
        except ValueError as error:
            raise ValueError(f"answers what makes no sense: {_shortened(line)}") from error
        gpus.append(gpu)
    return tuple(gpus)


def _bytes(mebibytes: str) -> int | None:
    """Bytes of a number of MiB; None of `[N/A]` and the like."""
    return None if mebibytes.startswith("[") else int(mebibytes) * _MEBIBYTE


def _shortened(text: str) -> str:
    return " ".join(text.split())[:_LONGEST_REASON] or "it says nothing"


def read_cuda() -> Cuda:
    """Ask torch, which is imported for it, and which takes some of each device's memory."""
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            import torch

            available = torch.cuda.is_available()
            devices = tuple(_device(i) for i in range(torch.cuda.device_count() * available))
            cudnn = torch.backends.cudnn.version() if available else None
    except Exception as error:
        # Libraries that are missing or do not fit the driver raise anything.
        reason = _shortened(f"{type(error).__name__}: {error}")
        return Cuda(available=False, cudnn=None, devices=(), problem=reason)
    reasons = [_shortened(str(warning.message)) for warning in told if not available]
    problem = reasons[0] if reasons else None
    return Cuda(available=available, cudnn=cudnn, devices=devices, problem=problem)


def _device(index: int) -> CudaDevice:
    import torch

    free, total = torch.cuda.mem_get_info(index)
    with torch.cuda.device(index):
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return CudaDevice(
        index=index,
        name=torch.cuda.get_device_name(index),
        capability="{}.{}".format(*torch.cuda.get_device_capability(index)),
        bf16=bf16,
        total_bytes=total,
        free_bytes=free,
    )


def read_host() -> Host:
    """Processor and memory, by what the system tells."""
    try:
        cores: int | None = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count()
    total, available = _meminfo() or (_pages("SC_PHYS_PAGES"), _pages("SC_AVPHYS_PAGES"))
    limit = None
    with suppress(OSError, ValueError):
        # "max" where there is no limit.
        limit = int(_CGROUP_LIMIT.read_text(encoding="ascii"))
    return Host(
        cores=cores, total_bytes=_lower(total, limit), available_bytes=_lower(available, limit)
    )


def _meminfo() -> tuple[int, int] | None:
    """Total and available bytes, as Linux tells them."""
    try:
        lines = _MEMINFO.read_text(encoding="utf-8").splitlines()
        sizes = dict(line.split(":", 1) for line in lines)
        total, available = (int(sizes[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
        return total * 1024, available * 1024
    except (OSError, ValueError, LookupError):
        return None


def _pages(name: str) -> int | None:
    try:
        pages = os.sysconf(name)
        return pages * os.sysconf("SC_PAGE_SIZE") if pages > 0 else None
    except (AttributeError, OSError, ValueError):
        return None


def _lower(size: int | None, limit: int | None) -> int | None:
    return size if size is None or limit is None else min(size, limit)
