"""Which crew can work here."""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Literal

from penstock.crew.arena import Landing
from penstock.crew.base import Crew, Work
from penstock.crew.inline import InlineCrew
from penstock.crew.processes import ProcessCrew
from penstock.crew.script import NoScriptError, stop_if_in_worker
from penstock.crew.threads import ThreadCrew

__all__ = ["CrewKind", "gil_enabled", "make_crew", "processes_possible"]

CrewKind = Literal["inline", "threads", "processes"]

_logger = logging.getLogger("penstock")


def make_crew(
    kind: CrewKind,
    work: Work,
    width: int,
    decode_timeout: float,
    *,
    memory: int | None = None,
    keep_poison: Path | None = None,
    landing: Landing | None = None,
) -> Crew:
    """A crew of the asked kind, not started; threads instead of processes where there can be none, with a warning.

    Args:
        kind: who does the work.
        work: what to do with each row.
        width: workers (``inline`` has one).
        decode_timeout: seconds of work for one row (``inline`` has no limit).
        memory: bytes that a worker process may take for one row; None for no bound.
        keep_poison: folder for the bytes of rows that killed their worker process.
        landing: writes the arrays of rows that are submitted with a place; None if none will be.

    Raises:
        ConfigError: processes are asked for, and the work cannot be pickled.
    """
    stop_if_in_worker()
    match kind:
        case "inline":
            return InlineCrew(work, landing=landing)
        case "threads":
            return ThreadCrew(work, width, decode_timeout, landing=landing)
        case "processes":
            return _processes_or_threads(
                work, width, decode_timeout, memory=memory, keep_poison=keep_poison, landing=landing
            )


def processes_possible() -> bool:
    """Whether this process may have worker processes."""
    return _obstacle() is None


def gil_enabled() -> bool:
    """Whether this interpreter has a global lock. On one without it threads are the better workers."""
    ask = getattr(sys, "_is_gil_enabled", None)
    return ask is None or bool(ask())


def _processes_or_threads(
    work: Work,
    width: int,
    decode_timeout: float,
    *,
    memory: int | None,
    keep_poison: Path | None,
    landing: Landing | None,
) -> Crew:
    obstacle = _obstacle()
    if obstacle is None:
        try:
            return ProcessCrew(work, width, decode_timeout, memory=memory, keep_poison=keep_poison, landing=landing)
        except NoScriptError as error:
            obstacle = str(error)
    _warn_once(obstacle)
    return ThreadCrew(work, width, decode_timeout, landing=landing)


def _obstacle() -> str | None:
    """Why this process cannot have worker processes, and what to do; None if it can."""
    if os.name != "posix":
        return "worker processes need Linux or macOS; give --strategy threads to say that threads are meant"
    if multiprocessing.current_process().daemon:
        return (
            "a daemonic process (of a Dask worker, a DataLoader, a Pool) may have no children; start it as non-daemonic"
        )
    if not sys.executable or getattr(sys, "frozen", False):
        return "there is no Python interpreter to start workers with (sys.executable); run from an ordinary Python"
    return None


@functools.cache
def _warn_once(obstacle: str) -> None:
    _logger.warning("threads decode instead of processes, so that a crash is not contained: %s", obstacle)
