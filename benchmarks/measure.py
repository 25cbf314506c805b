"""One command, measured from outside: wall time, CPU time and peak memory of its whole process tree."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

SAMPLING = 0.5
"""Seconds between two looks at the process tree: each costs some milliseconds of the cores that are measured."""

PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a command took."""

    wall: float
    """Seconds from start to exit."""
    cpu: float
    """User and system seconds of the process and of all its descendants that it waited for."""
    peak_bytes: int
    """Largest sum of resident memory over the tree, sampled; shared pages count for each process."""
    output: str


def measure(command: list[str], variables: dict[str, str] | None = None) -> Measurement:
    """Run it to its end, with these environment variables besides; one that fails is a RuntimeError with what it said."""
    environment = {**os.environ, **(variables or {})}
    clock = time.perf_counter()
    with (
        tempfile.TemporaryFile("w+") as output,
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=output, stderr=errors, env=environment) as process,
    ):
        sampler = _Sampler(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - clock
        process.returncode = os.waitstatus_to_exitcode(status)
        peak = sampler.stop()
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise RuntimeError(f"{command} failed with {process.returncode}: {errors.read()[-2000:]}")
        return Measurement(wall, usage.ru_utime + usage.ru_stime, peak, output.read())


class _Sampler:
    """Looks at a process tree's memory now and then, on a thread of its own."""

    def __init__(self, root: int) -> None:
        self._peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, args=(root,))
        self._thread.start()

    def _look(self, root: int) -> None:
        while not self._ended.wait(SAMPLING):
            self._peak = max(self._peak, _tree_bytes(root))

    def stop(self) -> int:
        """The largest sum that was seen, in bytes."""
        self._ended.set()
        self._thread.join()
        return self._peak


def _tree_bytes(root: int) -> int:
    children: dict[int, list[int]] = {}
    sizes: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            sizes[int(entry.name)] = int((entry / "statm").read_text().split()[1]) * PAGE
        except (OSError, IndexError):
            continue
        children.setdefault(parent, []).append(int(entry.name))
    total, todo = 0, [root]
    while todo:
        pid = todo.pop()
        total += sizes.get(pid, 0)
        todo += children.get(pid, [])
    return total
