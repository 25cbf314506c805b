"""Threads for calls that block and cannot be broken off: looking up a name, reading a storage."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Staff"]

T = TypeVar("T")


class Staff(Generic[T]):
    """Daemon threads that work off items, started as they are needed. One that hangs over an item holds up nothing.

    Args:
        work: what is done with an item; it may not raise.
        width: threads at most.
        name: of the threads.
    """

    def __init__(self, work: Callable[[T], None], width: int, name: str) -> None:
        self._work = work
        self._width = width
        self._name = name
        self._lock = threading.Lock()
        self._items: queue.SimpleQueue[tuple[T] | None] = queue.SimpleQueue()
        self._threads = 0
        self._idle = 0
        self._closed = False

    def put(self, item: T) -> None:
        """Have an item worked off, in its turn."""
        with self._lock:
            if self._idle > 0:
                self._idle -= 1
            elif self._threads < self._width:
                self._threads += 1
                threading.Thread(target=self._serve, name=self._name, daemon=True).start()
            self._items.put((item,))

    def close(self) -> None:
        """Let the threads end when what was put is worked off. One that hangs ends when its item does. May be called twice."""
        with self._lock:
            if not self._closed:
                self._closed = True
                for _ in range(self._threads):
                    self._items.put(None)

    def _serve(self) -> None:
        while self._serve_next():
            pass

    def _serve_next(self) -> bool:
        """Work off one item; a function of its own, so that an idle thread holds nothing of the last one."""
        item = self._items.get()
        if item is None:
            return False
        self._work(*item)
        with self._lock:
            if self._items.empty():
                self._idle += 1
        return True
