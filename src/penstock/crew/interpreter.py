"""A fresh interpreter as a child process: how it is started, and how it ended."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection

from penstock.crew.lifetime import GROUP_SIGNALS
from penstock.errors import WorkerError

__all__ = ["ending", "interpreter_command", "start_partner"]


def interpreter_command(module: str, *arguments: int) -> list[str]:
    """The command of an interpreter that calls ``main(*arguments)`` of `module`.

    It has the flags of this one (``-X``, ``-W``, ``-O`` …), imports from where this one does, and knows nothing else of it:
    nothing is forked, and the user's ``__main__`` does not run.

    >>> interpreter_command("penstock.crew.worker", 3, 4)[0] == sys.executable
    True
    """
    end = len(arguments) + 1
    boot = f"import sys; sys.path[:] = sys.argv[{end}:]; from {module} import main; main(*map(int, sys.argv[1:{end}]))"
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # noqa: SLF001 - as multiprocessing does
    return [sys.executable, *flags, "-c", boot, *map(str, arguments), *map(str, sys.path)]


def start_partner(
    module: str, what: str, descriptors: Iterable[int] = ()
) -> tuple[subprocess.Popen[bytes], Connection]:
    """A process of ours that runs ``main(connection, *descriptors)`` of `module`, and our end of the connection.

    Signals to the whole group are held back in it until it calls `leave_signals_to_parent`.

    Args:
        module: where its `main` is.
        what: what messages call it.
        descriptors: further ones that it inherits, under the same numbers.

    Raises:
        WorkerError: the system refuses another process.
    """
    ours, theirs = socket.socketpair()
    passed = (theirs.fileno(), *descriptors)
    with contextlib.closing(theirs), _blocked(GROUP_SIGNALS):
        try:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                interpreter_command(module, *passed), pass_fds=passed, stdin=subprocess.DEVNULL
            )
        except OSError as error:
            ours.close()
            raise WorkerError(f"{what} cannot be started: {error}") from error
    return process, Connection(ours.detach())


@contextlib.contextmanager
def _blocked(signals: Iterable[signal.Signals]) -> Iterator[None]:
    """Hold signals back in this thread and, until they unblock them, in the processes that it starts."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ending(status: int) -> str:
    """How a process ended, by its return code.

    >>> ending(3), ending(-11)
    ('exit 3', 'SIGSEGV')
    """
    if status >= 0:
        return f"exit {status}"
    if status == -signal.SIGKILL:
        return "SIGKILL, probably by the kernel's out-of-memory killer"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
