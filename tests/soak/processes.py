"""Processes as /proc shows them: whose they are, and what they hold. Linux only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")

GONE = (FileNotFoundError, ProcessLookupError, PermissionError)
"""What reading about a process says that has just ended, or is another user's."""


def pids() -> Iterator[int]:
    return (int(path.name) for path in PROC.glob("[0-9]*"))


def children_of(parent: int) -> list[int]:
    """Processes whose parent is `parent`, zombies among them."""
    return _by_parent().get(parent, [])


def tree_of(root: int) -> list[int]:
    """`root` and all that descends from it, parents first."""
    children, tree = _by_parent(), [root]
    for pid in tree:
        tree += children.get(pid, [])
    return tree


def _by_parent() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for pid in pids():
        with contextlib.suppress(*GONE):
            children.setdefault(int(_fields(pid)[1]), []).append(pid)
    return children


def _fields(pid: int) -> list[str]:
    """Of /proc/…/stat, from the state on: the name before it may hold spaces and brackets."""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def command_of(pid: int) -> str:
    """Its command line; empty if it has gone."""
    with contextlib.suppress(*GONE):
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def marked(mark: str) -> list[int]:
    """Living processes that were started with `mark` in their environment: whoever is their parent by now."""
    found = []
    for pid in pids():
        with contextlib.suppress(*GONE):
            if mark.encode() in (PROC / str(pid) / "environ").read_bytes():  # that of a zombie is empty
                found.append(pid)
    return found


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process holds and has used."""

    resident: int
    """Bytes; pages that are shared count for each process."""
    cpu: float
    """User and system seconds, with those of the children that it has waited for."""
    threads: int
    descriptors: int

    @classmethod
    def of(cls, pid: int) -> Usage:
        """Raises one of `GONE` when the process has ended."""
        fields = _fields(pid)
        descriptors = sum(1 for _ in (PROC / str(pid) / "fd").iterdir())
        return cls(int(fields[21]) * PAGE, sum(map(int, fields[11:15])) / TICKS, int(fields[17]), descriptors)


def usage_of_tree(root: int) -> dict[int, Usage]:
    """Of each process of the tree that is still there."""
    usages = {}
    for pid in tree_of(root):
        with contextlib.suppress(*GONE):
            usages[pid] = Usage.of(pid)
    return usages
