"""Where a pump stands: in a process of its own, or in a thread of this one.

::

    ChildHost     training loop's process                        the pump's process (`penstock.streaming.child`)
                  receive ◀─────────── connection ───────────────── Assembled, EpochEnded, Tick, Ended, Broken
                  taken   ──────────── connection ────────────────▶ Taken
                  feeder  ──────────── another, if the list is no file ──▶ rows        (◀── finished epochs)

    ThreadHost    the same, with a queue instead of the connection

A feeder that reads a list out of this process (a generator, a table) is a thread here; lists of files are read beside
the pump.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, Protocol

from penstock.crew.arena import Arena
from penstock.crew.interpreter import ending, start_partner
from penstock.crew.script import script_of
from penstock.errors import WorkerError
from penstock.streaming.child import Start
from penstock.streaming.feeding import Closed, Feed, Item, RowSource, feed
from penstock.streaming.messages import Message, Taken
from penstock.streaming.order import StreamRow
from penstock.streaming.pump import Job, Pump

__all__ = ["ChildHost", "DiedError", "Host", "ThreadHost"]

CHUNK = 64
"""Rows of a list in memory that travel together. Those of a generator go one by one, as they come."""

CHUNK_INTERVAL = 0.02
"""Seconds after which a chunk goes out though it is not full: a list may be slow to read. Arbitrary: 50 messages a second
cost nothing."""

INTERRUPTIBLE = 1.0
"""Seconds that a wait for the next message goes on without a look at signals: Python does not see one, a Ctrl-C, that comes
in the moment between its last look and the wait itself, until the wait is over."""

PATIENCE = 1.0
"""Seconds for threads to end. Those of the pump do so at once; the user's generator may not."""


class DiedError(WorkerError):
    """The pump's process has died."""


class Host(Protocol):
    """Runs a pump."""

    descriptor: int
    """Of the arena; whoever takes it duplicates it."""

    def wait(self) -> None:
        """Until there is a message, or never will be. The place for an interrupt: nothing is lost by it."""
        ...

    def receive(self) -> Message:
        """The next message.

        Raises:
            DiedError: the pump is no more.
        """
        ...

    def taken(self, freed: tuple[int, ...]) -> None:
        """Tell that a batch was taken, and which slabs are free again."""
        ...

    def close(self) -> None:
        """End the pump and all that belongs to it. May be called twice, and from a finaliser."""
        ...


class ChildHost:
    """A pump in a child process.

    Args:
        job: what it does.
        plan: which rows it gets.
        source: the list, if it is to be read here; else the child opens `spec`.
        spec: how the child opens the list.
        chunk: rows that are sent at once.

    Raises:
        WorkerError: the process cannot be started.
    """

    def __init__(self, job: Job, plan: Feed, source: RowSource | None, spec: Any, *, chunk: int) -> None:
        self._owner = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None
        pickled = pickle.dumps(job, protocol=5)
        with _naming_refusals("the stream's process"), contextlib.ExitStack() as undo:
            self._arena = Arena()
            undo.callback(self._arena.close)
            self.descriptor = self._arena.descriptor
            ours, theirs = socket.socketpair()
            undo.callback(ours.close)
            with theirs:
                self._process, self._connection = start_partner(
                    "penstock.streaming.child", "the stream's process", (theirs.fileno(), self.descriptor)
                )
            self._feeder = _RemoteFeeder(Connection(ours.detach()), plan, source, chunk)
            undo.pop_all()
            undo.callback(self.close)
            with contextlib.suppress(OSError):  # it is dead already, which `receive` will tell
                opened = None if spec is None else pickle.dumps(spec)
                self._connection.send(Start(pickled, script_of(pickled), plan, opened, os.getpid()))
            self._feeder.start()
            undo.pop_all()

    def wait(self) -> None:
        """Until there is a message, or never will be."""
        with contextlib.suppress(OSError):  # its death is heard by `receive`
            while not self._connection.poll(INTERRUPTIBLE):
                pass

    def receive(self) -> Message:
        """The next message."""
        try:
            message: Message = self._connection.recv()
        except (EOFError, OSError):
            raise DiedError(f"the stream's process has died: {self._ending()}") from None
        return message

    def _ending(self) -> str:
        assert self._process is not None
        try:
            return ending(self._process.wait(PATIENCE))
        except subprocess.TimeoutExpired:
            return "it closed its connection"

    def taken(self, freed: tuple[int, ...]) -> None:
        """Tell that a batch was taken, and which slabs are free again."""
        with contextlib.suppress(OSError):  # its death is heard by `receive`
            self._connection.send(Taken(freed))

    def close(self) -> None:
        """End the process; its workers end with it. A forked copy of this object leaves them alone."""
        process, self._process = self._process, None
        if process is None or os.getpid() != self._owner:
            return
        process.kill()
        process.wait()
        self._connection.close()
        self._feeder.close()
        self._arena.close()


