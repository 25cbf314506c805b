"""The state of a stream: what is done, and whose it is."""

from __future__ import annotations

import copy
import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from penstock.errors import StateRefusedError
from penstock.records import Row
from penstock.streaming.order import Order, Read
from penstock.streaming.state import Done, State

IDENTITY = {
    "source": {"files": [{"name": name, "size": 10, "sha256": "ab"} for name in ("a.csv", "b.csv", "c.csv")]},
    "shuffle": 0,
    "seed": 1,
    "part": 0,
    "parts": 2,
    "even": False,
}
POSITIONS = st.lists(st.integers(0, 60), unique=True)


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


class Model(RuleBasedStateMachine):
    """`Done` beside a plain set, through any adds, doubles and round trips."""

    def __init__(self) -> None:
        super().__init__()
        self.done = Done()
        self.model: set[int] = set()

    @rule(position=st.integers(0, 30))
    def add(self, position: int) -> None:
        if position in self.model:
            with pytest.raises(ValueError, match=f"position {position} was delivered twice"):
                self.done.add(position)
        else:
            self.done.add(position)
            self.model.add(position)

    @rule()
    def save_and_load(self) -> None:
        restored = Done.of(through_json(self.done.as_list()))
        assert restored == self.done
        self.done = restored

    @invariant()
    def agrees(self) -> None:
        assert [position in self.done for position in range(32)] == [position in self.model for position in range(32)]
        assert self.done.count == len(self.model)
        assert self.done.low == next(position for position in range(32) if position not in self.model)
        assert all(position > self.done.low for position in self.done.above)

    @invariant()
    def is_compact(self) -> None:
        marks = self.done.as_list()
        covered = {*range(marks[0])}
        for start, end in zip(marks[1::2], marks[2::2], strict=True):
            covered |= set(range(start, end))
        assert covered == self.model
        assert marks == sorted(set(marks)), "ranges that touch are one"


TestDone = Model.TestCase


@given(st.integers(0, 200), st.randoms(use_true_random=False))
def test_whatever_the_order_all_done_is_a_mark_alone(count: int, random: Any) -> None:
    """Once every position up to some point is done, nothing is kept but the mark."""
    positions = list(range(count))
    random.shuffle(positions)
    done = Done()
    for position in positions:
        done.add(position)
    assert (done.as_list(), done.above) == ([count], set())


@pytest.mark.parametrize(
    ("marks", "what"),
    [
        (None, "list"),
        ({"low": 3}, "list"),
        ("0", "list"),
        (["0"], "list"),
        ([0.0], "list"),
        ([True], "list"),
        ([-1], "list"),
        ([], "mark and ranges"),
        ([0, 2], "mark and ranges"),
        ([3, 2, 5], "ascending"),
        ([3, 3, 5], "ascending"),
        ([3, 5, 5], "ascending"),
        ([3, 5, 7, 7, 9], "ascending"),
    ],
)
def test_rubbish_is_no_list_of_what_is_done(marks: Any, what: str) -> None:
    """Only what `as_list` can have given is taken, and the message says what is wrong."""
    with pytest.raises(ValueError, match=what):
        Done.of(marks)


def test_a_negative_position_is_refused() -> None:
    """There is none below 0."""
    with pytest.raises(ValueError, match="-1"):
        Done().add(-1)


def test_the_user_s_receipts_are_counted() -> None:
    """Rows of batches and rows that fell out count as done; only batches count as batches."""
    state = State(IDENTITY)
    state.received(0, [0, 3], batch=True)
    state.received(0, [1], batch=False)
    assert (state.epoch, state.done.as_list(), state.batches) == (0, [2, 3, 4], 1)


def test_an_epoch_starts_anew() -> None:
    """With the end of the last one, or with its own first rows."""
    state = State(IDENTITY)
    state.received(0, [0, 1], batch=True)
    state.finished(0)
    assert state == State(IDENTITY, epoch=1)
    state.received(1, [0], batch=True)
    state.received(2, [1], batch=True)
    assert (state.epoch, state.done.as_list(), state.batches) == (2, [0, 1, 2], 1)


