"""Tables: parquet files, and whatever speaks Arrow (pyarrow, pandas, polars …)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from penstock.source.base import Cells, Columns, Reader, clean_text, clean_url, jsonable
from penstock.source.files import ListFile

__all__ = ["ArrowReader", "ParquetReader", "arrow_batches", "row_group_of"]

BATCH = 4096
"""Rows turned into Python objects at a time: a few hundred kilobytes, and the cost of a call vanishes."""

PAGE_BUFFER = 2**18
"""Bytes of a parquet column held at a time; without it the whole of a row group's column is read at once."""


class ArrowReader(Reader):
    """Record batches, from a function that is called for every pass."""

    def __init__(
        self,
        place: str,
        schema: pa.Schema,
        batches: Callable[[], Iterable[pa.RecordBatch]],
        columns: Columns,
        *,
        count: int | None = None,
    ) -> None:
        columns.require(place, schema.names)
        self.place = place
        self.count = count
        self.kept_schema = pa.schema([(name, _json_type(schema.field(name).type)) for name in columns.keep])
        self._all_batches = batches
        self._columns = columns

    def read(self, start: int) -> tuple[int, Iterator[Cells]]:
        """As `Reader.read`; whole batches are skipped by their length."""
        skipped, batches = self._batches(start)
        for batch in batches:
            rest = batch.slice(start - skipped)
            skipped += batch.num_rows - rest.num_rows
            if rest.num_rows:
                return skipped, self._cells(rest, batches)
        return skipped, iter(())

    def _batches(self, start: int) -> tuple[int, Iterator[pa.RecordBatch]]:  # noqa: ARG002 - parquet skips row groups
        """Some rows skipped (at most `start`), and the batches of the rest."""
        return 0, iter(self._all_batches())

    def _cells(self, first: pa.RecordBatch, batches: Iterator[pa.RecordBatch]) -> Iterator[Cells]:
        yield from self._cells_of(first)
        for batch in batches:
            yield from self._cells_of(batch)

    def _cells_of(self, batch: pa.RecordBatch) -> Iterator[Cells]:
        for offset in range(0, batch.num_rows, BATCH):
            part = batch.slice(offset, BATCH)
            urls = map(clean_url, part.column(self._columns.url).to_pylist())
            yield from zip(urls, self._captions(part), self._fields(part), strict=False)

    def _captions(self, part: pa.RecordBatch) -> Iterable[str | None]:
        if self._columns.caption is None:
            return repeat(None)
        return map(clean_text, part.column(self._columns.caption).to_pylist())

    def _fields(self, part: pa.RecordBatch) -> Iterable[dict[str, Any]]:
        names = self._columns.keep
        kept = [_json_values(part.column(name)) for name in names]
        if not kept:
            return ({} for _ in range(part.num_rows))
        return (dict(zip(names, row, strict=True)) for row in zip(*kept, strict=True))


def row_group_of(rows: Sequence[int], start: int) -> tuple[int, int]:
    """The row group that holds the row at `start`, by the rows of each, and how many rows lie before that group.

    >>> row_group_of([10, 10], 12)
    (1, 10)
    """
    skipped = group = 0
    while group < len(rows) and skipped + rows[group] <= start:
        skipped += rows[group]
        group += 1
    return group, skipped


class ParquetReader(ArrowReader):
    """A parquet file: only the wanted columns are read, a page at a time, and skipped row groups not at all."""

    def __init__(self, file: ListFile, columns: Columns) -> None:
        with file.opened() as handle, pq.ParquetFile(handle) as table:
            self._groups = [table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)]
            schema = table.schema_arrow
        self._file = file
        super().__init__(file.place, schema, lambda: self._read_groups(0), columns, count=sum(self._groups))

    def has_rows(self) -> bool:
        """Whether there is a first row, by the file's own count; still, it is read, for it may be damaged."""
        return bool(self.count) and super().has_rows()

    def _batches(self, start: int) -> tuple[int, Iterator[pa.RecordBatch]]:
        group, skipped = row_group_of(self._groups, start)
        return skipped, self._read_groups(group)

    def _read_groups(self, first: int) -> Iterator[pa.RecordBatch]:
        with (
            self._file.opened() as handle,
            pq.ParquetFile(handle, pre_buffer=False, buffer_size=PAGE_BUFFER) as table,
        ):
            groups = range(first, len(self._groups))
            # One thread: the cores belong to the decoders, and a list is read much faster than it is fetched.
            yield from table.iter_batches(BATCH, groups, columns=self._columns.names, use_threads=False)


def arrow_batches(table: Any) -> tuple[pa.Schema, Callable[[], Iterable[pa.RecordBatch]]]:
    """The schema of anything that speaks Arrow, and a function that gives its batches."""
    if isinstance(table, pa.RecordBatchReader):
        return table.schema, lambda: table
    if isinstance(table, pa.RecordBatch):
        return table.schema, lambda: [table]
    if hasattr(table, "to_batches"):
        return table.schema, table.to_batches
    return pa.RecordBatchReader.from_stream(table).schema, lambda: pa.RecordBatchReader.from_stream(table)


_IS_JSON_SCALAR = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_boolean,
    pa.types.is_null,
)


def _is_json(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_json(kind.value_type)
    if types.is_struct(kind):
        return all(_is_json(part.type) for part in kind)
    return any(test(kind) for test in _IS_JSON_SCALAR)


def _json_type(kind: pa.DataType) -> pa.DataType:
    """The type in which a column is kept: its own if its values are JSON types, else text."""
    if pa.types.is_dictionary(kind):
        return _json_type(kind.value_type)
    return kind if _is_json(kind) else pa.string()


def _json_values(column: pa.Array) -> Iterator[Any]:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _json_values(column.dictionary_decode())
    if _is_json(kind):
        return map(jsonable, column.to_pylist())
    try:
        column = column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # bytes that are no text, nested values
        return map(clean_text, column.to_pylist())
    return iter(column.to_pylist())