class _RemoteFeeder:
    """Sends the rows of a list in this process to the pump's; for lists of files it does nothing."""

    def __init__(self, connection: Connection, plan: Feed, source: RowSource | None, chunk: int) -> None:
        self._connection = connection
        self._plan = plan
        self._source = source
        self._size = chunk
        self._chunk: list[Item] = []
        self._sent = time.monotonic()
        """When the last chunk went out."""
        self._finished = plan.first_epoch - 1
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._source is not None:
            arguments = (self._source, self._plan, self._put, self._finished_epoch)
            self._thread = _started("penstock-feeder", lambda: feed(*arguments))

    def close(self) -> None:
        """Let the thread go; one that waits inside the user's generator ends with its next row."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(PATIENCE)
        self._connection.close()

    def _put(self, item: Item) -> None:
        self._chunk.append(item)
        late = time.monotonic() - self._sent > CHUNK_INTERVAL
        if late or len(self._chunk) >= self._size or not isinstance(item, StreamRow):
            chunk, self._chunk = self._chunk, []
            try:
                self._connection.send(chunk)
            except OSError:
                raise Closed from None
            self._sent = time.monotonic()  # afterwards: it may have waited for the other side

    def _finished_epoch(self) -> int:
        while self._connection.poll():
            self._finished = self._connection.recv()
        return self._finished


class ThreadHost:
    """A pump in a thread of this process.

    Args:
        job: what it does.
        plan: which rows it gets.
        source: the list.

    Raises:
        WorkerError: the threads cannot be started.
    """

    def __init__(self, job: Job, plan: Feed, source: RowSource) -> None:
        self._owner = os.getpid()
        self._messages: deque[Message] = deque()  # bounded by the pump's credit
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()
        """As many as messages have come, and not been waited for."""
        self._closed = False
        with _naming_refusals("the stream's threads"), contextlib.ExitStack() as undo:
            self._arena = Arena()
            undo.callback(self._arena.close)
            self.descriptor = os.dup(self._arena.descriptor)
            undo.callback(os.close, self.descriptor)
            self._pump = pump = Pump(job, self._arena, self)
            self._threads = [_started("penstock-pump", self._run)]
            undo.pop_all()
            undo.callback(self.close)
            feeding = _started("penstock-feeder", lambda: feed(source, plan, pump.inlet.put, lambda: pump.finished))
            self._threads.append(feeding)
            undo.pop_all()

    def send(self, message: Message) -> None:
        """As the pump's consumer."""
        self._messages.append(message)
        self._news.put(None)

    def _run(self) -> None:
        try:
            self._pump.run()
        finally:
            self._arena.close()  # not in `close`, whose patience ends: somebody might write yet, into whatever file is next

    def wait(self) -> None:
        """Until there is a message: the pump always has a last one."""
        while not self._messages:
            with contextlib.suppress(queue.Empty):
                self._news.get(timeout=INTERRUPTIBLE)  # an interrupt may cost one, and then the loop looks again

    def receive(self) -> Message:
        """The next message."""
        return self._messages.popleft()

    def taken(self, freed: tuple[int, ...]) -> None:
        """Tell that a batch was taken, and which slabs are free again."""
        self._pump.taken(Taken(freed))

    def close(self) -> None:
        """End the threads; one that waits inside the user's generator ends with its next row."""
        if self._closed or os.getpid() != self._owner:
            return
        self._closed = True
        self._pump.stop()
        patience_ends = time.monotonic() + PATIENCE
        for thread in self._threads:
            if thread is not threading.current_thread():  # a finaliser may run in any of them
                thread.join(max(0.0, patience_ends - time.monotonic()))
        os.close(self.descriptor)


def _started(name: str, target: Callable[[], None]) -> threading.Thread:
    """A thread that runs; WorkerError if the system refuses another one."""
    thread = threading.Thread(target=target, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise WorkerError(f"the stream's thread {name} cannot be started: {error}") from error
    return thread


@contextlib.contextmanager
def _naming_refusals(what: str) -> Iterator[None]:
    """WorkerError for whatever the system refuses: descriptors, memory."""
    try:
        yield
    except OSError as error:
        raise WorkerError(f"{what} cannot be started: {error}") from error
