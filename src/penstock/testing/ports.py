"""Faults below HTTP: each is a port of its own.

=================  ================================================================================
port               what happens to a connection
=================  ================================================================================
``refused``        it is refused
``blackhole``      nothing: it is neither accepted nor refused (on Linux; elsewhere it may be accepted)
``silent``         it is accepted, and nothing is ever said
``reset``          it is accepted and reset at once
``plain_on_tls``   plain HTTP where TLS is expected
=================  ================================================================================
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import Any, cast

__all__ = ["PORTS", "open_ports"]

PORTS: Mapping[str, str] = {
    "refused": "http",
    "blackhole": "http",
    "silent": "http",
    "reset": "http",
    "plain_on_tls": "https",
}
"""The scheme of each port's URL."""

FILLERS = 4
"""Connections that fill the queue of the black hole; the smallest queue that can be asked for holds one or two."""

_LINGER_NOT = struct.pack("ii", 1, 0)
_NOT_TLS = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@asynccontextmanager
async def open_ports(host: str) -> AsyncIterator[Mapping[str, int]]:
    """Open all of them at this address; the numbers by name.

    Cancellation: closes them.
    """
    async with AsyncExitStack() as stack:
        sockets = stack.enter_context(ExitStack())
        ports = {
            "refused": _number(sockets.enter_context(_bound(host)).getsockname()),
            "blackhole": _number(_open_blackhole(host, sockets).getsockname()),
        }
        for name, protocol in _SPEAKERS.items():
            server = await asyncio.get_running_loop().create_server(protocol, host, 0)
            stack.callback(server.close)
            ports[name] = _number(server.sockets[0].getsockname())
        yield ports


def _number(address: Any) -> int:
    return int(address[1])


def _bound(host: str) -> socket.socket:
    """A port that is taken, so that nobody else opens it, and not listened at."""
    (family, kind, protocol, _, address), *_ = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    taken = socket.socket(family, kind, protocol)
    taken.bind(address)
    return taken


def _open_blackhole(host: str, stack: ExitStack) -> socket.socket:
    """A listener whose queue is full and that never accepts: Linux drops further attempts without a word."""
    listener = stack.enter_context(_bound(host))
    listener.listen(0)
    for _ in range(FILLERS):
        filler = stack.enter_context(socket.socket(listener.family, socket.SOCK_STREAM))
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
    return listener


class _Silent(asyncio.Protocol):
    """Says nothing, and goes when the client goes."""


class _Reset(asyncio.Protocol):
    """Tears the connection down."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Do it at once."""
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        cast("asyncio.Transport", transport).abort()


class _PlainOnTls(asyncio.Protocol):
    """Answers in plain HTTP, whatever it was asked."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a client."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:  # noqa: ARG002 - whatever it is
        """Refuse it."""
        self._transport.write(_NOT_TLS)
        self._transport.close()


_SPEAKERS: Mapping[str, Callable[[], asyncio.Protocol]] = {
    "silent": _Silent,
    "reset": _Reset,
    "plain_on_tls": _PlainOnTls,
}
