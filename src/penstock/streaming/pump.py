"""What turns the wheel: rows in, batches out, wherever it stands.

::

    feeder's thread ──rows──▶ Inlet ──▶ Lane ──settled──▶ Assembler ──▶ Consumer.send ──▶ training loop
                                         │                    ▲               ▲ waits for credit
                                       crew ──pixels──▶ arena ┘               │
                                                          └──── Taken(freed slabs) ◀──┘

It stands in a process of its own (`penstock.streaming.child`), so that the training loop's process does nothing but receive
a message a batch; or in a thread (`penstock.streaming.hosts`), where there can be no such process. Both are told what to do
by one `Job` and speak by the messages of `penstock.streaming.messages`.
"""

from __future__ import annotations

import _thread
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from penstock.build import Setup, build_lane
from penstock.config import StreamConfig
from penstock.crew.arena import Arena, Landing
from penstock.crew.base import Work
from penstock.errors import PenstockError, WorkerError
from penstock.fetch.base import Fetcher
from penstock.flow import Lane
from penstock.records import Row
from penstock.report.memory import resident_bytes
from penstock.scheduling import in_no_hurry
from penstock.streaming.assembling import Assembler, Slabs
from penstock.streaming.feeding import Inlet
from penstock.streaming.layout import Layout
from penstock.streaming.messages import Assembled, Broken, Ended, EpochFed, Message, Output, Taken, Tick

__all__ = ["Consumer", "Job", "Pump"]

TICK = 0.2
"""Seconds between two reports of statistics."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a pump has to do. Picklable, and small."""

    config: StreamConfig
    setup: Setup
    work: Work
    layout: Layout | None
    """Of a batch, where it is known before the first sample."""
    loose: tuple[str, ...]
    """Parts that are not stacked."""
    window: int
    """Rows that may wait for those before them, where order is kept."""
    batches: int | None
    """For each epoch, where that is fixed."""
    resumed: tuple[int, int] | None
    """The epoch in which an earlier stream stopped, and the batches of it that it had delivered; None to begin anew."""
    fetcher: Callable[[], Fetcher] | None = None
    """What brings the bytes, if it is not the network."""


class Consumer(Protocol):
    """Who takes the batches: the training loop, seen from the pump."""

    def send(self, message: Message) -> None:
        """Hand over a message; returns at once."""
        ...


class Pump:
    """Runs one stream.

    Args:
        job: what to do.
        arena: where batches lie.
        consumer: takes them.
    """

    def __init__(self, job: Job, arena: Arena, consumer: Consumer) -> None:
        self._consumer = consumer
        self._slabs = Slabs(arena)
        self._credit: queue.SimpleQueue[None] = queue.SimpleQueue()
        """As many as batches may wait. No semaphore: `stop` may come in a garbage collection, which can strike the very
        thread that holds its lock."""
        for _ in range(job.config.prefetch):
            self._credit.put(None)
        self._assembler = Assembler(
            job.config,
            self._slabs,
            layout=job.layout,
            loose=job.loose,
            window=job.window,
            batches=job.batches,
            resumed=job.resumed,
        )
        landing = Landing(arena.descriptor)
        self._lane: Lane = build_lane(
            job.setup, job.config, job.work, landing=landing, fetcher=job.fetcher() if job.fetcher else None
        )
        self._thread: int | None = None
        self._stopping = False
        self._due = 0.0
        self.inlet = Inlet(self._lane.wake)
        """Where the feeder puts the rows."""

    @property
    def finished(self) -> int:
        """The last epoch that needs no more rows; -1 before the first. From any thread."""
        return self._assembler.finished

    def taken(self, message: Taken) -> None:
        """The training loop has taken a batch. From any thread."""
        self._slabs.freed.extend(message.freed)
        self._credit.put(None)

    def stop(self) -> None:
        """Drop everything and let `run` return. From any thread, and in a garbage collection: it waits for no lock."""
        self._stopping = True
        self._credit.put(None)
        self.inlet.close()
        if threading.get_ident() == self._thread:  # there the lane takes it for a signal, and raises an exception
            _thread.start_new_thread(self._lane.stop, (0.0,))
        else:
            self._lane.stop(grace=0)

    def run(self) -> None:
        """Until the last epoch is done, or `stop`; whatever is wrong goes to the consumer."""
        self._thread = threading.get_ident()
        try:
            with in_no_hurry(), self._lane:
                self._settle()
                self._tick()
            if not self._stopping:
                self._consumer.send(Ended())
        except _StoppedError:
            pass
        except _BrokenError as broken:
            self._consumer.send(broken.message)
        except PenstockError as error:
            self._consumer.send(Broken(error, self._assembler.fallen))
        except Exception as bug:  # noqa: BLE001 - whatever it is, the training loop must not wait for ever
            failed = WorkerError(f"the stream failed: {bug!r}; please report this with your options")
            failed.__cause__ = bug
            self._consumer.send(Broken(failed, self._assembler.fallen))
        finally:
            self.inlet.close()

    def _settle(self) -> None:
        assembler = self._assembler
        for settled in self._lane.settle(self._rows(), may_feed=assembler.may_feed, place_for=assembler.place_for):
            self._send(assembler.add(settled))
            if time.monotonic() >= self._due:
                self._tick()

    def _rows(self) -> Iterator[Row | None]:
        """What the feeder has read, as the lane's hub asks for it."""
        while True:
            try:
                item = self.inlet.take()
            except queue.Empty:
                yield None
                continue
            match item:
                case None:
                    return
                case PenstockError():
                    raise item
                case EpochFed(epoch):
                    if epoch > self._assembler.finished:
                        self._send(self._assembler.epoch_fed(epoch))
                case row if row.epoch > self._assembler.finished:  # else read ahead, and not needed after all
                    self._assembler.fed(row)
                    yield row

    def _send(self, messages: Iterable[Output]) -> None:
        for message in messages:
            if isinstance(message, Broken):
                raise _BrokenError(message)
            if isinstance(message, Assembled):
                self._wait_for_credit()
            self._consumer.send(message)

    def _wait_for_credit(self) -> None:
        """Until fewer than `prefetch` batches wait for the training loop. Everything before stands still meanwhile."""
        self._credit.get()
        if self._stopping:
            raise _StoppedError

    def _tick(self) -> None:
        self._due = time.monotonic() + TICK
        statistics = self._lane.statistics()
        self._consumer.send(Tick(statistics, resident_bytes(statistics.crew.pids)))


class _StoppedError(Exception):
    """The pump was stopped while it waited for credit."""


class _BrokenError(Exception):
    """The assembler has found that the stream cannot go on."""

    def __init__(self, message: Broken) -> None:
        super().__init__(message)
        self.message = message
