"""The examples, started as a user would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

__all__ = ["losses", "output_of"]

EXAMPLES = Path(__file__).parents[1] / "examples"


def output_of(name: str, *arguments: str, launcher: tuple[str, ...] = (), **variables: str) -> str:
    """What an example prints; fails with what it wrote to standard error if it does not end well."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        **variables,
    }  # two torches on two cores are quicker with a thread each
    command = [sys.executable, *launcher, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


def losses(output: str) -> list[float]:
    """The mean loss of each epoch."""
    found = re.findall(r"^epoch (\d+): mean loss ([0-9.]+)", output, re.MULTILINE)
    assert [int(epoch) for epoch, _ in found] == list(range(len(found)))
    return [float(loss) for _, loss in found]
