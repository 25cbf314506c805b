"""The strategies and the textbook's schemes side by side, on each of the four workloads.

    python benchmarks/bench_compare.py measure              # results/compare.json, and the plots in docs/images
    python benchmarks/bench_compare.py render               # from results/compare.json: the plots, the blocks of both pages
    python benchmarks/bench_compare.py render --check       # change nothing; exit with 1 if a page is stale

The pages are written by hand but for their blocks, each between two comments::

    <!-- generated: compare-images -->
    …
    <!-- end of compare-images -->
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import penstock
from penstock.comparison.plot import check_plot, write_plot
from penstock.comparison.results import Bound, Comparison, Entry, GilProbe, Judgement, Shares, Slice, Trial
from penstock.comparison.text import decimals, why_not_measured
from penstock.comparison.workloads import WORKLOADS

HERE = Path(__file__).parent
RESULTS = HERE / "results/compare.json"
DOCS = HERE.parent / "docs"
PAGE = "threads-processes-hybrid-asyncio.md"
BLOCK = re.compile(r"(<!-- generated: compare-(\w+) -->\n).*?(<!-- end of compare-\2 -->)", re.DOTALL)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    steps.add_parser("measure").add_argument("--runs", type=int, default=3)
    steps.add_parser("render").add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    if options.step == "measure":
        measure(options.runs)
        return 0
    return render(check=options.check)


# ---- measure


def measure(runs: int) -> None:
    """All workloads; a comparison takes some minutes."""
    for workload in WORKLOADS:
        check_plot(plot_of(workload))
    stored = [rounded(measured(workload, runs)) for workload in WORKLOADS]
    RESULTS.write_text("[\n" + ",\n".join(json.dumps(values) for values in stored) + "\n]\n", encoding="utf-8")
    draw(stored_comparisons())


def measured(workload: str, runs: int) -> dict[str, Any]:
    """`Comparison.as_dict`; of the timelines only those that the plot shows, for they are long."""
    comparison = penstock.compare(
        workload=workload,
        textbook=True,
        runs=runs,
        on_step=lambda what, done, total: print(f"{workload}, {done} of {total} done: {what}", file=sys.stderr),
    )
    values = comparison.as_dict()
    for entry, entry_values in zip(comparison.entries, values["entries"], strict=True):
        for trial, trial_values in zip(entry.trials, entry_values["trials"], strict=True):
            if trial is not entry.median:
                trial_values["timeline"] = []
    return values


def rounded(value: Any) -> Any:
    """The same with four digits after the point; the timelines have thousands of figures."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list | tuple) else value


# ---- what was stored


def stored_comparisons() -> dict[str, Comparison]:
    """By workload."""
    stored = json.loads(RESULTS.read_text(encoding="utf-8"))
    return {comparison.workload: comparison for comparison in map(comparison_of, stored)}


def comparison_of(stored: dict[str, Any]) -> Comparison:
    """What `Comparison.as_dict` was made from."""
    gil, judgement = stored["gil"], stored["judgement"]
    bounds = {bound.value: bound for bound in Bound}
    return Comparison(
        workload=stored["workload"],
        source=stored["source"],
        rows=stored["rows"],
        runs=stored["runs"],
        entries=tuple(entry_of(entry) for entry in stored["entries"]),
        gil=gil and GilProbe(gil["threads"], gil["one"], gil["all"], gil["reference"]),
        judgement=judgement and Judgement(**judgement | {"bound": bounds[judgement["bound"]]}),
        machine=stored["machine"],
    )


def entry_of(stored: dict[str, Any]) -> Entry:
    return Entry(stored["name"], tuple(trial_of(trial) for trial in stored["trials"]), stored["failure"])


def trial_of(stored: dict[str, Any]) -> Trial:
    slices = (Slice(**part | {"shares": Shares(**part["shares"])}) for part in stored["timeline"])
    return Trial(**stored | {"shares": Shares(**stored["shares"]), "timeline": tuple(slices)})


# ---- render


def plot_of(workload: str) -> Path:
    return DOCS / f"images/compare-{workload}.svg"


def draw(comparisons: dict[str, Comparison]) -> None:
    for workload, comparison in comparisons.items():
        write_plot(comparison, plot_of(workload))


@dataclass(frozen=True, slots=True)
class Language:
    """What a block says, in one language."""

    page: Path
    head: str
    unmeasured: str
    bound: str
    bounds: dict[Bound, str]
    evidence: bool
    """Whether the evidence is listed, which is English."""
    gil: str
    machine: str


