"""How the kernel sees a run's threads."""

from __future__ import annotations

import os
import threading

import pytest

from penstock.scheduling import in_no_hurry

pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="only Linux has batch threads")


def test_batch_inside_and_as_before_outside() -> None:
    """The thread, and those that it starts, are batch work inside; afterwards the thread is what it was."""
    seen: list[int] = []
    with in_no_hurry():
        thread = threading.Thread(target=lambda: seen.append(os.sched_getscheduler(0)))
        thread.start()
        thread.join()
        assert os.sched_getscheduler(0) == os.SCHED_BATCH
    assert seen == [os.SCHED_BATCH]
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_other_policies_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has chosen a policy keeps it."""
    monkeypatch.setattr(os, "sched_getscheduler", lambda _pid: os.SCHED_IDLE)
    monkeypatch.setattr(os, "sched_setscheduler", lambda *_: pytest.fail("the policy was touched"))
    with in_no_hurry():
        pass
