"""A function in a process of its own: its value, or why there is none, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from comparison import functions
from penstock.comparison.child import ChildError, call, call_within
from penstock.errors import SourceError


def test_value_comes_back(capfd: pytest.CaptureFixture[str]) -> None:
    """The value returns, from another process, and what was printed there stays there."""
    assert call(functions.add, 2, b=3) == 5
    assert call(functions.process_id) != os.getpid()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (functions.raise_theirs, "^KeyError: 'what'$"),
        (functions.die, "its process died: SIGSEGV"),
        (functions.unpicklable, "^the result cannot be sent: "),
    ],
)
def test_failure_is_said_in_one_line(function: Callable[[], object], says: str) -> None:
    """Whatever ends the function is an error with its reason."""
    with pytest.raises(ChildError, match=says) as caught:
        call(function)
    assert "\n" not in str(caught.value)


def test_error_of_ours_comes_back_as_it_was() -> None:
    """The caller can tell one from the other, and the exit code is that of the error."""
    with pytest.raises(SourceError, match=r"^no such list$"):
        call(functions.raise_ours)


def test_function_that_hangs_is_given_up(tmp_path: Path) -> None:
    """So many seconds, and its process is gone."""
    mark = tmp_path / "pid"
    with pytest.raises(ChildError, match=r"given up after 0\.5 s"):
        call_within(0.5, functions.hang, str(mark))


def test_last_words_are_quoted() -> None:
    """A process that leaves without an answer is quoted."""
    with pytest.raises(ChildError, match="its process died: exit 3; it said: so long"):
        call(functions.leave, 3)


CALLER = """
import sys
sys.path[:0] = [sys.argv[1]]
from comparison import functions
from penstock.comparison.child import call
call(functions.hang, sys.argv[2])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_child_does_not_outlive_its_caller(number: signal.Signals, tmp_path: Path) -> None:
    """However the caller ends, the child ends as well."""
    mark = tmp_path / "pid"
    tests = str(Path(__file__).parents[1])
    caller = subprocess.Popen([sys.executable, "-c", CALLER, tests, str(mark)], stderr=subprocess.DEVNULL)
    while not mark.exists():
        assert caller.poll() is None
        os.sched_yield()
    child = os.pidfd_open(int(mark.read_text()))
    try:
        caller.send_signal(number)
        caller.wait()
        assert not _runs(child)
    finally:
        os.close(child)


def _runs(process: int) -> bool:
    """Whether the process behind this descriptor still runs, a moment later."""
    import select

    ended, _, _ = select.select([process], [], [], 10)
    return not ended
