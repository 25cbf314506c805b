"""Full batches out of rows that settle in any order: nothing lost, nothing doubled, every image in its place."""

from __future__ import annotations

import logging
import mmap
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import StreamConfig
from penstock.crew import arena as arena_module
from penstock.crew.arena import Arena, Landing, Place
from penstock.errors import ConfigError, NoImagesError, RowFailedError, TooManyFailuresError
from penstock.records import Kind, Landed, Outcome, Reason, Request, Result, Sample, Settled, Value
from penstock.streaming.assembling import MOST_FALLEN, PROBATION, Assembler, Slabs
from penstock.streaming.layout import Layout, Stack
from penstock.streaming.messages import Assembled, Broken, EpochEnded, Fallen, Output
from penstock.streaming.order import StreamRow

ITEM = (2, 3)
LAYOUT_OF_ITEMS = (Stack("image", "<u2", ITEM),)


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena()
    yield arena
    arena.close()


def row_of(position: int, epoch: int = 0) -> StreamRow:
    request = Request("image", f"http://example.com/{position}")
    return StreamRow(position, (request,), f"caption {position}", {"label": position % 7}, epoch, position)


def value_of(row: StreamRow) -> npt.NDArray[np.uint16]:
    """An array that no other row of any epoch has."""
    return np.arange(6, dtype=np.uint16).reshape(ITEM) + 100 * row.position + 7 * row.epoch


def failed(row: StreamRow, reason: Reason = Reason.HTTP_NOT_FOUND) -> Settled:
    return Settled(Outcome(row, reason.kind, reason, "no such thing"))


def written(row: StreamRow, parts: dict[str, Value | Landed] | None = None) -> Settled:
    return Settled(Outcome(row, Kind.WRITTEN, size=10), Sample(parts or {"image": value_of(row)}))


@dataclass
class Loop:
    """The lane and the training loop around an assembler, in one thread: a test decides what happens when."""

    arena: Arena
    config: StreamConfig
    layout: bool = True
    window: int = 100
    batches: int | None = None
    resumed: tuple[int, int] | None = None
    loose: tuple[str, ...] = ()
    received: list[tuple[Assembled, dict[str, npt.NDArray[Any]]]] = field(default_factory=list)
    """With the arrays as they were when the batch came."""
    ends: list[tuple[int, tuple[Outcome, ...]]] = field(default_factory=list)
    """What every message brought of rows that fell out."""
    holding: bool = False
    """Never give a slab back."""

    def __post_init__(self) -> None:
        self.slabs = Slabs(self.arena)
        self._landing = Landing(self.arena.descriptor)
        self._places: dict[StreamRow, Place | None] = {}
        layout = Layout(LAYOUT_OF_ITEMS, self.config.batch_size) if self.layout else None
        self.assembler = Assembler(
            self.config,
            self.slabs,
            layout=layout,
            loose=self.loose,
            window=self.window,
            batches=self.batches,
            resumed=self.resumed,
        )

    def feed(self, row: StreamRow) -> StreamRow:
        """A row goes in, and on to the crew."""
        self.assembler.fed(row)
        return row

    def submit(self, row: StreamRow) -> None:
        """A row was fetched and goes to the crew."""
        self._places[id_of(row)] = self.assembler.place_for(row)

    def settle(self, settled: Settled) -> None:
        """A row is done; the crew has written its arrays to their place, if it has one."""
        row = settled.outcome.row
        assert isinstance(row, StreamRow)
        place = self._places.pop(id_of(row), None)
        if place is not None and settled.sample is not None:
            settled = Settled(settled.outcome, self._landing.land(Result(settled.sample), place).value)  # type: ignore[arg-type]  # a sample stays one
        self._take(self.assembler.add(settled))

    def do(self, *positions: int, epoch: int = 0) -> None:
        """These rows, one after the other, each of them an image."""
        for position in positions:
            row = self.feed(row_of(position, epoch))
            self.submit(row)
            self.settle(written(row))

    def end(self, epoch: int = 0) -> None:
        """All rows of the epoch have gone in."""
        self._take(self.assembler.epoch_fed(epoch))

    def _take(self, messages: Iterable[Output]) -> None:
        for message in messages:
            if isinstance(message, Broken):
                raise message.error
            if message.outcomes or isinstance(message, EpochEnded | Fallen) or message.last:
                self.ends.append((message.epoch, message.outcomes))
            if isinstance(message, Assembled):
                self.received.append((message, self._arrays_of(message)))

    def _arrays_of(self, batch: Assembled) -> dict[str, npt.NDArray[Any]]:
        if batch.slab is None:
            assert batch.inline is not None
            slab = batch.inline
        else:
            slab = np.frombuffer(self.arena.read(batch.slab, batch.layout.size), np.uint8)
            if not self.holding:
                self.slabs.freed.append(batch.slab)
        return batch.layout.arrays(slab, len(batch.keys))

    @property
    def positions(self) -> list[tuple[int, ...]]:
        """Of each batch."""
        return [batch.positions for batch, _ in self.received]

    @property
    def fallen(self) -> list[Outcome]:
        """All rows that fell out, as the batches told."""
        return [outcome for _, outcomes in self.ends for outcome in outcomes]

    def assert_right(self) -> None:
        """Each batch holds what belongs to its rows."""
        for batch, arrays in self.received:
            for index, position in enumerate(batch.positions):
                row = row_of(position, batch.epoch)
                assert np.array_equal(arrays["image"][index], value_of(row))
                assert batch.keys[index] == row.key
                assert batch.captions[index] == row.caption
                assert batch.fields["label"][index] == row.fields["label"]


