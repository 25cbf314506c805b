"""What a run has to say at its end: ``report.json``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.report.account import Account

__all__ = ["Report"]


@dataclass(frozen=True, slots=True)
class Report:
    """The account of a folder, and how this run got there.

    The account is of the whole folder; ``seconds``, the rates and the resources are of this run alone, which may have
    gone on where another stopped.
    """

    rows: int = 0
    """Rows of the list that are accounted for: ``written + failed + skipped``."""
    written: int = 0
    """Rows whose image is in a shard."""
    failed: int = 0
    """Rows that gave no image."""
    skipped: int = 0
    """Rows that were not fetched on purpose."""
    seconds: float = 0.0
    """Wall time of this run."""
    images_per_second: float = 0.0
    """Images written by this run, over its seconds."""
    bytes_downloaded: int = 0
    """By this run."""
    reasons: Mapping[str, int] = field(default_factory=dict)
    """Rows not written, by reason, the commonest first."""
    verdict: str = ""
    """The stage that held the others up."""
    strategy: str = ""
    """As asked for; `fetch` and `crew` say what that meant here."""
    workers: int = 0
    """Decoders, over all lanes."""
    connections: int = 0
    """Requests in flight at most."""
    peak_rss_bytes: int = 0
    """Largest resident memory of the process tree, sampled; shared pages count for each process."""
    folder: str = ""
    """The output folder, as it was given."""
    format: str = ""
    """Of the shards."""
    finished: bool = False
    """The whole list is accounted for."""
    rows_before: int = 0
    """Rows that were already done when this run began."""
    rows_settled: int = 0
    """Rows that this run has settled, retried ones among them."""
    rows_waiting: int = 0
    """Of a run that was stopped: rows that are settled and whose shard is not whole yet. The next run takes them over."""
    shards: int = 0
    """Committed shards in the folder."""
    lanes: int = 1
    """Pipelines side by side."""
    fetch: str = ""
    """What downloaded: ``asyncio``, ``threads``, or ``worker`` (each decoder for itself)."""
    crew: str = ""
    """What decoded: ``processes`` or ``threads``."""
    retries: int = 0
    """Attempts beyond the first ones of their rows, by this run."""
    attempts_given_back: int = 0
    """Attempts that failed by this machine's own fault, and were not counted against their rows."""
    waits: Mapping[str, float] = field(default_factory=dict)
    """Seconds for which this run waited for this machine itself, by ``local.*`` reason."""
    loop_lag_seconds: float = 0.0
    """Longest time for which the event loop was held up. Above 1 s the machine is overloaded."""
    ignored: Sequence[str] = field(default_factory=list)
    """What this run was told to ignore: ``robots``, ``opt_outs``, ``certificates``, ``outage``."""
    stages: Mapping[str, float] = field(default_factory=dict)
    """Shares of time, 0 to 1: ``crew_busy``, ``crew_waiting``, ``consumer``, ``source``; and ``connections`` in use."""
    started: str = ""
    """When this run began: ISO 8601, UTC."""
    tracebacks: Mapping[str, str] = field(default_factory=dict)
    """What your own functions raised in this run: a traceback for each kind of exception, by its type and place; at most 20."""
    version: str = ""
    """Of Penstock."""

    def with_account(self, account: Account) -> Report:
        """The same report of another state of the folder."""
        return dataclasses.replace(
            self,
            rows=account.rows,
            written=account.written,
            failed=account.failed,
            skipped=account.skipped,
            reasons=account.reasons,
        )

    @property
    def megabytes_per_second(self) -> float:
        """Downloaded by this run, in 10⁶ bytes a second."""
        return self.bytes_downloaded / 1e6 / self.seconds if self.seconds else 0.0

    @property
    def success(self) -> float:
        """Share of the rows that were written; 1.0 for none."""
        return self.written / self.rows if self.rows else 1.0

    @property
    def path(self) -> Path:
        """The output folder."""
        return Path(self.folder)

    def as_dict(self) -> dict[str, Any]:
        """What ``report.json`` holds."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Report:
        """The report that `as_dict` gave; unknown entries are left out."""
        known = {spec.name for spec in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})
