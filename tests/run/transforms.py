"""Transforms of a user, in a module that worker processes can import."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.records import Row


def length_head_and_name(data: bytes, row: Row) -> dict[str, bytes | npt.NDArray[Any]]:
    """One array and some bytes."""
    return {"length": np.array([len(data)]), "bin": data[:4], "name": str(row.url).encode()}