def id_of(row: StreamRow) -> Any:
    return row.epoch, row.position


def config_of(**options: Any) -> StreamConfig:
    return StreamConfig(**{"batch_size": 4, **options})


# Properties.


@st.composite
def stories(draw: st.DrawFn) -> dict[str, Any]:
    epochs = draw(st.integers(1, 3))
    return {
        "seed": draw(st.integers(0, 2**32)),
        "rows": [draw(st.integers(1, 30)) for _ in range(epochs)],
        "failing": draw(st.sampled_from([0.0, 0.2, 0.7])),
        "by_wire": draw(st.sampled_from([0.0, 0.3, 1.0])),
        "inside": draw(st.integers(1, 12)),
        "room": draw(st.sampled_from([0, 2, 1000])),
        "batch_size": draw(st.integers(1, 7)),
        "drop_last": draw(st.booleans()),
        "ordered": draw(st.booleans()),
        "prefetch": draw(st.integers(1, 3)),
        "layout": draw(st.booleans()),
    }


def play(loop: Loop, story: dict[str, Any]) -> dict[int, set[int]]:
    """Rows of one epoch after the other, as the lane would; those of each epoch that failed."""
    chance = random.Random(story["seed"])
    script = [row_of(position, epoch) for epoch, count in enumerate(story["rows"]) for position in range(count)]
    failing = {id_of(row) for row in script if chance.random() < story["failing"]}
    failing -= {(epoch, 0) for epoch in range(len(story["rows"]))}  # an epoch without an image is another test's
    waiting, fetched, working = list(script), [], []  # type: ignore[var-annotated]  # lists of rows
    ended = 0
    while waiting or fetched or working:
        steps: list[Callable[[], object]] = []
        if waiting and len(fetched) + len(working) < story["inside"] and loop.assembler.may_feed():
            steps.append(lambda: fetched.append(loop.feed(waiting.pop(0))))
        if fetched:
            steps.append(lambda: work_on(loop, fetched.pop(chance.randrange(len(fetched))), working, chance, story))
        if working:
            steps.append(lambda: finish(loop, working.pop(chance.randrange(len(working))), failing))
        assert steps, "nothing can go on"
        chance.choice(steps)()
        while ended < len(story["rows"]) and not any(row.epoch == ended for row in waiting):
            loop.end(ended)
            ended += 1
    return {epoch: {p for e, p in failing if e == epoch} for epoch in range(len(story["rows"]))}


