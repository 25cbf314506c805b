"""Shards being filled, on a real store: what is fed, when a shard is sealed, when it is committed."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.config import OutputConfig
from penstock.engines.base import Plan
from penstock.engines.filling import Filling, Placed
from penstock.errors import AccountError, OutputError, OutputRefusedError
from penstock.records import Kind, Outcome, Reason, Request, Row, Sample, Settled, ShardReport
from penstock.sink.shards import ShardStore
from penstock.source import open_source

SIZE = 4
"""Rows of a shard here."""


def placed(count: int, size: int = SIZE) -> list[Placed]:
    return [Placed(index // size, Row(index, (Request("image", f"http://a/{index}"),))) for index in range(count)]


def written(row: Row, **parts: Any) -> Settled:
    return Settled(Outcome(row, Kind.WRITTEN, http_status=200, attempts=1), Sample(parts or {"jpg": b"x" * row.index}))


class Folder:
    """A store, and what was announced of it."""

    def __init__(self, path: Path, **config: Any) -> None:
        self.path = path
        self.store = ShardStore(path, OutputConfig(**config), run_id="id")
        self.announced: list[ShardReport] = []

    def filling(self, **options: Any) -> Filling:
        return Filling(self.store, **{"committed": {}, "announce": self.announced.append, **options})

    @property
    def numbers(self) -> list[int]:
        return [report.shard for report in self.announced]

    @property
    def spools(self) -> list[str]:
        return sorted(path.stem for path in (self.path / ".penstock/spool").glob("*"))

    def keys(self, shard: int) -> list[int]:
        return [int(key) for key in pq.read_table(self.path / f"{shard:05d}.parquet")["key"].to_pylist()]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_rows_in_any_order_make_ordered_shards(folder: Folder) -> None:
    """Each row comes out once, and whatever the order in which they settle, each shard has its own rows in theirs."""
    with folder.filling() as filling:
        rows = list(filling.feed(placed(10)))
        assert [row.index for row in rows] == list(range(10))
        random.Random(0).shuffle(rows)
        for row in rows:
            filling.add(written(row))
        filling.finish()
    assert sorted(folder.numbers) == [0, 1, 2]
    assert [folder.keys(shard) for shard in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert folder.spools == []


def test_shard_is_committed_when_its_last_row_is_settled(folder: Folder) -> None:
    """A shard with a straggler waits, and those behind it do not."""
    with folder.filling() as filling:
        rows = list(filling.feed(placed(8)))
        for row in rows[1:]:
            filling.add(written(row))
        filling.commit_whole()
        assert folder.numbers == [1]
        filling.add(written(rows[0]))
        filling.finish()
    assert folder.numbers == [1, 0]


def test_shard_is_not_whole_before_its_last_row_has_entered(folder: Folder) -> None:
    """A shard all of whose rows so far are settled is not committed while more of them may come."""
    with folder.filling() as filling:
        feed = filling.feed(placed(SIZE))
        for _ in range(SIZE):
            filling.add(written(next(feed)))
        filling.commit_whole()
        assert folder.numbers == []
        assert next(feed, None) is None
        filling.finish()
    assert folder.numbers == [0]


def test_next_shard_opens_before_the_last_one_is_whole(folder: Folder) -> None:
    """Feeding never waits for settling."""
    with folder.filling() as filling:
        assert len(list(filling.feed(placed(3 * SIZE)))) == 3 * SIZE
        assert folder.spools == ["00000", "00001", "00002"]


def test_committed_shards_are_passed_over(folder: Folder) -> None:
    """Rows of shards that exist are not fed again, wherever they lie."""
    with folder.filling(committed={1: ""}) as filling:
        assert [row.index for row in filling.feed(placed(10))] == [0, 1, 2, 3, 8, 9]


def test_spooled_rows_are_recovered(folder: Folder) -> None:
    """What an interrupted run has settled is neither fed nor lost, and counted."""
    with folder.filling() as filling:
        for row in list(filling.feed(placed(6)))[:3]:
            filling.add(written(row))
    assert folder.numbers == []
    with folder.filling() as filling:
        rows = list(filling.feed(placed(6)))
        assert [row.index for row in rows] == [3, 4, 5]
        assert filling.recovered == 3
        for row in rows:
            filling.add(written(row))
        filling.finish()
    assert (folder.keys(0), folder.keys(1)) == ([0, 1, 2, 3], [4, 5])


def test_shard_of_which_all_rows_are_recovered(folder: Folder) -> None:
    """A run that was killed between the last row and the commit needs no row to commit the shard."""
    with folder.filling() as filling:
        feed = filling.feed(placed(SIZE))
        for _ in range(SIZE):
            filling.add(written(next(feed)))
    with folder.filling() as filling:
        assert list(filling.feed(placed(SIZE))) == []
        filling.finish()
    assert folder.keys(0) == [0, 1, 2, 3]


def test_refused_sample_is_a_failure(tmp_path: Path) -> None:
    """A sample that the format cannot hold fails its row, and the caller is told."""
    folder = Folder(tmp_path, format="arrays")
    with folder.filling() as filling:
        first, second = filling.feed(placed(2))
        assert filling.add(written(first, image=np.zeros((2, 2, 3), np.uint8))).outcome.kind is Kind.WRITTEN
        settled = filling.add(written(second, image=np.zeros((9, 2, 3), np.uint8)))
        filling.finish()
    assert settled.sample is None
    assert settled.outcome.kind is Kind.FAILED
    assert settled.outcome.http_status == 200
    assert settled.outcome.reason is not None
    assert folder.announced[0].reasons == {settled.outcome.reason.value: 1}


def test_row_that_was_not_fed_or_came_twice(folder: Folder) -> None:
    """Settling a row twice, or one that never entered, is a bug that is noticed."""
    with folder.filling() as filling:
        row = next(filling.feed(placed(2)))
        filling.add(written(row))
        for wrong in (row, Row(99, row.requests)):
            with pytest.raises(AccountError, match=f"row {wrong.index}"):
                filling.add(written(wrong))


def test_row_that_never_leaves(folder: Folder) -> None:
    """Rows without an outcome are noticed at the end."""
    with folder.filling() as filling:
        rows = list(filling.feed(placed(6)))
        filling.add(written(rows[0]))
        with pytest.raises(AccountError, match="5 rows entered and never left"):
            filling.finish()


def test_retried_rows_are_counted_by_their_earlier_reasons(folder: Folder) -> None:
    """The shard's report takes the failures back that it retries."""
    reason = Reason.TIMEOUT_IDLE.value
    again = [Placed(7, item.row, reason) for item in placed(3)]
    with folder.filling() as filling:
        for row in list(filling.feed(again)):
            filling.add(written(row))
        filling.finish()
    assert folder.announced[0].retried == {reason: 3}


