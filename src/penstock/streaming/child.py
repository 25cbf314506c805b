"""What runs inside a pump's own process: rows in, batches out, until the parent is gone."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import NoReturn

from penstock.crew.arena import Arena
from penstock.crew.lifetime import leave_signals_to_parent
from penstock.crew.script import Script, load_job
from penstock.errors import PenstockError, SourceError
from penstock.streaming.feeding import Closed, Feed, feed
from penstock.streaming.messages import Broken, Logged, Message
from penstock.streaming.pump import Job, Pump

__all__ = ["Start", "main"]

_logger = logging.getLogger("penstock")

NICENESS = 5
"""How much this process and its workers stand back behind the training loop where both want the same core. With one core of
two left to it, its steps take 7 % longer than alone, and without this 30 %; a core that the loop does not use is theirs."""

LOOK_INTERVAL = 1.0
"""Seconds between two looks whether the parent lives. The end of its connection need not tell: a process that it has forked
may hold the other end as well."""


@dataclass(frozen=True, slots=True)
class Start:
    """Parent: what to do. The job is pickled apart, since loading it may need the user's script."""

    job: bytes
    script: Script | None
    feed: Feed
    spec: bytes | None
    """How the list is opened here, pickled apart: what reads lists is loaded while the workers start. None if its rows come
    by the other connection."""
    parent: int
    """Process id of the parent."""


def main(connection: int, rows: int, arena: int) -> NoReturn:
    """Serve the parent at the other end of these sockets.

    Args:
        connection: for messages.
        rows: for the rows of a list that the parent reads.
        arena: where batches lie.
    """
    leave_signals_to_parent()
    os.nice(NICENESS)
    for descriptor in (connection, rows, arena):
        os.set_inheritable(descriptor, False)
    parent = _Parent(Connection(connection))
    _logger.addHandler(_Relay(parent))
    start = parent.start()
    try:
        job: Job = load_job(start.job, start.script, "the stream's process")
        pump = Pump(job, Arena(arena), parent)
    except PenstockError as error:
        parent.send(Broken(error))
        os._exit(1)
    listener = threading.Thread(target=parent.listen, args=(pump, start.parent), daemon=True, name="penstock-parent")
    listener.start()
    threading.Thread(target=_feed, args=(start, pump, Connection(rows)), daemon=True, name="penstock-feeder").start()
    pump.run()
    listener.join()  # it ends this process when the parent has read all, and goes
    os._exit(0)


def _feed(start: Start, pump: Pump, rows: Connection) -> None:
    """Bring the rows to the pump, from the list itself or from the parent."""
    if start.spec is None:
        _relay(rows, pump)
        return
    try:
        source = pickle.loads(start.spec).open()  # noqa: S301 - from our own parent
    except BaseException as error:  # noqa: BLE001 - nobody is behind this thread
        _give_up(pump, error)
        return
    feed(source, start.feed, pump.inlet.put, lambda: pump.finished)


def _relay(rows: Connection, pump: Pump) -> None:
    told = pump.finished
    try:
        while True:
            for item in rows.recv():
                pump.inlet.put(item)
            if pump.finished != told:
                told = pump.finished
                rows.send(told)
    except (EOFError, OSError, Closed):
        pass
    except BaseException as error:  # noqa: BLE001 - pickle raises all sorts
        _give_up(pump, error)


def _give_up(pump: Pump, error: BaseException) -> None:
    if not isinstance(error, PenstockError):
        error = SourceError(f"the list cannot be read in the stream's process: {type(error).__name__}: {error}")
    with contextlib.suppress(Closed):
        pump.inlet.put(error)


class _Relay(logging.Handler):
    """Has the parent log what is logged here: how and where is its user's choice."""

    def __init__(self, parent: _Parent) -> None:
        super().__init__()
        self._parent = parent

    def emit(self, record: logging.LogRecord) -> None:
        self._parent.send(Logged(record.levelno, record.getMessage()))


class _Parent:
    """The other end of the connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()

    def start(self) -> Start:
        try:
            start = self._connection.recv()
        except (EOFError, OSError):
            os._exit(1)
        assert isinstance(start, Start)
        return start

    def send(self, message: Message) -> None:
        """Hand over a message. From any thread."""
        try:
            with self._sending:
                self._connection.send(message)
        except OSError:
            os._exit(1)

    def listen(self, pump: Pump, parent: int) -> None:
        """Hear what the training loop has taken; end with it."""
        try:
            while True:
                if self._connection.poll(LOOK_INTERVAL):
                    pump.taken(self._connection.recv())
                elif os.getppid() != parent:
                    break
        except (EOFError, OSError):
            pass
        os._exit(0)
