"""The account of one shard, and the statistics file beside it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from penstock.records import Kind, ShardFile, ShardReport

__all__ = ["Tally"]


class Tally:
    """Counts rows of a shard's table."""

    def __init__(self) -> None:
        self._kinds: Counter[str] = Counter()
        self._statuses: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._size = 0

    def add(self, meta: Mapping[str, Any], size: int) -> None:
        """Count one row.

        Args:
            meta: the row of the table.
            size: bytes downloaded for it.
        """
        self._kinds[meta["outcome"]] += 1
        self._statuses[meta["status"]] += 1
        if meta["reason"] is not None:
            self._reasons[meta["reason"]] += 1
        self._size += size

    @property
    def written(self) -> int:
        """Rows that were written."""
        return self._kinds[Kind.WRITTEN]

    def report(self, shard: int, indices: Collection[int], files: tuple[ShardFile, ...]) -> ShardReport:
        """The shard's line in the journal."""
        return ShardReport(
            shard=shard,
            rows=self._kinds.total(),
            written=self.written,
            failed=self._kinds[Kind.FAILED],
            skipped=self._kinds[Kind.SKIPPED],
            reasons=dict(sorted(self._reasons.items())),
            size_downloaded=self._size,
            files=files,
            first=min(indices),
            last=max(indices),
        )

    def write(self, path: Path, start: float, end: float) -> None:
        """Write the statistics: the fields that img2dataset's readers know, then our own account.

        Args:
            path: the file to make.
            start: when the work on the shard began, in seconds since the epoch. After a resume: of its last part.
            end: when it ended.
        """
        reasons = dict(sorted(self._reasons.items()))
        statistics = {
            "count": self._kinds.total(),
            "successes": self._statuses["success"],
            "failed_to_download": self._statuses["failed_to_download"],
            "failed_to_resize": self._statuses["failed_to_resize"],
            "duration": end - start,
            "start_time": start,
            "end_time": end,
            "status_dict": {"success": self._statuses["success"], **reasons},
            "rows": self._kinds.total(),
            "written": self.written,
            "failed": self._kinds[Kind.FAILED],
            "skipped": self._kinds[Kind.SKIPPED],
            "reasons": reasons,
        }
        path.write_text(json.dumps(statistics, indent=4) + "\n")
