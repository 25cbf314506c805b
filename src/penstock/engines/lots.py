"""Which shards go into the next task."""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from dataclasses import dataclass

__all__ = ["Lot", "Lots"]

MOST = 64
"""Shards of a lot at most: what a task returns stays small, and a cluster that grows finds work to do."""

LEAST_ROWS = 1000
"""Rows of a lot at least, while there are enough for all: a lane begins with two requests at a time and ends with none, which
costs it half a second, as long as 50 rows take (measured on two cores: 500 rows took 4.5 s in place of 4.0)."""


@dataclass(frozen=True, slots=True)
class Lot:
    """Shards in a row that one task makes."""

    first: int
    stop: int
    """The shard after the last."""
    deaths: int = 0
    """Workers that have died over it."""

    def __len__(self) -> int:
        return self.stop - self.first


class Lots:
    """Deals the shards that are not there yet, in lots that get smaller towards the end (guided self-scheduling).

    Large lots spare the start of a lane; small ones at the end let all lanes finish at about the same time.

    >>> lots = Lots(range(10), committed={3})
    >>> [(lot.first, lot.stop) for lot in iter(lambda: lots.next(slots=2), None)]
    [(0, 2), (2, 3), (4, 5), (5, 6), (6, 7), (7, 8), (8, 9), (9, 10)]

    Args:
        shards: all of them.
        committed: those that are there; the number of them is ``len(committed)``.
        shard_size: rows of each.
    """

    def __init__(self, shards: range, committed: Container[int], shard_size: int = LEAST_ROWS) -> None:
        self._least = min(MOST, max(1, LEAST_ROWS // shard_size))
        self._shards = shards
        self._committed = committed
        self._next = shards.start
        self._given_back: deque[Lot] = deque()

    def next(self, slots: int) -> Lot | None:
        """The next lot, for so many lanes at work; None if there is none."""
        if self._given_back:
            return self._given_back.popleft()
        while self._next < self._shards.stop and self._next in self._committed:
            self._next += 1
        first = self._next
        left, slots = self._shards.stop - first, max(1, slots)
        size = min(MOST, max(left // (2 * slots), min(self._least, -(-left // slots))))
        while self._next < min(self._shards.stop, first + size) and self._next not in self._committed:
            self._next += 1
        return Lot(first, self._next) if self._next > first else None

    def give_back(self, lot: Lot, missing: list[int]) -> None:
        """A worker has died over a lot, of which these shards are missing: they come next, in halves.

        So the shard that kills, if there is one, is soon alone.
        """
        half = max(1, (len(missing) + 1) // 2)
        for piece in (missing[:half], missing[half:]):
            self._give_back(piece, lot.deaths + 1)

    def _give_back(self, shards: list[int], deaths: int) -> None:
        start = 0
        for position in range(1, len(shards) + 1):
            if position == len(shards) or shards[position] != shards[position - 1] + 1:
                self._given_back.append(Lot(shards[start], shards[position - 1] + 1, deaths))
                start = position
