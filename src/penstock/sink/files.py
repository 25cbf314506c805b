"""``00000/``: a directory of plain files for each shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.sink.base import PartKind, ShardRows
from penstock.sink.members import check_members, members
from penstock.sink.table import TableLayout, TableWriter

__all__ = ["FilesFormat"]


@dataclass(frozen=True, slots=True)
class FilesFormat:
    """The same members as in a webdataset's tar, each a file of its own, and the table."""

    layout: TableLayout

    def check(self, kinds: Sequence[PartKind]) -> None:
        """See `ShardFormat.check`."""
        check_members(kinds, self.layout.own_members)

    def write(self, rows: ShardRows, folder: Path, name: str) -> list[Path]:
        """See `ShardFormat.write`."""
        directory, table = folder / name, folder / f"{name}.parquet"
        directory.mkdir()
        with TableWriter(table, self.layout.schema(rows)) as lines:
            for record in rows:
                lines.add(record)
                if record.parts:
                    for member, data in members(record):
                        (directory / member).write_bytes(data)
        return [directory, table]
