"""How the kernel's scheduler should see us."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

__all__ = ["in_no_hurry"]


@contextlib.contextmanager
def in_no_hurry() -> Iterator[None]:
    """Run this thread, and the threads and processes that it starts meanwhile, as batch work.

    With every core busy decoding, each packet that arrives would wake a thread of the parent and throw a decoder off its
    core, some four times an image. A batch thread (``SCHED_BATCH``, Linux) waits for its turn, and finds more to do when
    it comes: a sixth less CPU in the parent. Where a core is idle nothing changes. Only ordinary threads are touched.
    """
    if not hasattr(os, "SCHED_BATCH") or os.sched_getscheduler(0) != os.SCHED_OTHER:
        yield
        return
    with contextlib.suppress(OSError):  # a sandbox may forbid it
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
