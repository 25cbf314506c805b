"""The written rows of a folder's committed shards."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.errors import ItemError, SourceError
from penstock.folder import JOURNAL, read_ledger
from penstock.reading.places import Place, Written, finder_of, parts_of_table, read_npy_head
from penstock.records import PART, Kind, Reason, Request, Row, ShardReport
from penstock.sink.shards import shard_name
from penstock.sink.table import TableLayout
from penstock.source.base import Columns

__all__ = ["ShardSource", "ShardSpec", "is_shards"]

_CAPTION = "caption"
_ENDINGS = {"webdataset": ".tar", "parquet": ".parquet", "files": "", "arrays": ".npy"}
"""Of the file that holds a shard's samples, by format."""


def is_shards(location: Any) -> bool:
    """Whether this is the folder of a run, and no list: a local path with a journal in it."""
    if not isinstance(location, str | os.PathLike):
        return False
    return os.path.isfile(os.path.join(location, JOURNAL))  # noqa: PTH113, PTH118 - Path raises where a text is too long to be one


@dataclass(frozen=True, slots=True)
class ShardSpec:
    """A small, picklable description from which another process opens the same shards."""

    folder: str
    """Absolute."""
    keep_columns: tuple[str, ...]

    def open(self) -> ShardSource:
        """Open the source here; raises what `ShardSource` raises."""
        return ShardSource(self.folder, self.keep_columns)


