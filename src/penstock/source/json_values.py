"""JSON, read as a stream: an array, one value after the other (JSON lines), or an object of columns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from penstock.errors import SourceError
from penstock.source.base import Columns
from penstock.source.files import ListFile
from penstock.source.items import transposed
from penstock.source.text import LIMIT, texts

__all__ = ["json_items"]

COLUMNS_LIMIT = 2**30
"""Longest object of columns in characters. Unlike the other forms it has to be held in memory as a whole."""

_DECODER = json.JSONDecoder()
_WHITESPACE = re.compile(r"[ \t\r\n]*")


def json_items(file: ListFile, columns: Columns) -> Iterator[Any]:
    """The items of a JSON file; its content, not its name, tells which of the three forms it has.

    Raises SourceError with the line if the file is damaged.
    """
    scanner = _Scanner(file)
    first = scanner.peek()
    if first == "[":
        return _array(scanner)
    if first == "{":
        return _objects(scanner, file.place, columns)
    return _sequence(scanner)


def _array(scanner: _Scanner) -> Iterator[Any]:
    scanner.expect("[")
    if scanner.peek() != "]":
        yield scanner.value(LIMIT)
        while scanner.peek() == ",":
            scanner.expect(",")
            yield scanner.value(LIMIT)
    scanner.expect("]")
    if scanner.peek():
        raise scanner.error("something follows the end of the array")


def _objects(scanner: _Scanner, place: str, columns: Columns) -> Iterator[Any]:
    first = scanner.value(COLUMNS_LIMIT)
    if not scanner.peek() and columns.is_column(first.get(columns.url)):
        yield from transposed(place, first, columns)
    else:
        yield first
        yield from _sequence(scanner)


def _sequence(scanner: _Scanner) -> Iterator[Any]:
    while scanner.peek():
        yield scanner.value(LIMIT)


class _Scanner:
    """Takes one JSON value after the other from a stream of text, holding little more than the value at hand."""

    def __init__(self, file: ListFile) -> None:
        self._place = file.place
        self._texts = texts(file)
        self._text = ""
        self._at = 0
        self._line = 1
        """Line on which `_text` begins."""

    def peek(self) -> str:
        """The next character that is no whitespace; empty at the end."""
        while True:
            match = _WHITESPACE.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def expect(self, sign: str) -> None:
        """Take `sign`, which has to come next."""
        if self.peek() != sign:
            raise self.error(f"expected {sign!r}")
        self._at += 1

    def value(self, limit: int) -> Any:
        """Take the next value."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # Damaged, or not all here yet: more text tells.
                if len(self._text) - self._at > limit or not self._more():
                    raise self.error(error.msg, error.pos) from None
            except (ValueError, RecursionError) as error:
                raise self.error(str(error)) from None
            else:
                # A number that ends where the text ends may go on in the next chunk.
                if end < len(self._text) or not self._more():
                    self._at = end
                    return value

    def error(self, text: str, position: int | None = None) -> SourceError:
        """A SourceError with the line of `position`."""
        line = self._line + self._text.count("\n", 0, self._at if position is None else position)
        return SourceError(f"{self._place}, line {line}: not valid JSON: {text}")

    def _more(self) -> bool:
        """Read on; at least as much as is waiting, so that a long value is not begun again too often."""
        waiting = len(self._text) - self._at
        fresh: list[str] = []
        while sum(map(len, fresh)) <= waiting and (text := next(self._texts, None)) is not None:
            fresh.append(text)
        if not any(fresh):
            return False
        self._line += self._text.count("\n", 0, self._at)
        self._text, self._at = self._text[self._at :] + "".join(fresh), 0
        return True
