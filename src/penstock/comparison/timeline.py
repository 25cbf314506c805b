"""From readings of a few counters to what the workers' time went into. Pure arithmetic.

The workers' time between two readings is ``workers × seconds``. Of that::

    (no capacity)             starting: before the first result of the worker's lane, or after its last
    occupied ─┬─ decoding     inside the work
              ├─ (inside)     the worker downloads for itself: counted as waiting
              └─ hand-over    the rest
    idle ─────┬─ output       for as long as the lane was in its sink, and gave out no rows
              └─ waiting      the rest

After the last reading the lanes only commit their output.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penstock.comparison.results import Shares, Slice

__all__ = ["Reading", "shares_at_work", "timeline"]

SLICES = 60
"""At most; more than that are thinner than a plot shows."""

SHORTEST = 0.05
"""Seconds that a slice lasts at least: as often as readings are taken."""

STARTING, WAITING, DECODING, HANDOVER, OUTPUT = range(5)


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters of a run at one moment: they only grow."""

    at: float
    """Seconds since the run began."""
    busy: float = 0.0
    """Seconds inside the work, summed over the workers. A row's are added when it is done."""
    occupied: float = 0.0
    """Seconds that workers had a row, summed over them."""
    capacity: float = 0.0
    """Seconds that workers had for work, summed over them: from the first result of their lane to its last."""
    inside: float = 0.0
    """Seconds of downloads that the workers did themselves, summed."""
    consumer: float = 0.0
    """Seconds that the lanes were in their sinks, summed over them."""


def timeline(readings: Sequence[Reading], *, workers: int, wall: float, lanes: int = 1) -> tuple[Slice, ...]:
    """The run in slices of equal length.

    Args:
        readings: in order of time; before the first one nothing had happened.
        workers: decoders, over all lanes.
        wall: seconds, the whole run.
        lanes: pipelines side by side.
    """
    count = max(1, min(SLICES, int(wall / SHORTEST)))
    edges = np.linspace(0.0, wall, count + 1)
    times, areas = _areas(readings, workers, wall, lanes)
    at_edges = np.stack([np.interp(edges, times, area) for area in areas.T], axis=1)
    return tuple(
        Slice(float(start), float(stop), _shares(after - before))
        for (start, stop), (before, after) in zip(itertools.pairwise(edges), itertools.pairwise(at_edges), strict=True)
    )


def shares_at_work(readings: Sequence[Reading], *, workers: int, wall: float, lanes: int = 1) -> Shares:
    """What the workers' time went into, start aside."""
    _, areas = _areas(readings, workers, wall, lanes)
    areas[-1, STARTING] = 0.0
    return _shares(areas[-1])


def _areas(
    readings: Sequence[Reading], workers: int, wall: float, lanes: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The workers' seconds of each kind, summed up to each moment: times ``(n,)``, areas ``(n, 5)``."""
    kept = [Reading(0.0), *(reading for reading in readings if 0.0 < reading.at <= wall)]
    times = np.array([*(reading.at for reading in kept), wall])
    *lengths, rest = np.diff(times)
    kinds = np.zeros((len(times), 5))
    kinds[1:-1] = _kinds(kept, np.array(lengths), workers, lanes)
    kinds[-1, OUTPUT] = workers * rest
    return times, np.cumsum(kinds, axis=0)


def _kinds(
    readings: Sequence[Reading], lengths: npt.NDArray[np.float64], workers: int, lanes: int
) -> npt.NDArray[np.float64]:
    """The workers' seconds of each kind between two readings and the next: ``(n - 1, 5)``."""
    grown = _growth(readings)
    capacity = np.clip(grown["capacity"], 0.0, workers * lengths)
    occupied = np.clip(grown["occupied"], 0.0, capacity)
    decoding = _settle_backwards(grown["busy"], occupied)
    inside = _settle_backwards(grown["inside"], occupied - decoding)
    idle = capacity - occupied
    output = idle * np.clip(grown["consumer"] / np.maximum(lanes * lengths, 1e-9), 0.0, 1.0)
    kinds = np.empty((len(lengths), 5))
    kinds[:, STARTING] = workers * lengths - capacity
    kinds[:, DECODING], kinds[:, HANDOVER] = decoding, occupied - decoding - inside
    kinds[:, OUTPUT], kinds[:, WAITING] = output, idle - output + inside
    return kinds


def _growth(readings: Sequence[Reading]) -> dict[str, npt.NDArray[np.float64]]:
    names = ("busy", "occupied", "capacity", "inside", "consumer")
    return {name: np.diff([getattr(reading, name) for reading in readings]) for name in names}


def _settle_backwards(amounts: npt.NDArray[np.float64], room: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Amounts that were booked at their end, moved back to where there was room for them."""
    settled = np.zeros_like(amounts)
    carried = 0.0
    for index in range(len(amounts) - 1, -1, -1):
        carried += amounts[index]
        settled[index] = min(carried, room[index])
        carried -= settled[index]
    return settled


def _shares(seconds: npt.NDArray[np.float64]) -> Shares:
    total = max(float(seconds.sum()), 1e-12)
    return Shares(*(float(part) / total for part in np.maximum(seconds, 0.0)))
