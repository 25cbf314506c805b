"""The order of an epoch: a permutation within windows, split into parts, that can be entered anywhere."""

from __future__ import annotations

import pickle
import weakref
from collections.abc import Iterator
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import SourceError
from penstock.records import Request, Row
from penstock.streaming.order import Order, StreamRow, cycle

COUNTS = st.integers(0, 80)
SHUFFLES = st.integers(0, 30)
SEEDS = st.integers(0, 2**64)
EPOCHS = st.integers(0, 1000)


class List:
    """A list of so many rows that remembers where it was read from, and how far."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.starts: list[int] = []
        self.taken = 0

    def read(self, start: int) -> Iterator[Row]:
        self.starts.append(start)
        for index in range(start, self.count):
            self.taken += 1
            yield Row(index, (Request("image", f"http://a.example/{index}"),))


@st.composite
def orders(draw: st.DrawFn) -> Order:
    parts = draw(st.integers(1, 5))
    return Order(draw(SHUFFLES), draw(SEEDS), draw(st.integers(0, parts - 1)), parts)


def whole(order: Order) -> Order:
    """The same order, for a single part."""
    return Order(order.shuffle, order.seed)


def indices(order: Order, count: int, epoch: int = 0, start: int = 0) -> list[int]:
    return [row.index for row in order.rows(List(count).read, epoch, start)]


def test_a_row_of_a_stream_is_the_source_row_with_its_place() -> None:
    """Nothing of the row is lost, it knows where it stands, and it can go to another process."""
    row = Row(7, (Request("image", "http://a.example/"),), "a cat", {"id": 3})
    placed = StreamRow.of(row, 2, 5)
    assert (placed.index, placed.requests, placed.caption, placed.fields) == (7, row.requests, "a cat", {"id": 3})
    assert (placed.epoch, placed.position, placed.key) == (2, 5, row.key)
    assert not hasattr(placed, "__dict__")
    assert pickle.loads(pickle.dumps(placed)) == placed


@given(COUNTS, SHUFFLES, SEEDS, EPOCHS, st.integers(1, 5))
def test_the_parts_together_are_a_permutation_of_the_list(
    count: int, shuffle: int, seed: int, epoch: int, parts: int
) -> None:
    """Every row is in exactly one part, each part has the size it says, and they take turns in one order."""
    passes = [indices(Order(shuffle, seed, part, parts), count, epoch) for part in range(parts)]
    assert [len(rows) for rows in passes] == [Order(shuffle, seed, part, parts).size(count) for part in range(parts)]
    together = indices(Order(shuffle, seed), count, epoch)
    assert [together[part::parts] for part in range(parts)] == passes
    assert sorted(together) == list(range(count))


@given(COUNTS, orders(), EPOCHS)
def test_positions_count_from_zero_and_every_pass_is_the_same(count: int, order: Order, epoch: int) -> None:
    """A position means the same row each time."""
    rows = list(order.rows(List(count).read, epoch))
    assert [(row.epoch, row.position) for row in rows] == [(epoch, place) for place in range(len(rows))]
    assert list(order.rows(List(count).read, epoch)) == rows


@given(COUNTS, SHUFFLES, SEEDS, EPOCHS)
def test_no_row_is_moved_by_a_window_or_more(count: int, shuffle: int, seed: int, epoch: int) -> None:
    """A shuffle of K rows moves a row by less than K; one of none or of a single row moves nothing."""
    moved = [abs(index - place) for place, index in enumerate(indices(Order(shuffle, seed), count, epoch))]
    assert max(moved, default=0) < max(shuffle, 1)


@given(st.integers(60, 80), st.integers(30, 100), SEEDS, EPOCHS)
def test_epochs_and_seeds_have_orders_of_their_own(count: int, shuffle: int, seed: int, epoch: int) -> None:
    """Neither the next epoch nor the next seed repeats an order, nor is one of them the other."""
    ways = [(seed, epoch), (seed, epoch + 1), (seed + 1, epoch)]
    assert len({tuple(indices(Order(shuffle, way), count, number)) for way, number in ways}) == 3


def test_the_order_is_the_same_in_every_process_and_version() -> None:
    """A state may be taken up by another Python: this is the order that it has to find."""
    assert indices(Order(4, 1), 12, 0) == [3, 1, 2, 0, 5, 4, 6, 7, 10, 8, 11, 9]
    assert indices(Order(4, 1), 12, 1) == [0, 3, 2, 1, 7, 6, 4, 5, 9, 10, 11, 8]


@given(COUNTS, orders(), EPOCHS, st.integers(0, 90))
def test_a_pass_can_be_entered_anywhere(count: int, order: Order, epoch: int, start: int) -> None:
    """From a position on comes what comes from there in the whole pass, past the end nothing."""
    everything = list(order.rows(List(count).read, epoch))
    assert list(order.rows(List(count).read, epoch, start)) == everything[start:]


@given(orders(), EPOCHS, st.integers(0, 10_000))
def test_entering_reads_from_the_block_on_and_not_from_the_start(order: Order, epoch: int, start: int) -> None:
    """The list is read once, from a block's start, which is less than a window before the row that is wanted."""
    source = List(100_000)
    next(order.rows(source.read, epoch, start))
    wanted = order.part + start * order.parts
    (begin,) = source.starts
    assert 0 <= wanted - begin < max(order.shuffle, 1)
    # Where a block starts, nothing from before it has been moved past it.
    before = islice(whole(order).rows(List(100_000).read, epoch), begin)
    assert begin == 0 or max(row.index for row in before) < begin


