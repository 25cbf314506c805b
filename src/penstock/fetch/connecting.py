"""A connection to one of a host's addresses, for threads; on an event loop aiohappyeyeballs does the same.

The next address is tried when the one before has failed, or has not answered for a moment, and the first that answers is
taken (RFC 8305): a host with broken IPv6, or one dead machine of several, costs that moment and not the whole time-out.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from typing import Self

from penstock.fetch.descriptors import open_socket
from penstock.fetch.faults import translate_os_error
from penstock.fetch.policy.deadlines import Stage
from penstock.records import Retry

__all__ = ["connect_first"]

STAGGER = 0.25
"""Seconds until the next address is tried; RFC 8305's proposal, and aiohttp's."""

_Selector = getattr(selectors, "PollSelector", selectors.DefaultSelector)  # epoll would take a descriptor of its own


def connect_first(
    addresses: Sequence[str], port: int, deadline: float, is_given_up: Callable[[], bool]
) -> socket.socket:
    """A blocking socket that is connected to the first of the addresses, at least one, that answers.

    Args:
        addresses: judged already.
        port: at each of them.
        deadline: monotonic seconds.
        is_given_up: asked every `STAGGER` seconds whether to stop.

    Raises:
        ItemError: why the last address to fail did, or what this machine lacked; ``connect.timeout`` at the deadline.
    """
    with _Race(port) as race:
        left = list(addresses)
        while left or race.running:
            if left:
                race.enter(left.pop(0))
            wait = min(STAGGER, deadline - time.monotonic())
            if race.running and (winner := race.winner(max(0.0, wait))) is not None:
                return winner
            if is_given_up() or (race.running and time.monotonic() >= deadline):
                raise translate_os_error(TimeoutError("no answer"), Stage.CONNECT)
        raise race.failure


class _Race:
    """Connections under way."""

    def __init__(self, port: int) -> None:
        self.failure = translate_os_error(TimeoutError("no answer"), Stage.CONNECT)
        """The last one, or what this machine lacked."""
        self._port = port
        self._selector: selectors.BaseSelector = _Selector()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for opened in self.running:
            opened.close()
        self._selector.close()

    @property
    def running(self) -> list[socket.socket]:
        return [key.data for key in self._selector.get_map().values()]

    def enter(self, address: str) -> None:
        """Begin to connect to an address."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            opened = open_socket(family, socket.SOCK_STREAM)
        except OSError as error:
            self._note(error, family)
            return
        opened.setblocking(False)
        number = opened.connect_ex((address, self._port))
        if number in (0, errno.EINPROGRESS):
            self._selector.register(opened, selectors.EVENT_WRITE, opened)
        else:
            self._lose(opened, number)

    def winner(self, wait: float) -> socket.socket | None:
        """The first connection that stands within so many seconds; None if none does, or one has failed."""
        for key, _ in self._selector.select(wait):
            opened: socket.socket = key.data
            self._selector.unregister(opened)
            number = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not number:
                opened.setblocking(True)
                return opened
            self._lose(opened, number)
        return None

    def _lose(self, opened: socket.socket, number: int) -> None:
        self._note(OSError(number, os.strerror(number)), opened.family)
        opened.close()

    def _note(self, error: OSError, family: int) -> None:
        if self.failure.reason.retry is not Retry.LOCAL:  # that one stays: the host had no fair chance
            self.failure = translate_os_error(error, Stage.CONNECT, ipv6=family == socket.AF_INET6)
