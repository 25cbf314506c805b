"""What a comparison needs and no textbook has: notes of who did what when, and a limit to the memory."""

from __future__ import annotations

import multiprocessing
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from penstock.comparison.results import Trial
from penstock.comparison.textbook_steps import Loaded, Span, Timed
from penstock.comparison.timeline import Reading, shares_at_work, timeline
from penstock.comparison.trial import cpu_seconds
from penstock.report.memory import machine_bytes, resident_bytes

__all__ = ["Kept", "Meter"]

SAMPLING = 0.1
"""Seconds between two looks at the memory."""

READINGS = 240
"""Points of time for which the counters are worked out: several for each slice of the timeline."""

UNKNOWN_MEMORY = 4 * 2**30
"""Bytes to count on where the system does not tell what is free."""


class Kept:
    """Decoded images in memory. From any thread."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._limit = (machine_bytes("MemAvailable") or UNKNOWN_MEMORY) // 2
        self._lock = threading.Lock()
        self._images = 0
        self._bytes = 0

    def add(self, loaded: Loaded) -> None:
        """Count one in.

        Raises:
            MemoryError: with it they take more than half of what was free, before they take the machine down.
        """
        with self._lock:
            self._images += 1
            self._bytes += loaded.nbytes
            if self._bytes > self._limit:
                raise MemoryError(
                    f"the textbook keeps every decoded image in memory: {self._bytes / 1e9:.1f} GB for {self._images} of "
                    f"{self._rows} rows, more than half of what is free"
                )

    def remove(self, loaded: Loaded) -> None:
        """Count one out."""
        with self._lock:
            self._images -= 1
            self._bytes -= loaded.nbytes


@dataclass(slots=True)
class _Spans:
    """When the workers had rows, and what they did with them: one entry for each row."""

    occupied: list[Span] = field(default_factory=list)
    """From the submission to the end of the computation: more rows at a time than there are workers count as all of them."""
    computing: list[Span] = field(default_factory=list)
    downloading: list[Span] = field(default_factory=list)

    def add(self, submitted: float, step: Timed[Any]) -> None:
        self.occupied.append((submitted, step.computing[1]))
        self.computing.append(step.computing)
        if step.downloading is not None:
            self.downloading.append(step.downloading)

    @property
    def start(self) -> float:
        """When a worker did anything for the first time."""
        return min(start for start, _ in (*self.downloading, *self.computing))


class Meter:
    """Takes notes of a scheme while it runs.

    Its time begins when the block is entered and ends with the last result; the CPU seconds are those of the whole block,
    so that the workers must have ended inside it.

    Args:
        rows: all of them.
        workers: of the pool that preprocesses.
    """

    def __init__(self, rows: int, workers: int) -> None:
        self.kept = Kept(rows)
        self._rows, self._workers = rows, workers
        self._loading, self._preprocessing = _Spans(), _Spans()
        self._arrivals: list[float] = []
        self._peak = 0
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample_memory, name="textbook-memory")

    def __enter__(self) -> Self:
        self._started, self._cpu = time.perf_counter(), cpu_seconds()
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._sampler.join()
        own, children = cpu_seconds()
        self._cpu = own - self._cpu[0], children - self._cpu[1]

    def loaded(self, submitted: float, step: Timed[Loaded]) -> None:
        """A worker of the pool has downloaded (and decoded) a row that was submitted then.

        Raises:
            MemoryError: see `Kept`.
        """
        self._loading.add(submitted, step)
        self.kept.add(step.value)

    def finished(self, submitted: float, step: Timed[Any]) -> None:
        """The main thread has the result for a row that was submitted then."""
        self._arrivals.append(time.perf_counter())
        self._preprocessing.add(submitted, step)

    def trial(self, fetch: str, crew: str) -> Trial:
        """What was found, once the block has ended."""
        wall = self._arrivals[-1] - self._started
        loading = self._loading if self._loading.computing else self._preprocessing
        shares = shares_at_work(self._readings(wall, self._preprocessing.start), workers=self._workers, wall=wall)
        return Trial(
            rows=self._rows,
            written=len(self._arrivals),
            wall=wall,
            first_image=self._arrivals[0] - self._started,
            cpu_seconds=sum(self._cpu),
            own_cpu_seconds=self._cpu[0],
            peak_bytes=self._peak,
            busy=shares.decoding,
            workers=self._workers,
            shares=shares,
            timeline=timeline(self._readings(wall, loading.start), workers=self._workers, wall=wall),
            fetch=fetch,
            crew=crew,
        )

    def _readings(self, wall: float, begun: float) -> list[Reading]:
        """The counters that a sampler would have read, worked out from the spans; the workers' capacity counts from `begun` on."""
        times = np.linspace(0.0, wall, READINGS + 1)[1:]
        capacity = self._workers * np.maximum(0.0, times - (begun - self._started))
        loading, preprocessing = self._loading, self._preprocessing
        busy = self._seconds_until(times, loading.computing + preprocessing.computing)
        occupied = self._seconds_until(times, loading.occupied + preprocessing.occupied)
        inside = self._seconds_until(times, loading.downloading)
        return [
            Reading(*counters)
            for counters in zip(times.tolist(), busy, occupied, capacity.tolist(), inside, strict=True)
        ]

    def _seconds_until(self, times: npt.NDArray[np.float64], spans: list[Span]) -> list[float]:
        """Seconds inside the spans, summed over them, up to each of the times."""
        start, stop = (np.array(spans).reshape(-1, 2) - self._started).T
        return [float(np.clip(at - start, 0.0, stop - start).sum()) for at in times]

    def _sample_memory(self) -> None:
        while True:
            children = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
            self._peak = max(self._peak, resident_bytes(children))
            if self._ended.wait(SAMPLING):
                return
