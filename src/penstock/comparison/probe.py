"""Whether the work releases the GIL, found out by doing it: by one thread, then by several at the same time.

The machine may be busy with other things meanwhile, so that threads wait for a core. Linux tells how long each of them
did, and that time is left out: what remains is computing, and waiting for the GIL. Elsewhere the load shows in the rates,
and only the alternation and the medians help.

    first pass:   every sample once; what fails is dropped
    round 1 … 5:  one thread, 0.25 s │ all threads, 0.25 s
"""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from penstock.comparison.results import GilProbe
from penstock.config import available_cores
from penstock.crew.base import Work, attempt_shielded
from penstock.records import Fetched, Row, Sample

__all__ = ["probe_gil"]

ROUNDS = 5
"""An odd number, for the median."""

STRETCH = 0.25
"""Seconds of one stretch: fifty times the interval at which threads take the GIL from each other."""

FIRST_PASS = 0.4
"""Seconds after which the samples tried so far have to do."""

PATIENCE = 3.0
"""Seconds after which no further round is begun: an image may take longer than a stretch."""

Job = tuple[Row, tuple[Fetched, ...]]


def probe_gil(work: Work, samples: Sequence[Job], threads: int) -> GilProbe | None:
    """Do the work alone, on bytes in memory; takes about three seconds.

    Args:
        work: called from several threads at a time.
        samples: rows and what was downloaded for them.
        threads: threads to compare with one; no more are taken than there are cores.

    Returns:
        The rates; None if there are not two threads to compare, or if no sample gives an image.
    """
    threads = min(threads, available_cores())
    jobs = _fit_for_work(work, samples) if threads > 1 else []
    if not jobs:
        return None
    rounds: list[tuple[float, float]] = []
    started = time.perf_counter()
    while len(rounds) < ROUNDS and time.perf_counter() - started < PATIENCE:
        rounds.append((_rate(work, jobs, 1), _rate(work, jobs, threads)))
    one, many = zip(*rounds, strict=True)
    return GilProbe(threads, statistics.median(one), statistics.median(many))


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
