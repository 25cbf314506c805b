"""Where in the files of a written shard the parts of its samples lie.

==========  =======================================  ==========================================
format      place                                    meaning
==========  =======================================  ==========================================
webdataset  ``shard:00012.tar#jpg@1536+3456``        3456 bytes, from byte 1536 of the file on
files       ``shard:00012/000000123.jpg#jpg@0+3456`` the whole file
arrays      ``shard:00012.npy#image@3200+3072``      the pixels of one image, without any header
parquet     ``shard:00012.parquet#jpg@2+17``         column ``jpg``, row group 2, row 17
==========  =======================================  ==========================================

Places are found while the rows are read, so that whoever reads the bytes needs no index.
"""

from __future__ import annotations

import functools
import math
import operator
import os
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.errors import ItemError
from penstock.records import PART, Reason, ShardReport
from penstock.sink.names import shard_name

__all__ = ["NpyHead", "Place", "Written", "array_heads", "finder_of", "parts_of_table", "unreadable"]

_PLACE = re.compile(r"shard:([^#]+)#([^@]+)@(\d+)\+(\d+)", re.ASCII)
_MEMBER = re.compile(r"(\d{9,})\.(.+)", re.ASCII)
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of one part of one sample are.

    >>> Place.of("shard:00012.tar#jpg@1536+3456")
    Place(file='00012.tar', part='jpg', at=1536, extent=3456)
    """

    file: str
    """Relative to the output folder, with forward slashes."""
    part: str
    """What follows the key in a member's name; of a parquet the column."""
    at: int
    """Byte at which it begins; in a parquet the row group."""
    extent: int
    """Bytes; in a parquet the row of the group."""

    @property
    def url(self) -> str:
        """As a row carries it."""
        return f"shard:{self.file}#{self.part}@{self.at}+{self.extent}"

    @property
    def rank(self) -> tuple[bool, list[tuple[int, str]]]:
        """By which the places of a sample are sorted: texts last, and ``views.2.jpg`` before ``views.10.jpg``."""
        pieces = self.part.split(".")
        return pieces[-1] == "txt", [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in pieces]

    @classmethod
    def of(cls, url: str) -> Self:
        """The place that a row carries.

        Raises:
            ValueError: it is none.
        """
        match = _PLACE.fullmatch(url)
        if match is None:
            raise ValueError(f"{url!r} is no place in a shard")
        return cls(match[1], match[2], int(match[3]), int(match[4]))


@dataclass(frozen=True, slots=True)
class Written:
    """A written row of a shard's table."""

    index: int
    """Its key."""
    position: int
    """Among the written rows of the shard, from 0."""
    group: int
    """Row group of the table."""
    row: int
    """In the row group, from 0."""
    values: dict[str, Any]
    """Cells by column."""


Finder = Callable[[Written], list[Place]]
"""The parts of a sample, in any order; asked for rows in ascending order. Raises ItemError where there are none."""


def finder_of(
    form: str, folder: Path, report: ShardReport, table: pq.ParquetFile, texts: Collection[str] = ()
) -> Finder:
    """Who finds the parts of a committed shard's samples.

    Args:
        form: the run's ``--format``.
        folder: the run's output.
        report: the shard.
        table: the shard's table, open; the finder does not close it.
        texts: parts that are text, of which a parquet has columns like any others.
    """
    name = shard_name(report.shard)
    if form == "webdataset":
        return _InStep(_in_tar(folder, f"{name}.tar"))
    if form == "files":
        return _InStep(_in_directory(folder, name))
    if form == "arrays":
        return _in_arrays(folder, report)
    return _InTable(table, f"{name}.parquet", texts).find


def unreadable(error: Exception) -> Reason:
    """Why a row fails whose file gave this error."""
    missing = isinstance(error, FileNotFoundError | NotADirectoryError)
    return Reason.STORAGE_NOT_FOUND if missing else Reason.STORAGE_ERROR


class _InStep:
    """Finds samples among members that come by ascending key, as the rows of the table do."""

    def __init__(self, members: Iterator[tuple[int, Place]]) -> None:
        self._members = members
        self._reason = Reason.STORAGE_NOT_FOUND
        self._ahead = self._next()

    def __call__(self, written: Written) -> list[Place]:
        found = []
        while self._ahead is not None and self._ahead[0] <= written.index:
            if self._ahead[0] == written.index:
                found.append(self._ahead[1])
            self._ahead = self._next()
        if not any(place.part == "json" for place in found):  # the last member of every sample that is whole
            raise ItemError(self._reason)
        return found

    def _next(self) -> tuple[int, Place] | None:
        """The next member; None when there is none, or the rest cannot be read."""
        try:
            return next(self._members, None)
        except (OSError, ValueError) as error:
            self._reason = unreadable(error)
            return None


