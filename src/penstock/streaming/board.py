"""What processes that share a data set tell each other: which epoch a pass over it is, and how far each of them is.

The workers of a PyTorch DataLoader are copies of a data set in the training process, which never learns that they were
made. It could not tell them which epoch it is; but they can agree on one, and the training process can read what they
report::

    worker 0 ──begin──▶ ┌───────────────────────┐ ◀──set_next── training process
    worker 1 ──begin──▶ │ Board: a file without │
    worker 1 ──post───▶ │ a name, and its lock  │ ──reports───▶ training process
                        └───────────────────────┘

The lock is the kernel's: if a worker is killed while it holds it, it is free again.
"""

from __future__ import annotations

import dataclasses
import fcntl
import itertools
import os
import pickle
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import reduction
from multiprocessing.context import get_spawning_popen
from typing import Any

from penstock.crew.wire import anonymous_file, read_at, write_at
from penstock.records import MAX_TRACEBACKS
from penstock.report.report import Report

__all__ = ["Board", "merged"]

CROWDS = 16
"""Groups of workers that are remembered: two are enough unless a program has several iterators over one data set."""


@dataclass(slots=True)
class _Begun:
    """The last pass of a crowd."""

    passes: int
    """How many it has made with this one."""
    epoch: int
    workers: set[int]
    """That have begun it."""

    def awaits(self, worker: int, passes: int) -> bool:
        """Whether it is this pass that the worker is to make.

        One that has begun it already is of another crowd: its user has set the same seed again.
        """
        return passes == self.passes and worker not in self.workers


@dataclass(slots=True)
class _Page:
    """What stands on the board."""

    next: int = 0
    """The epoch of the pass that begins next."""
    begun: dict[int, _Begun] = field(default_factory=dict)
    """By crowd."""
    epoch: int = -1
    """Of the pass that began last."""
    reports: dict[int, Report] = field(default_factory=dict)
    """Of that pass, by worker."""


class Board:
    """Shared with processes that are forked or spawned; a copy by any other way is a board of its own.

    Args:
        descriptor: of the file of a board that is there, taken over; None for a new one.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = anonymous_file() if descriptor is None else descriptor
        weakref.finalize(self, os.close, self._descriptor)
        if descriptor is None:
            self._write(_Page())

    def begin(self, passes: int, *, crowd: int | None = None, worker: int = 0, epoch: int | None = None) -> int:
        """Begin a pass; gives its epoch, the same to every worker of a crowd.

        Args:
            passes: how many this process has begun with this one: the workers of a crowd make their passes together.
            crowd: a number that all the workers of one DataLoader have, and hardly any others; None for a process by itself.
            worker: which of them this is.
            epoch: of the pass, where a state has decided that.
        """
        with self._held() as page:
            before = None if crowd is None else page.begun.get(crowd)
            if before is not None and epoch is None:
                if passes < before.passes:
                    return before.epoch  # the others have left that pass behind, and nobody will look at it
                if before.awaits(worker, passes):
                    before.workers.add(worker)
                    return before.epoch
            return _begin(page, passes, crowd, worker, epoch)

    @property
    def next(self) -> int:
        """The epoch of the pass that begins next."""
        with self._held() as page:
            return page.next

    def set_next(self, epoch: int) -> None:
        """The next pass, whoever begins it, is this epoch."""
        with self._held() as page:
            page.next, page.begun = epoch, {}

    def post(self, worker: int, epoch: int, report: Report) -> None:
        """How far a worker is in its pass; forgotten when the next one begins."""
        with self._held() as page:
            if epoch == page.epoch:
                page.reports[worker] = report

    def reports(self) -> list[Report]:
        """What the workers have posted of the pass that began last."""
        with self._held() as page:
            return list(page.reports.values())

    def __reduce__(self) -> tuple[Any, ...]:
        if get_spawning_popen() is None:
            with self._held() as page:
                return _copied, (page,)
        return _shared, (reduction.DupFd(self._descriptor),)

    @contextmanager
    def _held(self) -> Iterator[_Page]:
        """What stands there, for nobody else to change; what the block changes is written."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        try:
            page = pickle.loads(read_at(self._descriptor, os.fstat(self._descriptor).st_size, 0))  # noqa: S301 - our own
            yield page
            self._write(page)
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def _write(self, page: _Page) -> None:
        data = pickle.dumps(page, protocol=5)
        write_at(self._descriptor, memoryview(data), 0)
        os.ftruncate(self._descriptor, len(data))


def _begin(page: _Page, passes: int, crowd: int | None, worker: int, epoch: int | None) -> int:
    number = page.next if epoch is None else epoch
    page.next = number + 1
    if crowd is not None:
        page.begun.pop(crowd, None)
        page.begun[crowd] = _Begun(passes, number, {worker})
        page.begun = dict(list(page.begun.items())[-CROWDS:])
    if crowd is None or epoch is None or number != page.epoch:  # others of the crowd may go on from that state as well
        page.epoch, page.reports = number, {}
    return number


def merged(reports: Sequence[Report]) -> Report:
    """One report of streams that share a list; the verdict and the stages are those of the first one.

    Args:
        reports: at least one.
    """
    written, seconds = sum(report.written for report in reports), max(report.seconds for report in reports)
    reasons: Counter[str] = sum((Counter(report.reasons) for report in reports), Counter())
    tracebacks = {kind: text for report in reports for kind, text in report.tracebacks.items()}
    counted = (
        "rows",
        "failed",
        "skipped",
        "rows_settled",
        "bytes_downloaded",
        "workers",
        "connections",
        "retries",
        "attempts_given_back",
    )
    return dataclasses.replace(
        reports[0],
        **{name: sum(getattr(report, name) for report in reports) for name in counted},
        written=written,
        seconds=seconds,
        images_per_second=round(written / seconds, 1) if seconds else 0.0,
        reasons=dict(reasons.most_common()),
        waits=dict(sum((Counter(report.waits) for report in reports), Counter())),
        loop_lag_seconds=max(report.loop_lag_seconds for report in reports),
        finished=all(report.finished for report in reports),
        peak_rss_bytes=sum(report.peak_rss_bytes for report in reports),
        tracebacks=dict(itertools.islice(tracebacks.items(), MAX_TRACEBACKS)),
    )


def _copied(page: _Page) -> Board:
    board = Board()
    board._write(page)  # noqa: SLF001 - it is a part of the class that pickle wants outside
    return board


def _shared(descriptor: Any) -> Board:
    return Board(descriptor.detach())
