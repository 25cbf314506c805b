"""The ledger, the manifest and the account: pure decisions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import RunConfig
from penstock.errors import AccountError, OutputRefusedError
from penstock.ledger import Ledger, Manifest, finished_entry, run_entry, shard_entry, shard_from_json
from penstock.records import Reason, ShardFile, ShardReport
from penstock.report.account import Account

REASONS = [reason.value for reason in Reason]


def shard(number: int, written: int, reasons: dict[str, int], retried: dict[str, int] | None = None) -> ShardReport:
    failed = sum(reasons.values())
    return ShardReport(
        shard=number,
        rows=written + failed,
        written=written,
        failed=failed,
        skipped=0,
        reasons=reasons,
        size_downloaded=10,
        files=(ShardFile(f"{number:05d}.tar", 3, "ab"),),
        first=0,
        last=9,
        rows_sha256="00",
        retried=retried or {},
    )


def manifest(**options: Any) -> Manifest:
    return Manifest.of("id", {"files": ["a"]}, RunConfig(**options), None)


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


def test_same_run_may_go_on_with_another_width() -> None:
    """Options that do not decide what is in a shard may differ."""
    manifest(connections=3, timeout=1).check_same(manifest(workers=2, retries=0, strategy="threads"))


def test_another_run_is_refused_with_the_difference() -> None:
    """The message names each option that differs, with both values."""
    with pytest.raises(OutputRefusedError, match=r"--size was 256 there and is 128 now; --encode was 'jpg'"):
        manifest().check_same(manifest(size=128, encode="png"))


def test_another_list_is_refused() -> None:
    """A changed fingerprint is another run, and so is a list that nobody can compare."""
    other = Manifest.of("id", {"files": ["b"]}, RunConfig(), None)
    with pytest.raises(OutputRefusedError, match=r"the list is not the same \(files differ\)"):
        manifest().check_same(other)
    with pytest.raises(OutputRefusedError, match="only once"):
        manifest().check_same(Manifest.of("id", None, RunConfig(), None))


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
