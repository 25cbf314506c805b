"""Rows on their way from a source, which may be slow, endless or damaged, to a hub that never waits for it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from penstock.errors import PenstockError, SourceError
from penstock.records import Row
from penstock.streaming.feeding import AHEAD, Closed, Feed, Inlet, Item, RowSource, feed
from penstock.streaming.messages import EpochFed
from penstock.streaming.order import Order, StreamRow

IN_ORDER = Order(shuffle=0, seed=0)


class Rows:
    """A list of so many rows; `read` counts how many were asked for."""

    def __init__(self, count: int, then: Exception | None = None) -> None:
        self._count = count
        self._then = then
        self.read = 0
        self.ahead = threading.Event()
        """So many rows were asked for as may wait."""
        self.too_far = threading.Event()
        """More were than that, with one taken, and one in the hand."""

    def rows(self, start: int = 0) -> Iterator[Row]:
        for index in range(start, self._count):
            self.read += 1
            if self.read > AHEAD:
                self.ahead.set()
            if self.read > AHEAD + 2:
                self.too_far.set()
            yield Row(index, ())
        if self._then is not None:
            raise self._then


def never() -> int:
    """No epoch is over before its rows are."""
    return -1


def fed_by(source: RowSource, plan: Feed, finished: Callable[[], int] = never, most: int = 1000) -> list[Any]:
    """What comes, shortened: (epoch, position) of rows, the number of an epoch that ends, exceptions and None."""
    items: list[Any] = []

    def put(item: Item) -> None:
        if len(items) >= most:
            raise Closed
        match item:
            case StreamRow():
                items.append((item.epoch, item.position))
            case EpochFed(epoch):
                items.append(epoch)
            case _:
                items.append(item)

    feed(source, plan, put, finished)
    return items


def test_epochs_follow_each_other() -> None:
    """Each ends with a word, and the last one with None."""
    plan = Feed(IN_ORDER, epochs=2)
    assert fed_by(Rows(2), plan) == [(0, 0), (0, 1), 0, (1, 0), (1, 1), 1, None]


def test_what_is_done_does_not_come_again() -> None:
    """Of the first epoch; the next one is whole."""
    plan = Feed(IN_ORDER, epochs=4, first_epoch=2, done=(1, 2, 3))
    assert fed_by(Rows(4), plan) == [(2, 1), (2, 3), 2, (3, 0), (3, 1), (3, 2), (3, 3), 3, None]


def test_a_stream_at_its_end_has_no_rows() -> None:
    """Resumed after its last epoch."""
    assert fed_by(Rows(4), Feed(IN_ORDER, epochs=2, first_epoch=2)) == [None]


def test_without_end_it_stops_when_nobody_wants_more() -> None:
    """And not before."""
    assert fed_by(Rows(1), Feed(IN_ORDER, epochs=None), most=5) == [(0, 0), 0, (1, 0), 1, (2, 0)]


def test_an_even_epoch_goes_round_until_it_has_enough() -> None:
    """Its positions go on; the next epoch begins at 0."""
    enough = iter([-1] * 5 + [0] * 4 + [1])
    plan = Feed(IN_ORDER, epochs=2, size=3)
    items = fed_by(Rows(3), plan, finished=lambda: next(enough))
    assert items == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), 0, (1, 0), (1, 1), (1, 2), 1, None]


def test_a_source_s_own_error_comes_as_it_is() -> None:
    """Behind the rows before it."""
    error = SourceError("list.csv, row 2: damaged")
    assert fed_by(Rows(2, error), Feed(IN_ORDER, epochs=1)) == [(0, 0), (0, 1), error]


def test_what_a_generator_raises_is_named() -> None:
    """With its type and text, and the exception itself as the cause."""
    cause = ZeroDivisionError("division by zero")
    *_, error = fed_by(Rows(2, cause), Feed(IN_ORDER, epochs=1))
    assert isinstance(error, SourceError)
    assert str(error) == "the source raised ZeroDivisionError: division by zero"
    assert error.__cause__ is cause


@pytest.mark.parametrize("error", [SourceError("damaged"), KeyError("url")])
def test_an_error_that_nobody_wants_is_dropped(error: Exception) -> None:
    """The stream is closed already."""
    assert fed_by(Rows(2, error), Feed(IN_ORDER, epochs=1), most=2) == [(0, 0), (0, 1)]


# The inlet.


class Bell:
    """Counts the calls of `wake`."""

    def __init__(self) -> None:
        self.rung = threading.Semaphore(0)

    def __call__(self) -> None:
        self.rung.release()

    @property
    def times(self) -> int:
        return self.rung._value


def row_of(position: int) -> StreamRow:
    return StreamRow(position, (), position=position)


def test_items_come_out_as_they_went_in() -> None:
    """Rows, ends, errors and None."""
    inlet = Inlet(Bell())
    items: list[Item] = [row_of(0), EpochFed(0), PenstockError("damaged"), None]
    for item in items:
        inlet.put(item)
    assert [inlet.take() for _ in items] == items


def test_the_hub_is_woken_once_for_each_time_it_found_nothing() -> None:
    """It does not ask again by itself."""
    bell = Bell()
    inlet = Inlet(bell)
    inlet.put(row_of(0))
    assert bell.times == 0
    inlet.take()
    with pytest.raises(queue.Empty):
        inlet.take()
    inlet.put(row_of(1))
    inlet.put(row_of(2))
    assert bell.times == 1


def test_a_source_is_read_ahead_by_a_bounded_number() -> None:
    """Then it waits until the hub has taken one."""
    inlet = Inlet(Bell())
    source = Rows(10 * AHEAD)
    reader = threading.Thread(target=feed, args=(source, Feed(IN_ORDER, epochs=1), inlet.put, never))
    reader.start()
    taken = take_until(inlet, 0)
    assert taken.position == 0
    assert source.ahead.wait(60)
    assert not source.too_far.wait(0.1)  # a reader without a bound takes a millisecond
    inlet.close()
    reader.join()


def take_until(inlet: Inlet, position: int) -> StreamRow:
    """The row at this position; polls."""
    while True:
        try:
            row = inlet.take()
        except queue.Empty:
            continue
        assert isinstance(row, StreamRow)
        if row.position == position:
            return row


def test_closing_lets_the_reader_go() -> None:
    """Even one that waits for room."""
    inlet = Inlet(Bell())
    ended = threading.Event()
    source = Rows(10 * AHEAD)

    def read() -> None:
        feed(source, Feed(IN_ORDER, epochs=None), inlet.put, never)
        ended.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert source.ahead.wait(60)
    inlet.close()
    assert ended.wait(60)
    reader.join()


@pytest.mark.slow
def test_no_row_and_no_call_is_lost_between_two_threads() -> None:
    """A hub that sleeps whenever it finds nothing gets all rows."""
    bell = Bell()
    inlet = Inlet(bell)
    count = 20_000
    reader = threading.Thread(target=feed, args=(Rows(count), Feed(IN_ORDER, epochs=1), inlet.put, never))
    reader.start()
    positions = []
    while True:
        try:
            item = inlet.take()
        except queue.Empty:
            assert bell.rung.acquire(timeout=60), "nobody called"
            continue
        if item is None:
            break
        if isinstance(item, StreamRow):
            positions.append(item.position)
    reader.join()
    assert positions == list(range(count))
