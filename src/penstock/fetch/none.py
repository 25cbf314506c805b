"""The fetcher of the strategy in which each worker fetches for itself."""

from __future__ import annotations

from penstock.fetch.base import Deliver, FetchStatistics, OnBroken
from penstock.fetch.budget import ByteBudget
from penstock.records import Row

__all__ = ["NoFetcher"]


class NoFetcher:
    """Hands every row on at once, without bytes."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._deliver: Deliver | None = None
        self._budget: ByteBudget | None = None

    def start(self, deliver: Deliver, budget: ByteBudget, _on_broken: OnBroken, /) -> None:
        """Remember where rows go."""
        self._deliver = deliver
        self._budget = budget

    def submit(self, row: Row) -> None:
        """Deliver the row, with nothing fetched."""
        assert self._deliver is not None
        assert self._budget is not None
        self._budget.reserve(0)
        self._deliver(row, ())

    def statistics(self) -> FetchStatistics:
        """The workers that fetch keep none."""
        return FetchStatistics()

    def close(self) -> None:
        """Nothing was opened."""
