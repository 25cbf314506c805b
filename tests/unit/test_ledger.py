"""The ledger, the manifest and the account: pure decisions."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import RunConfig
from penstock.errors import AccountError, OutputRefusedError
from penstock.ledger import (
    IDENTITY,
    Ledger,
    Manifest,
    finished_entry,
    lost_entry,
    run_entry,
    shard_entry,
    shard_from_json,
)
from penstock.records import Kind, Reason, ShardFile, ShardReport
from penstock.report.account import Account

REASONS = [reason.value for reason in Reason]


def shard(number: int, written: int, reasons: dict[str, int], retried: dict[str, int] | None = None) -> ShardReport:
    skipped = sum(count for reason, count in reasons.items() if Reason.named(reason).kind is Kind.SKIPPED)
    return ShardReport(
        shard=number,
        rows=written + sum(reasons.values()),
        written=written,
        failed=sum(reasons.values()) - skipped,
        skipped=skipped,
        reasons=reasons,
        size_downloaded=10,
        files=(ShardFile(f"{number:05d}.tar", 3, "ab"),),
        first=0,
        last=9,
        rows_sha256="00",
        retried=retried or {},
    )


def manifest(**options: Any) -> Manifest:
    return Manifest.of("id", {"files": ["a"]}, RunConfig(**options), {})


@st.composite
def histories(draw: st.DrawFn) -> list[ShardReport]:
    """Shards of a list, then shards of retried rows, each of rows that had failed before."""
    base = draw(
        st.lists(st.tuples(st.integers(0, 9), st.dictionaries(st.sampled_from(REASONS), st.integers(1, 5))), max_size=8)
    )
    shards = [shard(number, written, reasons) for number, (written, reasons) in enumerate(base)]
    failed = Account.of(shards).reasons
    for _ in range(draw(st.integers(0, 3))):
        again = {reason: draw(st.integers(0, count)) for reason, count in failed.items()}
        again = {reason: count for reason, count in again.items() if count}
        rows = sum(again.values())
        if not rows:
            break
        still = draw(st.integers(0, rows))
        reasons = {draw(st.sampled_from(REASONS)): still} if still else {}
        shards.append(shard(len(shards), rows - still, reasons, again))
        failed = Account.of(shards).reasons
    return shards


@given(histories(), st.randoms(use_true_random=False))
def test_any_order_of_shards_closes_the_account(shards: list[ShardReport], random: Any) -> None:
    """Whatever was retried how often, and in whatever order the lines come, rows are counted once and all have reasons."""
    rows = sum(report.rows for report in shards if not report.retried)
    entries = [shard_entry(report) for report in shards]
    random.shuffle(entries)
    ledger = Ledger.replay(json.dumps(entry) + "\n" for entry in entries)
    ledger.account.check(rows)
    assert ledger.account == Account.of(shards)


@given(histories())
def test_journal_lines_are_read_back_as_written(shards: list[ShardReport]) -> None:
    """A report survives its journal line."""
    for report in shards:
        assert shard_from_json(json.loads(json.dumps(shard_entry(report)))) == report


def test_cut_line_counts_for_nothing() -> None:
    """A line without its newline was being written when the process died."""
    lines = [json.dumps(entry) + "\n" for entry in (run_entry(manifest()), shard_entry(shard(0, 1, {})))]
    ledger = Ledger.replay([*lines, json.dumps(shard_entry(shard(1, 1, {})))])
    assert set(ledger.shards) == {0}
    assert ledger.next_shard == 1
    assert ledger.finished_rows is None


def test_finished_line() -> None:
    """The end of the list is known once its line is there."""
    assert Ledger.replay([json.dumps(finished_entry(7)) + "\n"]).finished_rows == 7


def with_rows(report: ShardReport, first: int, last: int) -> ShardReport:
    return dataclasses.replace(report, first=first, last=last)


def test_skipped_rows_are_taken_back_from_the_skipped() -> None:
    """A row that was skipped and is written now was never failed."""
    later = Reason.OPTOUT_ROBOTS_UNREACHABLE.value
    account = Account.of([shard(0, 1, {later: 2, "http.gone": 1}), shard(1, 1, {later: 1}, {later: 2})])
    account.check(4)
    assert (account.written, account.failed, account.skipped) == (2, 1, 1)


def test_lost_shard_takes_those_with_it_that_retried_its_rows() -> None:
    """Its rows will have new outcomes, so nothing may take the earlier ones back; finished is the list no more."""
    failing = {"timeout.idle": 1}
    shards = [
        with_rows(shard(0, 3, failing), 0, 3),
        with_rows(shard(1, 3, failing), 4, 7),
        with_rows(shard(2, 0, failing, failing), 2, 2),
        with_rows(shard(3, 1, {}, failing), 5, 5),
        with_rows(shard(4, 1, {}, failing), 2, 2),
    ]
    entries = [*map(shard_entry, shards), finished_entry(8)]
    ledger = Ledger.replay(json.dumps(entry) + "\n" for entry in entries)
    assert [report.shard for report in ledger.lost_with(0)] == [0, 2, 4]
    assert [report.shard for report in ledger.lost_with(2)] == [2, 4]
    ledger.apply(lost_entry(2))
    assert (sorted(ledger.shards), ledger.finished_rows) == ([0, 1, 3], 8)
    ledger.account.check(8)
    ledger.apply(lost_entry(1))
    assert (sorted(ledger.shards), ledger.finished_rows, ledger.list_rows) == ([0], None, 8)
    ledger.apply(lost_entry(1))
    assert sorted(ledger.shards) == [0]


class Story:
    """A folder's life: rows get outcomes shard by shard, are retried, are lost, and are done again."""

    BASE, SIZE = 3, 4

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.ledger = Ledger()
        self.lines: list[str] = []
        self.held: dict[int, dict[int, str | None]] = {}
        self.states: list[dict[int, dict[int, str | None]]] = [{}]
        """After each line: the rows that a shard of this number holds, with their reasons, if it exists."""

    def outcomes(self) -> dict[int, str | None]:
        """What has become of each row, by the last shard that exists and holds it."""
        return final_outcomes(self.held, set(self.ledger.shards))

    def step(self) -> None:
        """One thing happens."""
        missing = [number for number in range(self.BASE) if number not in self.ledger.shards]
        happens = ["lost"] * bool(self.ledger.shards) + (["shard"] * 3 if missing else ["finished", "retry", "retry"])
        match self.draw(st.sampled_from(happens)):
            case "shard":
                number = self.draw(st.sampled_from(missing))
                self.commit(number, list(range(number * self.SIZE, (number + 1) * self.SIZE)), {})
            case "lost":
                self.tell(lost_entry(self.draw(st.sampled_from(sorted(self.ledger.shards)))))
            case "finished":
                self.tell(finished_entry(self.BASE * self.SIZE))
            case "retry":
                failed = {row: reason for row, reason in self.outcomes().items() if reason is not None}
                rows = [row for row in sorted(failed) if self.draw(st.booleans())]
                if rows:
                    self.commit(self.ledger.next_shard, rows, Counter(failed[row] or "" for row in rows))

    def commit(self, number: int, rows: list[int], retried: dict[str, int]) -> None:
        some = st.sampled_from([None, "timeout.idle", "http.gone", "optout.robots_unreachable"])
        self.held[number] = {row: self.draw(some) for row in rows}
        reasons = Counter(reason for reason in self.held[number].values() if reason is not None)
        report = shard(number, len(rows) - reasons.total(), dict(reasons), dict(retried))
        self.tell(shard_entry(with_rows(report, rows[0], rows[-1])))

    def tell(self, entry: dict[str, Any]) -> None:
        self.lines.append(json.dumps(entry) + "\n")
        self.ledger.apply(entry)
        self.states.append({number: dict(rows) for number, rows in self.held.items()})


