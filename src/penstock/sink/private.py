"""A folder on this machine's own disk, for what belongs to one process and is not whole yet."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from penstock.sink.disk import locked, writing

__all__ = ["private_folder"]

_PREFIX = "penstock-work-"


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """One for as long as the block lasts; what killed processes have left of theirs is deleted.

    Raises:
        OutputError: it cannot be made where the system keeps temporary files.
    """
    with contextlib.ExitStack() as stack:
        with writing(Path(os.environ.get("TMPDIR", "/tmp")), what="make a folder to work in, in"):  # noqa: S108 - for the message
            home = Path(tempfile.gettempdir())
            _sweep(home)
            folder = _make(home / f"{_PREFIX}{uuid.uuid4().hex[:16]}", stack)
        yield folder


def _sweep(home: Path) -> None:
    for path in home.glob(f"{_PREFIX}*.lock"):
        # Another user's, or another process just deletes it.
        with contextlib.suppress(OSError), path.open("rb") as lock:
            if locked(lock.fileno()):
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.unlink()


def _make(folder: Path, stack: contextlib.ExitStack) -> Path:
    """The folder, and the lock that tells others that its owner lives; both go with the stack."""
    mark = folder.with_suffix(".lock")
    lock = stack.enter_context(mark.open("wb"))
    stack.callback(mark.unlink, missing_ok=True)
    locked(lock.fileno())
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    return folder
