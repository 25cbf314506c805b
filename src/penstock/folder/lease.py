"""Who works in an object store's output: a store has no locks that go with their holder, so the holder gives signs of life.

The object ``.penstock/lock`` says who it is, and is written anew every few seconds with a higher count. Who finds one of
somebody else looks on for a while: if the count rises, that run is alive, and this one is refused; if not, it is taken over. No
clock is compared with another. A run that was held up for so long, and then goes on, finds a lock that is not its own any more; should it
come to write the journal before, the conditional put there stops it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from penstock.errors import OutputRefusedError
from penstock.folder.base import json_line
from penstock.sink import objects
from penstock.sink.landing import LOCK

if TYPE_CHECKING:
    from upath import UPath

__all__ = ["Lease"]

_logger = logging.getLogger("penstock")

BEAT = 5.0
"""Seconds between two signs of life."""

WATCH = 20.0
"""Seconds without one after which a run counts as dead: a store, and a busy machine, may be slow for some seconds."""


class Lease:
    """Held from entering to leaving, by signs of life that a thread of its own gives.

    Args:
        root: the output.
        token: of this run, like no other.

    Raises:
        OutputRefusedError: on entering, when another run is alive there.
        OSError, and whatever the store's client raises: on entering.
    """

    def __init__(self, root: UPath, token: str) -> None:
        self._root = root
        self._token = token
        self._count = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="penstock-lease", daemon=True)
        self.held = False
        """Whether no other run has taken over, as far as is known."""

    def __enter__(self) -> Self:
        while not self._taken():  # another run has come in between
            pass
        self.held = True
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(Exception):  # whoever comes next finds that this process is gone
            if self.held and self._is_mine():
                self._root.fs.rm_file(objects.key_of(self._root, LOCK))

    def _taken(self) -> bool:
        there = objects.read(self._root, LOCK)
        if there is not None:
            if not _is_dead(_owner(there)):
                self._refuse_living(there)
            if objects.read(self._root, LOCK) != there:
                return False
            objects.remove([LOCK], self._root)
        return objects.create(self._sign(), self._root, LOCK)

    def _refuse_living(self, there: bytes) -> None:
        """Look on for a while; raises, or takes over from whoever gives no sign of life."""
        owner = _owner(there)
        who = f"process {owner.get('pid')} on {owner.get('host')}"
        _logger.warning("%s has begun to work in %s: looking for %.0f s whether it is alive", who, self._root, WATCH)
        until = time.monotonic() + WATCH
        while time.monotonic() < until:
            time.sleep(min(1.0, WATCH / 4))
            now = objects.read(self._root, LOCK)
            if now is None:
                return
            if now != there:
                raise OutputRefusedError(
                    f"another run works in {self._root} ({who}); wait for it or give another --out"
                )

    def _sign(self) -> bytes:
        self._count += 1
        return json_line(
            {
                "host": platform.node(),
                "here": _here(),
                "pid": os.getpid(),
                "token": self._token,
                "count": self._count,
            }
        )

    def _beat(self) -> None:
        while self.held and not self._ended.wait(BEAT):
            # The next one may come through, and the run hears of a store that is gone by its own writing.
            with contextlib.suppress(Exception):
                self.held = self._is_mine()
                if self.held:
                    self._root.fs.pipe_file(objects.key_of(self._root, LOCK), self._sign())

    def _is_mine(self) -> bool:
        return _owner(self._root.fs.cat_file(objects.key_of(self._root, LOCK))).get("token") == self._token


def _here() -> str:
    """Where process numbers mean the same processes: containers may share a host's name, and have numbers of their own."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def _owner(content: bytes) -> dict[str, Any]:
    try:
        owner = json.loads(content)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _is_dead(owner: dict[str, Any]) -> bool:
    """Whether it was a process of this machine that is no more. Of others nothing is known."""
    if (owner.get("host"), owner.get("here")) != (platform.node(), _here()):
        return False
    try:
        os.kill(int(owner["pid"]), 0)
    except (ProcessLookupError, KeyError, ValueError, TypeError):
        return True
    except OSError:  # somebody else's
        return False
    return False
