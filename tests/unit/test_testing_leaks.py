"""The leak check sees what it should see, and only that."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import pytest

from penstock.testing.leaks import LeakError, no_leaks

CONFTEST = Path(__file__).parents[1] / "conftest.py"


def _leave_thread(cleanup: ExitStack) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="forgotten")
    thread.start()
    cleanup.callback(thread.join)
    cleanup.callback(stop.set)


def _leave_descriptor(cleanup: ExitStack) -> None:
    for descriptor in os.pipe():
        cleanup.callback(os.close, descriptor)


def _leave_child(cleanup: ExitStack) -> None:
    child = subprocess.Popen(["sleep", "60"])
    cleanup.callback(child.wait)
    cleanup.callback(child.kill)


def _leave_zombie(cleanup: ExitStack) -> None:
    child = subprocess.Popen(["true"], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.read()
    child.stdout.close()
    cleanup.callback(child.wait)


def _leave_shared_memory(cleanup: ExitStack) -> None:
    segment = SharedMemory(create=True, size=1)
    cleanup.callback(segment.unlink)
    segment.close()


@pytest.mark.parametrize(
    ("leave", "message"),
    [
        (_leave_thread, r"thread forgotten \(daemon=False\)"),
        (_leave_descriptor, r"descriptor \d+ -> pipe:"),
        (_leave_child, r"child process \d+ \("),
        (_leave_zombie, r"child process \d+ \("),
        (_leave_shared_memory, r"shared memory psm_"),
    ],
)
def test_what_is_left_is_named(leave: Callable[[ExitStack], None], message: str) -> None:
    """Each kind of thing that is left behind is found and described."""
    with ExitStack() as cleanup, pytest.raises(LeakError, match=message), no_leaks(patience=0):
        leave(cleanup)


def test_what_is_cleaned_up_is_no_leak() -> None:
    """Nothing is reported when all is closed, nor for what was there before."""
    with ExitStack() as outer:
        _leave_descriptor(outer)
        with no_leaks(patience=0), ExitStack() as inner:
            for leave in (_leave_thread, _leave_descriptor, _leave_child, _leave_shared_memory):
                leave(inner)


def test_what_is_just_closing_gets_time() -> None:
    """A thread that ends a little later is waited for."""
    timer = threading.Timer(0.1, lambda: None)
    with no_leaks():
        timer.start()
    assert not timer.is_alive()


def _shared_memory_of(program: subprocess.Popen[bytes]) -> str:
    assert program.stdout is not None
    return program.stdout.readline().decode().strip()


def test_shared_memory_of_others_is_not_ours() -> None:
    """A segment that appears meanwhile and is in use by a process that is no child of ours is not reported."""
    program = (
        "import os, sys\n"
        "if os.fork(): os._exit(0)\n"  # the grandchild is adopted by another process
        "from multiprocessing.shared_memory import SharedMemory\n"
        "segment = SharedMemory(create=True, size=1); print(segment.name, flush=True)\n"
        "sys.stdin.read(); segment.close(); segment.unlink()\n"
    )
    with (
        subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child,
        no_leaks(patience=0),
    ):
        name = _shared_memory_of(child)
        assert (Path("/dev/shm") / name).exists()


def _leave_and_raise(cleanup: ExitStack) -> None:
    _leave_descriptor(cleanup)
    raise ZeroDivisionError


def test_exception_of_the_block_comes_first() -> None:
    """A block that raises is not asked what it left."""
    with ExitStack() as cleanup, pytest.raises(ZeroDivisionError), no_leaks(patience=0):
        _leave_and_raise(cleanup)


@pytest.mark.slow
def test_every_test_is_checked(tmp_path: Path) -> None:
    """Our conftest fails the test that leaks, and no other; the marker and wider fixtures are exempt."""
    shutil.copy(CONFTEST, tmp_path)
    (tmp_path / "test_leaks.py").write_text(
        "import os, pytest\n"
        "@pytest.fixture(scope='module')\n"
        "def wide():\n"
        "    return os.pipe()\n"
        "def test_wide(wide): pass\n"
        "@pytest.mark.leaks_ok('it is the point')\n"
        "def test_exempt(): os.pipe()\n"
        "@pytest.mark.leaks_ok\n"
        "def test_no_reason(): pass\n"
        "def test_leaky(): os.pipe()\n"
        "def test_proxy(): assert not [name for name in os.environ if 'proxy' in name.lower()]\n"
    )
    environment = {**os.environ, "HTTP_PROXY": "http://192.0.2.1", "no_proxy": "*"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rE", str(tmp_path)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "4 passed, 2 errors" in done.stdout, done.stdout + done.stderr
    assert "ERROR test_leaks.py::test_leaky - penstock.testing.leaks.LeakError: left behind" in done.stdout
    assert "ERROR test_leaks.py::test_no_reason" in done.stdout
    assert "@pytest.mark.leaks_ok needs a reason" in done.stdout