def final_outcomes(held: dict[int, dict[int, str | None]], shards: set[int]) -> dict[int, str | None]:
    outcomes: dict[int, str | None] = {}
    for number in sorted(shards):
        outcomes |= held[number]
    return outcomes


@given(st.data())
def test_any_events_cut_anywhere_close_the_account(data: st.DataObject) -> None:
    """Shards, retries and losses in any order, the journal cut at any byte: each row is counted once, by its last outcome."""
    story = Story(data.draw)
    for _ in range(data.draw(st.integers(0, 14))):
        story.step()
    journal = "".join(story.lines)
    cut = journal[: data.draw(st.integers(0, len(journal)))]
    held = story.states[cut.count("\n")]
    ledger = Ledger.replay(cut.splitlines(keepends=True))
    outcomes = final_outcomes(held, set(ledger.shards))
    base = [number for number in ledger.shards if number < Story.BASE]
    ledger.account.check(len(base) * Story.SIZE)
    assert ledger.account.written == sum(reason is None for reason in outcomes.values())
    assert Counter(ledger.account.reasons) == Counter(reason for reason in outcomes.values() if reason is not None)
    written = [row for number in ledger.shards for row, reason in held[number].items() if reason is None]
    assert len(written) == len(set(written))
    assert {row // Story.SIZE for number in ledger.shards for row in held[number]} == set(base)
    assert ledger.finished_rows is None or len(base) == Story.BASE


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"robots": "ignore"}, "--robots was 'respect' there and is 'ignore' now"),
        ({"opt_outs": "ignore"}, "--opt-outs was 'respect' there"),
        ({"deny_hosts": "example.org"}, r"--deny-hosts was \[\] there and is \['example.org'\] now"),
        ({"insecure": True}, "--insecure was False there and is True now"),
        ({"min_size": 9}, "--min-size was 2 there and is 9 now"),
        ({"max_aspect": 3.0}, "--max-aspect was None there and is 3.0 now"),
    ],
)
def test_manners_and_limits_belong_to_the_run(options: dict[str, Any], difference: str) -> None:
    """What decides which rows are written may not change in the middle of a run."""
    assert set(options) <= set(IDENTITY)
    with pytest.raises(OutputRefusedError, match=difference):
        manifest().check_same(manifest(**options))


