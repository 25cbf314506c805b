"""``00000.tar``: one sample after the other, as WebDataset and everything that reads it expects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.sink.base import PartKind, ShardRows
from penstock.sink.members import check_members, members
from penstock.sink.table import TableLayout, TableWriter

__all__ = ["WebDatasetFormat"]

_BLOCK = 512
_BUFFER = 2**20
"""Bytes gathered for one system call."""


@dataclass(frozen=True, slots=True)
class WebDatasetFormat:
    """Tar files of ``000000000.jpg``, ``.txt`` (the caption) and ``.json`` (the row of the table), and the table.

    Arrays of a user's transform are ``.NAME.npy``, or ``.npy`` for the part called ``image``.
    """

    layout: TableLayout

    def check(self, kinds: Sequence[PartKind]) -> None:
        """See `ShardFormat.check`."""
        check_members(kinds, self.layout.own_members)

    def write(self, rows: ShardRows, folder: Path, name: str) -> list[Path]:
        """See `ShardFormat.write`."""
        archive, table = folder / f"{name}.tar", folder / f"{name}.parquet"
        with archive.open("wb", buffering=_BUFFER) as tar, TableWriter(table, self.layout.schema(rows)) as lines:
            for record in rows:
                lines.add(record)
                if record.parts:
                    for member, data in members(record):
                        tar.write(tar_header(member, len(data)))
                        tar.write(data)
                        tar.write(bytes(-len(data) % _BLOCK))
            tar.write(bytes(2 * _BLOCK))
        return [archive, table]


# The fields of a ustar header that are the same for all members; nobody's file, of no time, so that equal samples are
# equal bytes. Between them go the name (100), the size (12) and the checksum (8).
_OWNER = b"0000644\0" + b"0000000\0" * 2
_TIME = b"00000000000\0"
_TYPE = b"0" + bytes(100) + b"ustar\x0000" + bytes(64 + 16 + 167)
_FIXED_SUM = sum(_OWNER) + sum(_TIME) + sum(_TYPE) + 8 * ord(" ")


def tar_header(name: str, size: int) -> bytes:
    """A ustar header; by hand, because `tarfile` takes 15 times as long for it.

    Args:
        name: at most 100 ASCII characters.
        size: of the member in bytes; past 8 GiB in GNU's binary notation, which every reader knows.
    """
    name_field = name.encode("ascii")
    assert len(name_field) <= 100
    size_field = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    checksum = b"%06o\0 " % (_FIXED_SUM + sum(name_field) + sum(size_field))
    return b"".join((name_field, bytes(100 - len(name_field)), _OWNER, size_field, _TIME, checksum, _TYPE))
