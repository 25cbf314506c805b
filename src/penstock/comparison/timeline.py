"""From readings of a few counters to what the workers' time went into. Pure arithmetic.

The workers' time between two readings is ``workers × seconds``. Of that::

    occupied ─┬─ decoding     inside the work
              ├─ (inside)     the worker downloads for itself: counted as waiting
              └─ hand-over    the rest
    idle ─────┬─ output       for as long as the lane was in its sink, and gave out no rows
              └─ waiting      the rest
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penstock.comparison.results import Shares, Slice

__all__ = ["Reading", "shares_after", "timeline"]

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
    inside: float = 0.0
    """Seconds of downloads that the workers did themselves, summed."""
    consumer: float = 0.0
    """Seconds that the lane was in its sink."""


def timeline(readings: Sequence[Reading], *, workers: int, first_result: float, wall: float) -> tuple[Slice, ...]:
    """The run in slices of equal length.

    Args:
        readings: in order of time; before the first one nothing had happened, and after the last one the lane only
            committed its output.
        workers: decoders.
        first_result: seconds; before it, workers were starting.
        wall: seconds, the whole run.
    """
    count = max(1, min(SLICES, int(wall / SHORTEST)))
    edges = np.linspace(0.0, wall, count + 1)
    times, areas = _areas(readings, workers, first_result, wall)
    at_edges = _interpolated(edges, times, areas)
    return tuple(
        Slice(float(start), float(stop), _shares(after - before))
        for (start, stop), (before, after) in zip(itertools.pairwise(edges), itertools.pairwise(at_edges), strict=True)
    )


def shares_after(readings: Sequence[Reading], *, workers: int, first_result: float, wall: float) -> Shares:
    """What the workers' time went into from the first result to the end."""
    times, areas = _areas(readings, workers, first_result, wall)
    start, end = _interpolated(np.array([first_result, wall]), times, areas)
    return _shares(end - start)


def _areas(
    readings: Sequence[Reading], workers: int, first_result: float, wall: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The seconds of each kind, summed up to each moment: times ``(n,)``, areas ``(n, 5)``."""
    kept = [Reading(0.0), *(reading for reading in readings if 0.0 < reading.at <= wall)]
    times = np.array([*(reading.at for reading in kept), wall])
    lengths = np.diff(times)
    grown = _growth(kept)
    capacity = workers * lengths[:-1]
    occupied = np.clip(grown["occupied"], 0.0, capacity)
    decoding = _settle_backwards(grown["busy"], occupied)
    inside = _settle_backwards(grown["inside"], occupied - decoding)
    idle = capacity - occupied
    output = idle * np.clip(grown["consumer"] / np.maximum(lengths[:-1], 1e-9), 0.0, 1.0)
    kinds = np.zeros((len(lengths), 5))
    kinds[:-1, DECODING], kinds[:-1, HANDOVER] = decoding, occupied - decoding - inside
    kinds[:-1, OUTPUT], kinds[:-1, WAITING] = output, idle - output + inside
    kinds[-1, OUTPUT] = workers * lengths[-1]
    areas = np.vstack([np.zeros(5), np.cumsum(kinds / workers, axis=0)])
    return _with_start(times, areas, first_result)


def _growth(readings: Sequence[Reading]) -> dict[str, npt.NDArray[np.float64]]:
    names = ("busy", "occupied", "inside", "consumer")
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


def _with_start(
    times: npt.NDArray[np.float64], areas: npt.NDArray[np.float64], first_result: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """All that was before the first result is the start."""
    (until,) = _interpolated(np.array([first_result]), times, areas)
    later = times > first_result
    start = np.zeros(5)
    start[STARTING] = first_result
    return (
        np.concatenate([[0.0, first_result], times[later]]),
        np.vstack([np.zeros(5), start, areas[later] - until + start]),
    )


def _interpolated(
    at: npt.NDArray[np.float64], times: npt.NDArray[np.float64], areas: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    return np.stack([np.interp(at, times, areas[:, kind]) for kind in range(areas.shape[1])], axis=1)


def _shares(seconds: npt.NDArray[np.float64]) -> Shares:
    total = max(float(seconds.sum()), 1e-12)
    return Shares(*(float(part) / total for part in np.maximum(seconds, 0.0)))
