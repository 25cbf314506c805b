"""In which order the rows of an epoch come, and which of them are this part's. Decides, and does no I/O.

An epoch's order is the list's own, or a shuffle of it within windows. Parts (a rank's, a worker's) take turns in it, so
that they have the same windows, and as many rows as each other but for one::

    the list         0 1 2 3 4 5 6 7 8 9     read from the start of a block, never all of it at once
    in blocks        0 1 2│3 4 5 6│7 8 9     of `shuffle` rows; the first is shorter, by another length each epoch
    shuffled         2 0 1│5 3 6 4│8 7 9     each block by itself
    part 1 of 2        0   5   6   8   9     and these are its positions 0, 1, 2, 3, 4

A position in a part's order is what the state of a stream counts: it means the same row at every time and on every
machine, as long as list, shuffle, seed and parts are the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from random import Random
from typing import Self, TypeAlias

from penstock.errors import SourceError
from penstock.records import Row

__all__ = ["Order", "Read", "StreamRow", "cycle"]

Read: TypeAlias = Callable[[int], Iterator[Row]]
"""Gives the rows of the list from an index on, such as `Source.rows`."""

_fields_of = attrgetter(*(spec.name for spec in dataclasses.fields(Row)))


@dataclass(frozen=True, slots=True)
class StreamRow(Row):
    """A row of the source, and its place in the stream."""

    epoch: int = 0
    """From 0."""
    position: int = 0
    """In this part's order of the epoch, from 0."""

    @classmethod
    def of(cls, row: Row, epoch: int, position: int) -> Self:
        """The row at this place."""
        return cls(*(*_fields_of(row), epoch, position))


@dataclass(frozen=True, slots=True)
class Order:
    """The order of every epoch, for one of several parts.

    >>> order = Order(shuffle=4, seed=1, part=1, parts=2)
    >>> rows = [Row(index, ()) for index in range(10)]
    >>> [(row.position, row.index) for row in order.rows(lambda start: iter(rows[start:]), epoch=0, start=2)]
    [(2, 4), (3, 7), (4, 8)]
    """

    shuffle: int
    """Rows of a window; a row is moved by less than that. 0: no shuffle."""
    seed: int
    part: int = 0
    parts: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.part < self.parts:
            raise ValueError(f"part {self.part} of {self.parts}: parts are counted from 0")

    def rows(self, read: Read, epoch: int, start: int = 0) -> Iterator[StreamRow]:
        """This part's rows of an epoch, from its position `start` on.

        Reads no further back than the start of the block that holds the first of them, and keeps at most one block.
        """
        first = self.part + start * self.parts
        rows = self._shuffled(read, epoch, first) if self.shuffle else read(first)
        for position, row in enumerate(islice(rows, 0, None, self.parts), start):
            yield StreamRow.of(row, epoch, position)

    def size(self, count: int) -> int:
        """Rows of this part, of a list of `count` rows."""
        return len(range(self.part, count, self.parts))

    def _shuffled(self, read: Read, epoch: int, first: int) -> Iterator[Row]:
        """All parts' rows in the order of the epoch, from the one at `first` on.

        A `Random` with a text for its seed takes its SHA-512 and not its `hash`: it is the same in every process and
        every version of Python.
        """
        border = 1 + Random(f"{self.seed}:{epoch}").randrange(self.shuffle)  # noqa: S311 - no secret depends on it
        block = 1 + (first - border) // self.shuffle
        begin = max(0, border + (block - 1) * self.shuffle)
        skipped = first - begin
        rows = read(begin)
        while window := list(islice(rows, border + block * self.shuffle - begin)):
            begin += len(window)
            Random(f"{self.seed}:{epoch}:{block}").shuffle(window)  # noqa: S311 - no secret depends on it
            del window[:skipped]
            window.reverse()
            while window:  # a row that is on its way needs no room here, nor does the old block while the next is read
                yield window.pop()
            block, skipped = block + 1, 0


def cycle(read: Read, order: Order, epoch: int, start: int, size: int) -> Iterator[StreamRow]:
    """This part's rows of an epoch from position `start` on, round and round without end.

    Each pass has the order of the first, and the positions go on: position p of pass k is ``k * size + p``. This is how
    ranks whose parts differ in size get equal numbers of batches.

    Args:
        read: gives the rows of the list from an index on.
        order: of the epoch, and which part.
        epoch: from 0.
        start: the position to begin at, in whichever pass.
        size: rows of a pass: `Order.size`.

    Raises:
        ValueError: a pass has no rows: there is nothing to go round.
        SourceError: while iterating: a pass had fewer rows than `size`.
    """
    if size < 1:
        raise ValueError("a part without rows cannot be gone round")
    return _passes(read, order, epoch, start, size)


def _passes(read: Read, order: Order, epoch: int, start: int, size: int) -> Iterator[StreamRow]:
    position = start
    while True:
        skipped = position % size
        end = position - skipped + size
        for row in islice(order.rows(read, epoch, skipped), size - skipped):
            yield StreamRow.of(row, epoch, position)
            position += 1
        if position < end:
            raise SourceError(
                f"the list has become shorter since its rows were counted: of the {size} rows of this part, "
                f"{end - position} are not there; begin anew, with a list that stays as it is"
            )
