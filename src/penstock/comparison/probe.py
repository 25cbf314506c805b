"""Whether the work releases the GIL, found out by doing it: by one thread, then by two at the same time.

What two threads can gain on this machine is not always a factor of two: they may be the hyper-threads of one core, or
share a container's quota. So native code that is known to release the GIL is measured beside the work.

The machine may be busy with other things meanwhile, so that threads wait for a core. Linux tells how long each of them
did, and that time is left out: what remains is computing, and waiting for the GIL. Elsewhere the load shows in the rates,
and only the alternation and the median help.

    first pass:   every sample once; what fails is dropped
    round 1 … 5:  the work by one thread │ by two │ native code by one thread │ by two, 0.2 s each
"""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from penstock.comparison.results import GilProbe
from penstock.config import available_cores
from penstock.crew.base import Work, attempt_shielded
from penstock.records import Fetched, Result, Row, Sample

__all__ = ["probe_gil"]

THREADS = 2
"""What holds the GIL gains nothing by two threads, and more of them would only meet the next limit, memory."""

ROUNDS = 5
"""An odd number, for the median."""

STRETCH = 0.2
"""Seconds of one stretch: forty times the interval at which threads take the GIL from each other."""

FIRST_PASS = 0.4
"""Seconds after which the samples tried so far have to do."""

PATIENCE = 3.4
"""Seconds after which no further round is begun: an image may take longer than a stretch."""

SIDE_BY_SIDE = 1.2
"""The least that native code has to gain by two threads; below it, they share what one thread could use alone."""

KEY_ITERATIONS = 8_000
"""Of `derive_key`: 3 ms on a common cloud core."""

Job = tuple[Row, tuple[Fetched, ...]]

Rates = tuple[float, float]
"""Images a second of one thread, and of two right afterwards."""


def probe_gil(work: Work, samples: Sequence[Job]) -> GilProbe | None:
    """Do the work alone, on bytes in memory; takes about four seconds.

    Args:
        work: called from two threads at a time.
        samples: rows and what was downloaded for them.

    Returns:
        The rates; None if there are not two cores, if they do not run two threads side by side, or if no sample gives an
        image.
    """
    jobs = _fit_for_work(work, samples) if available_cores() >= THREADS else []
    if not jobs:
        return None
    of_work: list[Rates] = []
    of_native: list[Rates] = []
    started = time.perf_counter()
    while len(of_work) < ROUNDS and time.perf_counter() - started < PATIENCE:
        of_work.append((_rate(work, jobs, 1), _rate(work, jobs, THREADS)))
        of_native.append((_rate(derive_key, jobs, 1), _rate(derive_key, jobs, THREADS)))
    reference = _speedup(_typical(of_native))
    return GilProbe(THREADS, *_typical(of_work), reference) if reference >= SIDE_BY_SIDE else None


def derive_key(row: Row, fetched: tuple[Fetched, ...]) -> Result:
    """One call into C, which releases the GIL and computes in the processor's registers, whatever was downloaded."""
    salt = f"{row.key:>16}".encode()  # some builds of OpenSSL refuse a shorter one
    key = hashlib.pbkdf2_hmac("sha256", b"password", salt, KEY_ITERATIONS)
    return Result.of(Sample({"key": key}), fetched)


def _fit_for_work(work: Work, samples: Sequence[Job]) -> list[Job]:
    """The samples that give an image. Doing them once also gets caches and lazy imports out of the way."""
    fit = []
    started = time.perf_counter()
    for row, fetched in samples:
        if isinstance(attempt_shielded(work, row, fetched).value, Sample):
            fit.append((row, fetched))
        if fit and time.perf_counter() - started > FIRST_PASS:
            break
    return fit


def _typical(rounds: Sequence[Rates]) -> Rates:
    """The round of the median speed-up: a core's own speed may change from one round to the next, seldom within one."""
    return sorted(rounds, key=_speedup)[len(rounds) // 2]


def _speedup(rates: Rates) -> float:
    one, two = rates
    return two / one


def _rate(work: Work, jobs: Sequence[Job], threads: int) -> float:
    """Images a second of so many threads at the same time."""
    start = threading.Barrier(threads)
    rates: list[float] = []
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(_keep_working, work, jobs, start, rates) for _ in range(threads)]:
            done.result()
    return sum(rates)


def _keep_working(work: Work, jobs: Sequence[Job], start: threading.Barrier, rates: list[float]) -> None:
    """Work for the length of a stretch, and add the rate of it; then be company to those that are not done yet."""
    endless = itertools.cycle(jobs)
    images, elapsed = 0, 0.0
    start.wait()
    started, waited_before = time.perf_counter(), _waited_for_a_core()
    while elapsed < STRETCH:
        attempt_shielded(work, *next(endless))
        images, elapsed = images + 1, time.perf_counter() - started
    waited = _waited_for_a_core() - waited_before
    rates.append(images / (time.perf_counter() - started - waited))
    while len(rates) < start.parties:
        attempt_shielded(work, *next(endless))


def _waited_for_a_core() -> float:
    """Seconds that this thread could have run and did not, since other processes had the cores; 0 where unknown."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_bytes().split()[1]) / 1e9
    except (OSError, IndexError):  # not Linux, or a kernel without these statistics
        return 0.0
