"""What a cluster calls on its workers.

The function travels by value, so that a worker without Penstock, or with another version of it, says so instead of failing
to load it.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import penstock
from penstock.engines.messages import Broken
from penstock.engines.task import Finished
from penstock.errors import WorkerError

__all__ = ["make_entry", "outcome_of"]

Answer = tuple[str, Any]


def make_entry(module: str) -> Callable[[bytes, Any], Answer]:
    """The function: ``entry(task, line)`` calls ``module.serve`` on the worker.

    Args:
        module: of the engine, where it has ``serve(task, line) -> bytes``.
    """
    version = penstock.__version__

    def penstock_lane(task: bytes, line: Any) -> Answer:
        import importlib  # noqa: PLC0415 - nothing of the module around it is there on the worker
        import platform  # noqa: PLC0415
        import sys  # noqa: PLC0415

        where = f"{platform.node()} ({sys.executable})"
        try:
            there = importlib.import_module("penstock").__version__
        except ImportError:
            return "unfit", f"{where} has no penstock; install penstock=={version} on every node, as it is here"
        if there != version:
            return "unfit", f"{where} has penstock {there}, and here is {version}; install the same on every node"
        return "done", importlib.import_module(module).serve(task, line)

    penstock_lane.__module__ = "penstock on a worker"  # which no worker has: so it is pickled by value
    return penstock_lane


def outcome_of(answer: Answer) -> Finished | Broken:
    """What a worker's answer says."""
    kind, given = answer
    if kind == "unfit":
        return Broken(WorkerError(given))
    outcome: Finished | Broken = pickle.loads(given)  # noqa: S301 - by our own worker
    return outcome
