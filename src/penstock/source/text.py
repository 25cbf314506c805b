"""Text files: decoded chunks, lines, and the plain list with one URL a line."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from itertools import chain, repeat

import pyarrow as pa

from penstock.errors import SourceError
from penstock.source.base import Cells, Columns, Reader, skip
from penstock.source.files import ListFile

__all__ = ["LIMIT", "TextReader", "lines", "texts"]

LIMIT = 2**20
"""Longest line, cell or JSON value in characters: a file of one endless line must not fill the memory."""


def texts(file: ListFile) -> Iterator[str]:
    """The file as decoded text, a chunk at a time, without a byte order mark.

    Raises SourceError with the line if the bytes are not in the file's encoding, or are a NUL.
    """
    name = "utf-8-sig" if file.encoding == "utf-8" else file.encoding
    decoder = codecs.getincrementaldecoder(name)()
    line = 1
    for chunk in chain(file.chunks(), [b""]):
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            line += error.object.count(b"\n", 0, error.start)
            byte = error.object[error.start]
            raise SourceError(
                f"{file.place}, line {line}: byte 0x{byte:02x} is not {file.encoding.upper()}; "
                "save the list as UTF-8, or name its encoding with --encoding"
            ) from None
        if "\0" in text:
            line += text.count("\n", 0, text.index("\0"))
            raise SourceError(
                f"{file.place}, line {line}: a NUL character; this is no text, or not {file.encoding.upper()}"
            )
        line += text.count("\n")
        yield text


def lines(file: ListFile) -> Iterator[str]:
    r"""The file line by line, each with its ``\n``. Other separators do not count, so that numbers agree with editors'.

    Raises SourceError with the line if one is much longer than `LIMIT`.
    """
    number, rest = 0, ""
    for text in texts(file):
        whole, newline, tail = text.rpartition("\n")
        if newline:
            block = io.StringIO(rest + whole + newline, newline="\n")
            yield from block
            number, rest = number + whole.count("\n") + 1, ""
        rest += tail
        if len(rest) > LIMIT:
            raise SourceError(f"{file.place}, line {number + 1}: longer than {LIMIT} characters")
    if rest:
        yield rest


class TextReader(Reader):
    """One URL a line. A blank line is a row without a URL, so that positions stay true; blank lines at the end are none."""

    kept_schema = pa.schema([])

    def __init__(self, file: ListFile, columns: Columns) -> None:
        self.place = file.place
        self._file = file
        columns.refuse(file.place, "a plain text list")

    def read(self, start: int) -> tuple[int, Iterator[Cells]]:
        """As `Reader.read`."""
        urls = self._urls()
        return skip(urls, start), ((url, None, {}) for url in urls)

    def _urls(self) -> Iterator[str | None]:
        blank = 0
        for line in lines(self._file):
            url = line.strip()
            if not url:
                blank += 1
                continue
            if blank:
                yield from repeat(None, blank)
                blank = 0
            yield url
