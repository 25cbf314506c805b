"""The tables of docs/benchmarks.md that a benchmark fills."""

from __future__ import annotations

import re
import sys
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs/benchmarks.md"


def fill(block: str, table: str, *, check: bool) -> int:
    """Put a table between ``<!-- generated: block -->`` and ``<!-- end of block -->``; with `check` only say if it is stale.

    Returns the exit code.
    """
    page = PAGE.read_text(encoding="utf-8")
    between = re.compile(rf"(<!-- generated: {block} -->\n).*?(<!-- end of {block} -->)", re.DOTALL)
    filled, blocks = between.subn(lambda found: f"{found[1]}\n{table}\n\n{found[2]}", page)
    if blocks != 1:
        print(f"{PAGE} has {blocks} blocks for the table, where one belongs", file=sys.stderr)
        return 1
    if filled == page:
        return 0
    if check:
        print(f"{PAGE} is stale; run python bench_{block}.py render", file=sys.stderr)
        return 1
    PAGE.write_text(filled, encoding="utf-8")
    return 0
