"""How processes of ours are started, and how their ends are named."""

from __future__ import annotations

import subprocess
import sys

import pytest

from penstock.crew.interpreter import ending

COMMAND = (
    "from penstock.crew.interpreter import interpreter_command; print(*interpreter_command('a.b', 3, 4), sep='\\n')"
)


def test_flags_of_the_interpreter_are_inherited() -> None:
    """What was asked of this one (no GIL, optimisation, warnings) is asked of its children."""
    shown = subprocess.run(
        [sys.executable, "-O", "-X", "utf8", "-c", COMMAND], capture_output=True, text=True, check=True
    )
    command = shown.stdout.splitlines()
    assert command[0] == sys.executable
    assert "-O" in command
    assert "utf8" in command[command.index("-X") + 1]
    boot = command.index("-c") + 1
    assert "from a.b import main" in command[boot]
    assert command[boot + 1 : boot + 3] == ["3", "4"]


@pytest.mark.parametrize(
    ("status", "name"),
    [(0, "exit 0"), (3, "exit 3"), (-11, "SIGSEGV"), (-200, "signal 200"), (-9, "SIGKILL, probably")],
)
def test_ends_have_names(status: int, name: str) -> None:
    """Exit codes and signals, even unknown ones."""
    assert ending(status).startswith(name)
