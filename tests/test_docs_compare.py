"""The measured tables and plots of the comparison pages are those of benchmarks/results/compare.json."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from penstock.comparison.workloads import WORKLOADS
from penstock.config import STRATEGIES

ROOT = Path(__file__).parent.parent
BENCH: dict[str, Any] = runpy.run_path(str(ROOT / "benchmarks/bench_compare.py"))
PAGES = tuple(str(language.page.relative_to(ROOT)) for language in BENCH["LANGUAGES"])


def test_pages_show_what_was_measured() -> None:
    """The generated blocks are current; if not, run benchmarks/bench_compare.py render."""
    assert BENCH["main"](["render", "--check"]) == 0


@pytest.mark.parametrize("page", PAGES)
def test_every_workload_has_its_table_and_plot(page: str) -> None:
    """Each page has, for each workload, a block with a line for every strategy, and a plot that exists."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = {match[2]: match[0] for match in BENCH["BLOCK"].finditer(text)}
    assert list(blocks) == list(WORKLOADS)
    for workload, block in blocks.items():
        assert {name for name in STRATEGIES if f"\n| {name} |" not in block} == set()
        assert f"](../images/compare-{workload}.svg)" in text
        assert BENCH["plot_of"](workload).is_file()


@pytest.mark.parametrize(("english", "chinese"), [("README.md", "README.zh-CN.md"), PAGES])
def test_translations_have_the_same_code(english: str, chinese: str) -> None:
    """A Chinese page shows the commands and the code of the English one; only comments are translated."""
    assert code_of(ROOT / english) == code_of(ROOT / chinese)


def code_of(page: Path) -> list[str]:
    """The blocks of shell and Python of a page, without comments."""
    blocks = re.findall(r"^```(?:sh|python)$.*?^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks
    return [re.sub("#.*", "", block) for block in blocks]