def work_on(loop: Loop, row: StreamRow, working: list[StreamRow], chance: random.Random, story: dict[str, Any]) -> None:
    if chance.random() >= story["by_wire"]:
        loop.submit(row)
    working.append(row)


def finish(loop: Loop, row: StreamRow, failing: set[tuple[int, int]]) -> None:
    loop.settle(failed(row) if id_of(row) in failing else written(row))


@given(story=stories())
def test_nothing_is_lost_doubled_mixed_or_misplaced(story: dict[str, Any]) -> None:
    """Whatever fails, settles when, lies where: full batches of one epoch, the right pixels, and an account that closes."""
    options = ("batch_size", "drop_last", "ordered", "prefetch")
    config = config_of(**{name: story[name] for name in options}, epochs=len(story["rows"]))
    arena = Arena()
    try:
        limited = LimitedArena(arena, story["room"])
        loop = Loop(limited, config, layout=story["layout"], window=story["inside"] + 1)  # type: ignore[arg-type]  # as good as one
        failing = play(loop, story)
        loop.assert_right()
    finally:
        arena.close()
    for epoch, count in enumerate(story["rows"]):
        batches = [batch for batch, _ in loop.received if batch.epoch == epoch]
        assert all(len(batch.keys) == config.batch_size for batch in batches[:-1])
        delivered = [position for batch in batches for position in batch.positions]
        fallen = [outcome for outcome in loop.fallen if outcome.row.epoch == epoch]  # type: ignore[attr-defined]  # StreamRow
        assert sorted([*delivered, *(outcome.row.position for outcome in fallen)]) == list(range(count))  # type: ignore[attr-defined]  # as above
        assert {o.row.index for o in fallen if o.kind is Kind.FAILED} == failing[epoch]
        dropped = [outcome for outcome in fallen if outcome.kind is Kind.SKIPPED]
        assert {outcome.reason for outcome in dropped} <= {Reason.POLICY_DROP_LAST}
        images = count - len(failing[epoch])
        assert len(dropped) == (images % config.batch_size if config.drop_last else 0)
        if config.ordered:
            assert delivered == sorted(delivered)
    assert [batch.epoch for batch, _ in loop.received] == sorted(batch.epoch for batch, _ in loop.received)
    assert loop.assembler.finished == len(story["rows"]) - 1


class LimitedArena:
    """An arena that has room for so many regions."""

    def __init__(self, arena: Arena, regions: int) -> None:
        self._arena = arena
        self._left = regions

    def __getattr__(self, name: str) -> Any:
        return getattr(self._arena, name)

    def allocate(self, size: int) -> int | None:
        self._left -= 1
        return self._arena.allocate(size) if self._left >= 0 else None


# Batches.


def test_a_failed_row_s_place_goes_to_the_next_one(arena: Arena) -> None:
    """So that a batch is full as soon as so many rows have given an image."""
    loop = Loop(arena, config_of())
    rows = [loop.feed(row_of(position)) for position in range(6)]
    for row in rows[:4]:
        loop.submit(row)
    loop.settle(failed(rows[1]))
    loop.settle(failed(rows[2]))
    for row in rows[4:]:
        loop.submit(row)
    for row in (rows[5], rows[0], rows[4], rows[3]):
        loop.settle(written(row))
    (positions,) = loop.positions
    assert set(positions) == {0, 3, 4, 5}
    loop.assert_right()
    assert [outcome.row.index for outcome in loop.fallen] == [1, 2]


def test_slabs_are_used_again(arena: Arena) -> None:
    """A training loop that lets its batches go needs no more memory at the end than at the start."""
    loop = Loop(arena, config_of())
    loop.do(*range(200))
    assert len({batch.slab for batch, _ in loop.received}) == 1
    loop.assert_right()


