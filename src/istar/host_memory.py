"""How much host memory there is, and how much of it this process may still take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


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
    for group in _cgroups():
        with suppress(OSError, ValueError):  # "max" where there is no limit
            limit = int((group / "memory.max").read_text())
            room = limit - _use(group)
            total = total and min(total, limit)
            available = available and max(0, min(available, room))
    return HostMemory(total, available)


def _cgroups() -> Iterator[Path]:
    """The process's control group and those above it, each of which may have a limit."""
    own = ""
    with suppress(OSError):
        for line in OWN_CGROUP.read_text().splitlines():
            if line.startswith("0::"):
                own = line.removeprefix("0::").strip("/")
    group = CGROUP / own
    yield group
    while group != CGROUP and CGROUP in group.parents:
        group = group.parent
        yield group


def _use(group: Path) -> int:
    """What counts against a group's limit and cannot be taken back; 0 if it does not say."""
    with suppress(OSError, ValueError, KeyError):
        use = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(0, use - int(stat["inactive_file"]) - int(stat["active_file"]))
    return 0
