"""Walks over the structure of image files: segments, chunks, blocks and tables, never what is compressed in them.

They give what the decoders' own headers do not tell in time: how many parts a file has, and how large it says it is.
None of them raises, whatever the bytes are; each ends with the file, and no loop of pointers holds it up.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

__all__ = [
    "END_OF_IMAGE",
    "FRAME_HEADERS",
    "MAX_BLOCKS",
    "START_OF_SCAN",
    "GifWalk",
    "TiffEntry",
    "TiffWalk",
    "jpeg_scans",
    "jpeg_segments",
    "png_chunks",
]

MAX_BLOCKS = 2**17
"""Blocks and sub-blocks of a GIF file that are walked over: full ones hold 32 MiB, and they take 10 ms."""

START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG markers: SOF0 to SOF15."""

_STANDALONE = frozenset([0x00, 0x01, *range(0xD0, 0xD9)])
"""JPEG markers without a length."""

_MARKER = re.compile(rb"\xff[^\xff]")
"""After junk or padding, if there is any."""

_MARKER_AMID_DATA = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""Neither a stuffed byte, nor padding, nor a restart: the end of a scan."""


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker and position of a JPEG file's segments up to the first scan; the positions are those of the markers."""
    position = 2
    while (found := _MARKER.search(data, position)) and found.end() + 2 <= len(data):
        position, marker = found.start(), data[found.start() + 1]
        yield marker, position
        if marker == START_OF_SCAN:
            return
        position += 2 if marker in _STANDALONE else 2 + int.from_bytes(data[position + 2 : position + 4], "big")


def jpeg_scans(data: bytes, first: int) -> Iterator[int]:
    """Positions of a JPEG file's scans from the `first` one on, to the end marker: what comes behind does not count."""
    position = first
    while position + 4 <= len(data) and data[position + 1] != END_OF_IMAGE:
        marker = data[position + 1]
        if marker == START_OF_SCAN:
            yield position
        length = 0 if marker in _STANDALONE else int.from_bytes(data[position + 2 : position + 4], "big")
        found = _MARKER_AMID_DATA.search(data, position + 2 + length)
        if found is None:
            return
        position = found.start()


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Name and end of a PNG file's chunks, IEND being the last; a cut chunk ends past the end of the file."""
    position, name = 8, b""
    while position + 8 <= len(data) and name != b"IEND":
        length, name = struct.unpack_from(">I4s", data, position)
        position += 12 + length
        yield name, position


class GifWalk:
    """A walk over a GIF file, of `MAX_BLOCKS` blocks at most."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._blocks = 0

    @property
    def exhausted(self) -> bool:
        """Whether the walk was given up."""
        return self._blocks > MAX_BLOCKS

    def frames(self) -> Iterator[tuple[int, int]]:
        """Right and lower edge of each frame, in pixels."""
        data = self._data
        position = 13 + _palette_bytes(data[10]) if len(data) > 13 else len(data)
        while position + 10 <= len(data) and not self.exhausted:
            block = data[position : position + 1]
            if block == b";":
                return
            if block == b",":
                left, top, width, height, flags = struct.unpack_from("<4HB", data, position + 1)
                yield left + width, top + height
                position = self._after_blocks(position + 11 + _palette_bytes(flags))
            elif block == b"!":
                position = self._after_blocks(position + 2)
            else:  # junk, which decoders skip
                position += 1
                self._blocks += 1

    def _after_blocks(self, position: int) -> int:
        """Where the sub-blocks end that start at `position`."""
        data, blocks = self._data, self._blocks
        while position < len(data) and (size := data[position]) and blocks <= MAX_BLOCKS:
            position += size + 1
            blocks += 1
        self._blocks = blocks + 1
        return position + 1


def _palette_bytes(flags: int) -> int:
    """Of the palette that a GIF screen or frame with these flags has."""
    return 6 << (flags & 7) if flags & 0x80 else 0


class TiffEntry(NamedTuple):
    """A tag of a TIFF table."""

    tag: int
    values: int
    """How many it has."""
    value: int
    """The first one, if it is an integer and lies in the entry itself; else nothing that makes sense."""


class TiffWalk:
    """A walk over the tables of a TIFF or BigTIFF file: one a page."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._order = "<" if data.startswith(b"I") else ">"
        self._big = b"+" in data[2:4]

    def tables(self) -> Iterator[tuple[int, int]]:
        """Position and number of entries of each table, once."""
        count, size, next_ = ("Q", 20, "Q") if self._big else ("H", 12, "I")
        seen = set()
        position = self._integer(8 if self._big else 4, next_)
        while position and position not in seen:
            seen.add(position)
            entries = self._integer(position, count)
            start = position + struct.calcsize(count)
            if start > len(self._data):
                return
            yield start, entries
            position = self._integer(start + entries * size, next_)

    def entries(self, start: int, entries: int) -> Iterator[TiffEntry]:
        """The entries of the table that `tables` gave, as far as the file goes."""
        layout = struct.Struct(self._order + ("HHQ8s" if self._big else "HHI4s"))
        whole = min(entries, (len(self._data) - start) // layout.size)
        for tag, kind, values, value in layout.iter_unpack(self._data[start : start + whole * layout.size]):
            yield TiffEntry(tag, values, self._first(value, kind))

    def _first(self, value: bytes, kind: int) -> int:
        """The first value of an entry, whose own bytes are `value`."""
        size = {1: 1, 3: 2, 4: 4}.get(kind, len(value))
        return int.from_bytes(value[:size], "little" if self._order == "<" else "big")

    def _integer(self, position: int, format_: str) -> int:
        """The integer at `position`; 0 if it is not in the file."""
        if position + struct.calcsize("=" + format_) > len(self._data):
            return 0
        (value,) = struct.unpack_from(self._order + format_, self._data, position)
        return int(value)
