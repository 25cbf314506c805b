"""The account: how many rows ended how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from penstock.errors import AccountError
from penstock.records import Kind, Reason, ShardReport

__all__ = ["Account", "RunningAccount"]


@dataclass(frozen=True, slots=True)
class Account:
    """Rows by outcome. It closes: ``rows = written + failed + skipped``.

    >>> Account(rows=3, written=2, failed=1, reasons={"http.not_found": 1}).check()
    """

    rows: int = 0
    written: int = 0
    failed: int = 0
    skipped: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    """Rows that were not written, by reason."""
    bytes_downloaded: int = 0

    @classmethod
    def of(cls, shards: Iterable[ShardReport]) -> Account:
        """The account over committed shards."""
        running = RunningAccount()
        for shard in shards:
            running.add(shard)
        return running.account

    def check(self, expected_rows: int | None = None) -> None:
        """Raise AccountError unless every row has exactly one outcome and every failure one reason."""
        closes = self.rows == self.written + self.failed + self.skipped
        reasoned = sum(self.reasons.values()) == self.failed + self.skipped
        complete = expected_rows is None or self.rows == expected_rows
        if not (closes and reasoned and complete and min(self.written, self.failed, self.skipped) >= 0):
            wanted = "" if expected_rows is None else f", expected {expected_rows} rows"
            raise AccountError(f"the account does not close: {self}{wanted}; please report this with your command")


class RunningAccount:
    """An account that shards are added to and taken out of.

    A shard of retried rows counts no row twice: its rows were failed or skipped before, and those it takes back.
    """

    def __init__(self) -> None:
        self._totals: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()

    def add(self, shard: ShardReport) -> None:
        """A shard exists."""
        self._count(shard, 1)

    def remove(self, shard: ShardReport) -> None:
        """A shard that was added exists no more."""
        self._count(shard, -1)

    def _count(self, shard: ShardReport, sign: int) -> None:
        again = Counter[Kind]()
        for reason, count in shard.retried.items():
            again[Reason.named(reason).kind] += count
            self._reasons[reason] -= sign * count
        for reason, count in shard.reasons.items():
            self._reasons[reason] += sign * count
        totals = self._totals
        totals["rows"] += sign * (shard.rows - again.total())
        totals["written"] += sign * shard.written
        totals["failed"] += sign * (shard.failed - again[Kind.FAILED])
        totals["skipped"] += sign * (shard.skipped - again[Kind.SKIPPED])
        totals["size"] += sign * shard.size_downloaded

    @property
    def account(self) -> Account:
        """As it stands."""
        totals = self._totals
        reasons = sorted(self._reasons.items(), key=lambda item: (-item[1], item[0]))
        return Account(
            totals["rows"],
            totals["written"],
            totals["failed"],
            totals["skipped"],
            {reason: count for reason, count in reasons if count},
            totals["size"],
        )