def test_slabs_that_became_no_batch_are_given_back(arena: Arena) -> None:
    """Those of rows that failed, and of a last batch that was dropped."""
    loop = Loop(arena, config_of(drop_last=True, epochs=50))
    for epoch in range(50):
        rows = [loop.feed(row_of(position, epoch)) for position in range(10)]
        for row in rows:
            loop.submit(row)
        for row in rows:
            loop.settle(failed(row) if row.position % 2 else written(row))
        loop.end(epoch)
    assert arena.allocate(1) == 3 * mmap.ALLOCATIONGRANULARITY


def test_an_epoch_ends_with_what_is_left(arena: Arena) -> None:
    """One batch that is not full, closed up, out of several slabs."""
    loop = Loop(arena, config_of())
    rows = [loop.feed(row_of(position)) for position in range(12)]
    for row in rows:
        loop.submit(row)
    for row in rows:
        loop.settle(written(row) if row.position in (1, 3, 6, 8, 9, 11) else failed(row))
    loop.end()
    assert [len(positions) for positions in loop.positions] == [4, 2]
    loop.assert_right()
    assert loop.received[-1][0].last
    assert not loop.received[0][0].last


def test_rows_that_fell_out_behind_the_last_batch_are_told(arena: Arena) -> None:
    """With the end of the epoch."""
    loop = Loop(arena, config_of())
    loop.do(0, 1, 2, 3)
    late = loop.feed(row_of(4))
    loop.settle(failed(late))
    loop.end()
    assert loop.ends == [(0, (failed(late).outcome,))]


def test_a_batch_waits_for_the_epoch_before_it(arena: Arena) -> None:
    """However long that takes; and rows go no further ahead meanwhile."""
    loop = Loop(arena, config_of(epochs=5, prefetch=1))
    slow = loop.feed(row_of(0))
    loop.end(0)
    loop.do(0, 1, 2, 3, epoch=1)
    assert not loop.received
    assert not loop.assembler.may_feed()
    loop.settle(written(slow))
    assert [(batch.epoch, batch.positions) for batch, _ in loop.received] == [(0, (0,)), (1, (0, 1, 2, 3))]
    assert loop.assembler.may_feed()


def test_short_epochs_do_not_queue_up(arena: Arena) -> None:
    """Of a list of one row, two epochs are inside at most."""
    loop = Loop(arena, config_of(epochs=None))
    for epoch in range(2):
        assert loop.assembler.may_feed()
        loop.feed(row_of(0, epoch))
        loop.end(epoch)
    assert not loop.assembler.may_feed()


# Order.


def test_order_is_kept_and_failures_are_left_out(arena: Arena) -> None:
    """Rows that are done before their turn wait."""
    loop = Loop(arena, config_of(ordered=True))
    rows = [loop.feed(row_of(position)) for position in range(6)]
    for row in reversed(rows):
        assert not loop.received
        loop.settle(failed(row) if row.position in (1, 4) else written(row))
    assert loop.positions == [(0, 2, 3, 5)]
    loop.assert_right()


def test_one_slow_row_holds_up_a_bounded_number(arena: Arena) -> None:
    """The window."""
    loop = Loop(arena, config_of(ordered=True), window=10)
    slow = loop.feed(row_of(0))
    position = 0
    while loop.assembler.may_feed():
        position += 1
        loop.do(position)
    assert position == 9
    loop.settle(written(slow))
    assert loop.assembler.may_feed()
    assert loop.positions == [(0, 1, 2, 3), (4, 5, 6, 7)]


# Layouts.


