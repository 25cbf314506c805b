"""Work that fetches its own bytes: what a worker does under the strategy ``processes``."""

from __future__ import annotations

import dataclasses
import threading
import time

from penstock.config import FetchConfig
from penstock.crew.base import Work, attempt, prepare
from penstock.fetch.pool import SyncClient
from penstock.records import Failure, Fetched, Result, Row

__all__ = ["FetchingWork"]

NO_WORK = 1e-9
"""Seconds of a row that only waited for the network: not 0, which would let the crew put its own measure there."""


class FetchingWork:
    """Fetches a row, one request at a time, then does `work` on it. Picklable; opens its connections when first used."""

    def __init__(self, config: FetchConfig, work: Work) -> None:
        self._config = config
        self._work = work
        self._own = threading.local()

    @property
    def silent(self) -> bool:
        """As the work is."""
        return getattr(self._work, "silent", False)

    def prepare(self) -> None:
        """As the work does."""
        prepare(self._work)

    def __getstate__(self) -> tuple[FetchConfig, Work]:
        return (self._config, self._work)

    def __setstate__(self, state: tuple[FetchConfig, Work]) -> None:
        self.__init__(*state)  # type: ignore[misc]  # a thread's own things do not travel

    def __call__(self, row: Row, fetched: tuple[Fetched, ...]) -> Result:  # noqa: ARG002 - nothing is fetched yet
        """The result for one row, with what its fetch cost."""
        started = time.perf_counter()
        parts = self._client().fetch(row)
        seconds = time.perf_counter() - started
        return dataclasses.replace(self._result(row, parts), fetch_seconds=seconds)

    def _result(self, row: Row, parts: tuple[Fetched | Failure, ...]) -> Result:
        whole = tuple(part for part in parts if isinstance(part, Fetched))
        failure = row.failed_by(parts)
        result = attempt(self._work, row, whole) if failure is None else Result.of(failure, whole, NO_WORK)
        return dataclasses.replace(result, parts={**row.part_outcomes(parts), **result.parts})

    def _client(self) -> SyncClient:
        """This thread's client: a worker process has one thread, but threads may stand in for processes."""
        if not hasattr(self._own, "client"):
            self._own.client = SyncClient(self._config)
        client: SyncClient = self._own.client
        return client
