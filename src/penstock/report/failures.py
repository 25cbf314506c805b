"""The rows that were not written, read back from the tables beside the shards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from penstock.errors import SourceError
from penstock.location import Location, reading
from penstock.records import Kind, Reason, ShardReport

__all__ = ["FailedRow", "ReasonGroup", "group_by_reason", "read_failures"]

COLUMNS = ("key", "url", "outcome", "reason", "error_message", "http_status", "attempts")


@dataclass(frozen=True, slots=True)
class FailedRow:
    """A row that was failed or skipped, by its last attempt."""

    key: str
    url: str | None
    outcome: str
    reason: str
    error_message: str | None
    http_status: int | None
    attempts: int
    fields: Mapping[str, Any]
    """The further columns of its table: caption and kept ones."""

    @property
    def index(self) -> int:
        """Position in the list."""
        return int(self.key)

    @property
    def worth_retrying(self) -> bool:
        """Whether the reason is one that may pass with time."""
        return Reason.named(self.reason).worth_retrying


@dataclass(frozen=True, slots=True)
class ReasonGroup:
    """The rows that share a reason."""

    reason: str
    count: int
    meaning: str
    worth_retrying: bool
    examples: tuple[FailedRow, ...]


def read_failures(
    folder: Location, shards: Mapping[int, ShardReport], columns: tuple[str, ...] = ()
) -> Iterator[FailedRow]:
    """Each row that is still without an image, in the order of shards; a retried row counts by its last attempt.

    Args:
        folder: the run's folder.
        shards: its committed shards, by number; looked at one after the other, for the ledger keeps them packed.
        columns: further columns to read.

    Raises:
        SourceError: a shard's table is missing or damaged.
    """
    numbers = sorted(shards)
    later = _last_shard_of_retried(folder, (number for number in numbers if shards[number].retried))
    for report in map(shards.__getitem__, numbers):
        if report.failed or report.skipped:
            for row in _read_table(folder, report.shard, columns):
                if later.get(row.key, report.shard) == report.shard:
                    yield row


def _last_shard_of_retried(folder: Location, numbers: Iterable[int]) -> dict[str, int]:
    last: dict[str, int] = {}
    for number in numbers:
        with _opened(folder, number) as table:
            last |= dict.fromkeys(table.read(columns=["key"]).column("key").to_pylist(), number)
    return last


def _read_table(folder: Location, shard: int, columns: tuple[str, ...]) -> Iterator[FailedRow]:
    with _opened(folder, shard) as table:
        for batch in table.iter_batches(batch_size=4096, columns=[*COLUMNS, *columns]):
            unwritten = batch.filter(pc.not_equal(batch.column("outcome"), Kind.WRITTEN.value))
            for values in unwritten.to_pylist():
                common = {name: values.pop(name) for name in COLUMNS}
                yield FailedRow(**common, fields=values)


@contextlib.contextmanager
def _opened(folder: Location, shard: int) -> Iterator[pq.ParquetFile]:
    """The table of a shard; whatever is wrong with it becomes a SourceError that names it."""
    path = folder / f"{shard:05d}.parquet"
    with reading(folder):
        try:
            with path.open("rb") as file, pq.ParquetFile(file) as table:
                yield table
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise SourceError(
                f"cannot read {path}: {error}; `penstock verify {folder}` tells what else is damaged"
            ) from error


def group_by_reason(failures: Iterable[FailedRow], examples: int = 3) -> list[ReasonGroup]:
    """The failures by reason, the commonest first, with a few examples each."""
    counts: dict[str, int] = {}
    shown: dict[str, list[FailedRow]] = {}
    for row in failures:
        counts[row.reason] = counts.get(row.reason, 0) + 1
        kept = shown.setdefault(row.reason, [])
        if len(kept) < examples:
            kept.append(row)
    return [
        ReasonGroup(
            reason,
            counts[reason],
            Reason.named(reason).meaning,
            Reason.named(reason).worth_retrying,
            tuple(shown[reason]),
        )
        for reason in sorted(counts, key=lambda name: (-counts[name], name))
    ]