def test_blocks_have_other_borders_in_other_epochs() -> None:
    """Two rows on either side of a border in one epoch may change places in another."""
    begins = set()
    for epoch in range(50):
        source = List(1000)
        next(Order(10, 0).rows(source.read, epoch, 500))
        begins.add(source.starts[0] % 10)
    assert len(begins) == 10


@given(orders(), EPOCHS, st.integers(0, 50))
def test_no_more_than_a_block_is_read_ahead(order: Order, epoch: int, start: int) -> None:
    """A pass reads what it needs for its next row: up to the end of a block, and without a shuffle up to that row."""
    source = List(1000)
    for row in islice(order.rows(source.read, epoch, start), 100):
        reached = order.part + row.position * order.parts
        read = source.starts[0] + source.taken
        assert reached < read <= reached + max(order.shuffle, 1)


class Fields(dict[str, int]):
    """Kept columns whose life can be watched."""

    __hash__ = object.__hash__  # type: ignore[assignment]  # a dict has none, and a WeakSet needs one


@pytest.mark.parametrize("shuffle", [0, 1, 25])
def test_memory_is_that_of_one_block(shuffle: int) -> None:
    """Rows that were given are not kept, nor is a block while the next one is read."""
    alive: weakref.WeakSet[Fields] = weakref.WeakSet()
    most = 0

    def read(start: int) -> Iterator[Row]:
        nonlocal most
        for index in range(start, 200):
            fields = Fields()
            alive.add(fields)
            most = max(most, len(alive))
            yield Row(index, (), None, fields)

    assert sum(1 for _ in Order(shuffle, 0).rows(read, 0)) == 200
    assert most <= max(shuffle, 1) + 2, "the block, and the rows in the hands of reader and taker"


@pytest.mark.parametrize(("part", "parts"), [(-1, 2), (2, 2), (0, 0)])
def test_a_part_that_does_not_exist_is_refused(part: int, parts: int) -> None:
    """Parts are counted from 0: a slip would lose rows or deliver them twice."""
    with pytest.raises(ValueError, match=f"part {part} of {parts}"):
        Order(0, 0, part, parts)


@given(st.integers(1, 80), orders(), EPOCHS, st.integers(0, 300))
def test_a_cycle_repeats_the_pass_and_counts_on(count: int, order: Order, epoch: int, start: int) -> None:
    """From any position of any pass: the same rows in the same order, and positions that go on."""
    size = order.size(count)
    if size == 0:
        with pytest.raises(ValueError, match="without rows"):
            cycle(List(count).read, order, epoch, start, size)
        return
    once = indices(order, count, epoch)
    rows = list(islice(cycle(List(count).read, order, epoch, start, size), 3 * size))
    assert [(row.position, row.index) for row in rows] == [
        (position, once[position % size]) for position in range(start, start + 3 * size)
    ]
    assert {row.epoch for row in rows} == {epoch}


def test_a_cycle_enters_its_pass_without_reading_those_before() -> None:
    """Going on in pass 3 reads the list from there, then from its start."""
    source = List(100)
    list(islice(cycle(source.read, Order(0, 0), 0, 350, 100), 60))
    assert source.starts == [50, 0]


@pytest.mark.parametrize("count", [0, 1, 9])
def test_a_cycle_of_a_list_that_has_shrunk_ends_with_an_error(count: int) -> None:
    """It neither goes round nothing for ever nor gives other rows to the positions."""
    rows = cycle(List(count).read, Order(4, 0), 0, 0, 10)
    assert len(list(islice(rows, count))) == count
    with pytest.raises(SourceError, match=f"{10 - count} are not there"):
        next(rows)


def test_a_cycle_of_a_list_that_has_grown_keeps_its_size() -> None:
    """A pass has as many rows as were counted, so that no two rows get one position."""
    rows = islice(cycle(List(12).read, Order(0, 0), 0, 0, 10), 20)
    assert [(row.position, row.index) for row in rows] == [(position, position % 10) for position in range(20)]
