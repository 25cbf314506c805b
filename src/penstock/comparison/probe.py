"""Whether the work releases the GIL, found out by doing it: by one thread, then by two at the same time.

What two threads can gain on this machine is not always a factor of two: they may be the hyper-threads of one core, or
share a container's quota. So native code that is known to release the GIL is measured beside the work.

The machine may be busy with other things meanwhile, so that threads wait for a core. Linux tells how long each of them
did, and that time is left out: what remains is computing, and waiting for the GIL. Elsewhere the load shows in the rates,
and only the alternation and the median help.

No thread is told for how long its virtual machine waits for a core of the host. While it does, its two cores are no more than one, and
whatever the work gains or does not gain says nothing of the GIL. The native code of the same round witnesses that: a round
in which it did not gain does not count, and others are made in its place.

    first pass:   every sample once; what fails is dropped
    round 1 … 5:  the work by one thread │ by two │ native code by one thread │ by two, 0.2 s each
    more rounds:  while fewer than three of them count
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
"""Seconds of one stretch: ten times the interval at which threads take the GIL from each other."""

SWITCH = 0.02
"""Seconds of this interval, four times the usual one. A thread that waits for the GIL wakes so often to ask for it; on a busy
machine it then waits for a core, and that time would be left out though the GIL was what it lacked. Measured beside two
busy processes: by the usual interval work that holds the GIL gains up to ×1.5 in a round, by this one up to ×1.1."""

FIRST_PASS = 0.4
"""Seconds after which the samples tried so far have to do."""

ENOUGH = 3
"""Rounds that have to count, if so many were made: on cores that are truly shared, chance makes one or two."""

PATIENCE = 3.4
"""Seconds after which no further round is begun: an image may take longer than a stretch."""

LAST_PATIENCE = 7.0
"""The same while too few rounds count. Whoever starts the probe allows ten seconds, and its interpreter is in them."""

SIDE_BY_SIDE = 1.2
"""The least that native code has to gain by two threads; below it, they share what one thread could use alone."""

KEY_ITERATIONS = 8_000
"""Of `derive_key`: 3 ms on a common cloud core."""

Job = tuple[Row, tuple[Fetched, ...]]

Rates = tuple[float, float]
"""Images a second of one thread, and of two right afterwards."""


@dataclass(frozen=True, slots=True)
class _Round:
    """One after the other, so that the machine was about the same for both."""

    work: Rates
    native: Rates

    @property
    def counts(self) -> bool:
        """Whether the machine ran two threads side by side while it lasted."""
        return _speedup(self.native) >= SIDE_BY_SIDE


def probe_gil(work: Work, samples: Sequence[Job]) -> GilProbe | None:
    """Do the work alone, on bytes in memory; takes about four seconds, and twice that where the cores are shared.

    Args:
        work: called from two threads at a time.
        samples: rows and what was downloaded for them.

    Returns:
        The rates; None if there are not two cores, if they do not run two threads side by side, or if no sample gives an
        image.
    """
    jobs = _fit_for_work(work, samples) if available_cores() >= THREADS else []
    counting = _counting(_rounds(work, jobs)) if jobs else []
    if not counting:
        return None
    reference = _speedup(_typical([each.native for each in counting]))
    return GilProbe(THREADS, *_typical([each.work for each in counting]), reference)


def _rounds(work: Work, jobs: Sequence[Job]) -> list[_Round]:
    """As many as it takes for an answer, as far as patience goes."""
    rounds: list[_Round] = []
    started = time.perf_counter()
    with _switching_every(SWITCH):
        while not rounds or not _is_over(rounds, time.perf_counter() - started):
            rounds.append(_Round(_both_rates(work, jobs), _both_rates(derive_key, jobs)))
    return rounds


@contextlib.contextmanager
def _switching_every(seconds: float) -> Iterator[None]:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


def _is_over(rounds: Sequence[_Round], elapsed: float) -> bool:
    if elapsed >= LAST_PATIENCE:
        return True
    return bool(_counting(rounds)) and (len(rounds) >= ROUNDS or elapsed >= PATIENCE)


def _counting(rounds: Sequence[_Round]) -> list[_Round]:
    """The rounds that count, if they are enough to go by."""
    counting = [each for each in rounds if each.counts]
    return counting if len(counting) >= min(ENOUGH, len(rounds)) else []


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


def _both_rates(work: Work, jobs: Sequence[Job]) -> Rates:
    return _rate(work, jobs, 1), _rate(work, jobs, THREADS)


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
