"""What people read of a run: the report, the failures, the verdict."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from penstock.config import OutputConfig
from penstock.errors import SourceError
from penstock.records import Kind, Outcome, Reason, Request, Row, Sample, Settled, ShardReport
from penstock.report.account import Account
from penstock.report.contact_sheet import contact_sheet
from penstock.report.failures import FailedRow, group_by_reason, read_failures
from penstock.report.report import Report
from penstock.report.text import render_failures, render_report
from penstock.report.verdict import Shares, verdict
from penstock.sink.shards import ShardStore

FULL = Report(
    rows=1_000_000,
    written=998_000,
    failed=2_000,
    seconds=1234.56,
    images_per_second=808.4,
    bytes_downloaded=150_000_000_000,
    reasons={"http.not_found": 1_999, "image.truncated": 1},
    verdict="CPU: the 8 decoders were busy 97% of the time; more cores would help, more connections would not",
    strategy="auto",
    workers=8,
    connections=256,
    peak_rss_bytes=587_000_000,
    folder="/data/" + "x" * 100,
    format="webdataset",
    finished=True,
    shards=100,
    lanes=2,
    fetch="asyncio",
    crew="processes",
)


def shown(what: RenderableType, width: int = 80) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(what)
    return file.getvalue()


def words(what: RenderableType) -> str:
    """The text without its line breaks."""
    return " ".join(shown(what).split())


def failed(index: int, reason: Reason, url: str = "http://a/b", detail: str = "") -> FailedRow:
    return FailedRow(f"{index:09d}", url, "failed", reason.value, detail or None, None, 1, {})


def test_report_at_80_columns() -> None:
    """No line is longer, and no figure is lost."""
    assert max(map(len, shown(render_report(FULL)).splitlines())) <= 80
    text = words(render_report(FULL))
    for part in (
        "1,000,000 rows = 998,000 written + 2,000 failed + 0 skipped",
        "808 images/s, 121.5 MB/s",
        "1,234.6 s",
        "587 MB",
        "auto: an event loop downloads, 8 processes decode, 2 lanes",
        FULL.verdict,
        "http.not_found 1,999 404",
    ):
        assert part in text
    assert "went on" not in text
    assert "not finished" not in text
    assert FULL.folder in text.replace(" ", "")


def test_report_without_failures_has_no_table() -> None:
    """Where nothing failed there is nothing to explain."""
    assert "reason" not in shown(render_report(Report(rows=1, written=1, finished=True)))


def test_report_shows_the_ends_of_tracebacks() -> None:
    """Eight lines of each, as they are printed by Python, and nothing that moves the cursor."""
    frames = "".join(f'  File "/home/me/train.py", line {n}, in step_{n}\n    call_{n}()\n' for n in range(1, 9))
    trace = f"Traceback (most recent call last):\n{frames}ValueError: \x1b[2Jbad"
    report = Report(rows=1, failed=1, reasons={"transform.error": 1}, tracebacks={"ValueError at train.py:8": trace})
    text = shown(render_report(report))
    assert "raised: ValueError at train.py:8\n" in text
    assert "    call_5()\n" in text
    assert "step_5" not in text
    assert "ValueError: \N{REPLACEMENT CHARACTER}[2Jbad" in text


def test_report_of_a_run_that_went_on() -> None:
    """What was done before is told apart from what was done now."""
    text = words(render_report(Report(rows=50, written=50, seconds=1, rows_before=20, rows_settled=30, finished=True)))
    assert "20 rows were done before, 30 now" in text


def test_report_of_a_run_that_was_stopped() -> None:
    """Rows whose shard is not whole are named, and nothing is negative."""
    stopped = Report(rows=0, seconds=1, rows_before=5_000, rows_settled=200, rows_waiting=5_200)
    text = words(render_report(stopped))
    assert "5,000 rows were done before, 200 now" in text
    assert "5,200 more rows are done" in text
    assert "the same command goes on" in text


def test_report_of_a_retry_tells_its_speed() -> None:
    """A run that only fetched failed rows again has added no row, and has taken time all the same."""
    retried = Report(
        rows=50, written=50, seconds=7, rows_before=50, rows_settled=2, finished=True, verdict="network: slow"
    )
    assert "50 rows were done before, 2 now" in words(render_report(retried))
    assert "7.0 s" in words(render_report(retried))
    assert "network: slow" in words(render_report(retried))


def test_report_of_nothing_to_do_tells_no_speed() -> None:
    """Where nothing was done there is no speed."""
    assert "images/s" not in words(render_report(Report(rows=50, written=50, rows_before=50, finished=True)))


def test_report_survives_json() -> None:
    """What ``report.json`` holds makes the same report, and later additions do no harm."""
    values = json.loads(json.dumps(FULL.as_dict()))
    assert Report.from_dict({**values, "later": 1}) == FULL


def test_json_has_what_scripts_rely_on() -> None:
    """The documented entries are there."""
    promised = (
        "rows written failed skipped seconds images_per_second bytes_downloaded reasons verdict strategy workers "
        "connections peak_rss_bytes"
    )
    assert set(promised.split()) <= FULL.as_dict().keys()


def test_shares() -> None:
    """Success and speed of an empty report are no division by zero."""
    assert Report().success == 1.0
    assert Report().megabytes_per_second == 0.0
    assert FULL.success == 0.998
    assert FULL.with_account(Account(rows=4, written=1, failed=3, reasons={"http.gone": 3})).success == 0.25


def test_failures_at_80_columns() -> None:
    """Every reason with its count, its meaning, whether again is of use, and its examples."""
    rows = [failed(i, Reason.HTTP_NOT_FOUND, f"http://a/{'x' * 90}/{i}", "HTTP 404") for i in range(1200)]
    rows.append(failed(7777, Reason.TIMEOUT_IDLE))
    text = shown(render_failures(group_by_reason(rows)))
    assert max(map(len, text.splitlines())) <= 80
    for part in ("1,200", "http.not_found: 404", "no use", "timeout.idle: the server fell silent", "--retry-failed"):
        assert part in text
    assert "000000002" in text
    assert "000000003" not in text


def test_no_failures() -> None:
    """Nothing is said plainly."""
    assert words(render_failures([])) == "no row failed or was skipped"


def test_urls_cannot_speak_to_the_terminal() -> None:
    """Control characters and markup in a list are shown, not obeyed, and a URL of a megabyte is cut."""
    evil = failed(0, Reason.URL_INVALID, "http://a/[red]x[/red]\x1b[31m\x07\r\nb" + "y" * 2**20)
    text = shown(render_failures(group_by_reason([evil])))
    assert text.isprintable() or set(text) - {"\n"} <= {c for c in text if c.isprintable()}
    assert "[red]x[/red]" in text
    assert len(text.splitlines()) < 20


def test_groups_are_in_order_of_their_size() -> None:
    """The commonest first, then by name; so many examples and no more."""
    reasons = [Reason.URL_MISSING, Reason.HTTP_GONE, Reason.HTTP_GONE, Reason.DNS_TIMEOUT]
    groups = group_by_reason([failed(i, reason) for i, reason in enumerate(reasons)], examples=1)
    assert [(group.reason, group.count) for group in groups] == [
        ("http.gone", 2),
        ("dns.timeout", 1),
        ("url.missing", 1),
    ]
    assert [group.worth_retrying for group in groups] == [False, True, False]
    assert [len(group.examples) for group in groups] == [1, 1, 1]


def write_shard(
    store: ShardStore, shard: int, ends: dict[int, Reason | None], earlier: dict[str, int] | None = None
) -> ShardReport:
    """A shard with these rows: None for a written one."""
    opened = store.open(shard)
    for index, reason in ends.items():
        row = Row(index, (Request("image", f"http://a/{index}"),), f"caption {index}")
        if reason is None:
            opened.add(Settled(Outcome(row, Kind.WRITTEN), Sample({"jpg": b"x"})))
        else:
            opened.add(Settled(Outcome(row, Kind.FAILED, reason, "detail", attempts=2)))
    report = opened.commit()
    store.forget(shard)
    return ShardReport(
        **{name: getattr(report, name) for name in report.__slots__ if name != "retried"}, retried=earlier or {}
    )


@pytest.fixture
def shards(tmp_path: Path) -> list[ShardReport]:
    """Four rows of which three failed; two of these were retried, and one of them failed again, in another way."""
    store = ShardStore(tmp_path, OutputConfig(caption_column="text"), run_id="id")
    first: dict[int, Any] = {0: None, 1: Reason.HTTP_GONE, 2: Reason.TIMEOUT_IDLE, 3: Reason.TIMEOUT_IDLE}
    return [
        write_shard(store, 0, first),
        write_shard(store, 1, {2: None, 3: Reason.CONNECT_REFUSED}, {Reason.TIMEOUT_IDLE.value: 2}),
    ]


def by_number(shards: Iterable[ShardReport]) -> dict[int, ShardReport]:
    return {report.shard: report for report in shards}


def test_retried_rows_count_by_their_last_attempt(tmp_path: Path, shards: list[ShardReport]) -> None:
    """A row that failed twice is one failure, with its last reason; one that was written the second time is none."""
    rows = list(read_failures(tmp_path, by_number(reversed(shards)), ("caption",)))
    assert [(row.index, row.reason) for row in rows] == [(1, "http.gone"), (3, "connect.refused")]
    assert (rows[0].url, rows[0].error_message, rows[0].attempts, rows[0].fields) == (
        "http://a/1",
        "detail",
        2,
        {"caption": "caption 1"},
    )
    account = Account.of(shards)
    account.check(4)
    assert account.reasons == {"connect.refused": 1, "http.gone": 1}


def test_failures_without_their_table(tmp_path: Path, shards: list[ShardReport]) -> None:
    """A missing table is named, with what helps."""
    (tmp_path / "00000.parquet").unlink()
    with pytest.raises(SourceError, match=r"00000\.parquet.*penstock verify"):
        list(read_failures(tmp_path, by_number(shards)))


@pytest.mark.parametrize("place", [4, -200])
def test_failures_of_a_damaged_table(tmp_path: Path, shards: list[ShardReport], place: int) -> None:
    """Damage in the pages or at the end of a table is named like a missing one."""
    path = tmp_path / "00000.parquet"
    data = bytearray(path.read_bytes())
    data[place : place + 150] = bytes(150)
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"00000\.parquet"):
        list(read_failures(tmp_path, by_number(shards)))


@pytest.mark.parametrize(
    ("shares", "stage"),
    [
        (Shares(crew_busy=0.9, crew_waiting=0.0, consumer=0.6, source=0.6, connections=2), "CPU"),
        (Shares(crew_busy=0.7, crew_waiting=0.6, consumer=0.6, source=0.6, connections=2), "CPU"),
        (Shares(crew_busy=0.7, crew_waiting=0.1, consumer=0.6, source=0.6, connections=2), "output"),
        (Shares(crew_busy=0.7, crew_waiting=0.1, consumer=0.1, source=0.6, connections=2), "source"),
        (Shares(crew_busy=0.7, crew_waiting=0.1, consumer=0.1, source=0.1, connections=2), "network, by limit"),
        (Shares(crew_busy=0.7, crew_waiting=0.1, consumer=0.1, source=0.1, connections=0.5), "network"),
    ],
)
def test_verdict(shares: Shares, stage: str) -> None:
    """The stage that was full is named, the nearest to the output first, with the figure."""
    text = verdict(shares, workers=4, connections=256, per_host=8)
    assert text.partition(":")[0] == stage
    assert "%" in text
    assert "\n" not in text


def test_verdict_names_the_limits() -> None:
    """Where the limits hold the run up, the message says which options they are."""
    text = verdict(Shares(0.1, 0.0, 0.0, 0.0, 3.0), workers=4, connections=99, per_host=7)
    assert "--connections 99" in text
    assert "--per-host 7" in text


def test_contact_sheet_of_nothing() -> None:
    """A run in which everything failed has a sheet, too: an empty one."""
    assert contact_sheet([], columns=2, tile=10, gap=1).size == (23, 12)