def _in_tar(folder: Path, file: str) -> Iterator[tuple[int, Place]]:
    """The members of a tar, by its headers alone; `tarfile` takes many times as long."""
    with (folder / file).open("rb", buffering=0) as tar:
        offset = 0
        while any(head := os.pread(tar.fileno(), _BLOCK, offset)):
            name, size = _parse_header(head)
            offset += _BLOCK
            if match := _MEMBER.fullmatch(name):
                yield int(match[1]), Place(file, match[2], offset, size)
            offset += size + -size % _BLOCK
        if len(head) < _BLOCK:
            raise ValueError("the tar has no end")


def _parse_header(head: bytes) -> tuple[str, int]:
    """Name and size from a header that `penstock.sink.webdataset.tar_header` has written."""
    if len(head) < _BLOCK or head[257:262] != b"ustar":
        raise ValueError("no header of a tar")
    size = int.from_bytes(head[125:136]) if head[124] & 0x80 else int(head[124:135], 8)
    return head[:100].rstrip(b"\0").decode("ascii"), size


def _in_directory(folder: Path, name: str) -> Iterator[tuple[int, Place]]:
    """The files of a shard's directory, by key."""
    with os.scandir(folder / name) as entries:
        members = [(match, entry.stat().st_size) for entry in entries if (match := _MEMBER.fullmatch(entry.name))]
    found = [(int(match[1]), Place(f"{name}/{match[0]}", match[2], 0, size)) for match, size in members]
    yield from sorted(found, key=operator.itemgetter(0))


class NpyHead(NamedTuple):
    """What the head of an ``.npy`` file says."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    """Byte at which the numbers begin."""


def _npy_head(file: IO[bytes]) -> NpyHead:
    """Of version 1.0, which is what is written."""
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return NpyHead(shape, dtype, file.tell())


def array_heads(folder: Path, report: ShardReport) -> dict[str, tuple[str, NpyHead]]:
    """The file and the head of each array of a shard, by part.

    Raises:
        OSError: a file cannot be read.
        ValueError: one is no ``.npy`` file.
    """
    heads: dict[str, tuple[str, NpyHead]] = {}
    for name in (file.name for file in report.files if file.name.endswith(".npy")):
        with (folder / name).open("rb") as file:
            part = name.removeprefix(shard_name(report.shard)).removesuffix("npy").strip(".")
            heads[part or PART] = name, _npy_head(file)
    return heads


def _in_arrays(folder: Path, report: ShardReport) -> Finder:
    """Finds the rows of a shard's arrays, which are its written rows."""
    arrays: dict[str, tuple[str, NpyHead]] = {}
    reason = Reason.STORAGE_ERROR
    try:
        arrays = array_heads(folder, report)
    except (OSError, ValueError) as error:
        reason = unreadable(error)

    def find(written: Written) -> list[Place]:
        if not arrays or any(head.shape[0] != report.written for _, head in arrays.values()):
            raise ItemError(reason)
        return [_row_of(name, part, head, written.position) for part, (name, head) in arrays.items()]

    return find


def _row_of(name: str, part: str, head: NpyHead, position: int) -> Place:
    size = head.dtype.itemsize * math.prod(head.shape[1:])
    return Place(name, part, head.offset + position * size, size)


def parts_of_table(table: pq.ParquetFile, texts: Collection[str] = ()) -> list[str]:
    """Columns of a table that hold parts: the texts, and those that are binary, as no kept column is."""
    return [field.name for field in table.schema_arrow if pa.types.is_binary(field.type) or field.name in texts]


class _InTable:
    """Finds the parts that are columns of the table itself."""

    def __init__(self, table: pq.ParquetFile, file: str, texts: Collection[str]) -> None:
        self._table = table
        self._file = file
        self._parts = parts_of_table(table, texts)
        self._present = functools.lru_cache(maxsize=1)(self._read_present)

    def find(self, written: Written) -> list[Place]:
        """The columns that have a value in this row: a written row has one at least."""
        present = self._parts
        if len(self._parts) > 1:
            present = [part for part in self._parts if self._present(written.group)[part][written.row]]
        return [Place(self._file, part, written.group, written.row) for part in present]

    def _read_present(self, group: int) -> dict[str, list[bool]]:
        """By part, whether each row has it: binary columns have no other mark, so they are read for it."""
        try:
            columns = self._table.read_row_group(group, columns=self._parts, use_threads=False)
        except (OSError, pa.ArrowException):  # it is damaged, which reading tells of each row
            rows = self._table.metadata.row_group(group).num_rows
            return {part: [True] * rows for part in self._parts}
        return {part: columns[part].is_valid().to_pylist() for part in self._parts}
