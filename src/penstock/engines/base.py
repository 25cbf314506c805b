"""The seam between a run and where its lanes are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from penstock.engines.filling import Placed
from penstock.engines.work import Job, Summary, Watch
from penstock.errors import OutputRefusedError
from penstock.source import Source

__all__ = ["Engine", "Plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """Which rows are to be done."""

    source: Source
    shard_size: int
    committed: Mapping[int, str]
    """Shards that exist, with the digest of their rows."""
    check_digests: bool = False
    """Compare the rows of shards that exist with their digests."""
    finished_rows: int | None = None
    """Rows of the list when a run has come to its end; it may not have grown since."""
    retry: Iterable[Placed] | None = None
    """Instead of the source's rows: failed ones to be fetched again, in the order of the new shards they go to."""
    first_new: int = 0
    """The first of these new shards."""

    @property
    def first_row(self) -> int:
        """Where reading has to begin: the first row that is in no committed shard."""
        shard = 0
        while not self.check_digests and shard in self.committed:
            shard += 1
        return shard * self.shard_size

    def placed(self, first: int | None = None, stop: int | None = None) -> Iterator[Placed]:
        """The rows (those from `first` up to `stop`) with their shards: shard i holds rows ``i × shard_size`` on.

        Raises:
            OutputRefusedError: there are more rows than there were when a run came to the end of the list.
        """
        if self.retry is not None:
            yield from self.retry
            return
        for row in self.source.rows(self.first_row if first is None else first, stop):
            if row.index == self.finished_rows:
                raise OutputRefusedError(
                    f"the folder holds another run: its list had {self.finished_rows} rows, and this one has more. "
                    "Give another --out, or --overwrite to delete it"
                )
            yield Placed(row.index // self.shard_size, row)


class Engine(Protocol):
    """Runs lanes somewhere."""

    def run(self, job: Job, plan: Plan, watch: Watch) -> Summary:
        """Do all the rows of the plan; shards are announced to `watch` one at a time."""
        ...
