"""The seam between the flow and the disk: formats, and the one commit rule that all of them share.

A format is a function that writes the settled rows of one shard, in the order of their keys, into files whose names
it is given. It knows nothing of temporary names, fsync, rename, journals or resume: `penstock.sink.shards` does these
for all formats alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from penstock.records import Value

__all__ = ["Record", "ShardFormat", "ShardRows"]


@dataclass(frozen=True, slots=True)
class Record:
    """A settled row as it is read back from the spool: what the formats write."""

    key: str
    meta: Mapping[str, Any]
    """The row of the shard's table: ``key url outcome status reason …``, then the kept columns."""
    caption: str | None
    parts: Mapping[str, Value]
    """Empty unless the row was written."""


class ShardRows(Protocol):
    """The records of one shard in the order of their keys; may be iterated several times."""

    def __iter__(self) -> Iterator[Record]:
        """From the first key to the last."""
        ...

    def __len__(self) -> int:
        """Rows, whatever their outcome."""
        ...


class ShardFormat(Protocol):
    """Writes one shard."""

    def __call__(self, rows: ShardRows, folder: Path, name: str) -> list[Path]:
        """Write the shard called `name` (``00000``) into the existing, empty `folder`.

        Returns the files (or, for ``files``, the one directory) that are to be moved beside their final
        neighbours under the same names. Raises OSError as it comes.
        """
        ...
