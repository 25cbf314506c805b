"""Which addresses are this machine's own."""

from __future__ import annotations

import errno
import functools
import socket

__all__ = ["is_own"]

_NOBODYS = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Addresses of documentation, which no machine has."""

_UNDECIDED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def is_own(address: str) -> bool:
    """Whether an IP address is one of this machine's interfaces: a socket can be bound to those and to no other.

    >>> is_own("127.0.0.1"), is_own("192.0.2.1")
    (True, False)

    Raises:
        OSError: this machine has no descriptor or memory left to find out.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return _can_bind(family, address) and not _binds_anything(family)


@functools.cache
def _binds_anything(family: socket.AddressFamily) -> bool:
    """Whether the system lets anybody bind to any address (``ip_nonlocal_bind``), so that binding tells nothing."""
    return _can_bind(family, _NOBODYS[family])


def _can_bind(family: socket.AddressFamily, address: str) -> bool:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError as error:
        if error.errno in _UNDECIDED:
            raise
        return False
    return True
