"""The tables that benchmarks have measured are those of benchmarks/results."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.parametrize("script", ["bench_stream.py", "bench_engines.py"])
def test_the_page_shows_what_was_measured(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generated block is current; if not, run the script with ``render``."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])  # it imports its neighbours
    bench = runpy.run_path(str(BENCHMARKS / script))
    assert bench["main"](["render", "--check"]) == 0
