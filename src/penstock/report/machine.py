"""What measured figures depend on."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from penstock.config import available_cores
from penstock.report.memory import machine_bytes

__all__ = ["machine_facts"]

PACKAGES = ("penstock", "aiohttp", "uvloop", "urllib3", "pillow", "numpy", "pyarrow")


def machine_facts() -> dict[str, str | int]:
    """Cores that may be used, processor, memory, system, Python, whether it has a GIL, versions of the libraries."""
    facts: dict[str, str | int] = {
        "cores": available_cores(),
        "processor": _processor(),
        "memory_gib": round((machine_bytes("MemTotal") or 0) / 2**30),
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


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor()) or "unknown"
