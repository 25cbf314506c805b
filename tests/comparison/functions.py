"""What the children of `penstock.comparison.child` are asked to do, in a module that they can import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from penstock.errors import SourceError


def add(a: int, *, b: int) -> int:
    sys.stdout.write("this goes nowhere")
    return a + b


def process_id() -> int:
    return os.getpid()


def raise_ours() -> None:
    raise SourceError("no such list")


def raise_theirs() -> None:
    raise KeyError("what")


def leave(status: int) -> None:
    sys.stderr.write("so long\n")
    sys.stderr.flush()
    os._exit(status)


def die() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def unpicklable() -> object:
    return lambda: None


def hang(mark: str) -> None:
    """Leave the process id in a file, and wait for ever."""
    Path(mark).with_suffix(".part").write_text(str(os.getpid()))
    Path(mark).with_suffix(".part").rename(mark)
    subprocess.run(["sleep", "600"], check=False)
