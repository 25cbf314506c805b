"""A folder on this machine's own disk, for what belongs to one process and is not whole yet."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from penstock.sink.disk import locked

__all__ = ["private_folder"]

_PREFIX = "penstock-work-"


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """One for as long as the block lasts; what killed processes have left of theirs is deleted."""
    home = Path(tempfile.gettempdir())
    for path in home.glob(f"{_PREFIX}*.lock"):
        with (
            contextlib.suppress(OSError),
            path.open("rb") as lock,
        ):  # another user's, or another process just deletes it
            if locked(lock.fileno()):
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.unlink()
    folder = home / f"{_PREFIX}{uuid.uuid4().hex[:16]}"
    with folder.with_suffix(".lock").open("wb") as lock:
        locked(lock.fileno())
        try:
            folder.mkdir(mode=0o700)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            folder.with_suffix(".lock").unlink(missing_ok=True)
