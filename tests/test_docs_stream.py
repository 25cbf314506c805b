"""The measured table of the streams is that of benchmarks/results/stream.json."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of the script, which imports its neighbours."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return runpy.run_path(str(BENCHMARKS / "bench_stream.py"))


def test_the_page_shows_what_was_measured(bench: dict[str, Any]) -> None:
    """The generated block is current; if not, run benchmarks/bench_stream.py render."""
    assert bench["main"](["render", "--check"]) == 0
