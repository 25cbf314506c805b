"""A comparison as people read it in a terminal: the table, the bars, and in words what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from penstock.comparison.results import Comparison, Entry, Judgement
from penstock.report.text import excerpt, printable, render_failures

__all__ = ["decimals", "machine_line", "render_comparison", "title_line", "why_not_measured"]

HEADINGS = (
    "\nstrategy",
    "wall\ns",
    "fastest–\nslowest",
    "images\n/s",
    "first\nimage",
    "CPU s/\n1,000",
    "peak\nMB",
    "workers\nbusy",
    "\nspeed",
)
"""Two lines each, so that nine columns fit 80 characters."""

LABEL_WIDTH = 12
"""Characters of the left column of the words; as wide as its longest label."""

BAR_WIDTH = 60
"""Characters of the longest bar, at most: arbitrary, a wide terminal needs none that is wider."""

EIGHTHS = "▏▎▍▌▋▊▉"
"""One eighth of a character to seven of them."""


def render_comparison(comparison: Comparison) -> RenderableType:
    """The figures side by side, a bar chart, what bounds the workload, and the setting to use.

    Print it with ``crop=False``: the command to paste is one line, however long, and a console cuts lines at its width.
    """
    parts: list[RenderableType] = [Text(title_line(comparison), "bold")]
    if comparison.ranking:
        parts += ["", _table(comparison), *_tie_line(comparison)]
    else:
        parts += ["", Text("nothing could be measured")]
    parts += _unmeasured(comparison)
    if comparison.ranking:
        parts += ["", Text("wall time, from zero; ─┤ reaches to the slowest run", "dim"), _bars(comparison.ranking)]
    elif comparison.failures:
        parts += ["", render_failures(comparison.failures)]
    return Group(*parts, *_words(comparison))


def title_line(comparison: Comparison) -> str:
    """What was measured: ``images: 2,000 rows, 3 runs of each``."""
    rows = "1 row" if comparison.rows == 1 else f"{comparison.rows:,} rows"
    runs = "1 run" if comparison.runs == 1 else f"{comparison.runs} runs"
    return f"{excerpt(comparison.workload)}: {rows}, {runs} of each"


def machine_line(machine: Mapping[str, str | int]) -> str:
    """What it was measured on, as far as it is known.

    >>> machine_line({"cores": 2, "python": "3.11.7", "gil": "on"})
    '2 cores, Python 3.11.7, GIL on'
    """
    forms = {"cores": "1 core" if machine.get("cores") == 1 else "{} cores", "python": "Python {}", "gil": "GIL {}"}
    return ", ".join(form.format(printable(str(machine[name]))) for name, form in forms.items() if name in machine)


def decimals(value: float) -> str:
    """Three figures, or two decimals where that is less; thousands are not rounded.

    >>> decimals(0.237), decimals(2.3), decimals(48.26), decimals(1234.5)
    ('0.24', '2.30', '48.3', '1,234')
    """
    if value < 9.995:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def why_not_measured(entry: Entry) -> str:
    """One line, whatever it was that failed."""
    return excerpt(" ".join(entry.failure.split())) or "not one image came out"


def _table(comparison: Comparison) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for heading in HEADINGS:
        table.add_column(heading, justify="right", overflow="fold", min_width=5)
    table.columns[0].justify = "left"
    for entry in comparison.ranking:
        table.add_row(*_figures(comparison, entry), style="bold" if entry is comparison.best else "")
    return table


def _figures(comparison: Comparison, entry: Entry) -> Iterator[str]:
    yield entry.name
    yield decimals(entry.wall)
    yield f"{decimals(entry.fastest)}–{decimals(entry.slowest)}"
    yield decimals(entry.images_per_second)
    yield "-" if entry.first_image is None else decimals(entry.first_image)
    yield decimals(entry.cpu_per_1000)
    yield f"{entry.peak_bytes / 1e6:,.0f}"
    yield f"{entry.busy:.0%}"
    yield f"{'= ' if _ties(comparison, entry) else ''}{comparison.relative(entry):.2f}"


def _ties(comparison: Comparison, entry: Entry) -> bool:
    best = comparison.best
    return best is not None and entry is not best and entry.ties_with(best)


def _tie_line(comparison: Comparison) -> Iterator[Text]:
    if any(_ties(comparison, entry) for entry in comparison.ranking):
        within = "the two spreads" if comparison.runs > 1 else "what single runs may be off by"
        yield Text(f"= cannot be told apart from the best: the difference is within {within}", "dim")


def _unmeasured(comparison: Comparison) -> Iterator[RenderableType]:
    entries = [entry for entry in comparison.entries if not entry.measured]
    if entries:
        grid = _grid()
        for entry in entries:
            grid.add_row(entry.name, Text.assemble(("not measured: ", "red"), why_not_measured(entry)))
        yield from ("", grid)


def _bars(ranking: Sequence[Entry]) -> Table:
    longest = max(entry.slowest for entry in ranking)
    grid = Table.grid(padding=(0, 2, 0, 0))
    for justify in ("left", "left", "right"):
        grid.add_column(justify=justify)
    for entry in ranking:
        bar = _Bar(entry.wall / longest, entry.slowest / longest)
        grid.add_row(entry.name, bar, Text(f"{decimals(entry.wall)} s", no_wrap=True))
    return grid


@dataclass(frozen=True, slots=True)
class _Bar:
    """A bar from zero to `solid`, and a thin line on to `end`; 1 is the whole width."""

    solid: float
    end: float

    def __rich_measure__(self, _console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, min(BAR_WIDTH, options.max_width))

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> Iterator[Text]:
        width = min(BAR_WIDTH, options.max_width)
        whole, rest = divmod(max(1, round(self.solid * width * 8)), 8)
        bar = "█" * whole + EIGHTHS[rest - 1 : rest] if rest else "█" * whole
        line = round(self.end * width) - len(bar)
        yield Text(bar + ("─" * (line - 1) + "┤" if line > 0 else ""), "cyan")


def _words(comparison: Comparison) -> Iterator[RenderableType]:
    """What the figures mean, the command on a line of its own, and what to know beside."""
    if comparison.judgement is not None:
        yield from ("", _meaning(comparison.judgement), "")
        yield Text(printable(comparison.judgement.command), "bold", no_wrap=True, overflow="ignore")
    beside = _grid()
    if comparison.notes:
        beside.add_row("to know", _list(comparison.notes))
    if comparison.machine:
        beside.add_row("machine", Text(machine_line(comparison.machine)))
    if beside.row_count:
        yield from ("", beside)


def _meaning(judgement: Judgement) -> Table:
    grid = _grid()
    grid.add_row("bound by", Text(judgement.bound.meaning))
    grid.add_row("because", _list(judgement.evidence))
    grid.add_row("recommended", Text.assemble((judgement.strategy, "bold green"), ": ", printable(judgement.why)))
    return grid


def _list(sentences: Iterable[str]) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column()
    grid.add_column(overflow="fold")
    for sentence in sentences:
        grid.add_row("-", Text(printable(" ".join(sentence.split()))))
    return grid


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", min_width=LABEL_WIDTH)
    grid.add_column(overflow="fold")
    return grid
