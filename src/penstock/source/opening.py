"""From whatever the user calls a list to a `Source`: checked as it is opened, streamed as it is read."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock.config import SourceConfig
from penstock.errors import SourceError
from penstock.parts import Part
from penstock.records import PART, Reason, Request, Row
from penstock.source.arrow import ArrowReader, ParquetReader, arrow_batches
from penstock.source.base import Cells, Columns, Once, Reader, skip
from penstock.source.files import ListFile, StandardInput, absolute, locate
from penstock.source.items import ItemReader, transposed
from penstock.source.json_values import json_items
from penstock.source.parts import PartColumns
from penstock.source.table import TableReader
from penstock.source.text import TextReader

__all__ = ["Source", "SourceSpec", "open_list", "open_source"]


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """A small, picklable description from which another process opens the same files."""

    location: str
    """An absolute path, a folder, a glob or a URL."""
    url_column: str
    caption_column: str | None
    keep_columns: tuple[str, ...]
    encoding: str
    parts: Mapping[str, Part] | None = None
    duplicates: str | None = None
    """File for `Source.leave_out`."""

    def open(self) -> Source:
        """Open the source here; raises what `open_source` raises."""
        source = open_source(
            self.location,
            url_column=self.url_column,
            caption_column=self.caption_column,
            keep_columns=self.keep_columns,
            encoding=self.encoding,
            parts=self.parts,
        )
        if self.duplicates is not None:
            source.leave_out(self.duplicates)
        return source


class Source:
    """An open list. Not for several threads at a time."""

    def __init__(
        self,
        readers: Sequence[Reader],
        *,
        description: str,
        spec: SourceSpec | None = None,
        rereadable: bool = True,
        fingerprint: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        self._readers = readers
        self._fingerprint = fingerprint
        self._place: tuple[int, Iterator[Cells]] | None = None
        """Where the last slice ended: the next position, and the cells from there."""
        self._duplicates: npt.NDArray[np.int64] | None = None
        self._parts: PartColumns | None = None
        self.description = description
        """What people call it."""
        self.spec = spec
        """How another process opens it; None if it has no files."""
        self.rereadable = rereadable
        """Whether `rows` may go back."""

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """The rows from position `start` up to, and without, `stop`.

        Slices that follow each other are read in one pass: a slice that was read to its end leaves its place to the
        next one. Going back begins anew; skipping is cheap for parquet (by row groups) and costs about a third of
        reading elsewhere.

        Raises:
            SourceError: the list is damaged further down, or was to be read a second time and cannot be.
        """
        if stop is not None and stop <= start:
            return
        cells = self._cells_from(start)
        duplicates = self._duplicates_from(start)
        duplicate = next(duplicates, None)
        index = start
        for url, caption, fields in islice(cells, None if stop is None else stop - start):
            refused = None
            if index == duplicate:
                refused, duplicate = Reason.POLICY_DUPLICATE, next(duplicates, None)
            if self._parts is None:
                yield Row(index, (Request(PART, url, refused),), caption, fields)
            else:
                yield self._parts.row(index, url, fields, refused)
            index += 1
        self._place = index, cells

    def take_parts(self, parts: PartColumns) -> None:
        """Make rows of several parts out of the cells."""
        self._parts = parts
        if self.spec is not None:
            self.spec = dataclasses.replace(self.spec, keep_columns=parts.keep, parts=parts.parts)

    def leave_out(self, duplicates: str | os.PathLike[str]) -> None:
        """Mark the rows at some positions: their URL stands in an earlier row, and they are not to be fetched.

        Args:
            duplicates: file with the positions, ascending (``.npy``, int64); whoever opens the source by its `spec` reads it.
        """
        self._duplicates = np.load(duplicates, mmap_mode="r")
        if self.spec is not None:
            self.spec = dataclasses.replace(self.spec, duplicates=os.fspath(duplicates))

    def _duplicates_from(self, start: int) -> Iterator[np.int64]:
        if self._duplicates is None:
            return iter(())
        return iter(self._duplicates[np.searchsorted(self._duplicates, start) :])

    def _cells_from(self, start: int) -> Iterator[Cells]:
        place, self._place = self._place, None
        if place is None or place[0] > start:
            return self._cells(start)
        skip(place[1], start - place[0])
        return place[1]

    def _cells(self, start: int) -> Iterator[Cells]:
        for reader in self._readers:
            skipped, cells = reader.read(start)
            start -= skipped
            yield from cells

    @property
    def seekable(self) -> bool:
        """Whether another process that opens it by its `spec` gets at any row without reading those before it."""
        plain = self.spec is not None and self._duplicates is None
        return plain and all(isinstance(reader, ParquetReader) for reader in self._readers)

    @cached_property
    def count(self) -> int | None:
        """Rows, if they are known without reading the list."""
        counts = [reader.count for reader in self._readers]
        return None if None in counts else sum(count for count in counts if count is not None)

    @cached_property
    def kept_schema(self) -> pa.Schema | None:
        """Arrow types of the kept columns where the formats fix them, so that every shard's table gets the same."""
        schemas = [reader.kept_schema for reader in self._readers]
        if None in schemas:
            return None
        try:
            schema = pa.unify_schemas(schemas, promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError):  # files that disagree: nothing is fixed
            return None
        return schema if self._parts is None else pa.schema([f for f in schema if f.name in self._parts.kept])

    @cached_property
    def fingerprint(self) -> dict[str, Any] | None:
        """What changes when the list does, as JSON types; None if the list cannot be read twice."""
        return None if self._fingerprint is None else self._fingerprint()


