"""One worker process, seen from its parent."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess

from penstock.crew.allocator import ALLOCATOR_VARIABLES
from penstock.crew.interpreter import interpreter_command
from penstock.crew.wire import SLOTS, Channel, Packed, anonymous_file
from penstock.errors import WorkerError

__all__ = ["Child"]

THREADS_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
)
"""Libraries with thread pools of their own get one thread: the crew already has a worker for each core."""

REAP_TIMEOUT = 1.0
"""Seconds between the end of a process's connection and the end of the process; in truth less than a millisecond."""

LOG_TAIL = 2000
"""Characters of a stillborn worker's last words to quote."""


class Child:
    """A worker process, its channel, and what it prints until it has loaded the work.

    It is started by a fresh interpreter: nothing of the parent is forked, and the user's ``__main__`` does not run.
    Call this in a thread that lives as long as the worker shall: on Linux the kernel kills it when that thread ends.

    Args:
        load: what the worker is to load, packed.
        inherited: descriptors that it gets under the same number, besides its own.

    Raises:
        WorkerError: the process cannot be started.
    """

    def __init__(self, load: Packed, inherited: tuple[int, ...] = ()) -> None:
        self.ready = False
        with contextlib.ExitStack() as undo:
            try:
                self.channel, self._log, self.process = _start(inherited, undo)
            except OSError as error:
                raise WorkerError(f"a worker process cannot be started: {error}") from error
            undo.pop_all()
        with contextlib.suppress(ConnectionError):  # it is dead already, which its socket will tell
            self.channel.send(0, load)

    def has_ended(self) -> bool:
        """Whether the process has ended. Its socket may not tell: the user's code can have left it to a child."""
        return self.process.poll() is not None

    def end(self) -> int | None:
        """Wait for the end of a process that has closed its connection: its return code, None if it had to be killed."""
        try:
            return self.process.wait(REAP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._kill()
            return None

    def last_words(self) -> str:
        """The end of what it printed, if it was not ready yet."""
        if self.ready:
            return ""
        size = os.fstat(self._log).st_size
        return os.pread(self._log, LOG_TAIL, max(0, size - LOG_TAIL)).decode(errors="replace").strip()

    def has_loaded(self) -> None:
        """From now on it prints to the parent's standard error."""
        self.ready = True
        os.close(self._log)

    def kill(self) -> None:
        """End the process, if it has not ended, and free all that belongs to it."""
        self._kill()
        self.channel.close()
        if not self.ready:
            os.close(self._log)

    def _kill(self) -> None:
        """Afterwards the process writes nothing any more, wherever it may."""
        self.process.kill()
        with contextlib.suppress(
            subprocess.TimeoutExpired
        ):  # stuck inside the kernel; it will end before it does anything else
            self.process.wait(REAP_TIMEOUT)


def _start(inherited: tuple[int, ...], undo: contextlib.ExitStack) -> tuple[Channel, int, subprocess.Popen[bytes]]:
    """Make the channel and the process; `undo` holds what to free if the next step fails."""
    ours, theirs = socket.socketpair()
    undo.callback(ours.close)
    with theirs:
        ours.setblocking(False)
        slots = []
        for _ in range(SLOTS):
            slots.append(anonymous_file())
            undo.callback(os.close, slots[-1])
        log = anonymous_file()
        undo.callback(os.close, log)
        stderr = _standard_error()
        try:
            process = _popen((theirs.fileno(), *slots, stderr), inherited, log)
        finally:
            os.close(stderr)
    return Channel(ours, slots), log, process


def _popen(descriptors: tuple[int, ...], inherited: tuple[int, ...], log: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own interpreter and module
        interpreter_command("penstock.crew.worker", *descriptors),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=(*descriptors, *inherited),
        env=_environment(),
    )


def _standard_error() -> int:
    """A descriptor of its own for where standard error goes; a parent that has closed its own gets silence."""
    try:
        return os.dup(2)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def _environment() -> dict[str, str]:
    return {**dict.fromkeys(THREADS_VARIABLES, "1"), **ALLOCATOR_VARIABLES, **os.environ}
