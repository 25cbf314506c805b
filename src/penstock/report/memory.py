"""How much memory processes hold."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]  # the module is absent there

__all__ = ["machine_bytes", "resident_bytes"]


def machine_bytes(name: Literal["MemTotal", "MemAvailable"]) -> int | None:
    """What the system says of its memory, in bytes; None where it says nothing."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


def resident_bytes(others: Iterable[int] = ()) -> int:
    """Resident memory of this process and of the processes `others`, in bytes; shared pages count for each.

    A process that has gone counts as 0. Where the system has no /proc: the peak of this process and its children.
    """
    if not Path("/proc/self/statm").exists():
        return _peak_by_rusage()
    return sum(_resident(pid) for pid in (os.getpid(), *others))


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as statm:  # noqa: PTH123 - runs five times a second
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _peak_by_rusage() -> int:
    if resource is None:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