def digests(folder: Folder, count: int) -> dict[int, str]:
    """The digests of the shards of a list of `count` rows."""
    with folder.filling() as filling:
        for row in list(filling.feed(placed(count))):
            filling.add(written(row))
        filling.finish()
    return {report.shard: report.rows_sha256 for report in folder.announced}


def test_same_rows_have_the_same_digest(folder: Folder) -> None:
    """A list that can be read only once goes on behind the shards that it made."""
    committed = digests(folder, 8)
    with folder.filling(committed=committed, check_digests=True) as filling:
        assert [row.index for row in filling.feed(placed(10))] == [8, 9]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [rows[0], *rows[2:5], rows[4], *rows[5:]], "shard 00000 are not the same"),
        (lambda rows: rows[:7], "shard 00001 are not the same"),
        (lambda rows: rows[:4], "ends before the rows of shard 00001"),
        (lambda rows: rows[:0], "ends before the rows of shard 00000"),
    ],
)
def test_other_rows_are_refused(folder: Folder, change: Callable[[list[Row]], list[Row]], message: str) -> None:
    """A list with other rows, or with fewer, is another list."""
    committed = digests(folder, 8)
    rows = change([item.row for item in placed(8)])
    other = [Placed(position // SIZE, row) for position, row in enumerate(rows)]
    with (
        folder.filling(committed=committed, check_digests=True) as filling,
        pytest.raises(OutputRefusedError, match=message),
    ):
        list(filling.feed(other))


def test_finished_list_may_not_have_grown() -> None:
    """Rows behind those that a finished run has accounted for are another list's."""
    source = open_source(f"http://a/{i}" for i in range(9))
    plan = Plan(source, SIZE, {0: "", 1: ""}, check_digests=True, finished_rows=8)
    with pytest.raises(OutputRefusedError, match="had 8 rows, and this one has more"):
        list(plan.placed())
    assert len(list(Plan(open_source(["http://a/0"] * 8), SIZE, {}, finished_rows=8).placed())) == 8


def test_error_closes_the_spools_of_shards_that_wait_for_their_commit(folder: Folder) -> None:
    """Shards whose commit is called off leave no descriptor open, and keep their rows for the next run."""
    submitted = threading.Event()

    def announce(report: ShardReport) -> None:
        folder.announced.append(report)
        submitted.wait(30)
        with suppress(CancelledError):
            filling._commits[-1][0].exception(30)

    with suppress(KeyboardInterrupt), folder.filling(announce=announce) as filling:
        for row in list(filling.feed(placed(2 * SIZE))):
            filling.add(written(row))
        submitted.set()
        raise KeyboardInterrupt
    assert folder.numbers == [0]
    with folder.filling(committed={0: ""}) as filling:
        assert list(filling.feed(placed(2 * SIZE))) == []
        filling.finish()
    assert folder.numbers == [0, 1]


@pytest.mark.parametrize("step", ["commit", "announce"])
def test_failed_commit_is_raised_and_can_be_made_again(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """An error of the disk comes out of `finish`; the rows are in the spool still."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refusing(_: ShardReport) -> None:
        raise OutputError("the journal cannot be written")

    if step == "commit":
        monkeypatch.setattr("penstock.sink.landing.place", full)
    options = {"announce": refusing} if step == "announce" else {}
    with folder.filling(**options) as filling:
        for row in list(filling.feed(placed(2))):
            filling.add(written(row))
        with pytest.raises(OutputError):
            filling.finish()
    assert folder.spools == ["00000"]
    monkeypatch.undo()
    with folder.filling() as filling:
        assert list(filling.feed(placed(2))) == []
        filling.finish()
    assert folder.keys(0) == [0, 1]
    assert folder.spools == []


def settle(folder: Folder, order: list[int], crashes: set[int]) -> dict[str, bytes]:
    """Settle ten rows in this order, the process dying before some of them; the files that come of it."""
    waiting = list(order)
    while set(folder.numbers) != {0, 1, 2}:
        with suppress(KeyboardInterrupt), folder.filling(committed=dict.fromkeys(folder.numbers, "")) as filling:
            rows = {row.index: row for row in filling.feed(placed(10))}
            assert set(rows) <= set(waiting)
            waiting = [index for index in waiting if index in rows]
            for index in waiting:
                if index in crashes:
                    crashes.discard(index)
                    raise KeyboardInterrupt
                filling.add(written(rows[index]))
            filling.finish()
    return {path.name: path.read_bytes() for path in folder.path.glob("*") if path.suffix in (".tar", ".parquet")}


@pytest.mark.slow
@settings(max_examples=25)
@given(order=st.permutations(range(10)), crashes=st.sets(st.integers(0, 9), max_size=4))
def test_any_order_and_any_crash_make_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], crashes: set[int]
) -> None:
    """Shards depend neither on the order in which rows settle nor on interruptions; no settled row is asked for again."""
    plain = settle(Folder(tmp_path_factory.mktemp("plain")), list(range(10)), set())
    assert settle(Folder(tmp_path_factory.mktemp("crashing")), list(order), set(crashes)) == plain
    assert len(plain) == 6