LANGUAGES = (
    Language(
        page=DOCS / "concepts" / PAGE,
        head="| strategy | wall s | fastest–slowest s | images/s | first image s | CPU s per 1,000 | peak MB "
        "| workers busy | speed |",
        unmeasured="not measured: ",
        bound="Bound by: {}.",
        bounds={bound: bound.meaning for bound in Bound},
        evidence=True,
        gil="",  # the evidence says it
        machine="{rows} rows, runs of each: {runs}, seconds are medians. Machine: {cores} cores ({processor}), "
        "Python {python}, GIL {gil}, Penstock {penstock}.",
    ),
    Language(
        page=DOCS / "zh" / PAGE,
        head="| 策略 | 总耗时（秒） | 最快–最慢（秒） | 图片/秒 | 首张图片（秒） | 每千张 CPU 秒 | 内存峰值（MB） | worker 忙碌 | 相对速度 |",
        unmeasured="未测得：",
        bound="瓶颈：{}。",
        bounds={
            Bound.NETWORK: "等待网络",
            Bound.CPU: "CPU；处理过程是否占着 GIL，未能测出",
            Bound.GIL_HELD: "CPU，且持有 GIL：同一进程中同一时刻只有一个线程在计算",
            Bound.GIL_RELEASED: "CPU，但释放了 GIL：同一进程的多个线程可以同时计算",
            Bound.LANE: "负责下载的进程的 CPU，它一直占着自己的 GIL：一条 lane 已经满了",
            Bound.HANDOVER: "交接：数据在各阶段、进程、线程之间传递",
            Bound.OUTPUT: "输出：写结果",
        },
        evidence=False,
        gil="只做处理、数据已在内存中：1 个线程每秒 {one:,.0f} 张，{threads} 个线程每秒 {all:,.0f} 张"
        "（{speedup:.2f} 倍；已知会释放 GIL 的原生代码：{reference:.2f} 倍）。",
        machine="共 {rows} 行，每种方案测 {runs} 次，耗时取中位数。机器：{cores} 核（{processor}），Python {python}，"
        "GIL：{gil}，Penstock {penstock}。",
    ),
)


def render(*, check: bool) -> int:
    """Fill the blocks of every page and draw the plots; with `check` only say which pages are stale."""
    comparisons = stored_comparisons()
    stale = [language for language in LANGUAGES if filled(language, comparisons) != language.page.read_text("utf-8")]
    if not check:
        draw(comparisons)
    for language in stale:
        if check:
            print(f"{language.page} is stale; run python {Path(__file__).name} render", file=sys.stderr)
        else:
            language.page.write_text(filled(language, comparisons), encoding="utf-8")
    return 1 if stale and check else 0


def filled(language: Language, comparisons: dict[str, Comparison]) -> str:
    """The page with the content of its blocks made anew."""
    page = language.page.read_text(encoding="utf-8")
    return BLOCK.sub(lambda found: f"{found[1]}\n{block(comparisons[found[2]], language)}\n\n{found[3]}", page)


def block(comparison: Comparison, language: Language) -> str:
    """The table, the verdict and what it was measured on."""
    rule = "|" + " --- |" + " ---: |" * (language.head.count("|") - 2)
    table = [language.head, rule, *(row(comparison, entry, language) for entry in comparison.entries)]
    machine = language.machine.format(rows=comparison.rows, runs=comparison.runs, **comparison.machine)
    return "\n".join([*table, "", *verdict(comparison, language), "", machine])


def row(comparison: Comparison, entry: Entry, language: Language) -> str:
    """One line of the table."""
    if not entry.measured:
        return f"| {entry.name} | {language.unmeasured}{why_not_measured(entry)} |" + " |" * 7
    best = comparison.best
    tie = "= " if best is not None and entry is not best and entry.ties_with(best) else ""
    cells = (
        entry.name,
        decimals(entry.wall),
        f"{decimals(entry.fastest)}–{decimals(entry.slowest)}",
        decimals(entry.images_per_second),
        "–" if entry.first_image is None else decimals(entry.first_image),
        decimals(entry.cpu_per_1000),
        f"{entry.peak_bytes / 1e6:,.0f}",
        f"{entry.busy:.0%}",
        f"{tie}{comparison.relative(entry):.2f}",
    )
    return "| " + " | ".join(cells) + " |"


def verdict(comparison: Comparison, language: Language) -> Iterator[str]:
    """What bounds the workload, and what shows it."""
    if comparison.judgement is None:
        return
    yield language.bound.format(language.bounds[comparison.judgement.bound])
    if language.evidence:
        yield from ("", *(f"- {sentence}" for sentence in comparison.judgement.evidence))
    if language.gil and comparison.gil and comparison.judgement.bound in (Bound.GIL_HELD, Bound.GIL_RELEASED):
        gil = comparison.gil
        yield language.gil.format(speedup=gil.speedup, **dataclasses.asdict(gil))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
