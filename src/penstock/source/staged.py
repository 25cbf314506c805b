"""Lists for other machines: the exact rows of a list, or of a retry, in a file from which any part is read at once.

A worker of a cluster gets the positions of its rows and reads the list for itself. From parquet files it can take them out
of the middle; of any other list it would have to read all that comes before, and an iterable of the driver's it cannot see at
all. So such a list is written down once, as the source gave it: a parquet file with one column, a JSON array for each
row, in row groups that are small beside a shard.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.records import Reason, Request, Row
from penstock.source.arrow import row_group_of
from penstock.source.base import skip

__all__ = ["StagedList", "StagedRow", "StagedSpec", "stage"]

GROUP = 2_000
"""Rows of a row group, which is read and decompressed as a whole: half a megabyte or so."""

StagedRow = tuple[Row, str | None]
"""A row, and for one that is retried why it failed before."""

_SCHEMA = pa.schema([("row", pa.string())])
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode  # ASCII: lone surrogates survive


def stage(rows: Iterable[StagedRow], path: Path, *, first_shard: int = 0) -> StagedSpec:
    """Write rows down, in the order of their positions.

    Args:
        rows: taken one after the other; memory stays flat.
        path: the file, which appears when it is complete.
        first_shard: to which shard the first row belongs.

    Raises:
        OSError: as it comes.
    """
    temporary = path.with_name(f"{path.name}.new")
    remaining = iter(rows)
    with temporary.open("wb") as file:
        with pq.ParquetWriter(file, _SCHEMA, compression="zstd") as writer:
            while group := [_encode(_plain(*row)) for row in itertools.islice(remaining, GROUP)]:
                writer.write_table(pa.table([pa.array(group)], schema=_SCHEMA))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return StagedSpec(str(path), first_shard)


@dataclass(frozen=True, slots=True)
class StagedSpec:
    """Where a staged list is."""

    path: str
    """On a disk that all nodes see, or a store's URL."""
    first_shard: int

    def open(self) -> StagedList:
        """The list, on any machine that sees the file."""
        return StagedList(self)


class StagedList:
    """A staged list, open. Not for several threads at a time."""

    def __init__(self, spec: StagedSpec) -> None:
        self.spec = spec
        self.first_shard = spec.first_shard
        with self._opened() as table:
            metadata = table.metadata
        self.count: int = metadata.num_rows
        self._groups = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]

    @contextlib.contextmanager
    def _opened(self) -> Iterator[pq.ParquetFile]:
        if "://" not in self.spec.path:
            with pq.ParquetFile(self.spec.path) as table:
                yield table
            return
        system, path = fsspec.core.url_to_fs(self.spec.path)
        with system.open(path, "rb") as file, pq.ParquetFile(file) as table:
            yield table

    def rows(self, start: int, stop: int) -> Iterator[StagedRow]:
        """The rows from position `start` up to, and without, `stop`, as they were staged."""
        group, skipped = row_group_of(self._groups, start)
        texts = self._texts(group)
        skip(texts, start - skipped)
        return map(_row, map(json.loads, itertools.islice(texts, max(0, stop - start))))

    def _texts(self, first_group: int) -> Iterator[str]:
        with self._opened() as table:
            for group in range(first_group, len(self._groups)):
                yield from table.read_row_group(group, use_threads=False).column(0).to_pylist()


def _plain(row: Row, earlier_reason: str | None) -> list[Any]:
    requests = [
        [request.part, request.url, request.refused and request.refused.value, request.required, request.left_out]
        for request in row.requests
    ]
    return [row.index, requests, row.caption, row.fields, earlier_reason]


def _row(plain: list[Any]) -> StagedRow:
    index, requests, caption, fields, earlier_reason = plain
    asked = tuple(
        Request(part, url, None if refused is None else Reason.named(refused), required, left_out)
        for part, url, refused, required, left_out in requests
    )
    return Row(index, asked, caption, fields), earlier_reason