def test_no_epoch_comes_back() -> None:
    """Neither rows of an earlier epoch nor its end are taken: that would be a bug."""
    state = State(IDENTITY)
    state.finished(0)
    with pytest.raises(ValueError, match="epoch 0 cannot begin: the stream is in epoch 1"):
        state.received(0, [5], batch=True)
    with pytest.raises(ValueError, match="cannot begin"):
        state.finished(0)


@given(st.integers(0, 9), POSITIONS, st.integers(0, 9))
def test_a_state_survives_json(epoch: int, positions: list[int], batches: int) -> None:
    """What was saved as JSON is the state, independent of what becomes of the one that was saved."""
    state = State(IDENTITY, epoch, batches=batches)
    state.received(epoch, positions, batch=False)
    saved = state.as_dict()
    kept = through_json(saved)
    restored = State.of(kept, copy.deepcopy(IDENTITY))
    assert restored == state
    state.received(epoch, [100], batch=True)
    assert (saved, restored.as_dict()) == (kept, kept)


def refusal(state: Any, **identity: Any) -> str:
    with pytest.raises(StateRefusedError) as refused:
        State.of(state, IDENTITY | identity)
    message = str(refused.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"shuffle": 1000}, "shuffle was 0 there and is 1000 now"),
        ({"seed": 2}, "seed was 1 there and is 2 now"),
        ({"part": 1}, "part (of the rank and the worker) was 0 there and is 1 now"),
        ({"parts": 4}, "parts (ranks × workers) was 2 there and is 4 now"),
        ({"even": True}, "even was False there and is True now"),
        ({"shuffle": 5, "seed": 9}, "shuffle was 0 there and is 5 now; seed was 1 there and is 9 now."),
        ({"novel": 1}, "novel was None there and is 1 now"),
        ({"source": None}, "one of the two lists can be read only once"),
        ({"source": {"sha256": "cd"}}, "the list is not the same (files, sha256)"),
        ({"source": {"files": []}}, "the list had 3 files there and has 0 now"),
    ],
)
def test_another_stream_s_state_is_refused(changed: dict[str, Any], difference: str) -> None:
    """The message names what is different, all of it, and on which side it is how."""
    assert difference in refusal(State(IDENTITY).as_dict(), **changed)


def test_options_that_are_gone_count_too() -> None:
    """A state that depends on something that this stream does not know is not its own."""
    assert "novel was 1 there and is None now" in refusal(State(IDENTITY | {"novel": 1}).as_dict())


@pytest.mark.parametrize(
    ("changed", "named"),
    [([1], "(b.csv)"), ([0, 2], "(a.csv, c.csv)"), ([0, 1, 2, 3, 4], "(a.csv, b.csv, c.csv and 2 more)")],
)
def test_files_that_have_changed_are_named(changed: list[int], named: str) -> None:
    """A few of them by name, the others by number."""
    files = [{"name": f"{letter}.csv", "size": 10} for letter in "abcde"]
    now = [file | {"size": 11} if number in changed else file for number, file in enumerate(files)]
    state = State(IDENTITY | {"source": {"files": files}}).as_dict()
    assert f"the list is not the same {named}" in refusal(state, source={"files": now})


def test_a_hash_that_differs_is_a_list_that_differs() -> None:
    """Lists that are no files are told apart by their content."""
    state = State(IDENTITY | {"source": {"sha256": "ab"}}).as_dict()
    assert "the list is not the same (sha256)" in refusal(state, source={"sha256": "cd"})


