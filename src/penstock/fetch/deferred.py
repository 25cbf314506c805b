"""A fetcher whose modules are loaded when it starts, while the workers are starting beside it."""

from __future__ import annotations

from collections.abc import Callable

from penstock.fetch.base import Deliver, Fetcher, FetchStatistics, OnBroken
from penstock.fetch.budget import ByteBudget
from penstock.records import Row

__all__ = ["DeferredFetcher"]


class DeferredFetcher:
    """Stands for a fetcher that is made at `start`: importing aiohttp takes as long as a worker takes to be ready.

    Args:
        width: of the fetcher.
        make: makes it.
    """

    def __init__(self, width: int, make: Callable[[], Fetcher]) -> None:
        self.width = width
        self._make = make
        self._fetcher: Fetcher | None = None

    def start(self, deliver: Deliver, budget: ByteBudget, on_broken: OnBroken, /) -> None:
        """Make the fetcher and start it."""
        fetcher = self._make()
        fetcher.start(deliver, budget, on_broken)
        self._fetcher = fetcher

    def submit(self, row: Row) -> None:
        """As the fetcher does."""
        assert self._fetcher is not None, "it is started first"
        self._fetcher.submit(row)

    def statistics(self) -> FetchStatistics:
        """Of the fetcher."""
        return FetchStatistics() if self._fetcher is None else self._fetcher.statistics()

    def close(self) -> None:
        """Close the fetcher, if there is one."""
        if self._fetcher is not None:
            self._fetcher.close()
