"""Transforms of a user, in a module that worker processes can import."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.records import Row


def length_head_and_name(data: bytes, row: Row) -> dict[str, bytes | npt.NDArray[Any]]:
    """One array and some bytes."""
    return {"length": np.array([len(data)]), "bin": data[:4], "name": str(row.url).encode()}


def kill_on_the_seventh(data: bytes, row: Row) -> dict[str, bytes]:
    """Native code that takes its process along."""
    if row.index == 7:
        os._exit(3)
    return {"bin": data[:4]}


def only_in_a_worker_process(data: bytes, row: Row) -> dict[str, bytes]:
    """Something that minds threads."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("not in a thread")
    return {"bin": data[:4]}


def hang_on_the_third(data: bytes, row: Row) -> dict[str, bytes]:
    """An endless wait."""
    if row.index == 2:
        threading.Event().wait()
    return {"bin": data[:4]}
