"""Reports and failures as people read them, in a terminal or without one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from penstock.records import Reason
from penstock.report.failures import ReasonGroup
from penstock.report.report import Report

__all__ = ["excerpt", "printable", "render_failures", "render_report"]

LAG = 1.0
"""Seconds that the event loop may be held up before people are told."""

MAX_SHOWN = 300
"""Characters of a URL that are shown. Arbitrary: four lines of a terminal, longer than nearly all of them."""


MAX_TRACE_LINES = 8
"""Lines of a traceback that are shown: the last ones. Arbitrary: three frames and the message."""


def render_report(report: Report) -> RenderableType:
    """The account, the speed, the bottleneck, and where the output lies."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    for name, value in _facts(report):
        facts.add_row(name, value)
    tables: list[RenderableType] = [facts]
    if report.reasons:
        tables += ["", _reasons(report.reasons.items())]
    return Group(*tables, *(part for kind, trace in report.tracebacks.items() for part in _traceback(kind, trace)))


def _facts(report: Report) -> list[tuple[str, RenderableType]]:
    facts: list[tuple[str, RenderableType]] = [("account", _account(report))]
    if report.rows_before:
        facts.append(("went on", f"{report.rows_before:,} rows were done before, {report.rows_settled:,} now"))
    if report.rows_waiting:
        facts.append(("waiting", f"{report.rows_waiting:,} more rows are done, and wait for the rest of their shards"))
    if report.seconds:
        facts += [
            ("speed", f"{report.images_per_second:,.0f} images/s, {report.megabytes_per_second:,.1f} MB/s"),
            ("time", f"{report.seconds:,.1f} s"),
            ("memory", f"{report.peak_rss_bytes / 1e6:,.0f} MB at the peak, all processes"),
            ("set-up", _setup(report)),
            ("bottleneck", report.verdict),
        ]
    if report.waits:
        waits = ", ".join(f"{seconds:,.0f} s for {reason}" for reason, seconds in report.waits.items())
        facts.append(("waited", f"{waits}; {report.attempts_given_back:,} attempts were given back"))
    if report.loop_lag_seconds > LAG:
        facts.append(
            ("overload", f"the event loop was held up for {report.loop_lag_seconds:.1f} s: too much runs here")
        )
    if report.ignored:
        facts.append(("ignored", ", ".join(report.ignored)))
    facts.append(("output", Text(excerpt(report.folder))))
    return facts


def _account(report: Report) -> Text:
    text = Text.assemble(
        f"{report.rows:,} rows = ",
        (f"{report.written:,} written", "green"),
        " + ",
        (f"{report.failed:,} failed", "red" if report.failed else ""),
        " + ",
        f"{report.skipped:,} skipped",
    )
    if not report.finished:
        text.append(" (not finished: the same command goes on)", "yellow")
    return text


def _setup(report: Report) -> str:
    lanes = f", {report.lanes} lanes" if report.lanes > 1 else ""
    download = {"asyncio": "an event loop", "threads": "threads", "worker": "each worker itself"}.get(report.fetch, "?")
    return f"{report.strategy}: {download} downloads, {report.workers} {report.crew} decode{lanes}"


def _reasons(reasons: Iterable[tuple[str, int]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("reason")
    table.add_column("rows", justify="right")
    table.add_column("meaning", overflow="fold")
    for reason, count in reasons:
        table.add_row(reason, f"{count:,}", Reason.named(reason).meaning)
    return table


def _traceback(kind: str, trace: str) -> list[RenderableType]:
    """What the user's own code raised, and the end of its traceback: report.json has all of it."""
    lines = [printable(line) for line in trace.splitlines()[-MAX_TRACE_LINES:]]
    return [Text(f"raised: {printable(kind)}", "bold"), Text("\n".join(lines), "dim"), ""]


def render_failures(groups: Sequence[ReasonGroup]) -> RenderableType:
    """A table by reason, with examples."""
    if not groups:
        return Text("no row failed or was skipped")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("rows", justify="right")
    table.add_column("reason and examples", overflow="fold")
    table.add_column("again?")
    for group in groups:
        table.add_row(f"{group.count:,}", Text(f"{group.reason}: {group.meaning}", "bold"), _again(group))
        for row in group.examples:
            detail = f" ({row.error_message})" if row.error_message else ""
            table.add_row("", Text(f"{row.key} {excerpt(row.url or '-')}{detail}", "dim"), "")
    return table


def printable(text: str) -> str:
    """Text from outside as a terminal may show it: without control characters."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def excerpt(text: str) -> str:
    """As `printable`, and not endless: a URL, a folder's name."""
    shown = printable(text[:MAX_SHOWN])
    return shown if len(text) <= MAX_SHOWN else f"{shown}\N{HORIZONTAL ELLIPSIS}"


def _again(group: ReasonGroup) -> str:
    return "--retry-failed" if group.worth_retrying else "no use"
