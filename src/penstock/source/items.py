"""Items of any origin: strings or mappings, out of Python or out of JSON."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import pyarrow as pa

from penstock.errors import SourceError
from penstock.source.base import Cells, Columns, Reader, clean_text, clean_url, jsonable, skip

__all__ = ["ItemReader", "transposed"]

SCALARS = (str, bytes, int, float, os.PathLike, type(None))
"""What can stand for a URL on its own; all but text will fail as rows, not as a list."""


class ItemReader(Reader):
    """Each item is a URL, or a mapping from column names to values; `items` is called for every pass."""

    def __init__(
        self, place: str, items: Callable[[], Iterable[Any]], columns: Columns, *, count: int | None = None
    ) -> None:
        self.place = place
        self.count = count
        self.kept_schema = None if columns.keep else pa.schema([])
        self._items = items
        self._columns = columns

    def read(self, start: int) -> tuple[int, Iterator[Cells]]:
        """As `Reader.read`. The first item decides whether the wanted columns exist; a later one may lack some."""
        items = iter(self._items())
        for first in items:
            if isinstance(first, Mapping):
                self._columns.require(self.place, first)
            else:
                self._columns.refuse(self.place, f"a list of {type(first).__name__} items")
            items = chain([first], items)
            break
        skipped = skip(items, start)
        return skipped, self._cells(items, skipped)

    def _cells(self, items: Iterator[Any], position: int) -> Iterator[Cells]:
        wanted = self._columns
        for number, item in enumerate(items, position):
            if isinstance(item, Mapping):
                caption = None if wanted.caption is None else clean_text(item.get(wanted.caption))
                fields = {name: jsonable(item.get(name)) for name in wanted.keep}
                yield clean_url(item.get(wanted.url)), caption, fields
            elif isinstance(item, SCALARS):
                yield clean_url(item), None, dict.fromkeys(wanted.keep)
            else:
                kind = type(item).__name__
                raise SourceError(f"{self.place}, row {number}: expected a URL or a mapping, not a {kind}")


def transposed(place: str, columns: Mapping[str, Any], wanted: Columns) -> Iterator[dict[str, Any]]:
    """The rows of a mapping from names to columns, each a list or (as pandas writes JSON) a mapping to its values."""
    wanted.require(place, columns)
    values = [list(column.values()) if isinstance(column, Mapping) else column for column in columns.values()]
    lengths = {name: len(column) for name, column in zip(columns, values, strict=True)}
    if len(set(lengths.values())) > 1:
        raise SourceError(f"{place}: the columns differ in length: {lengths}")
    return (dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True))
