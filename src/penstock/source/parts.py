"""From the cells of a row to what it asks for, where it asks for several things."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from penstock.parts import Column, Images, Part, Text, kept_columns
from penstock.records import Reason, Request, Row
from penstock.source.base import Columns, clean_url

__all__ = ["PartColumns", "urls_of"]


class PartColumns:
    """Where in a list the parts of its rows stand.

    To the readers the URLs are kept columns like others; here they become requests.

    Args:
        parts: of each row.
        keep: columns to keep beside those that parts are made of.
    """

    def __init__(self, parts: Mapping[str, Part], keep: tuple[str, ...] = ()) -> None:
        self.parts = parts
        self.keep = keep
        self.kept = kept_columns(keep, parts)
        """Columns that become `Row.fields`."""
        fetched = [(name, part) for name, part in parts.items() if not isinstance(part, Column)]
        # Images first: what the table says of a row itself is of its first request.
        self._fetched = sorted(fetched, key=lambda named: isinstance(named[1], Text))
        self._needed = [part.column for part in parts.values() if isinstance(part, Column) and part.required]
        self.columns = self._columns()
        """What the readers are to look for."""

    def _columns(self) -> Columns:
        lists = all(isinstance(part, Images) for _, part in self._fetched)
        url = next(part.column for _, part in self._fetched if lists or not isinstance(part, Images))
        others = (part.column for _, part in self._fetched if part.column != url)
        asked = {part.column: f"--parts {name}" for name, part in self.parts.items()}
        return Columns(url, keep=tuple(dict.fromkeys((*self.kept, *others))), asked=asked, lists=lists)

    def row(self, index: int, url: str | None, cells: Mapping[str, Any], refused: Reason | None) -> Row:
        """The row, from the cell of `Columns.url`, the kept cells, and a reason why it is not to be fetched."""
        if refused is None and any(_is_blank(cells.get(name)) for name in self._needed):
            refused = Reason.POLICY_NO_VALUE
        values = {self.columns.url: url, **cells}
        requests: list[Request] = []
        for name, part in self._fetched:
            requests += _requests(name, part, values[part.column], refused)
        return Row(index, tuple(requests), fields={name: cells[name] for name in self.kept})


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _requests(name: str, part: Part, cell: Any, refused: Reason | None) -> Iterator[Request]:
    if not isinstance(part, Images):
        yield Request(name, clean_url(cell), refused, part.required)
        return
    urls = urls_of(cell) or [None]  # a row without a single one has an outcome that says so
    taken = urls[: part.at_most]
    for number, url in enumerate(taken):
        left_out = len(urls) - len(taken) if number == len(taken) - 1 else 0
        yield Request(f"{name}.{number}", url, refused, part.required, left_out)


def urls_of(cell: Any) -> list[str | None]:
    """The URLs of a cell that holds a list, a JSON array, or text with blanks between them.

    >>> urls_of(["https://a/1.jpg", None]), urls_of('["https://a/1.jpg"]'), urls_of("https://a/1.jpg https://a/2.jpg")
    (['https://a/1.jpg', None], ['https://a/1.jpg'], ['https://a/1.jpg', 'https://a/2.jpg'])
    """
    if isinstance(cell, str):
        listed = _json_list(cell)
        cell = cell.split() if listed is None else listed
    if isinstance(cell, list):
        return [clean_url(item) for item in cell]
    return [] if cell is None else [clean_url(cell)]


def _json_list(text: str) -> list[Any] | None:
    if not text.lstrip().startswith("["):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list) else None
