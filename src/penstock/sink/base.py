"""The seam between the flow and the disk: formats, and the one commit rule that all of them share.

A format writes the settled rows of one shard, in the order of their keys, into files whose names it is given. It knows
nothing of temporary names, fsync, rename, journals or resume: `penstock.sink.shards` does these for all formats alike::

    Settled ──check──▶ spool (order of arrival) ──read back in key order──▶ format ──files──▶ commit
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from penstock.records import Value

__all__ = ["PartKind", "Record", "ShardFormat", "ShardRows"]


class PartKind(NamedTuple):
    """What a part is, without its content."""

    name: str
    dtype: str | None
    """Of an array, as `numpy.dtype.str`; None for bytes."""
    shape: tuple[int, ...] | None
    """Of an array; None for bytes."""


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

    @property
    def written(self) -> int:
        """Rows that have parts."""
        ...

    @property
    def part_names(self) -> tuple[str, ...]:
        """Every name of a part that occurs in the shard, sorted."""
        ...

    def __iter__(self) -> Iterator[Record]:
        """From the first key to the last."""
        ...

    def __len__(self) -> int:
        """Rows, whatever their outcome."""
        ...

    def metas(self) -> Iterator[Mapping[str, Any]]:
        """The rows of the table alone, in the same order: cheap, because no part is read."""
        ...


class ShardFormat(Protocol):
    """Writes shards."""

    def check(self, kinds: Sequence[PartKind]) -> None:
        """Whether a sample of these parts can be stored; called for each sample before it is taken.

        Raises:
            ItemError: it cannot; the sample's row fails.
        """
        ...

    def write(self, rows: ShardRows, folder: Path, name: str) -> list[Path]:
        """Write the shard called `name` (``00000``) into the existing, empty `folder`.

        Returns the files (or, for ``files``, the directory) that are to be moved beside their final neighbours under
        the same names.

        Raises:
            OSError: as it comes.
        """
        ...