class ShardSource:
    """What a run has written, as a source: the face of `penstock.source.Source`. Not for several threads at a time.

    Shards come by number, and in a shard the written rows by key: the order of `penstock.load`. Positions, `count` and
    the arguments of `rows` count written rows; a row's index and key are those that it had in the run's own list.

    A row asks for each part of its sample: for the one ``image`` of a plain run, otherwise for every member but the
    ``json`` (and the caption's ``txt``), under what follows the key in the member's name; texts come last.

    Args:
        folder: the run's output; it may still be at work.
        keep_columns: columns of the shards' tables that go into `Row.fields`; by default those that the run kept.

    Raises:
        SourceError: no run has written there, not a single row was written, a table cannot be read or lacks a column.
        OutputRefusedError: the journal is damaged.
    """

    rereadable = True
    """`rows` may go back."""

    def __init__(self, folder: str | os.PathLike[str], keep_columns: Iterable[str] = ()) -> None:
        self.folder = Path(folder).absolute()
        ledger = read_ledger(self.folder)
        self._shards = [report for _, report in sorted(ledger.shards.items()) if report.written]
        if ledger.manifest is None or not self._shards:
            raise SourceError(f"{self.folder} holds no committed shard with a written row")
        self._run_id = ledger.manifest.run_id
        self.options = ledger.manifest.options
        """Options of the run that wrote them, as JSON types: ``size``, ``format`` …"""
        asked = tuple(keep_columns)
        self.spec = ShardSpec(str(self.folder), asked)
        self.description = f"the shards in {self.folder}"
        self._keep = self._kept_columns(asked)

    def _kept_columns(self, asked: tuple[str, ...]) -> tuple[str, ...]:
        """The columns that were asked for, or else all that a run without kept columns would not have."""
        with self._table(self._shards[0]) as table:
            columns = [name for name in table.schema_arrow.names if name not in parts_of_table(table)]
        Columns("key", keep=asked).require(str(self._table_path(self._shards[0])), columns)
        always = TableLayout(caption=self._has_caption).columns
        return asked or tuple(name for name in columns if name not in always)

    @property
    def format(self) -> str:
        """The run's ``--format``."""
        return str(self.options["format"])

    @cached_property
    def count(self) -> int:
        """Written rows; known without reading."""
        return sum(report.written for report in self._shards)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What changes when the shards do, as JSON types; not when the folder is moved."""
        digest = hashlib.sha256()
        for report in self._shards:
            samples = [file for file in report.files if not file.name.endswith("_stats.json")]  # these hold times
            digest.update(repr((report.shard, [(file.name, file.sha256) for file in samples])).encode())
        return {"run_id": self._run_id, "rows": self.count, "sha256": digest.hexdigest()}

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """The written rows from position `start` up to, and without, `stop`; shards before it are not looked at.

        A row whose bytes cannot be found comes all the same, with the reason as its request's `refused`.

        Raises:
            SourceError: the table of a shard is missing or damaged.
        """
        return islice(self._rows(start), None if stop is None else max(0, stop - start))

    def _rows(self, start: int) -> Iterator[Row]:
        for report in self._shards:
            if start < report.written:
                yield from self._shard_rows(report, start)
            start = max(0, start - report.written)

    def _shard_rows(self, report: ShardReport, start: int) -> Iterator[Row]:
        with self._table(report) as table:
            find = finder_of(self.format, self.folder, report, table)
            for written in islice(self._written(report, table), start, None):
                try:
                    requests = self._requests(find(written))
                except ItemError as error:
                    file = shard_name(report.shard) + _ENDINGS[self.format]
                    requests = (Request(PART, f"shard:{file}", error.reason),)
                fields = {name: written.values[name] for name in self._keep}
                yield Row(written.index, requests, written.values[_CAPTION] if self._has_caption else None, fields)

    def _requests(self, places: list[Place]) -> tuple[Request, ...]:
        wanted = sorted((place for place in places if place.part not in self._besides), key=attrgetter("rank"))
        if not wanted:
            raise ItemError(Reason.STORAGE_NOT_FOUND)
        return tuple(Request(PART if self._is_plain else place.part, place.url) for place in wanted)

    @cached_property
    def _is_plain(self) -> bool:
        """Whether each sample is one image of Penstock's own making."""
        return not any(self.options.get(name) for name in ("transform", "transform_image", "parts"))

    @cached_property
    def _has_caption(self) -> bool:
        return self.options["caption_column"] is not None

    @cached_property
    def _besides(self) -> frozenset[str]:
        """Members that say what the table says, too."""
        return frozenset({"json", "txt"} if self._has_caption else {"json"})

    def _written(self, report: ShardReport, table: pq.ParquetFile) -> Iterator[Written]:
        """The written rows of a shard's table, one row group at a time."""
        columns = list(dict.fromkeys(["key", "outcome", *([_CAPTION] if self._has_caption else []), *self._keep]))
        position = itertools.count()
        for group in range(table.num_row_groups):
            with self._readable(report):
                rows = table.read_row_group(group, columns=columns, use_threads=False).to_pylist()
            for row, values in enumerate(rows):
                if values["outcome"] == Kind.WRITTEN.value:
                    yield Written(int(values["key"]), next(position), group, row, values)

    def _table(self, report: ShardReport) -> pq.ParquetFile:
        """The open table of a shard; the caller closes it."""
        with self._readable(report):
            return pq.ParquetFile(self._table_path(report))

    def _table_path(self, report: ShardReport) -> Path:
        return self.folder / f"{shard_name(report.shard)}.parquet"

    @contextlib.contextmanager
    def _readable(self, report: ShardReport) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise SourceError(
                f"{self._table_path(report)} cannot be read: {error}; `penstock verify` tells what is damaged"
            ) from error

    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, 3) of the images of a run with ``--format arrays``.

        Raises:
            SourceError: the first shard cannot be read, or does not hold uint8 images.
        """
        path = self.folder / f"{shard_name(self._shards[0].shard)}.npy"
        try:
            with path.open("rb") as file:
                head = read_npy_head(file)
        except (OSError, ValueError) as error:
            raise SourceError(f"{path} cannot be read: {error}; `penstock verify` tells what is damaged") from error
        if head.dtype != np.uint8 or len(head.shape) != 4 or head.shape[3] != 3:
            raise SourceError(f"{path} holds {head.dtype} of {head.shape}, and not uint8 images; give a transform")
        return head.shape[1], head.shape[2], 3
