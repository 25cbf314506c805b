"""CSV and TSV: a header, quotes, and newlines inside them."""

from __future__ import annotations

import csv
from collections.abc import Iterator

import pyarrow as pa

from penstock.errors import SourceError
from penstock.source.base import Cells, Columns, Reader, clean_url, skip
from penstock.source.files import ListFile
from penstock.source.text import LIMIT, lines

__all__ = ["TableReader"]


class TableReader(Reader):
    """Rows of text cells under a header. Blank lines are no rows; cells that a row lacks at its end are None."""

    def __init__(self, file: ListFile, columns: Columns, *, delimiter: str) -> None:
        self.place = file.place
        self.kept_schema = pa.schema([(name, pa.string()) for name in columns.keep])
        self._file = file
        self._columns = columns
        self._delimiter = delimiter

    def read(self, start: int) -> tuple[int, Iterator[Cells]]:
        """As `Reader.read`."""
        records = self._records()
        header = next(records, None)
        if header is None:
            return 0, iter(())
        self._columns.require(self.place, header)
        return skip(records, start), self._cells(header, records)

    def _records(self) -> Iterator[list[str]]:
        """The header, then every row; none has more cells than the header."""
        csv.field_size_limit(max(LIMIT, csv.field_size_limit()))  # a setting of the whole process: never lowered
        # Strict: a file with a broken quote is refused. Read leniently, it would lose rows without a word.
        reader = csv.reader(lines(self._file), delimiter=self._delimiter, strict=True)
        begin, width = 1, None
        try:
            for record in reader:
                if record:
                    width = width or len(record)
                    _check_width(record, width, self._delimiter)
                    yield record
                begin = reader.line_num + 1
        except csv.Error as error:
            raise SourceError(f"{self.place}, line {begin}: {_explained(error)}") from None

    def _cells(self, header: list[str], records: Iterator[list[str]]) -> Iterator[Cells]:
        width = len(header)
        url = header.index(self._columns.url)
        caption = None if self._columns.caption is None else header.index(self._columns.caption)
        keep = [(name, header.index(name)) for name in self._columns.keep]
        for record in records:
            row: list[str | None] = [*record, *[None] * (width - len(record))]
            text = None if caption is None else row[caption]
            yield clean_url(row[url]), text, {name: row[position] for name, position in keep}


def _check_width(record: list[str], width: int, delimiter: str) -> None:
    if len(record) > width:
        raise csv.Error(f"{len(record)} cells under a header of {width}; quote a cell that holds {delimiter!r}")


def _explained(error: csv.Error) -> str:
    text = str(error)
    if "unexpected end of data" in text or "field larger" in text:
        return f"a quote that opens here is never closed, or the cell is longer than {LIMIT} characters"
    return text
