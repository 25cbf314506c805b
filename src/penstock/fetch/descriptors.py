"""How many sockets may be open."""

from __future__ import annotations

import contextlib

try:
    import resource
except ImportError:  # Windows has no such limit
    resource = None  # type: ignore[assignment]  # the module is absent there

__all__ = ["raise_limit"]

ENOUGH = 65_536
"""The most that is asked for: some thousand answers a second, each keeping its connection for 15 seconds."""


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
