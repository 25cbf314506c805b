"""What a lane process and its parent say to each other; see `penstock.engines.lanes`. Tasks of a cluster end alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.crew.script import Script
from penstock.engines.work import Progress, Summary
from penstock.errors import PenstockError
from penstock.flow import LaneStatistics
from penstock.records import ShardReport
from penstock.source import SourceSpec

__all__ = ["Broken", "Committed", "Ended", "Lost", "Lot", "Shard", "Start", "Stop", "Tick", "Want"]


@dataclass(frozen=True, slots=True)
class Start:
    """Parent: what the lane must know. The job is pickled apart, since loading it may need the user's script."""

    job: bytes
    script: Script | None
    source: SourceSpec
    committed: Mapping[int, str]
    parent: int
    """Process id of the parent."""


@dataclass(frozen=True, slots=True)
class Lot:
    """Parent: rows to do, as positions in the list."""

    shard: int
    first: int
    stop: int


@dataclass(frozen=True, slots=True)
class Want:
    """Lane: give me another lot."""

    ended: bool
    """The list came to its end inside the last one."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Lane: this shard has its final names."""

    report: ShardReport


@dataclass(frozen=True, slots=True)
class Committed:
    """Parent: the journal has the shard's line."""

    shard: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Parent: take no more rows."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Lane: so far."""

    progress: Progress
    statistics: LaneStatistics


@dataclass(frozen=True, slots=True)
class Ended:
    """Lane: done."""

    summary: Summary


@dataclass(frozen=True, slots=True)
class Broken:
    """Lane: the run cannot go on."""

    error: PenstockError


@dataclass(frozen=True, slots=True)
class Lost:
    """An engine: whoever worked on it is gone, or was never heard of."""

    why: str
