"""No child outlives its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = ["GROUP_SIGNALS", "die_with_parent", "leave_signals_to_parent"]

GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What a terminal or a supervisor sends to a whole group of processes: the parent alone acts on it."""

PR_SET_PDEATHSIG = 1
"""Of prctl(2): the signal that this process gets when the thread that started it ends."""


def die_with_parent(parent: int) -> bool:
    """Ask the kernel to kill this process when its parent ends; False if that has happened before it was asked.

    Linux only. Elsewhere a child notices the end of its connection, once it looks there.

    Args:
        parent: process id of the parent, as the parent knows it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent


def leave_signals_to_parent() -> None:
    """Let signals to the whole group pass: the parent hears them, too, and says what to do.

    The parent has blocked them until now. Only SIGINT is ignored: programs that the user's code starts would inherit that,
    and then could not be ended by the others.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda _number, _frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, GROUP_SIGNALS)