def open_source(
    source: Any,
    *,
    url_column: str = "url",
    caption_column: str | None = None,
    keep_columns: Iterable[str] = (),
    encoding: str = "utf-8",
    parts: Mapping[str, Part] | None = None,
) -> Source:
    """Open a list of URLs and check that its first rows can be read.

    >>> source = open_source(["https://example.com/a.jpg", "https://example.com/b.jpg"])
    >>> [(row.key, row.url) for row in source.rows(start=1)]
    [('000000001', 'https://example.com/b.jpg')]

    Args:
        source: a path, folder, glob or fsspec URL of txt, csv, tsv, json, jsonl or parquet lists; ``-`` for standard
            input (JSON or one URL a line); an iterable of URLs or of mappings; a mapping of columns; or anything
            that speaks Arrow.
        url_column: column of the image's URL, where there are columns.
        caption_column: column of a text to store with the image.
        keep_columns: columns whose values go into `Row.fields`.
        encoding: of text files and of standard input.
        parts: what each row is made of, in place of the one image at `url_column`.

    Raises:
        SourceError: the list is missing, empty, damaged, or lacks a column.
        MissingExtraError: a remote store needs a package that is not installed.
    """
    asked = None if parts is None else PartColumns(parts, tuple(keep_columns))
    columns = asked.columns if asked else Columns(url_column, caption_column, tuple(keep_columns))
    opened = _open(source, columns, encoding)
    if asked is not None:
        opened.take_parts(asked)
    # A list, not a generator: every file is looked at now, before the run writes anything.
    if not any([reader.has_rows() for reader in opened._readers]):  # noqa: C419, SLF001 - see above; our own class
        raise SourceError(f"{opened.description}: no rows")
    return opened


def open_list(source: Any, config: SourceConfig) -> Source:
    """As `open_source`, with the options of a run or a stream."""
    return open_source(
        source,
        url_column=config.url_column,
        caption_column=config.caption_column,
        keep_columns=config.keep_columns,
        encoding=config.encoding,
        parts=config.parts,
    )


def _open(source: Any, columns: Columns, encoding: str) -> Source:
    if isinstance(source, (str, os.PathLike)):
        location = os.fspath(source)
        if location == "-":
            return _of_standard_input(columns, encoding)
        return _of_files(absolute(location), columns, encoding)
    if isinstance(source, (pa.Array, pa.ChunkedArray)):
        source = source.to_pylist()
    if _is_table(source):
        return _of_arrow(source, columns)
    if isinstance(source, Iterable) and not isinstance(source, (bytes, bytearray)):
        return _of_items(source, columns)
    raise SourceError(
        f"an object of type {type(source).__name__} is no list: expected a path, an iterable of URLs or mappings, or a table"
    )


def _is_table(source: Any) -> bool:
    if isinstance(source, pa.RecordBatch) or hasattr(source, "to_batches"):
        return True
    try:
        return hasattr(source, "__arrow_c_stream__") and bool(pa.RecordBatchReader.from_stream(source))
    except pa.ArrowInvalid:  # a single column, such as a Series: an iterable of URLs
        return False


def _of_files(location: str, columns: Columns, encoding: str) -> Source:
    files = locate(location, encoding)
    return Source(
        [_file_reader(file, columns) for file in files],
        description=files[0].place if len(files) == 1 else f"{len(files)} files of {location}",
        spec=SourceSpec(location, columns.url, columns.caption, columns.keep, encoding),
        fingerprint=lambda: {"files": [file.fingerprint() for file in files]},
    )


def _file_reader(file: ListFile, columns: Columns) -> Reader:
    kind = (file.ending or "").removesuffix(".gz")
    if kind == ".parquet":
        return ParquetReader(file, columns)
    if kind == ".txt":
        return TextReader(file, columns)
    if kind in (".csv", ".tsv"):
        return TableReader(file, columns, delimiter="," if kind == ".csv" else "\t")
    return ItemReader(file.place, partial(json_items, file, columns), columns)


def _of_standard_input(columns: Columns, encoding: str) -> Source:
    file = StandardInput(encoding)
    reader: Reader = TextReader(file, columns)
    if file.looks_like_json:
        reader = ItemReader(file.place, partial(json_items, file, columns), columns)
    return Source([Once(reader)], description=file.place, rereadable=False)


def _of_arrow(source: Any, columns: Columns) -> Source:
    schema, batches = arrow_batches(source)
    count = len(source) if isinstance(source, Sized) else None
    reader = ArrowReader(f"the {type(source).__name__}", schema, batches, columns, count=count)
    return _of_reader(reader, once=isinstance(source, pa.RecordBatchReader))


def _of_items(source: Iterable[Any], columns: Columns) -> Source:
    place = f"the {type(source).__name__}"
    if isinstance(source, Mapping):
        rows = partial(transposed, place, source, columns)
        return _of_reader(ItemReader(place, rows, columns), once=False)
    count = len(source) if isinstance(source, Sized) else None
    reader = ItemReader(place, lambda: source, columns, count=count)
    return _of_reader(reader, once=isinstance(source, Iterator))


def _of_reader(reader: Reader, *, once: bool) -> Source:
    if once:
        return Source([Once(reader)], description=reader.place, rereadable=False)
    return Source([reader], description=reader.place, fingerprint=lambda: _content_mark(reader))


def _content_mark(reader: Reader) -> dict[str, Any]:
    digest = hashlib.sha256()
    for cells in reader.read(0)[1]:
        digest.update(repr(cells).encode())
    return {"sha256": digest.hexdigest()}