def test_the_first_sample_decides_the_layout(arena: Arena) -> None:
    """Arrays are stacked, each with its dtype; bytes are a list."""
    loop = Loop(arena, config_of(batch_size=2), layout=False)
    for position in range(4):
        row = loop.feed(row_of(position))
        loop.submit(row)
        parts: dict[str, Value | Landed] = {
            "text": b"%d" % position,
            "image": value_of(row),
            "half": np.array(position / 2),
        }
        loop.settle(written(row, parts))
    loop.assert_right()
    (first, arrays), (second, _) = loop.received
    assert arrays["half"].dtype == np.float64
    assert arrays["half"].tolist() == [0.0, 0.5]
    assert first.loose == {"text": [b"0", b"1"]}
    assert second.loose == {"text": [b"2", b"3"]}


def test_parts_of_any_number_are_not_stacked(arena: Arena) -> None:
    """Their arrays are a list."""
    loop = Loop(arena, config_of(batch_size=2), layout=False, loose=("views",))
    for position in range(2):
        row = loop.feed(row_of(position))
        views = np.zeros((position, 3), np.uint8)
        loop.settle(written(row, {"views": views, "image": value_of(row)}))
    (batch, arrays), *_ = loop.received
    assert list(arrays) == ["image"]
    assert [views.shape for views in batch.loose["views"]] == [(0, 3), (1, 3)]


def test_a_part_that_is_missing_is_none(arena: Arena) -> None:
    """In a list of bytes."""
    loop = Loop(arena, config_of(batch_size=2), layout=False)
    for position, name in enumerate(("text", "name")):
        loop.settle(written(loop.feed(row_of(position)), {name: b"a", "image": value_of(row_of(position))}))
    assert loop.received[0][0].loose == {"text": [b"a", None], "name": [None, b"a"]}


def test_samples_of_bytes_alone_need_no_memory(arena: Arena) -> None:
    """There is nothing to stack."""
    loop = Loop(arena, config_of(batch_size=2), layout=False)
    for position in range(2):
        loop.settle(written(loop.feed(row_of(position)), {"text": b"%d" % position}))
    (batch, arrays), *_ = loop.received
    assert arrays == {}
    assert batch.slab is None
    assert batch.loose == {"text": [b"0", b"1"]}


@pytest.mark.parametrize("shape", [(2, 4), (3, 2)])  # the second has as many bytes as the others
def test_arrays_of_another_shape_are_named(arena: Arena, shape: tuple[int, ...]) -> None:
    """The row, and both shapes."""
    loop = Loop(arena, config_of(), layout=False)
    loop.settle(written(loop.feed(row_of(3))))
    other = loop.feed(row_of(8))
    loop.submit(other)
    with pytest.raises(ConfigError) as caught:
        loop.settle(written(other, {"image": np.zeros(shape, np.uint16)}))
    message = str(caught.value)
    assert f"row 8 (http://example.com/8) gave 'image' as uint16 {shape}" in message
    assert "row 3 has 'image' as uint16 (2, 3)" in message


def test_an_array_that_is_missing_is_named(arena: Arena) -> None:
    """A batch cannot have a hole."""
    loop = Loop(arena, config_of(), layout=False)
    loop.settle(written(loop.feed(row_of(0))))
    with pytest.raises(ConfigError, match="gave no such array"):
        loop.settle(written(loop.feed(row_of(1)), {"text": b"a"}))


# No memory.


