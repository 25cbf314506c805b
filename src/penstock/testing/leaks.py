"""What a piece of code leaves behind: threads, descriptors, child processes, shared memory.

::

    with no_leaks():
        code_that_should_clean_up()

Descriptors, processes and shared memory are seen through ``/proc`` and ``/dev/shm``; where these do not exist, only
threads are.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

__all__ = ["LeakError", "Possessions", "no_leaks"]

PROC = Path("/proc")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - we look at what is there and write nothing
POLL = 0.01
"""Seconds between two looks at what is just closing."""


class LeakError(AssertionError):
    """Something was left behind; the message lists it."""


@dataclass(frozen=True, slots=True)
class Possessions:
    """What this process holds at one moment."""

    threads: frozenset[threading.Thread]
    descriptors: frozenset[tuple[int, str]]
    """Number and what it points to: ``(7, "socket:[1234]")``."""
    processes: frozenset[str]
    """Ids of all processes, whoever started them."""
    shared_memory: frozenset[str]
    """All names in ``/dev/shm``, whoever made them."""

    @classmethod
    def now(cls) -> Self:
        """A look at this process."""
        return cls(
            threads=frozenset(threading.enumerate()),
            descriptors=frozenset(_descriptors()),
            processes=frozenset(_processes()),
            shared_memory=frozenset(_names(SHARED_MEMORY)),
        )

    def gained_since(self, before: Possessions) -> list[str]:
        """What is here and was not in `before`, one line for each thing."""
        # Others start processes and put things into /dev/shm too: ours are our children, and what no other has in use.
        children = _children(self.processes - before.processes)
        shared_memory = self.shared_memory - before.shared_memory
        return [
            *(f"thread {thread.name} (daemon={thread.daemon})" for thread in self.threads - before.threads),
            *(f"descriptor {number} -> {target}" for number, target in sorted(self.descriptors - before.descriptors)),
            *(f"child process {pid} ({name})" for pid, name in sorted(children.items())),
            *(f"shared memory {name}" for name in sorted(shared_memory - _in_use_elsewhere(shared_memory))),
        ]


@contextmanager
def no_leaks(patience: float = 5.0) -> Iterator[None]:
    """Check that the block leaves nothing behind; an exception of the block itself comes first.

    Args:
        patience: Seconds for things that are just closing.

    Raises:
        LeakError: Something is still there; the message lists it.
    """
    before = Possessions.now()
    yield
    gained = _settled_gain(before, time.monotonic() + patience)
    if gained:
        raise LeakError("left behind:\n  " + "\n  ".join(gained))


def _settled_gain(before: Possessions, deadline: float) -> list[str]:
    gained = Possessions.now().gained_since(before)
    if gained:
        gc.collect()  # what closes itself with its last reference is no leak (and ResourceWarnings tell of it)
    while gained and time.monotonic() < deadline:
        time.sleep(POLL)
        gained = Possessions.now().gained_since(before)
    return gained


def _names(folder: Path) -> list[str]:
    with suppress(OSError):
        return [path.name for path in folder.iterdir()]
    return []


def _descriptors() -> Iterator[tuple[int, str]]:
    for name in _names(PROC / "self" / "fd"):
        with suppress(OSError):  # the one by which the folder itself was listed is gone
            yield int(name), os.readlink(PROC / "self" / "fd" / name)  # noqa: PTH115 - targets like "pipe:[1]" are no paths


def _processes() -> Iterator[str]:
    return (name for name in _names(PROC) if name.isdecimal())


def _children(processes: Iterable[str]) -> dict[str, str]:
    """Those of the processes that are children of this one, with their names; zombies are children still."""
    me = str(os.getpid())
    children = {}
    for pid in processes:
        with suppress(OSError):  # it is gone
            # "pid (name) state parent …": the name may hold spaces and brackets
            before, _, after = (PROC / pid / "stat").read_text(errors="replace").rpartition(")")
            if after.split()[1] == me:
                children[pid] = before.partition("(")[2]
    return children


def _in_use_elsewhere(shared_memory: frozenset[str]) -> set[str]:
    """Those of the names that are mapped by a process which is neither this one nor a child of it."""
    if not shared_memory:
        return set()
    processes = set(_processes())
    others = processes - {str(os.getpid()), *_children(processes)}
    mapped = "\n".join(map(_mappings, others))
    return {name for name in shared_memory if f"{SHARED_MEMORY / name}\n" in mapped}


def _mappings(pid: str) -> str:
    with suppress(OSError):  # it is gone, or another user's
        return (PROC / pid / "maps").read_text(errors="replace")
    return ""
