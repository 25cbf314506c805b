"""How many sockets may be open."""

from __future__ import annotations

import contextlib
import errno
import os
import socket

try:
    import resource
except ImportError:  # Windows has no such limit
    resource = None  # type: ignore[assignment]  # the module is absent there

__all__ = ["open_socket", "raise_limit"]

ENOUGH = 65_536
"""The most that is asked for: some thousand answers a second, each keeping its connection for 15 seconds."""


RESERVE = 64
"""Descriptors that connections leave to others: to shards, spools and workers, which cannot wait for one."""


def open_socket(family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket for a connection, as long as enough descriptors are left for everything else.

    Raises:
        OSError: EMFILE when the last `RESERVE` ones would be touched; whatever the system raises.
    """
    opened = socket.socket(family, kind, protocol)
    if resource is not None:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # The system gives the lowest number that is free: so a high one tells that those below are taken.
        if limit != resource.RLIM_INFINITY and opened.fileno() >= limit - RESERVE:
            opened.close()
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return opened


def raise_limit() -> None:
    """Raise this process's soft limit of open files, as far as its hard limit and `ENOUGH` allow.

    Connections stay open for some seconds after their last answer, and a list may name a host in every row, so a thousand
    descriptors, which many systems give by default, are soon used up.
    """
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(ENOUGH, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS has a lower limit than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
