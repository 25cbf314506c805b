"""What measured figures depend on."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from penstock.config import available_cores

__all__ = ["machine_facts"]

PACKAGES = ("penstock", "aiohttp", "uvloop", "urllib3", "pillow", "numpy", "pyarrow")


def machine_facts() -> dict[str, str | int]:
    """Cores that may be used, processor, memory, system, Python, whether it has a GIL, versions of the libraries."""
    model = next((value for name, value in _pairs("/proc/cpuinfo") if name == "model name"), platform.processor())
    memory = next((int(value.split()[0]) for name, value in _pairs("/proc/meminfo") if name == "MemTotal"), 0)
    facts: dict[str, str | int] = {
        "cores": available_cores(),
        "processor": model or "unknown",
        "memory_gib": round(memory / 2**20),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "gil": "on" if getattr(sys, "_is_gil_enabled", lambda: True)() else "off",
    }
    return facts | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout that is on the path and not installed
        return "unknown"


def _pairs(path: str) -> list[tuple[str, str]]:
    """The ``name: value`` lines of a file; none where the system has no such file."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
