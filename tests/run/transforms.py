"""Transforms of a user, in a module that worker processes can import."""

from __future__ import annotations

import os
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
