"""Compares how the rows of the simulated web ended with how they should have: ``python -m penstock.testing.web_check OUT``.

``OUT`` is the folder of a run over the list of `penstock.testing.web_server` with ``--keep-columns expected``. Prints a
table, and exits with 1 if a row ended otherwise than expected.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq

__all__ = ["is_right", "main", "read_endings", "table"]

Endings = Counter[tuple[str, str]]
"""Rows by what was expected and what came, both as in `is_right`."""


def is_right(expected: str, came: str) -> bool:
    """Whether what came, ``written`` or a reason, is among what was expected, separated by bars."""
    return came in expected.split("|")


def read_endings(folder: Path) -> Endings:
    """All rows of the run in this folder.

    Raises:
        ValueError: It holds no table of a run that has kept the column ``expected``.
    """
    endings: Endings = Counter()
    for path in sorted(folder.glob("*.parquet")):
        columns = pq.read_table(path).to_pydict()
        if not {"expected", "outcome", "reason"} <= columns.keys():
            raise ValueError(f"{path}: no column 'expected'; run with --keep-columns expected")
        came = (reason or outcome for outcome, reason in zip(columns["outcome"], columns["reason"], strict=True))
        endings.update(zip(columns["expected"], came, strict=True))
    if not endings:
        raise ValueError(f"{folder}: no rows of a run")
    return endings


def table(endings: Mapping[tuple[str, str], int]) -> str:
    """A line for each pair of expected and come, what is wrong marked by an exclamation mark."""
    width = max(len(expected) for expected, _ in endings)
    lines = [
        f"{'  ' if is_right(expected, came) else '! '}{expected:{width}}  {count:7}  {came}"
        for (expected, came), count in sorted(endings.items())
    ]
    return "\n".join([f"  {'expected':{width}}  {'rows':>7}  came", *lines])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m penstock.testing.web_check", description=(__doc__ or "").split(":")[0]
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the run")
    try:
        endings = read_endings(parser.parse_args(arguments).out)
    except ValueError as error:
        parser.error(str(error))
    wrong = sum(count for (expected, came), count in endings.items() if not is_right(expected, came))
    total = sum(endings.values())
    print(table(endings), f"{wrong} of {total} rows ended otherwise than expected", sep="\n")  # noqa: T201 - its output
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
