"""Initializers that behave and initializers that do not, in a module that workers can import."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np

from penstock.records import Fetched, Result, Row, Sample

state = threading.local()
"""What the initializer sets up, a worker's own."""


def set_up(folder: Path) -> None:
    """Leave a mark, and know that it was done; a second call in the same worker finds the mark."""
    (folder / f"{os.getpid()}-{threading.get_ident()}").touch(exist_ok=False)
    state.ready = True


def echo_if_set_up(row: Row, fetched: tuple[Fetched, ...]) -> Result:
    """What the bytes say, by a worker that is set up."""
    assert state.ready
    if fetched[0].data == b"die":
        os._exit(3)
    return Result.of(Sample({"ready": np.array([state.ready])}), fetched)


def fail() -> None:
    """Nothing to set up with."""
    raise FileNotFoundError("model.bin")


def die() -> None:
    """Native code that takes its process along."""
    os._exit(7)


def take_a_while() -> None:
    """As long as importing a large library takes."""
    time.sleep(1.5)
