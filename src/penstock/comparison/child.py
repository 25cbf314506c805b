"""A function in a fresh interpreter, so that one measurement leaves nothing behind for the next.

parent                                child process
Call(function, arguments)   ──▶       loads and runs it
                            ◀──       Returned(value) | Raised(error)
(end of the connection: it died)
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import IO, Any, ParamSpec, TypeVar, cast

from penstock.crew.interpreter import ending, interpreter_command
from penstock.crew.lifetime import die_with_parent
from penstock.crew.script import Script, run_script, script_of
from penstock.errors import PenstockError

__all__ = ["ChildError", "call", "call_within", "main"]

P = ParamSpec("P")
T = TypeVar("T")

LAST_WORDS = 2000
"""Bytes of a dead child's standard error to look at."""


class ChildError(PenstockError):
    """The function did not return; the message says why, in one line."""


@dataclass(frozen=True, slots=True)
class _Call:
    pickled: bytes
    """Function, positional and keyword arguments."""
    script: Script | None
    parent: int


@dataclass(frozen=True, slots=True)
class _Returned:
    value: Any


@dataclass(frozen=True, slots=True)
class _Raised:
    error: PenstockError


def call(function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
    """What ``function(*arguments, **keywords)`` returns in a process of its own; all of it must be picklable.

    What the function prints goes nowhere, unless it dies: then its last line is in the error.

    Raises:
        PenstockError: as the function raised it.
        ChildError: it raised another exception, or the process died.

    *Cancellation*: an exception in the caller (KeyboardInterrupt too) kills the process and all its children.
    """
    return call_within(None, function, *arguments, **keywords)


def call_within(seconds: float | None, function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
    """As `call`, for so many seconds at most; then it is a ChildError."""
    pickled = pickle.dumps((function, arguments, keywords))
    with tempfile.TemporaryFile() as output, _started(output) as (process, connection):
        try:
            with contextlib.suppress(OSError):  # it is dead already, which the connection will tell
                connection.send(_Call(pickled, script_of(pickled), os.getpid()))
            if not connection.poll(seconds):
                raise ChildError(f"given up after {seconds:g} s")
            answer = connection.recv()
        except (EOFError, OSError):
            raise ChildError(_diagnosis(process.wait(), output)) from None
        process.wait()
    if isinstance(answer, _Raised):
        raise answer.error
    return cast("T", answer.value)


@contextlib.contextmanager
def _started(output: IO[bytes]) -> Iterator[tuple[subprocess.Popen[bytes], Connection]]:
    ours, theirs = socket.socketpair()
    with Connection(ours.detach()) as connection:
        with theirs:
            process = _popen(theirs.fileno(), output)
        try:
            yield process, connection
        finally:
            process.kill()
            process.wait()


def _popen(descriptor: int, output: IO[bytes]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            interpreter_command("penstock.comparison.child", descriptor),
            pass_fds=(descriptor,),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the parent, which ends the child
        )
    except OSError as error:
        raise ChildError(f"its process cannot be started: {error}") from error


def _diagnosis(status: int, output: IO[bytes]) -> str:
    """Why a process ended that should have answered."""
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - LAST_WORDS))
    words = output.read().decode(errors="replace").strip().rpartition("\n")[2]
    how = f"its process died: {ending(status)}"
    return f"{how}; it said: {words}" if words else how


def main(descriptor: int) -> None:
    """Answer the one call that comes through this descriptor."""
    connection = Connection(descriptor)
    request: _Call = connection.recv()
    if not die_with_parent(request.parent):
        return
    with contextlib.suppress(OSError):  # the parent does not want it any more
        _send(connection, _answer(request))


def _send(connection: Connection, answer: _Returned | _Raised) -> None:
    try:
        connection.send(answer)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - pickle raises all sorts, before anything is sent
        connection.send(_Raised(ChildError(f"the result cannot be sent: {error}")))


def _answer(request: _Call) -> _Returned | _Raised:
    try:
        if request.script is not None:
            run_script(request.script)
        function, arguments, keywords = pickle.loads(request.pickled)  # noqa: S301 - from our own parent
        return _Returned(function(*arguments, **keywords))
    except PenstockError as error:
        return _Raised(error)
    except BaseException as error:  # noqa: BLE001 - whatever ends a scheme is what there is to say of it
        return _Raised(ChildError(f"{type(error).__name__}: {error}"))
