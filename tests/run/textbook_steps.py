"""Transforms for the textbook's schemes, in a module that worker processes can import."""

from __future__ import annotations

import os
import threading

from penstock.records import Row


def head(data: bytes, row: Row) -> dict[str, bytes]:
    """The first bytes."""
    return {"head": data[:2]}


def fail_on_row_3(data: bytes, row: Row) -> dict[str, bytes]:
    """An exception that cannot be pickled, for one of the rows."""
    if row.index == 3:
        raise UnpicklableError(threading.Lock())
    return head(data, row)


class UnpicklableError(Exception):
    """What it is told to hold stands in the way."""


def say_process_and_stop(data: bytes, row: Row) -> dict[str, bytes]:
    """A worker that never comes back."""
    os.write(1, f"{os.getpid()}\n".encode())
    threading.Event().wait()
    return {}
