"""Commands of Penstock on a disk that fails when it is told to; see ``failing_disk.c``.

Each command runs in a process of its own, forked from one that has made a run before: importing everything takes six
times as long as a small run::

    tests ──JSON──▶ python -m faults.failing_disk ──fork──▶ penstock.cli.main(arguments)
                    (LD_PRELOAD=failing_disk.so)            armed by its environment
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import faulthandler
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

LIBRARY = "FAILING_DISK_LIBRARY"
HANGS_AFTER = 60
"""Seconds after which a command is taken to hang: it shows where, and fails."""


@dataclass(frozen=True)
class Fault:
    """Which operation on the disk fails, and how."""

    operation: str
    """As ``FAILING_DISK_OPERATION``."""
    error: str
    """Name of the error, such as ENOSPC."""
    mode: str = "once"
    one: int = 0
    """The first one that fails, from 1; 0 for none."""

    def environment(self, folder: Path, counter: Path) -> dict[str, str]:
        """What the library reads."""
        return {
            "FAILING_DISK_PREFIX": str(folder),
            "FAILING_DISK_OPERATION": self.operation,
            "FAILING_DISK_N": str(self.one),
            "FAILING_DISK_ERRNO": str(getattr(errno, self.error)),
            "FAILING_DISK_MODE": self.mode,
            "FAILING_DISK_COUNTER": str(counter),
        }


NO_FAULT = Fault("nothing", "EIO")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    output: str
    errors: str
    operations: int
    """How many of the fault's operations there were."""


class FailingDisk:
    """Runs commands; made by `failing_disk`."""

    def __init__(self, process: subprocess.Popen[str], scratch: Path) -> None:
        self._process = process
        self._scratch = scratch

    def run(self, arguments: list[str], folder: Path, fault: Fault = NO_FAULT, *, file_limit: int = 0) -> Ended:
        """``penstock ARGUMENTS`` with this fault below `folder`, and with no file larger than `file_limit` bytes."""
        output, errors, counter = (self._scratch / name for name in ("output", "errors", "counter"))
        counter.write_bytes(bytes(8))
        order = {
            "arguments": arguments,
            "environment": fault.environment(folder, counter),
            "output": str(output),
            "errors": str(errors),
            "file_limit": file_limit,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        code = int(self._process.stdout.readline())
        operations = int.from_bytes(counter.read_bytes(), sys.byteorder)
        return Ended(code, output.read_text(), errors.read_text(), operations)


@contextlib.contextmanager
def failing_disk(scratch: Path) -> Iterator[FailingDisk]:
    """The process that forks; skips the test where the library cannot be made."""
    library = build(scratch)
    environment = {**os.environ, "LD_PRELOAD": str(library), LIBRARY: str(library)}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-m", "faults.failing_disk"]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield FailingDisk(process, scratch)
        assert process.stdin is not None
        process.stdin.close()


def build(scratch: Path) -> Path:
    """The library, compiled."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not sys.platform.startswith("linux") or compiler is None:
        pytest.skip("a failing disk takes Linux and a C compiler")
    library = scratch / "failing_disk.so"
    source = Path(__file__).with_suffix(".c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def serve() -> int:
    """Fork for each order; the reply is the exit code."""
    warm_up()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            end(obey(json.loads(line)))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()
    return 0


def warm_up() -> None:
    """Load what a run loads, by making one that fetches nothing."""
    from penstock.cli import main

    with tempfile.TemporaryDirectory() as folder:
        listing = Path(folder, "urls.txt")
        listing.write_text("file:///no/url\n")
        assert main(["run", str(listing), "--out", f"{folder}/out", "--strategy", "threads", "--quiet"]) == 0


def obey(order: dict[str, Any]) -> int:
    """Be that command."""
    from penstock.cli import main

    redirect(0, os.devnull, os.O_RDONLY)
    redirect(1, order["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    redirect(2, order["errors"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
    if order["file_limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_limit"],) * 2)
    os.environ.update(order["environment"])
    ctypes.CDLL(os.environ[LIBRARY]).failing_disk_arm()
    return main(list(order["arguments"]))


def end(code: int) -> NoReturn:
    """Leave as an interpreter does, but for the third of a second in which it takes itself to pieces."""
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def redirect(descriptor: int, path: str, flags: int) -> None:
    """Let a standard stream be this file."""
    file = os.open(path, flags, 0o644)
    os.dup2(file, descriptor)
    os.close(file)


if __name__ == "__main__":
    sys.exit(serve())
