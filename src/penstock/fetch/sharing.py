"""Host slots, between the fetcher that uses them and whoever asks the coordinator for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from penstock.fetch.policy.shares import LaneShares, Need

__all__ = ["Sharing"]


class Sharing:
    """A lane's `LaneShares`, for two threads: the fetcher's own, and the one that talks to the coordinator.

    The fetcher starts a request under `lock`, so that what is said in between is true.

    Args:
        per_host: requests at a time at one host, of all lanes together.
    """

    def __init__(self, per_host: int) -> None:
        self.lock = threading.Lock()
        self.wanted = threading.Event()
        """Set when there is something worth saying at once: requests wait for nothing but slots."""
        self._shares = LaneShares(per_host)
        self._raised: list[str] = []
        self._wake: Callable[[], None] = lambda: None

    def attach(self, wake: Callable[[], None]) -> None:
        """Fetcher: what to call, from any thread, when there are hosts that may get more."""
        self._wake = wake

    def limit(self, host: str) -> int:
        """Fetcher: requests at a time."""
        return self._shares.limit(host)

    def note(self, host: str, active: int, queued: int) -> None:
        """Fetcher, under `lock`: so many requests are under way, and so many could start."""
        if self._shares.note(host, active, queued):
            self.wanted.set()

    def raised(self) -> list[str]:
        """Fetcher: hosts that may get more than they could when this was asked last."""
        if not self._raised:
            return []
        with self.lock:
            raised, self._raised = self._raised, []
        return raised

    def changes(self) -> dict[str, Need]:
        """Talker: what is to be said."""
        with self.lock:
            return self._shares.changes()

    def heard(self, limits: Mapping[str, int]) -> None:
        """Talker: the answer."""
        with self.lock:
            raised = self._shares.heard(limits)
            self._raised += raised
        if raised:
            self._wake()

    def forget(self) -> None:
        """Talker: contact was lost; nothing starts until it is found again."""
        with self.lock:
            self._shares.forget()
