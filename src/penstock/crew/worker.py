"""What runs inside a worker process: load the work once, then rows in, results out, until the parent is gone.

Imports stay few: they are what a worker's start costs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import os
import pickle
import resource
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from penstock.crew.base import Work, attempt_shielded, prepare
from penstock.crew.lifetime import GROUP_SIGNALS, die_with_parent
from penstock.crew.script import Script, run_script
from penstock.crew.wire import Channel, Note, Packed, Place, pack, pack_result, unpack_job
from penstock.errors import WorkerError
from penstock.records import Failure, Reason, Result

if TYPE_CHECKING:  # it comes with the work, if there is one
    from penstock.crew.arena import Landing

__all__ = ["main"]

OOM_SCORE_ADJUSTMENT = 500
"""Half of the scale: when memory runs out, the kernel takes a worker, not the parent."""


def main(connection: int, *descriptors: int) -> NoReturn:
    """Serve the parent at the other end of `connection`.

    Args:
        connection: descriptor of the socket.
        descriptors: those of the slots, and last the one that standard error is to go to once the work is loaded.
    """
    *slots, stderr = descriptors
    _settle_in((connection, *descriptors))
    channel = Channel(socket.socket(fileno=connection), slots)
    try:
        loaded = _load(channel, stderr)
        if loaded is not None:
            _serve(channel, *loaded)
    except ConnectionError:
        pass  # the parent is gone, and with it whoever wants the result
    os._exit(0)  # at once: nothing that the user's code left running may keep this process


def _settle_in(descriptors: tuple[int, ...]) -> None:
    """Behave as one of many: the parent alone decides when to stop, and no worker outlives it."""
    for number in GROUP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    _, limit = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, limit))
    if sys.platform == "linux":
        _offer_to_oom_killer(Path("/proc/self/oom_score_adj"))
    sys.stdout = sys.stderr


def _offer_to_oom_killer(adjustment: Path) -> None:
    with contextlib.suppress(OSError):  # a container may forbid it; then the kernel chooses as it likes
        inherited = int(adjustment.read_text())
        adjustment.write_text(str(max(inherited, OOM_SCORE_ADJUSTMENT)))


def _load(channel: Channel, stderr: int) -> tuple[Work, Landing | None] | None:
    """Load the work, make it ready, and tell the parent how that went: None for well, else what is wrong."""
    notes = channel.notes(most=1)
    if notes is None:
        return None
    pickled, script, parent, memory, landing = channel.receive(notes[0])
    if not die_with_parent(parent):
        return None
    if landing is not None:
        os.set_inheritable(landing.descriptor, False)
    work, failure = _loaded(pickled, script)
    if memory is not None and sys.platform == "linux":  # elsewhere the limit is accepted and not kept
        _bound_memory(memory)
    sys.stderr.flush()
    if getattr(work, "silent", False) and not faulthandler.is_enabled():
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), stderr, inheritable=False)
    os.dup2(stderr, 1)
    os.dup2(stderr, 2)
    os.close(stderr)
    channel.send(0, pack(failure))
    return None if work is None else (work, landing)


def _loaded(pickled: bytes, script: Script | None) -> tuple[Work | None, str | None]:
    """The work, or why there is none."""
    try:
        if script is not None:
            run_script(script)
        work: Work = pickle.loads(pickled)  # noqa: S301 - from our own parent
        prepare(work)
    except WorkerError as error:
        return None, str(error)
    except BaseException:  # noqa: BLE001 - a script may well call sys.exit()
        return None, f"the workers cannot load the work:\n{traceback.format_exc()}"
    return work, None


def _bound_memory(memory: int) -> None:
    """Let this process take so many bytes more than it has: of address space, which is what can be bounded."""
    with contextlib.suppress(OSError):  # without /proc there is no bound
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _, inherited = resource.getrlimit(resource.RLIMIT_AS)
        limit = min(size + memory, sys.maxsize if inherited == resource.RLIM_INFINITY else inherited)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _serve(channel: Channel, work: Work, landing: Landing | None) -> None:
    own = os.getpid()
    bounded = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    fresh = True
    while notes := channel.notes():
        for note in notes:
            result, place = _done(work, channel, note)
            if os.getpid() != own:
                os._exit(1)  # the work has forked and returned twice; one answer is enough
            if bounded and not fresh and _lacks_memory(result):
                os._exit(0)  # what earlier rows left behind may be to blame: the row is tried again in a fresh worker
            if landing is not None and place is not None:
                result = landing.land(result, place)
            channel.send(note[0], _packed(result))
            del result  # or it would still be there while the next row needs the memory
            fresh = False


def _done(work: Work, channel: Channel, note: Note) -> tuple[Result, Place | None]:
    """What came of a job, and where its arrays are to go."""
    try:
        row, fetched, place = unpack_job(channel.receive(note))
    except MemoryError as error:
        return Result(Failure(Reason.DECODE_MEMORY, str(error))), None
    return attempt_shielded(work, row, fetched), place


def _lacks_memory(result: Result) -> bool:
    return isinstance(result.value, Failure) and result.value.reason is Reason.DECODE_MEMORY


def _packed(result: Result) -> Packed:
    try:
        return pack_result(result)
    except Exception as error:  # noqa: BLE001 - pickle raises all sorts, and all of them mean the same
        failure = Failure(Reason.TRANSFORM_ERROR, f"the result cannot be sent: {type(error).__name__}: {error}")
        return pack_result(dataclasses.replace(result, value=failure))
