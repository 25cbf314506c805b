"""What runs inside a lane process: lots in, shards out, until there are no more lots or the parent is gone."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import NoReturn

from penstock.crew.lifetime import die_with_parent, leave_signals_to_parent
from penstock.crew.script import load_job
from penstock.engines.base import Plan
from penstock.engines.caller import Caller
from penstock.engines.filling import Placed
from penstock.engines.hub import Reply, Word
from penstock.engines.messages import Broken, Committed, Ended, Lot, Shard, Start, Stop, Tick, Want
from penstock.engines.work import Job, Progress, Stoppable, Summary, Watch, do_work
from penstock.errors import PenstockError
from penstock.fetch.sharing import Sharing
from penstock.flow import LaneStatistics
from penstock.folder import check_same_run
from penstock.records import ShardReport

__all__ = ["main"]


def main(descriptor: int) -> NoReturn:
    """Serve the parent at the other end of this socket."""
    leave_signals_to_parent()
    os.set_inheritable(descriptor, False)
    parent = _Parent(Connection(descriptor))
    start = parent.receive()
    assert isinstance(start, Start)
    if not die_with_parent(start.parent):
        os._exit(1)
    try:
        parent.send(Ended(_work(parent, start)))
    except PenstockError as error:
        parent.send(Broken(error))
    parent.flush()
    os._exit(0)


def _work(parent: _Parent, start: Start) -> Summary:
    job: Job = load_job(start.job, start.script, "a lane process", ", or give --lanes 1")
    plan = Plan(start.source.open(), job.config.shard_size, start.committed)
    check_same_run(job.folder, job.run_id)  # a store may be this process's own memory
    parent.listen()
    placed = _placed(parent, plan)
    if job.setup.fetch == "worker":  # each worker downloads for itself, one row at a time, and has no slots to ask for
        return do_work(job, placed, parent, committed=start.committed)
    sharing = Sharing(job.config.per_host)
    with Caller(parent, "", sharing):
        return do_work(job, placed, parent, committed=start.committed, sharing=sharing)


def _placed(parent: _Parent, plan: Plan) -> Iterator[Placed]:
    """The rows of one lot after the other."""
    ended = False
    while (lot := parent.next_lot(ended=ended)) is not None:
        rows = 0
        for placed in plan.placed(lot.first, lot.stop):
            rows += 1
            yield placed
        ended = rows < lot.stop - lot.first


class _Parent(Watch):
    """The other end of the connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._lots: queue.SimpleQueue[Lot | None] = queue.SimpleQueue()
        self._committed: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self._lane: Stoppable | None = None
        self._stop_asked = False

    def send(self, message: object) -> None:
        with self._sending, contextlib.suppress(OSError):  # a parent that has gone takes this process with it
            self._connection.send(message)

    def flush(self) -> None:
        self._connection.close()

    def receive(self) -> object:
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            os._exit(1)

    def listen(self) -> None:
        threading.Thread(target=self._listen, daemon=True, name="penstock-lane-parent").start()

    def _listen(self) -> None:
        while True:
            match self.receive():
                case Committed(shard):
                    self._committed.put(shard)
                case Reply() as reply:
                    self._replies.put(reply)
                case Stop():
                    self._stop()
                case Lot() | None as lot:
                    self._lots.put(lot)

    def _stop(self) -> None:
        self._stop_asked = True
        if self._lane is not None:
            self._lane.stop()

    def next_lot(self, *, ended: bool) -> Lot | None:
        self.send(Want(ended))
        return self._lots.get()

    def exchange(self, word: Word) -> Reply:
        """Ask for host slots, as a `penstock.engines.caller.Line`; a parent that does not answer is gone, and so is this."""
        self.send(word)
        return self._replies.get()

    def leave(self, _lane: str) -> None:
        """The parent knows by the end of this process."""

    def started(self, lane: Stoppable) -> None:
        self._lane = lane
        if self._stop_asked:
            lane.stop()

    def shard_done(self, report: ShardReport) -> None:
        """Announce a shard, and wait until the journal has its line."""
        self.send(Shard(report))
        self._committed.get()

    def progressed(self, progress: Progress, statistics: LaneStatistics) -> None:
        self.send(Tick(progress, statistics))
