"""The seam between the formats and the rows: what a reader gives, and how raw values become cells.

A reader knows one format and nothing of `Row`. It gives *cells*: the URL, the caption and the kept columns of one
row, already as the JSON types that `Row` promises::

    file ──texts──▶ TextReader | TableReader | ItemReader (JSON) ──┐
    parquet, Arrow ──batches──▶ ArrowReader ───────────────────────┼─cells──▶ Source.rows
    iterable ──────────────────▶ ItemReader ───────────────────────┘
"""

from __future__ import annotations

import abc
import difflib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import pyarrow as pa

from penstock.errors import SourceError

__all__ = ["Cells", "Columns", "Once", "Reader", "clean_text", "clean_url", "jsonable", "skip"]

Cells = tuple[str | None, str | None, dict[str, Any]]
"""URL, caption and kept columns of one row."""

PLAIN_TYPES = frozenset({type(None), str, bool, int})
"""Whose values are JSON as they are."""

SHOWN_COLUMNS = 20
"""How many column names a message lists; more would not be read. The number is arbitrary."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns are wanted, and the messages for those that are not there."""

    url: str
    caption: str | None = None
    keep: tuple[str, ...] = ()
    asked: Mapping[str, str] = field(default_factory=dict)
    """What asked for a column, where it was none of the options of columns."""
    lists: bool = False
    """Whether the column of URLs has several in each row."""

    @property
    def names(self) -> list[str]:
        """Every wanted column once."""
        return list(dict.fromkeys([self.url, *self._options()]))

    def _options(self) -> dict[str, str]:
        """Wanted columns besides the URL's, with the option that asked for each."""
        options = {name: self.asked.get(name, "--keep-columns") for name in self.keep}
        return options if self.caption is None else {self.caption: "--caption-column"} | options

    def require(self, place: str, present: Iterable[str]) -> None:
        """Raise SourceError unless each wanted column is `present` exactly once."""
        present = list(present)
        for name, option in ({self.url: self.asked.get(self.url, "--url-column")} | self._options()).items():
            if name not in present:
                raise SourceError(f"{place}: no column {name!r} ({option}); {_alternatives(name, present)}")
            if present.count(name) > 1:
                raise SourceError(f"{place}: more than one column is called {name!r} ({option}); rename one of them")

    def refuse(self, place: str, what: str) -> None:
        """Raise SourceError if anything but the URL is wanted of a list that has nothing else."""
        for name, option in self._options().items():
            raise SourceError(f"{place}: {what} has no columns, so {option} {name!r} cannot be had from it")

    def is_column(self, value: Any) -> bool:
        """Whether a value under the name of the URL's column is the whole column, and not the cell of one row."""
        return isinstance(value, dict) or (
            isinstance(value, list) and (not self.lists or (bool(value) and isinstance(value[0], list)))
        )


def _alternatives(name: str, present: list[str]) -> str:
    if not present:
        return "there are no columns at all"
    shown = ", ".join(repr(column) for column in present[:SHOWN_COLUMNS])
    rest = f" and {len(present) - SHOWN_COLUMNS} more" if len(present) > SHOWN_COLUMNS else ""
    lowered = {str(column).lower(): column for column in reversed(present)}
    close = difflib.get_close_matches(name.lower(), lowered, n=1)
    guess = f"; did you mean {lowered[close[0]]!r}?" if close else ""
    return f"there are {shown}{rest}{guess}"


class Reader(abc.ABC):
    """Gives the cells of one file, table or iterable."""

    place: str
    """What messages call it: a path, a URL, "standard input" …"""
    count: int | None = None
    """Rows, where they are known without reading."""
    kept_schema: pa.Schema | None = None
    """Arrow types of the kept columns, where the format fixes them."""

    @abc.abstractmethod
    def read(self, start: int) -> tuple[int, Iterator[Cells]]:
        """Skip `start` rows; how many there were to skip (at most `start`), and the cells of the rest.

        Raises SourceError, here or while the cells are read.
        """

    def has_rows(self) -> bool:
        """Whether there is a first row; raises SourceError if it cannot be read."""
        return next(self.read(0)[1], None) is not None


class Once(Reader):
    """The cells of a reader that can be read a single time, with a first look that costs nothing."""

    def __init__(self, reader: Reader) -> None:
        self.place, self.kept_schema = reader.place, reader.kept_schema
        cells = reader.read(0)[1]
        self._first = next(cells, None)
        self._cells: Iterator[Cells] | None = cells if self._first is None else chain([self._first], cells)

    def has_rows(self) -> bool:
        """Whether there is a first row."""
        return self._first is not None

    def read(self, start: int) -> tuple[int, Iterator[Cells]]:
        """As `Reader.read`; SourceError at the second call."""
        if self._cells is None:
            raise SourceError(
                f"{self.place} can be read only once, from front to back; pass a file or a list to read it again"
            )
        cells, self._cells = self._cells, None
        return skip(cells, start), cells


def skip(items: Iterator[Any], count: int) -> int:
    """Drop up to `count` items; how many there were."""
    return sum(1 for _ in islice(items, count))


def clean_url(value: Any) -> str | None:
    """A URL cell: stripped text, or None where there is none.

    >>> clean_url(" https://example.com/a.jpg "), clean_url(""), clean_url(float("nan")), clean_url(7)
    ('https://example.com/a.jpg', None, None, '7')
    """
    text = value if isinstance(value, str) else clean_text(value)
    return text.strip() or None if text else None


def clean_text(value: Any) -> str | None:
    r"""Any cell as text: JSON for lists and mappings, None where there is no value.

    >>> clean_text(b"caf\xc3\xa9"), clean_text({"a": [1]}), clean_text(None)
    ('café', '{"a": [1]}', None)
    """
    plain = jsonable(value)
    if plain is None or isinstance(plain, str):
        return plain
    return json.dumps(plain, ensure_ascii=False) if isinstance(plain, (list, dict)) else str(plain)


def jsonable(value: Any) -> Any:
    r"""The JSON type that is nearest to `value`; numbers that JSON lacks (NaN, infinities) become None.

    What is made of a class derived from such a type (an IntEnum of the user's script, numpy's float64) is of the type itself:
    other processes need not know the class.

    >>> jsonable({"a": (1, float("nan"))}), jsonable(b"\xff\x00")
    ({'a': [1, None]}, 'ff00')
    """
    if type(value) in PLAIN_TYPES:
        return value
    if isinstance(value, (float, str, int)):
        return _plain(value)
    if isinstance(value, Mapping):
        return {str(name): jsonable(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(item) for item in value]
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        return jsonable(value.tolist())
    return _text_of_bytes(value) if isinstance(value, bytes) else str(value)


def _plain(value: float | str) -> float | str | None:
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    return float.__float__(value) if math.isfinite(value) else None


def _text_of_bytes(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.hex()
