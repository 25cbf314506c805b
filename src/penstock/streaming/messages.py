"""What a pump and the training loop say to each other; see `penstock.streaming.pump`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.errors import PenstockError
from penstock.flow import LaneStatistics
from penstock.records import Outcome, PartOutcome
from penstock.streaming.layout import Layout

__all__ = [
    "Assembled",
    "Broken",
    "Ended",
    "EpochEnded",
    "EpochFed",
    "Fallen",
    "Logged",
    "Message",
    "Output",
    "Taken",
    "Tick",
]


@dataclass(frozen=True, slots=True)
class Assembled:
    """Pump: a batch is ready."""

    epoch: int
    positions: tuple[int, ...]
    """Of its rows, in this stream's order of the epoch."""
    keys: list[str]
    fields: Mapping[str, list[Any]]
    captions: list[str | None]
    layout: Layout
    slab: int | None
    """Offset in the arena; None if the arrays come with the message."""
    inline: npt.NDArray[np.uint8] | None
    """The slab's bytes, where there is no arena."""
    loose: Mapping[str, list[Any]]
    """The parts that are no stacks: bytes, or arrays of which rows have any number."""
    part_outcomes: list[Mapping[str, PartOutcome]]
    outcomes: tuple[Outcome, ...]
    downloaded: int
    """Bytes, for its rows."""
    last: bool
    """Of its epoch."""


@dataclass(frozen=True, slots=True)
class EpochEnded:
    """Pump: the last batch of the epoch has gone out before; these rows fell out after it."""

    epoch: int
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True)
class Fallen:
    """Pump: so many rows fell out that they do not wait for the next batch."""

    epoch: int
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """Pump: so far."""

    statistics: LaneStatistics
    resident_bytes: int


@dataclass(frozen=True, slots=True)
class Ended:
    """Pump: all epochs are done."""


@dataclass(frozen=True, slots=True)
class Broken:
    """Pump: the stream cannot go on."""

    error: PenstockError
    outcomes: tuple[Outcome, ...] = ()
    """Rows that fell out since the last batch: for the report. Whoever goes on from the state tries them again."""


@dataclass(frozen=True, slots=True)
class Logged:
    """Pump in a process of its own: a line for the log."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Taken:
    """Training loop: I have taken a batch, and nobody holds these slabs any more."""

    freed: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EpochFed:
    """Feeder: all rows of this epoch have gone in."""

    epoch: int


Output = Assembled | EpochEnded | Fallen | Broken
"""What an assembler gives."""

Message = Output | Tick | Ended | Logged
