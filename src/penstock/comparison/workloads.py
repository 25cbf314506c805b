"""The workloads that Penstock brings along: the real mixture, and its three ingredients by themselves.

=========  ===========================  ==============================================================
name       one row                      what it shows
=========  ===========================  ==============================================================
images     50 ms wait, 3 to 5 ms CPU    what Penstock is for: waiting, and native code without the GIL
io         80 to 120 ms wait            waiting alone: only the number of open connections counts
python     5 ms wait, some ms of CPU    the GIL held: threads take turns, processes do not
native     5 ms wait, some ms of CPU    the GIL released: threads and processes are equals
=========  ===========================  ==============================================================

The milliseconds of CPU are those of a common cloud core; another core takes as long as it takes, for the same work.

Worker processes import this module, so it imports little.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.image.work import Transform
from penstock.records import Row

__all__ = ["WORKLOADS", "Workload", "rows_for"]

CHECKSUM_BYTES = 100_000
"""Steps of `python_checksum`: some milliseconds. Arbitrary: long beside a download from this machine."""

KEY_ITERATIONS = 25_000
"""Rounds of `native_key`: about as long as the checksum."""

COUNTED_FOR = 2
"""Workers for which `Workload.count` is meant."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Something to measure the strategies on."""

    name: str
    transform: Transform | None
    """What is done with each download; None for Penstock's own decode and resize."""
    count: int
    """Rows, with two workers."""
    cpu_bound: bool
    """More workers finish sooner, so that they need more rows to be measured by."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of `penstock.config.RunConfig`."""
    server: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of `penstock.testing.server.ImageServer`."""


def rows_for(workload: Workload, workers: int) -> int:
    """How many rows to measure `workers` workers by, so that a run lasts about as long on any machine.

    >>> rows_for(WORKLOADS["images"], 2), rows_for(WORKLOADS["images"], 8), rows_for(WORKLOADS["io"], 8)
    (300, 1200, 200)
    """
    if not workload.cpu_bound:
        return workload.count
    return max(workload.count, workload.count * workers // COUNTED_FOR)


def first_bytes(data: bytes, _row: Row) -> dict[str, bytes]:
    """No work at all: the beginning of the download."""
    return {"head": data[:8]}


def python_checksum(data: bytes, _row: Row) -> dict[str, bytes]:
    """A loop in pure Python, which holds the GIL from its first step to its last.

    It is the Adler-32 checksum of the download, repeated until it is `CHECKSUM_BYTES` bytes long. `zlib.adler32` does the
    same some hundred times as fast: the loop stands for code that nobody has written in C.
    """
    low, high = 1, 0
    for byte in itertools.islice(itertools.cycle(data), CHECKSUM_BYTES):
        low = (low + byte) % 65521
        high = (high + low) % 65521
    return {"adler32": (high << 16 | low).to_bytes(4, "big")}


def native_key(data: bytes, row: Row) -> dict[str, bytes]:
    """One long call into C, which releases the GIL: a key derived from the download by PBKDF2.

    It computes in the processor's registers, so that threads do not contend for memory either.
    """
    return {"key": hashlib.pbkdf2_hmac("sha256", data, row.key.encode(), KEY_ITERATIONS)}


_SMALL = {"count": 20, "mean_bytes": 4000, "seed": 0}
"""Bodies of which no more is wanted than that they arrive; such a server starts at once."""

_ALL = (
    Workload(
        "images",
        transform=None,
        count=300,
        cpu_bound=True,
        options={"size": 128, "per_host": 256},
        server={"count": 200, "latency": 0.05, "seed": 0},
    ),
    Workload(
        "io",
        transform=first_bytes,
        count=200,
        cpu_bound=False,
        # so few connections that there are many waves of requests: the steady state, not the first and the last wave
        options={"connections": 16, "per_host": 16},
        server={**_SMALL, "latency": 0.08, "jitter": 0.04},
    ),
    Workload(
        "python",
        transform=python_checksum,
        count=240,
        cpu_bound=True,
        options={"per_host": 64},
        server={**_SMALL, "latency": 0.005},
    ),
    Workload(
        "native",
        transform=native_key,
        count=240,
        cpu_bound=True,
        options={"per_host": 64},
        server={**_SMALL, "latency": 0.005},
    ),
)

WORKLOADS: Mapping[str, Workload] = {workload.name: workload for workload in _ALL}
"""By name, in the order in which they are listed."""
