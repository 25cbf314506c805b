"""Work that fetches its own bytes: what a worker does under the strategy ``processes``."""

from __future__ import annotations

from penstock.config import FetchConfig
from penstock.crew.base import Work, attempt
from penstock.fetch.pool import SyncClient
from penstock.records import Failure, Fetched, Result, Row

__all__ = ["FetchingWork"]


class FetchingWork:
    """Fetches a row, one request at a time, then does `work` on it. Picklable; opens its connections when first used."""

    def __init__(self, config: FetchConfig, work: Work) -> None:
        self._config = config
        self._work = work
        self._client: SyncClient | None = None

    def __getstate__(self) -> tuple[FetchConfig, Work]:
        return (self._config, self._work)

    def __setstate__(self, state: tuple[FetchConfig, Work]) -> None:
        self._config, self._work = state
        self._client = None

    def __call__(self, row: Row, fetched: tuple[Fetched, ...]) -> Result:
        """The result for one row, with what its fetch cost."""
        if self._client is None:
            self._client = SyncClient(self._config)
        parts = self._client.fetch(row)
        whole = tuple(part for part in parts if isinstance(part, Fetched))
        failure = next((part for part in parts if isinstance(part, Failure)), None)
        if failure is not None:
            return Result.of(failure, whole)
        return attempt(self._work, row, whole)
