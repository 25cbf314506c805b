"""Processes as workers, under our own supervisor: a crash, an endless loop or an out-of-memory kill costs one row.

    flow's thread                          supervisor's thread                              worker processes
    submit ──▶ roster ──Assign──▶ slot + note ─────────────────────────────────────────────▶ work
                 ▲                                                                            │
                 └── events ── select on the workers' sockets ◀── slot + note ────────────────┘
                     (result, end, time)      │
                                              └──▶ deliver

The roster decides, under one lock; this module carries out. A worker is started by `child.Child` from the supervisor's
thread, speaks by `wire.Channel`, and shares nothing with its siblings: no lock to die with, no pipe to spoil.

The standard pools cannot be used for this: `multiprocessing.Pool` waits for ever for a killed worker's result, and one death
poisons a `ProcessPoolExecutor`.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import assert_never

from penstock.crew.arena import Landing
from penstock.crew.base import CrewStatistics, Deliver, OnBroken, Work
from penstock.crew.child import Child
from penstock.crew.clock import TICK, Area, AwakeClock
from penstock.crew.interpreter import ending
from penstock.crew.poison import PoisonCabinet
from penstock.crew.roster import Assign, Break, Instruction, Job, Kill, Roster, Spawn
from penstock.crew.roster import Deliver as Deliverance
from penstock.crew.script import Script, required_script
from penstock.crew.wire import Channel, Note, Place, pack, pack_job, unpack_result
from penstock.errors import ConfigError, WorkerError
from penstock.records import Failure, Fetched, Reason, Result, Row

__all__ = ["ProcessCrew"]

LOOK_INTERVAL = 1.0
"""Seconds between two looks at the processes themselves, for an end that their sockets do not tell."""


class ProcessCrew:
    """A crew of `width` worker processes.

    Args:
        work: what to do with each row; pickled once.
        width: processes.
        decode_timeout: seconds of work for one row; a worker that takes longer is killed.
        memory: bytes that a worker may take on top of what it has when the work is loaded; None for no bound. Linux only.
        keep_poison: folder for the bytes of rows that a worker was lost over; None for none.
        landing: writes the arrays of rows that are submitted with a place; its file must stay open until `close` is done.

    Raises:
        ConfigError: the work cannot be pickled.
        NoScriptError: it is defined where workers cannot load it from.
    """

    def __init__(
        self,
        work: Work,
        width: int,
        decode_timeout: float,
        *,
        memory: int | None = None,
        keep_poison: Path | None = None,
        landing: Landing | None = None,
    ) -> None:
        self.width = width
        self._memory = memory
        self._landing = landing
        self._cabinet = None if keep_poison is None else PoisonCabinet(keep_poison)
        self._pickled, self._script = _pickled(work)
        self._decode_timeout = decode_timeout
        self._clock = AwakeClock()
        self._lock = threading.Lock()
        self._roster = Roster(width, decode_timeout)
        self._children: dict[int, Child] = {}
        self._busy_seconds = 0.0
        self._occupied = Area()
        self._next_look = 0.0
        self._closing = False
        self._error: WorkerError | None = None
        self._thread: threading.Thread | None = None

    def start(self, deliver: Deliver, on_broken: OnBroken, /) -> None:
        """Start the workers; every result goes to `deliver`. Returns before they are ready."""
        self._deliver = deliver
        self._on_broken = on_broken
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._supervise, name="penstock-supervisor", daemon=True)
        self._thread.start()

    def submit(self, row: Row, fetched: tuple[Fetched, ...], place: Place | None = None) -> None:
        """Hand over one row; never blocks: it goes into a worker's free slot, or into the backlog.

        Raises:
            WorkerError: the workers cannot be started, or shared memory is exhausted.
        """
        try:
            parcel = pack_job(row, fetched, place)
        except Exception as error:  # noqa: BLE001 - a kept field can be anything, and pickle raises all sorts
            self._deliver(row, Result.of(_unusable("row", error), fetched))
            return
        with self._lock:
            if self._error is not None:
                raise WorkerError(str(self._error))
            if not self._closing:
                now = self._clock()
                self._assign_all(self._roster.submit(Job(row, fetched, parcel), now))
                self._occupied.change(self._roster.occupied, now)

    def statistics(self) -> CrewStatistics:
        """What was done so far."""
        pids = tuple(child.process.pid for child in list(self._children.values()))
        with self._lock:
            occupied = self._occupied.until(self._clock())
        return CrewStatistics(self._busy_seconds, occupied, self._roster.crashes, self._roster.timeouts, pids)

    def close(self) -> None:
        """Kill the workers and free all that belongs to them; what is inside is dropped."""
        with self._lock:
            self._closing = True
        if self._thread is not None and self._thread is not threading.current_thread():
            self._wake_up()
            self._thread.join()

    def _supervise(self) -> None:
        error: WorkerError | None = None
        try:
            self._act(self._roster.open)
            while not self._closing:
                self._round()
        except WorkerError as broken:
            error = broken
        except Exception as bug:  # noqa: BLE001 - whatever it is, the flow must not wait for ever
            error = WorkerError(f"the supervisor of the workers failed: {type(bug).__name__}: {bug}")
        self._dismiss(error)
        if error is not None:
            self._on_broken(error)

    def _dismiss(self, error: WorkerError | None) -> None:
        with self._lock:
            self._closing = True
            self._error = self._error or error
            for child in self._children.values():
                child.process.kill()  # all of them first: they end side by side
            for child in self._children.values():
                child.kill()
            self._children.clear()
        self._selector.close()
        self._wake.close()
        self._woken.close()

    def _round(self) -> None:
        """Hear what the workers have to say, then look at the clock."""
        for key, _ in self._select():
            if key.data is not None:
                self._listen(key.data)
        if self._error is not None:
            raise self._error
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_INTERVAL
            self._look_for_dead()
        self._act(self._roster.tick)

    def _select(self) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for news, or for the next deadline; a job assigned meanwhile has its own after `decode_timeout`."""
        with self._lock:
            deadline = self._roster.next_deadline - self._clock()
        planned = max(0.0, min(TICK, self._decode_timeout, deadline))
        started = time.monotonic()
        news = self._selector.select(planned)
        self._clock.waited(time.monotonic() - started, planned)
        return news

    def _wake_up(self) -> None:
        with contextlib.suppress(OSError):  # the supervisor has ended already
            self._wake.send(b"!")

    def _listen(self, worker: int) -> None:
        """Take all that a worker has sent; nothing more to come means that it has ended."""
        child = self._children[worker]
        notes = child.channel.notes()
        if notes is None:
            self._bury(worker, child)
            return
        for note in notes:
            if child.ready:
                self._act(self._roster.finished, worker, note[0], _received(child.channel, note))
            else:
                self._hear_report(worker, child, child.channel.receive(note))

    def _hear_report(self, worker: int, child: Child, failure: str | None) -> None:
        if failure is not None:
            raise WorkerError(failure)
        child.has_loaded()
        self._act(self._roster.ready, worker)

    def _look_for_dead(self) -> None:
        for worker, child in list(self._children.items()):
            if child.has_ended():
                self._listen(worker)  # what it said before it ended still counts
                if worker in self._children:
                    self._bury(worker, child)

    def _bury(self, worker: int, child: Child) -> None:
        status = child.end()
        # We kill only what we have written off before, so that this SIGKILL is somebody else's.
        reason = Reason.DECODE_OOM if status == -signal.SIGKILL else Reason.DECODE_CRASH
        how = "it closed its connection" if status is None else ending(status)
        words = child.last_words()
        self._act(self._roster.died, worker, reason, f"{how}\n{words}" if words else how)
        self._remove(worker)

    def _remove(self, worker: int) -> None:
        child = self._children.pop(worker)
        self._selector.unregister(child.channel.connection)
        child.kill()

    def _act(self, event: Callable[..., list[Instruction]], *arguments: object) -> None:
        """Tell the roster of an event, and do what it says."""
        with self._lock:
            now = self._clock()
            instructions = event(*arguments, now)
            self._kill_all(instructions)
            self._assign_all(instructions)
            self._occupied.change(self._roster.occupied, now)
        for instruction in instructions:
            self._carry_out(instruction)

    def _kill_all(self, instructions: list[Instruction]) -> None:
        """Carry out the kills, the waiting included, before anybody hears of it.

        A worker may be writing to its row's place. Once that row is delivered as failed, or one that waited behind it is
        assigned to another worker, the place is somebody else's.
        """
        for instruction in instructions:
            if isinstance(instruction, Kill):
                self._remove(instruction.worker)

    def _assign_all(self, instructions: list[Instruction]) -> None:
        """Carry out the assignments, under the lock, so that nobody else takes the same slot."""
        for instruction in instructions:
            if isinstance(instruction, Assign):
                self._assign(instruction)

    def _assign(self, assign: Assign) -> None:
        try:
            self._children[assign.worker].channel.send(assign.slot, assign.job.parcel)
        except ConnectionError:
            pass  # the worker has ended, which the supervisor is about to hear
        except OSError as error:
            self._error = WorkerError(f"no memory to hand an image to a worker: {error}; give a smaller --memory")
            self._wake_up()
            raise self._error from error

    def _carry_out(self, instruction: Instruction) -> None:
        match instruction:
            case Assign() | Kill():
                pass  # done already
            case Deliverance(job, result):
                self._busy_seconds += result.seconds
                if self._cabinet is not None:
                    self._cabinet.keep_if_poison(job.row, job.fetched, result)
                self._deliver(job.row, result)
            case Spawn(worker):
                self._children[worker] = child = self._child()
                self._selector.register(child.channel.connection, selectors.EVENT_READ, worker)
            case Break(why):
                raise WorkerError(why)
            case _:
                assert_never(instruction)

    def _child(self) -> Child:
        load = pack((self._pickled, self._script, os.getpid(), self._memory, self._landing))
        return Child(load, () if self._landing is None else (self._landing.descriptor,))


def _pickled(work: Work) -> tuple[bytes, Script | None]:
    """The work, and the script to run before it can be loaded, if any."""
    try:
        pickled = pickle.dumps(work, protocol=5)
    except Exception as error:
        raise ConfigError(
            f"the work cannot be sent to worker processes: {error}; "
            "define the transform as a function of a module, or give --strategy threads"
        ) from error
    return pickled, required_script(pickled)


def _received(channel: Channel, note: Note) -> Result:
    try:
        return unpack_result(channel.receive(note))
    except Exception as error:  # noqa: BLE001 - a class that only the worker could import, and the like
        return Result(_unusable("result", error))


def _unusable(what: str, error: Exception) -> Failure:
    return Failure(Reason.TRANSFORM_ERROR, f"the {what} cannot be sent: {type(error).__name__}: {error}")
