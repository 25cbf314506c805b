"""One command, measured from outside: wall time, CPU time and peak memory of its whole process tree."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SAMPLING = 0.5
"""Seconds between two looks at the process tree: each costs some milliseconds of the cores that are measured."""

PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")


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


def tree_cpu(root: int) -> float:
    """User and system seconds of a process, of its living descendants, and of those that any of them has waited for."""
    return sum(sum(map(int, fields[11:15])) for _, fields in process_tree(root)) / TICKS


def _tree_bytes(root: int) -> int:
    return sum(int(fields[21]) for _, fields in process_tree(root)) * PAGE


def process_tree(root: int) -> Iterator[tuple[int, list[str]]]:
    """A process and its descendants: their ids, and of ``/proc/PID/stat`` the fields after the name."""
    children: dict[int, list[int]] = {}
    stats: dict[int, list[str]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        stats[int(entry.name)] = fields
        children.setdefault(int(fields[1]), []).append(int(entry.name))
    todo = [root]
    while todo:
        pid = todo.pop()
        if pid in stats:
            yield pid, stats[pid]
        todo += children.get(pid, [])
