"""A stream that is stopped anywhere and goes on elsewhere gives what an unbroken one gives."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from flow.stream_fakes import assert_right, numbers_of, offline_stream, urls_of
from penstock.errors import NoImagesError, StateRefusedError
from penstock.report.report import Report
from penstock.streaming.batch import Batch
from penstock.streaming.stream import Stream


def in_pieces(source: Any, stops: list[int], chance: int, **options: Any) -> tuple[list[Batch], list[Report]]:
    """The batches of a stream that is stopped after so many of them, each time; the last piece goes to the end.

    Returns:
        The batches, and the report of each piece.
    """
    batches: list[Batch] = []
    reports = []
    state = None
    for number, stop in enumerate([*stops, None]):
        with offline_stream(source, chance=chance + number, **options) as stream:
            if state is not None:
                stream.load_state_dict(json.loads(state))
                assert json.dumps(stream.state_dict()) == state
            batches += islice(stream, stop)
            state = json.dumps(stream.state_dict())
        reports.append(stream.report)
    return batches, reports


@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 50),
    stops=st.lists(st.integers(0, 7), max_size=4),
    batch_size=st.integers(1, 8),
    prefetch=st.integers(1, 4),
    ordered=st.booleans(),
    shuffle=st.sampled_from([0, 1, 8, 100]),
    epochs=st.integers(1, 3),
    share=st.sampled_from([0.0, 0.3]),
    split=st.sampled_from([(0, 1), (1, 3)]),
)
@settings(max_examples=30)
def test_each_row_of_each_epoch_comes_once(
    seed: int,
    count: int,
    stops: list[int],
    batch_size: int,
    prefetch: int,
    ordered: bool,
    shuffle: int,
    epochs: int,
    share: float,
    split: tuple[int, int],
) -> None:
    """Over all pieces together, as an image or as a failure that is told; where order is asked for, in that order."""
    chance = random.Random(seed)
    bad = {index for index in range(count) if chance.random() < share}
    urls = urls_of(count, lost=bad)
    options: dict[str, Any] = {"batch_size": batch_size, "prefetch": prefetch, "ordered": ordered, "shuffle": shuffle}
    options |= {"epochs": epochs, "split": split, "seed": seed % 5}
    with offline_stream(urls, chance=seed, **{**options, "ordered": True}) as stream:
        try:
            unbroken = [(batch.epoch, int(key)) for batch in stream for key in batch.keys]
        except NoImagesError:  # that is another test's
            reject()
        whole = stream.report
    batches, reports = in_pieces(urls, stops, seed, **options)
    for batch in batches:
        assert_right(batch.keys, batch.images)
    delivered = [(batch.epoch, int(key)) for batch in batches for key in batch.keys]
    assert (delivered if ordered else sorted(delivered)) == (unbroken if ordered else sorted(unbroken))
    assert sum(report.rows for report in reports) == whole.rows
    assert sum(report.failed for report in reports) == whole.failed


@given(
    seed=st.integers(0, 2**32),
    count=st.integers(12, 40),
    stops=st.lists(st.integers(0, 4), max_size=3),
    batch_size=st.integers(1, 4),
    drop_last=st.booleans(),
    ordered=st.booleans(),
    part=st.integers(0, 2),
)
@settings(max_examples=20)
def test_even_parts_have_as_many_batches_as_unbroken_ones(
    seed: int, count: int, stops: list[int], batch_size: int, drop_last: bool, ordered: bool, part: int
) -> None:
    """In each epoch, all of them full, whatever fails."""
    chance = random.Random(seed)
    bad = {index for index in range(3, count) if chance.random() < 0.2}
    options: dict[str, Any] = {"batch_size": batch_size, "drop_last": drop_last, "ordered": ordered, "epochs": 2}
    batches, reports = in_pieces(urls_of(count, lost=bad), stops, seed, split=(part, 3), even=True, **options)
    expected = count // 3 // batch_size if drop_last else math.ceil(count / 3 / batch_size)
    assert Counter(batch.epoch for batch in batches) == {0: expected, 1: expected}
    assert all(len(batch) == batch_size for batch in batches)
    assert {number % 3 for number in numbers_of(batches)} == {part}
    assert sum(report.written for report in reports) == 2 * expected * batch_size


@pytest.mark.slow
@pytest.mark.parametrize("host", ["processes", "threads"])
def test_a_stream_in_a_process_goes_on_as_well(host: str, tmp_path: Path) -> None:
    """From a file, which that process reads by itself; with another number of workers and another batch size."""
    (tmp_path / "list.txt").write_text("\n".join(urls_of(100, lost=range(0, 100, 9))))
    source = str(tmp_path / "list.txt")
    options: dict[str, Any] = {"shuffle": 30, "epochs": 2}
    with offline_stream(source, host, **options) as stream:
        first = [next(stream) for _ in range(5)]
        state = json.dumps(stream.state_dict())
    with offline_stream(source, host, workers=2, batch_size=5, **options) as stream:
        stream.load_state_dict(json.loads(state))
        rest = list(stream)
    for epoch in range(2):
        numbers = numbers_of(batch for batch in [*first, *rest] if batch.epoch == epoch)
        assert sorted(numbers) == [index for index in range(100) if index % 9]


def test_a_state_at_the_end_of_everything_gives_nothing() -> None:
    """The stream is done."""
    with offline_stream(urls_of(10)) as stream:
        list(stream)
        state = stream.state_dict()
    with offline_stream(urls_of(10)) as stream:
        stream.load_state_dict(state)
        assert list(stream) == []
        assert stream.report.finished


def test_a_state_may_be_asked_for_at_any_moment() -> None:
    """Before the first batch, after the end, and when it is closed; it counts what the loop has received."""
    stream = offline_stream(urls_of(20), epochs=2, ordered=True)
    new = stream.state_dict()
    next(stream)
    begun = stream.state_dict()
    stream.close()
    assert stream.state_dict() == begun
    assert (new["epoch"], new["done"], new["batches"]) == (0, [0], 0)
    assert (begun["epoch"], begun["done"], begun["batches"]) == (0, [8], 1)


# Refused.


def state_of(source: Any = None, **options: Any) -> dict[str, Any]:
    """Of a stream that was not begun."""
    return offline_stream(source or urls_of(20), **options).state_dict()


@pytest.mark.parametrize(
    ("there", "difference"),
    [
        ({"shuffle": 10}, "shuffle was 10 there and is 0 now"),
        ({"seed": 3}, "seed was 3 there and is 0 now"),
        ({"split": (0, 2)}, r"parts \(ranks × workers\) was 2 there and is 1 now"),
        ({"even": True}, "even was True there and is False now"),
        ({"source": urls_of(21)}, r"the list is not the same"),
    ],
)
def test_a_state_of_another_stream_is_refused(there: dict[str, Any], difference: str) -> None:
    """The message names the difference."""
    stream = offline_stream(urls_of(20))
    with pytest.raises(StateRefusedError, match=difference):
        stream.load_state_dict(state_of(**there))
    assert numbers_of(closing_after(stream, 2)) != []


@pytest.mark.parametrize("options", [{"batch_size": 5}, {"drop_last": True}])
def test_even_batches_are_counted(options: dict[str, Any]) -> None:
    """So that a state is of that kind of batches; it may be of any other where none are counted."""
    (name,) = options
    with pytest.raises(StateRefusedError, match=f"{name} was"):
        offline_stream(urls_of(20), even=True, **options).load_state_dict(state_of(even=True))
    offline_stream(urls_of(20), **options).load_state_dict(state_of())


def closing_after(stream: Stream, count: int) -> list[Batch]:
    """So many batches; the stream is closed then."""
    with stream:
        return [next(stream) for _ in range(count)]


def test_a_list_that_was_changed_is_refused(tmp_path: Path) -> None:
    """By the name of its file."""
    path = tmp_path / "list.txt"
    path.write_text("\n".join(urls_of(20)))
    state = state_of(str(path))
    path.write_text("\n".join(urls_of(20, lost=(3,))))
    with pytest.raises(StateRefusedError, match=r"the list is not the same \(.*list\.txt\)"):
        offline_stream(str(path)).load_state_dict(state)


def test_a_stream_that_has_begun_takes_no_state() -> None:
    """Its rows are under way."""
    with offline_stream(urls_of(20)) as stream:
        next(stream)
        with pytest.raises(StateRefusedError, match="this stream has begun"):
            stream.load_state_dict(stream.state_dict())


@pytest.mark.parametrize("state", [None, [], {}, {"version": 2}, {"version": 1, "epoch": -1}])
def test_what_is_no_state_is_refused(state: Any) -> None:
    """And not taken for the start."""
    with pytest.raises(StateRefusedError):
        offline_stream(urls_of(20)).load_state_dict(state)