def test_same_run_may_go_on_with_another_width() -> None:
    """Options that do not decide what is in a shard may differ."""
    manifest(connections=3, timeout=1).check_same(manifest(workers=2, retries=0, strategy="threads"))


def test_another_run_is_refused_with_the_difference() -> None:
    """The message names each option that differs, with both values."""
    with pytest.raises(OutputRefusedError, match=r"--size was 256 there and is 128 now; --encode was 'jpg'"):
        manifest().check_same(manifest(size=128, encode="png"))


def test_another_list_is_refused() -> None:
    """A changed fingerprint is another run, and so is a list that nobody can compare."""
    other = Manifest.of("id", {"files": ["b"]}, RunConfig(), {})
    with pytest.raises(OutputRefusedError, match=r"the list is not the same \(files differ\)"):
        manifest().check_same(other)
    with pytest.raises(OutputRefusedError, match="only once"):
        manifest().check_same(Manifest.of("id", None, RunConfig(), {}))


@pytest.mark.parametrize(
    "account",
    [
        Account(rows=2, written=1),
        Account(rows=1, failed=1),
        Account(rows=1, written=1, reasons={"http.gone": 1}),
        Account(rows=0, written=1, failed=-1, reasons={"http.gone": -1}),
    ],
)
def test_open_account_is_an_error(account: Account) -> None:
    """Rows without outcome, outcomes without reason, and negative counts are all noticed."""
    with pytest.raises(AccountError):
        account.check()


def test_account_of_fewer_rows_than_the_list_has_is_an_error() -> None:
    """A list of known length must be accounted for as a whole."""
    Account(rows=1, written=1).check(1)
    with pytest.raises(AccountError, match="expected 2 rows"):
        Account(rows=1, written=1).check(2)