def test_without_shared_memory_batches_come_with_the_message(
    arena: Arena, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line in the log, and the right pixels."""

    def refuse(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(arena_module, "_reserve", refuse)
    loop = Loop(arena, config_of())
    with caplog.at_level(logging.WARNING, "penstock"):
        loop.do(*range(20))
    assert [batch.slab for batch, _ in loop.received] == [None] * 5
    loop.assert_right()
    assert len(caplog.messages) == 1


# Too many failures.


def test_failures_can_be_errors(arena: Arena) -> None:
    """The first one, with its outcome."""
    loop = Loop(arena, config_of(on_failure="raise"))
    row = loop.feed(row_of(0))
    with pytest.raises(RowFailedError, match=r"row 0, http://example\.com/0: http\.not_found") as caught:
        loop.settle(failed(row))
    assert caught.value.outcome == failed(row).outcome


def test_an_error_comes_behind_the_batches_before_it(arena: Arena) -> None:
    """Where order is kept: they are full, though the row that had waited for them has failed long ago."""
    loop = Loop(arena, config_of(on_failure="raise", ordered=True))
    rows = [loop.feed(row_of(position)) for position in range(6)]
    loop.settle(failed(rows[5]))
    for row in rows[1:5]:
        loop.settle(written(row))
    with pytest.raises(RowFailedError):
        loop.settle(written(rows[0]))
    assert loop.positions == [(0, 1, 2, 3)]


def test_a_row_that_was_left_out_on_purpose_is_no_failure(arena: Arena) -> None:
    """Nothing went wrong."""
    loop = Loop(arena, config_of(on_failure="raise"))
    loop.settle(failed(loop.feed(row_of(0)), Reason.OPTOUT_ROBOTS))
    loop.do(1, 2, 3, 4)
    assert [outcome.reason for outcome in loop.fallen] == [Reason.OPTOUT_ROBOTS]


def test_too_few_images_stop_the_stream_after_a_probation(arena: Arena) -> None:
    """Not before the hundredth row, and with the table of reasons."""
    loop = Loop(arena, config_of(min_success=0.5))
    for position in range(PROBATION - 1):
        loop.settle(failed(loop.feed(row_of(position))))
    with pytest.raises(TooManyFailuresError, match="only 0 of the first 100 rows") as caught:
        loop.settle(failed(loop.feed(row_of(PROBATION))))
    assert "    100  http.not_found: 404" in str(caught.value)


def test_enough_images_do_not(arena: Arena) -> None:
    """The share is of all rows so far, not of the last ones."""
    loop = Loop(arena, config_of(min_success=0.5))
    loop.do(*range(100))
    for position in range(100, 200):
        loop.settle(failed(loop.feed(row_of(position))))
    with pytest.raises(TooManyFailuresError, match="only 100 of the first 201 rows"):
        loop.settle(failed(loop.feed(row_of(200))))


def test_an_epoch_without_an_image_is_an_error(arena: Arena) -> None:
    """After everything that fell out was told."""
    loop = Loop(arena, config_of())
    for position in range(3):
        reason = Reason.IMAGE_TRUNCATED if position else Reason.HTTP_GONE
        loop.settle(failed(loop.feed(row_of(position)), reason))
    with pytest.raises(NoImagesError, match="none of the 3 rows") as caught:
        loop.end()
    assert len(loop.fallen) == 3
    lines = str(caught.value).splitlines()
    assert lines[1].split()[:2] == ["2", "image.truncated:"]
    assert lines[2].split()[:2] == ["1", "http.gone:"]


def test_the_rest_of_an_epoch_may_be_without(arena: Arena) -> None:
    """An earlier stream had its images."""
    loop = Loop(arena, config_of(), resumed=(2, 5))
    loop.settle(failed(loop.feed(row_of(7, epoch=2))))
    loop.end(2)
    assert [epoch for epoch, _ in loop.ends] == [2]


@pytest.mark.parametrize("rows", [0, 3])
def test_without_end_an_epoch_without_a_batch_is_an_error(arena: Arena, rows: int) -> None:
    """It would go on like that for ever: a part that has no rows, a list that is shorter than a batch (drop_last)."""
    loop = Loop(arena, config_of(epochs=None, drop_last=True))
    loop.do(*range(rows))
    with pytest.raises(NoImagesError, match="no rows" if rows == 0 else "3 images, too few for a batch of 4"):
        loop.end()
    assert len(loop.fallen) == rows


@pytest.mark.parametrize("rows", [0, 3])
def test_with_an_end_it_is_none(arena: Arena, rows: int) -> None:
    """A rank that has nothing to do ends."""
    loop = Loop(arena, config_of(epochs=1, drop_last=True))
    loop.do(*range(rows))
    loop.end()
    assert not loop.received
    assert loop.assembler.finished == 0


# So many batches.


def test_an_even_epoch_is_over_with_its_last_batch(arena: Arena) -> None:
    """No row more goes in than it takes."""
    loop = Loop(arena, config_of(epochs=2), batches=2)
    position = 0
    while loop.assembler.may_feed() and loop.assembler.finished < 0:
        row = loop.feed(row_of(position))
        loop.submit(row)
        loop.settle(failed(row) if position % 3 == 0 else written(row))
        position += 1
    assert [len(positions) for positions in loop.positions] == [4, 4]
    assert loop.received[-1][0].last
    assert loop.assembler.finished == 0
    loop.assert_right()


def test_of_a_resumed_even_epoch_the_missing_batches_come(arena: Arena) -> None:
    """And no others."""
    loop = Loop(arena, config_of(epochs=2), batches=3, resumed=(1, 2))
    loop.do(20, 21, 22, epoch=1)
    assert loop.assembler.may_feed()
    loop.do(23, epoch=1)
    assert loop.positions == [(20, 21, 22, 23)]
    assert loop.assembler.finished == 1


@pytest.mark.parametrize("images", [0, 3])
def test_an_even_epoch_does_not_go_round_for_ever(arena: Arena, images: int) -> None:
    """Once all of its rows have failed in succession, no more go in; the last one inside decides."""
    loop = Loop(arena, config_of(), batches=2)
    loop.do(*range(images))
    slow = loop.feed(row_of(50))
    fed = 0
    while fed < 1000 and loop.assembler.may_feed():
        fed += 1
        loop.settle(failed(loop.feed(row_of(50 + fed))))
    assert fed < 50
    with pytest.raises(NoImagesError, match=r"none of the last \d+ rows gave an image:\n +\d+  http\.not_found"):
        loop.settle(failed(slow))


def test_an_even_epoch_goes_on_with_the_slow_ones(arena: Arena) -> None:
    """They may be the only ones that are any good."""
    loop = Loop(arena, config_of(), batches=1)
    slow = loop.feed(row_of(0))
    position = 0
    while loop.assembler.may_feed():
        position += 1
        loop.settle(failed(loop.feed(row_of(position))))
    loop.settle(written(slow))
    assert loop.assembler.may_feed()
    loop.do(*range(100, 103))
    assert loop.positions == [(0, 100, 101, 102)]


def test_failures_that_come_first_are_not_too_many(arena: Arena) -> None:
    """Rows without a URL settle at once: as long as those inside can make up for it, nothing is stopped."""
    loop = Loop(arena, config_of(min_success=0.5))
    inside = [loop.feed(row_of(position)) for position in range(2 * PROBATION)]
    for position in range(PROBATION + 1):
        loop.settle(failed(loop.feed(row_of(1000 + position))))
    for row in inside[:PROBATION]:
        loop.submit(row)
        loop.settle(written(row))
    *some, last = inside[PROBATION : PROBATION + 50]  # 100 images, and then 50 more at most, of 301 rows
    for row in some:
        loop.settle(failed(row))
    with pytest.raises(TooManyFailuresError):
        loop.settle(failed(last))


def test_failures_without_end_do_not_pile_up(arena: Arena) -> None:
    """They go out by themselves when they are many, each of them once."""
    loop = Loop(arena, config_of())
    for position in range(1, 2 * MOST_FALLEN + 4):
        loop.settle(failed(loop.feed(row_of(position))))
    assert [len(outcomes) for _, outcomes in loop.ends] == [MOST_FALLEN, MOST_FALLEN]
    loop.do(0)
    loop.end()
    assert sorted(outcome.row.index for outcome in loop.fallen) == list(range(1, 2 * MOST_FALLEN + 4))
