"""How much host memory there is, and how much of it this process may still take."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


class HostMemory(NamedTuple):
    """Bytes; None where the system does not say.

    Attributes:
        total: all there is, or the container's limit.
        available: without swapping, and within the limit; pages that the system can take back, such
            as those of files that were read, count as available.
    """

    total: int | None
    available: int | None


def host_memory() -> HostMemory:
    """The host's memory as this process sees it."""
    total = available = None
    with suppress(AttributeError, OSError, ValueError):
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError):  # only Linux reports what is available
        sizes = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        total, available = (1024 * int(sizes[k].split()[0]) for k in ("MemTotal", "MemAvailable"))
    with suppress(OSError, ValueError):  # "max" where the container has no limit
        limit = int((CGROUP / "memory.max").read_text())
        room = limit - _cgroup_use()
        total, available = total and min(total, limit), available and max(0, min(available, room))
    return HostMemory(total, available)


def _cgroup_use() -> int:
    """What counts against the container's limit and cannot be taken back; 0 if it does not say."""
    with suppress(OSError, ValueError, KeyError):
        use = int((CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return max(0, use - int(stat["inactive_file"]) - int(stat["active_file"]))
    return 0
