"""A fresh interpreter as a child process: how it is started, and how it ended."""

from __future__ import annotations

import signal
import subprocess
import sys

__all__ = ["ending", "interpreter_command"]


def interpreter_command(module: str, *arguments: int) -> list[str]:
    """The command of an interpreter that calls ``main(*arguments)`` of `module`.

    It has the flags of this one (``-X``, ``-W``, ``-O`` …), imports from where this one does, and knows nothing else of it:
    nothing is forked, and the user's ``__main__`` does not run.

    >>> interpreter_command("penstock.crew.worker", 3, 4)[0] == sys.executable
    True
    """
    end = len(arguments) + 1
    boot = f"import sys; sys.path[:] = sys.argv[{end}:]; from {module} import main; main(*map(int, sys.argv[1:{end}]))"
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # noqa: SLF001 - as multiprocessing does
    return [sys.executable, *flags, "-c", boot, *map(str, arguments), *map(str, sys.path)]


def ending(status: int) -> str:
    """How a process ended, by its return code.

    >>> ending(3), ending(-11)
    ('exit 3', 'SIGSEGV')
    """
    if status >= 0:
        return f"exit {status}"
    if status == -signal.SIGKILL:
        return "SIGKILL, probably by the kernel's out-of-memory killer"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
