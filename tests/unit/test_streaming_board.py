"""The board by which workers agree on an epoch, without workers."""

from __future__ import annotations

import copy
import dataclasses
from multiprocessing import get_context

from penstock.records import MAX_TRACEBACKS
from penstock.report.report import Report
from penstock.streaming.board import Board, merged

REPORT = Report(rows=3, written=1, failed=2, seconds=2.0, reasons={"a": 2}, finished=True, connections=4)


def test_workers_of_a_crowd_agree() -> None:
    """Whoever comes first begins the epoch, and the others of the crowd have the same, pass after pass."""
    board = Board()
    assert [board.begin(1, crowd=7, worker=worker) for worker in (2, 0, 1)] == [0, 0, 0]
    assert [board.begin(2, crowd=7, worker=worker) for worker in (0, 1, 2)] == [1, 1, 1]
    assert board.begin(1, crowd=8) == 2
    assert [board.begin(1), board.begin(1)] == [3, 4]
    assert board.next == 5


def test_a_late_worker_disturbs_nobody() -> None:
    """One that was slow to start a pass that was left early, or that of another crowd, begins no epoch."""
    board = Board()
    assert [board.begin(1, crowd=7), board.begin(2, crowd=7), board.begin(1, crowd=8)] == [0, 1, 2]
    late = [board.begin(1, crowd=7, worker=1), board.begin(2, crowd=7, worker=1), board.begin(1, crowd=8, worker=1)]
    assert late == [1, 1, 2]
    assert board.next == 3


def test_a_seed_that_is_set_again_is_another_crowd() -> None:
    """New workers with the numbers and the seed of others that have made their pass begin the next epoch."""
    board = Board()
    assert [board.begin(1, crowd=7, worker=worker) for worker in (0, 1, 1, 0)] == [0, 0, 1, 1]


def test_a_state_and_the_user_decide() -> None:
    """A given epoch is the pass's, for every worker that gives it; the next one counts on from there."""
    board = Board()
    assert [board.begin(1, crowd=7, worker=worker, epoch=5) for worker in (0, 1)] == [5, 5]
    assert board.begin(2, crowd=7) == 6
    board.set_next(2)
    assert [board.begin(3, crowd=7, worker=worker) for worker in (1, 0)] == [2, 2]


def test_reports_are_those_of_the_last_pass() -> None:
    """What a worker posts last counts; a new pass forgets the old one's, and late reports of it."""
    board = Board()
    board.begin(1, crowd=7)
    board.post(0, 0, Report(rows=1))
    board.post(0, 0, REPORT)
    board.post(1, 0, REPORT)
    assert board.reports() == [REPORT, REPORT]
    board.begin(2, crowd=7)
    board.post(1, 0, REPORT)
    assert board.reports() == []


def test_merged_reports_add_up() -> None:
    """Counts and reasons are added, time is not, and the whole is finished when all are."""
    other = dataclasses.replace(REPORT, reasons={"a": 1, "b": 1}, seconds=4.0, finished=False)
    whole = merged([REPORT, other])
    assert (whole.rows, whole.written, whole.failed, whole.connections) == (6, 2, 4, 8)
    assert (whole.reasons, whole.seconds, whole.images_per_second) == ({"a": 3, "b": 1}, 4.0, 0.5)
    assert not whole.finished


def test_merged_reports_keep_the_longest_lag_and_a_bounded_number_of_tracebacks() -> None:
    """Waits are added; of kinds of exceptions there are many where each worker has its own, and a report has a bound."""
    reports = [
        dataclasses.replace(
            REPORT,
            waits={"local.network": 1.5},
            loop_lag_seconds=lag,
            attempts_given_back=2,
            tracebacks={f"{lag} {number}": "" for number in range(MAX_TRACEBACKS)},
        )
        for lag in (0.5, 2.5)
    ]
    whole = merged(reports)
    assert (whole.waits, whole.loop_lag_seconds, whole.attempts_given_back) == ({"local.network": 3.0}, 2.5, 4)
    assert list(whole.tracebacks) == list(reports[0].tracebacks)


def test_a_spawned_process_shares_the_board() -> None:
    """It is the same board there; a copy is another one, with the same on it."""
    board = Board()
    board.begin(1, crowd=7)
    process = get_context("spawn").Process(target=board.begin, args=(2,), kwargs={"crowd": 7})
    process.start()
    process.join()
    process.close()
    assert board.next == 2
    other = copy.deepcopy(board)
    other.begin(3, crowd=7)
    assert (board.next, other.next) == (2, 3)
