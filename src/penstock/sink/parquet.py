"""``00000.parquet``: the table itself, with the images in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.sink.base import PartKind, ShardRows
from penstock.sink.members import check_members, unusable
from penstock.sink.table import TableLayout, TableWriter

__all__ = ["ParquetFormat"]


@dataclass(frozen=True, slots=True)
class ParquetFormat:
    """The table with a binary column for each part: ``jpg`` holds the file's bytes, an array's column ``.npy`` bytes."""

    layout: TableLayout
    parts: tuple[str, ...] = ()
    """Parts that are known beforehand: their columns exist in a shard without a single written row, too."""

    def check(self, kinds: Sequence[PartKind]) -> None:
        """See `ShardFormat.check`."""
        check_members(kinds)
        for kind in kinds:
            if kind.name in self.layout.columns:
                raise unusable(f"part {kind.name!r}: the table has a column of that name")

    def write(self, rows: ShardRows, folder: Path, name: str) -> list[Path]:
        """See `ShardFormat.write`."""
        path = folder / f"{name}.parquet"
        part_names = sorted({*self.parts, *rows.part_names})
        with TableWriter(path, self.layout.schema(rows), part_names) as table:
            for record in rows:
                table.add(record)
        return [path]
