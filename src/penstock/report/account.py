"""The account: how many rows ended how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from penstock.errors import AccountError
from penstock.records import Kind, Reason, ShardReport

__all__ = ["Account"]


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
        """The account over committed shards.

        A shard of retried rows counts no row twice: its rows were failed or skipped before, and those it takes back.
        """
        totals: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        for shard in shards:
            again = Counter[Kind]()
            for reason, count in shard.retried.items():
                again[Reason.named(reason).kind] += count
            totals.update(
                rows=shard.rows - again.total(),
                written=shard.written,
                failed=shard.failed - again[Kind.FAILED],
                skipped=shard.skipped - again[Kind.SKIPPED],
                size=shard.size_downloaded,
            )
            reasons.update(shard.reasons)
            reasons.subtract(shard.retried)
        return cls(
            totals["rows"],
            totals["written"],
            totals["failed"],
            totals["skipped"],
            {reason: count for reason, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0])) if count},
            totals["size"],
        )

    def check(self, expected_rows: int | None = None) -> None:
        """Raise AccountError unless every row has exactly one outcome and every failure one reason."""
        closes = self.rows == self.written + self.failed + self.skipped
        reasoned = sum(self.reasons.values()) == self.failed + self.skipped
        complete = expected_rows is None or self.rows == expected_rows
        if not (closes and reasoned and complete and min(self.written, self.failed, self.skipped) >= 0):
            wanted = "" if expected_rows is None else f", expected {expected_rows} rows"
            raise AccountError(f"the account does not close: {self}{wanted}; please report this with your command")
