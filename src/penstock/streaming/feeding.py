"""From a source to a pump: rows in this stream's order, read by a thread of its own.

A source can fall silent (a generator that waits for a queue), and what is inside the lane must come out all the same. So
nobody but this thread ever waits for it: the lane's hub takes what is there, and is woken when there is more.
"""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from penstock.errors import PenstockError, SourceError
from penstock.records import Row
from penstock.streaming.messages import EpochFed
from penstock.streaming.order import Order, StreamRow, cycle
from penstock.streaming.state import Done

__all__ = ["Closed", "Feed", "Inlet", "Item", "RowSource", "feed"]

Item = StreamRow | EpochFed | PenstockError | None
"""A row; the end of an epoch; what is wrong with the source; None for the end."""

AHEAD = 1024
"""Rows that are read before the lane wants them: some milliseconds of reading, and of a slow source all that matters is
that a row is there when it has come. Arbitrary."""


class RowSource(Protocol):
    """A list, as far as a stream needs it: `penstock.source.Source` and `penstock.reading.ShardSource`."""

    def rows(self, start: int = 0) -> Iterator[Row]:
        """The rows from this position on."""
        ...


@dataclass(frozen=True, slots=True)
class Feed:
    """Which rows, in which order, from where on. Picklable."""

    order: Order
    epochs: int | None
    """Number of the last epoch and one; None without end."""
    first_epoch: int = 0
    done: tuple[int, ...] = (0,)
    """Positions of the first epoch that are not wanted any more; see `Done.as_list`."""
    size: int | None = None
    """Rows of a pass, if an epoch is to go round its rows until it has enough."""


def feed(source: RowSource, plan: Feed, put: Callable[[Item], None], finished: Callable[[], int]) -> None:
    """Read epoch after epoch until the last one, or until `put` raises `Closed`.

    Args:
        source: where rows come from.
        plan: which of them.
        put: takes each row; may block.
        finished: the last epoch that needs no more rows, where epochs go round.
    """
    try:
        epoch = plan.first_epoch
        while plan.epochs is None or epoch < plan.epochs:
            done = Done.of(list(plan.done if epoch == plan.first_epoch else (0,)))
            for row in _rows(source, plan, epoch, done.low):
                if plan.size is not None and finished() >= epoch:
                    break
                if row.position not in done:
                    put(row)
            put(EpochFed(epoch))
            epoch += 1
        put(None)
    except Closed:
        pass
    except PenstockError as error:
        _last_words(put, error)
    except BaseException as error:  # noqa: BLE001 - the user's generator may raise anything, and nobody is behind this thread
        failed = SourceError(f"the source raised {type(error).__name__}: {error}")
        failed.__cause__ = error
        _last_words(put, failed)


def _rows(source: RowSource, plan: Feed, epoch: int, start: int) -> Iterator[StreamRow]:
    if plan.size is None:
        return plan.order.rows(source.rows, epoch, start)
    return cycle(source.rows, plan.order, epoch, start, plan.size)


def _last_words(put: Callable[[Item], None], error: PenstockError) -> None:
    with contextlib.suppress(Closed):
        put(error)


class Closed(Exception):  # noqa: N818 - no error: somebody wants no more rows
    """Raised where a feeder puts a row: nobody wants it any more."""


class Inlet:
    """Rows on their way from the feeder's thread to the lane's hub, `AHEAD` at most.

    Args:
        wake: called when there is a row again after the hub found none.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._items: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
        """As many as rows may be put. No semaphore: `close` may come in a garbage collection, which can strike the very
        thread that holds its lock."""
        for _ in range(AHEAD):
            self._room.put(None)
        self._closed = False
        self._hungry = False

    def put(self, item: Item) -> None:
        """Add one; waits for room.

        Raises:
            Closed: nobody takes it any more.
        """
        self._room.get()
        if self._closed:
            raise Closed
        self._items.put(item)
        if self._hungry:
            self._hungry = False
            self._wake()

    def take(self) -> Item:
        """The next one, at once.

        Raises:
            queue.Empty: there is none; `wake` will be called when there is.
        """
        try:
            item = self._items.get_nowait()
        except queue.Empty:
            self._hungry = True
            item = self._items.get_nowait()  # it may have come in between, before anybody saw the flag
        self._room.put(None)
        return item

    def close(self) -> None:
        """Let the feeder go."""
        self._closed = True
        self._room.put(None)
