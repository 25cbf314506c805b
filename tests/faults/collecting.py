"""A flow reduced to its queue: starts a crew, submits, and takes what is delivered."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager

from penstock.crew.base import Crew
from penstock.errors import WorkerError
from penstock.records import Fetched, Result, Row

PATIENCE = 60
"""Seconds until a delivery counts as missing."""


class Collector:
    """What a crew delivers."""

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self.events: queue.SimpleQueue[tuple[Row, Result] | WorkerError] = queue.SimpleQueue()
        crew.start(lambda row, result: self.events.put((row, result)), self.events.put)

    def take(self, count: int) -> dict[int, Result]:
        """The next `count` results by row; a row that comes twice, or a broken crew, is an error."""
        results: dict[int, Result] = {}
        for _ in range(count):
            event = self.events.get(timeout=PATIENCE)
            if isinstance(event, WorkerError):
                raise event
            row, result = event
            assert row.index not in results, f"row {row.index} was delivered twice"
            results[row.index] = result
        return results

    def work_off(self, jobs: dict[int, tuple[Row, tuple[Fetched, ...]]]) -> dict[int, Result]:
        """Submit all and take as many results; nothing else may have been delivered."""
        for row, fetched in jobs.values():
            self.crew.submit(row, fetched)
        results = self.take(len(jobs))
        assert self.events.empty()
        assert results.keys() == jobs.keys()
        return results


@contextmanager
def collecting(crew: Crew) -> Iterator[Collector]:
    """A crew at work, closed at the end."""
    try:
        yield Collector(crew)
    finally:
        crew.close()
