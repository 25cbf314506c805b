"""``00000.npy``: all the images of a shard as one array, ready to be mapped into memory."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from penstock.sink.base import PartKind, ShardRows
from penstock.sink.members import check_members, extension, unusable
from penstock.sink.table import TableLayout, TableWriter

__all__ = ["ArraysFormat"]

_BUFFER = 2**20
"""Bytes gathered for one system call."""


@dataclass(frozen=True, slots=True)
class ArraysFormat:
    """``.npy`` files whose first axis counts the written rows in the order of their keys, and the table.

    The part called ``image`` is ``00000.npy`` ((N, S, S, 3) uint8 for Penstock's own work), any other part of a user's
    transform ``00000.NAME.npy``. A shard without a written row has no ``.npy`` at all: nothing there knows a shape.

    All samples must have the same parts, of the same shapes and dtypes. The first one that this object sees decides;
    a row that differs fails. (So if a transform returns unequal shapes, which of its rows fail depends on their order
    of arrival. Demanding a majority would need all of them first.)
    """

    layout: TableLayout
    _agreed: dict[str, PartKind] = field(default_factory=dict, compare=False)

    def check(self, kinds: Sequence[PartKind]) -> None:
        """See `ShardFormat.check`."""
        check_members(kinds, self.layout.own_members)
        for kind in kinds:
            if kind.dtype is None:
                raise unusable(f"part {kind.name!r} is bytes, and the format 'arrays' stores arrays only")
        agreed = self._agreed or self._agree(kinds)
        if len(kinds) != len(agreed) or any(agreed.get(kind.name) != kind for kind in kinds):
            raise unusable(f"parts {_shown(kinds)}, but the rows before it have {_shown(list(agreed.values()))}")

    def _agree(self, kinds: Sequence[PartKind]) -> dict[str, PartKind]:
        self._agreed.update({kind.name: kind for kind in kinds})
        return self._agreed

    def write(self, rows: ShardRows, folder: Path, name: str) -> list[Path]:
        """See `ShardFormat.write`."""
        table = folder / f"{name}.parquet"
        paths = {part: folder / f"{name}.{extension(part, is_array=True)}" for part in rows.part_names}
        started: dict[str, IO[bytes]] = {}
        with contextlib.ExitStack() as stack:
            lines = stack.enter_context(TableWriter(table, self.layout.schema(rows)))
            for record in rows:
                lines.add(record)
                for part, value in record.parts.items():
                    assert isinstance(value, np.ndarray)  # check() took no others
                    if part not in started:
                        started[part] = stack.enter_context(paths[part].open("wb", buffering=_BUFFER))
                        _write_header(started[part], rows.written, value)
                    started[part].write(value.tobytes())
        return [*paths.values(), table]


def _write_header(file: IO[bytes], rows: int, first: np.ndarray) -> None:
    """The head of an ``.npy`` file of `rows` arrays like the first."""
    descr = np.lib.format.dtype_to_descr(first.dtype)
    header = {"descr": descr, "fortran_order": False, "shape": (rows, *first.shape)}
    np.lib.format.write_array_header_1_0(file, header)


def _shown(kinds: Sequence[PartKind]) -> str:
    return ", ".join(f"{kind.name} {kind.shape} {kind.dtype}" for kind in sorted(kinds))
