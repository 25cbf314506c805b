"""A fetcher and a crew that do nothing for real: each has a thread that hands back, at random, what it holds."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from penstock.crew.base import CrewStatistics
from penstock.crew.wire import Place
from penstock.errors import WorkerError
from penstock.fetch.base import FetchStatistics
from penstock.fetch.budget import ByteBudget
from penstock.records import Failure, Fetched, Reason, Result, Row, Sample

T = TypeVar("T")


class Shuffler(Generic[T]):
    """Gives back what was put in, in random order, from a thread of its own; `hold` keeps an item for ever."""

    def __init__(self, seed: int, give: Callable[[T], None]) -> None:
        self._random = random.Random(seed)
        self._give = give
        self._items: list[T] = []
        self._change = threading.Condition()
        self._closed = False
        self.most_inside = 0
        self._inside = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def put(self, item: T, *, hold: bool = False) -> None:
        with self._change:
            self._inside += 1
            self.most_inside = max(self.most_inside, self._inside)
            if not hold:
                self._items.append(item)
                self._change.notify()

    def close(self) -> None:
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._items or self._closed)
                if self._closed:
                    return
                item = self._items.pop(self._random.randrange(len(self._items)))
                self._inside -= 1
            self._give(item)


class FakeFetcher:
    """The URL says what becomes of a row: ``good``, ``lost``, or ``hold`` for a download without end."""

    def __init__(self, width: int = 4, seed: int = 0, size: int = 10) -> None:
        self.width = width
        self.closed = 0
        self._seed = seed
        self._size = size

    def start(self, deliver: Callable[..., None], budget: ByteBudget, on_broken: Callable[..., None], /) -> None:
        self._deliver, self.budget, self.on_broken = deliver, budget, on_broken
        self.shuffler: Shuffler[Row] = Shuffler(self._seed, self._finish)

    def submit(self, row: Row) -> None:
        self.shuffler.put(row, hold=row.url == "hold")

    def _finish(self, row: Row) -> None:
        if row.url == "lost":
            self.budget.reserve(0)
            self._deliver(row, (Failure(Reason.HTTP_NOT_FOUND, "404", 404, 1),))
        else:
            self.budget.reserve(self._size)
            self._deliver(row, (Fetched("image", b"x" * self._size, 200, 1, 0.01),))

    def statistics(self) -> FetchStatistics:
        return FetchStatistics()

    def close(self) -> None:
        self.closed += 1
        self.shuffler.close()


class FakeCrew:
    """``broken`` fails, ``dead`` breaks the whole crew, anything else becomes a sample."""

    def __init__(self, width: int = 2, seed: int = 0) -> None:
        self.width = width
        self.closed = 0
        self._seed = seed

    def start(self, deliver: Callable[..., None], on_broken: Callable[[WorkerError], None]) -> None:
        self._deliver, self._on_broken = deliver, on_broken
        self.shuffler: Shuffler[tuple[Row, tuple[Fetched, ...]]] = Shuffler(self._seed, self._finish)

    def submit(self, row: Row, fetched: tuple[Fetched, ...], place: Place | None = None) -> None:
        self.shuffler.put((row, fetched))

    def _finish(self, job: tuple[Row, tuple[Fetched, ...]]) -> None:
        row, parts = job
        if row.url == "dead":
            self._on_broken(WorkerError("the workers die at once"))
            return
        value = Failure(Reason.IMAGE_CORRUPT) if row.url == "broken" else Sample({"jpg": parts[0].data})
        self._deliver(row, Result.of(value, parts, 0.001))

    def statistics(self) -> CrewStatistics:
        return CrewStatistics(busy_seconds=0.1)

    def close(self) -> None:
        self.closed += 1
        self.shuffler.close()
