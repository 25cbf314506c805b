"""``00000.parquet``: the table itself, with the images in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.errors import ConfigError
from penstock.sink.base import PartKind, ShardRows
from penstock.sink.members import check_members, unusable
from penstock.sink.table import TableLayout, TableWriter

__all__ = ["ParquetFormat"]


@dataclass(frozen=True, slots=True)
class ParquetFormat:
    """The table with a column for each part: ``jpg`` holds the file's bytes, an array's column ``.npy`` bytes.

    Raises:
        ConfigError: a part that is known beforehand has the name of a column of the table.
    """

    layout: TableLayout
    parts: tuple[str, ...] = ()
    """Parts that are known beforehand: their columns exist in a shard without a single written row, too."""
    texts: tuple[str, ...] = ()
    """Parts that are UTF-8: their columns are text, not bytes."""

    def __post_init__(self) -> None:
        """Refuse now what would fail every row."""
        taken = next((name for name in self.parts if name in self.layout.columns), None)
        if taken is not None:
            what = f"--parts: part {taken!r}" if self.layout.parts else f"--keep-columns {taken}: the image"
            raise ConfigError(f"{what}: the shards' table has a column of that name; call it otherwise")

    def check(self, kinds: Sequence[PartKind]) -> None:
        """See `ShardFormat.check`."""
        check_members(kinds, self.layout.own_members)
        for kind in kinds:
            if kind.name in self.layout.columns:
                raise unusable(f"part {kind.name!r}: the table has a column of that name")

    def write(self, rows: ShardRows, folder: Path, name: str) -> list[Path]:
        """See `ShardFormat.write`."""
        path = folder / f"{name}.parquet"
        part_names = sorted({*self.parts, *rows.part_names})
        with TableWriter(path, self.layout.schema(rows), part_names, self.texts) as table:
            for record in rows:
                table.add(record)
        return [path]