def test_lists_that_nobody_can_compare_are_taken_at_their_word() -> None:
    """A list that can be read only once has no fingerprint: its state is accepted for another such list alone."""
    identity = IDENTITY | {"source": None}
    state = State(identity, epoch=3)
    assert State.of(state.as_dict(), identity) == state
    assert "can be read only once" in refusal(state.as_dict())


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"version": 2}, "version 2, and this Penstock knows version 1"),
        ({"version": None}, "version None"),
        ({"epoch": -1}, "damaged: epoch is -1"),
        ({"epoch": "1"}, "damaged: epoch is '1'"),
        ({"batches": None}, "damaged: batches is None"),
        ({"done": None}, "damaged: done is not a list of positions"),
        ({"done": [3, 1, 2]}, "damaged: done is not ascending"),
        ({"identity": None}, "damaged: its identity"),
        ({"identity": {"source": 3}}, "damaged: its identity"),
        ({"identity": {}}, "one of the two lists"),
        ({"identity": IDENTITY | {"source": {"files": [1, None, "x"]}}}, "(a.csv, b.csv, c.csv)"),
    ],
)
def test_a_damaged_state_is_refused(change: dict[str, Any], what: str) -> None:
    """In one line that says what is wrong with it."""
    assert what in refusal(State(IDENTITY).as_dict() | change)


@pytest.mark.parametrize("name", ["version", "epoch", "done", "batches", "identity"])
def test_an_incomplete_state_is_refused(name: str) -> None:
    """Every entry is needed."""
    state = State(IDENTITY).as_dict()
    del state[name]
    assert name in refusal(state)


@pytest.mark.parametrize("rubbish", [None, 3, "state", [1], b"{}"])
def test_what_is_no_mapping_is_refused(rubbish: Any) -> None:
    """The message says what was expected, and what came."""
    assert f"state_dict() has given, and not from a {type(rubbish).__name__}" in refusal(rubbish)


def reader(count: int) -> Read:
    return lambda start: (Row(index, ()) for index in range(start, count))


class Training:
    """A stream and its loop in small: rows under way end in any order, batches are received, a stop forgets the rest."""

    def __init__(self, order: Order, count: int, random: Any) -> None:
        self.order = order
        self.count = count
        self.random = random
        self.received: Counter[tuple[int, int]] = Counter()
        self.saved: Any = State(IDENTITY).as_dict()

    def go_on(self, epochs: int, batches: int) -> bool:
        """Go on from what was saved, for so many batches at most; whether all the epochs are over."""
        state = State.of(through_json(self.saved), IDENTITY)
        for epoch in range(state.epoch, epochs):
            rows = self.order.rows(reader(self.count), epoch, state.done.low)
            left = [row for row in rows if row.position not in state.done]
            while left:
                if batches == 0:
                    return False
                batches -= 1
                under_way = left[:8]
                batch = self.random.sample(under_way, min(3, len(under_way)))
                state.received(epoch, [row.position for row in batch], batch=True)
                self.received.update((epoch, row.index) for row in batch)
                self.saved = state.as_dict()
                left = [row for row in left if row not in batch]
            state.finished(epoch)
            self.saved = state.as_dict()
        return True


@given(
    st.integers(0, 40),
    st.integers(0, 12),
    st.integers(1, 3),
    st.lists(st.integers(0, 9), max_size=5),
    st.randoms(use_true_random=False),
)
def test_stopped_and_resumed_each_epoch_has_each_row_once(
    count: int, shuffle: int, parts: int, stops: list[int], random: Any
) -> None:
    """Whatever the order in which rows end, and wherever the stream is stopped, nothing is lost or comes twice."""
    training = Training(Order(shuffle, 7, 0, parts), count, random)
    for batches in stops:
        training.go_on(2, batches)
    assert training.go_on(2, 1000)
    own = [(epoch, row.index) for epoch in (0, 1) for row in training.order.rows(reader(count), epoch)]
    assert training.received == Counter(own)
    assert (training.saved["epoch"], training.saved["done"], training.saved["batches"]) == (2, [0], 0)
