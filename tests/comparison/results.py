"""Comparisons as a machine of two cores may give them, for tests of what is made of them."""

from __future__ import annotations

import math
from typing import Any

from penstock.comparison.results import Bound, Comparison, Entry, GilProbe, Judgement, Shares, Slice, Trial

SLICES = 40


def timeline(wall: float, start: float, **shares: float) -> tuple[Slice, ...]:
    """`SLICES` slices of equal length: `start` seconds of starting, then these shares in a gentle wave, waiting else."""
    width = wall / SLICES
    slices = []
    for number in range(SLICES):
        begin = number * width
        starting = min(1.0, max(0.0, (start - begin) / width))
        wave = (1 - starting) * (0.9 + 0.1 * math.sin(number))
        worked = {name: share * wave for name, share in shares.items()}
        waiting = 1 - starting - sum(worked.values())
        slices.append(Slice(begin, begin + width, Shares(starting=starting, waiting=waiting, **worked)))
    return tuple(slices)


def entry(
    name: str,
    *walls: float,
    rows: int = 1000,
    cpu: float = 1.9,
    megabytes: float = 200,
    start: float = 0.1,
    **shares: float,
) -> Entry:
    """A scheme with a trial for each wall time.

    Args:
        name: the scheme.
        walls: seconds; if none are given, three of about two.
        rows: images, too.
        cpu: cores in use, on average.
        megabytes: peak memory.
        start: seconds to the first image.
        shares: what the workers' time went into after the start; the rest is waiting. Nearly all of it decoding, if none.
    """
    shares = shares or {"decoding": 0.9, "handover": 0.05, "output": 0.02}
    trials = [
        Trial(
            rows=rows,
            written=rows,
            wall=wall,
            first_image=start,
            cpu_seconds=cpu * wall,
            own_cpu_seconds=0.3 * wall,
            peak_bytes=round(megabytes * 1e6),
            busy=shares.get("decoding", 0.0),
            workers=2,
            shares=Shares(waiting=1 - sum(shares.values()), **shares),
            timeline=timeline(wall, start, **shares),
        )
        for wall in walls or (2.0, 1.9, 2.1)
    ]
    return Entry(name, tuple(trials))


def failed(name: str, failure: str = "the workers died at once") -> Entry:
    """A scheme that could not be measured."""
    return Entry(name, failure=failure)


def comparison(*entries: Entry, **values: Any) -> Comparison:
    """The entries in their order, the quickest first, with all that belongs to them; `values` replace parts of it."""
    measured = sorted((entry for entry in entries if entry.measured), key=lambda entry: entry.wall)
    unmeasured = [entry for entry in entries if not entry.measured]
    parts: dict[str, Any] = {
        "workload": "images",
        "source": "",
        "rows": 1000,
        "runs": 3,
        "entries": (*measured, *unmeasured),
        "gil": GilProbe(threads=2, one=231.0, all=449.0, reference=1.98),
        "judgement": JUDGEMENT if measured else None,
        "machine": {"cores": 2, "python": "3.11.7", "gil": "on", "pillow": "13.0.0"},
    }
    return Comparison(**parts | values)


JUDGEMENT = Judgement(
    Bound.GIL_RELEASED,
    (
        "The workers were inside the work 92% of the time, and waited for a row 3% of it.",
        "The work alone, on bytes in memory: one thread does 231 images/s, two do 449.",
        "Threads and processes differ by 4%, which is less than three runs of the same differ.",
    ),
    "asyncio",
    "the quickest; here it means: an event loop downloads, 2 processes decode, so that a crash costs one image",
    "penstock run https://datasets.example.com/collections/2024/photographs-with-captions.parquet --out images"
    " --strategy asyncio --workers 2 --connections 256",
)

IMAGES = comparison(
    entry("asyncio", 2.31, 2.25, 2.40, cpu=1.95, megabytes=412, start=0.42),
    entry("hybrid", 2.38, 2.36, 2.49, cpu=1.94, megabytes=431, start=0.44),
    entry("threads", 2.44, 2.41, 2.46, cpu=1.90, megabytes=188, decoding=0.86, handover=0.09, output=0.03),
    entry("processes", 3.92, 3.80, 4.11, cpu=1.20, megabytes=455, start=0.61, decoding=0.48, handover=0.05),
    entry("textbook threads", 14.3, 14.1, 14.4, cpu=1.1, megabytes=132, decoding=0.38, handover=0.2),
    entry("textbook processes", 34.5, 34.1, 35.0, cpu=0.5, megabytes=222, start=0.8, decoding=0.13, handover=0.1),
    entry("textbook hybrid", 14.5, 13.9, 16.2, cpu=1.2, megabytes=260, start=0.7, decoding=0.35, handover=0.45),
    failed("auto", "the workers cannot be started: no module named 'transforms'"),
    notes=(
        "Fewer rows than asked for: the list has 1,000 of 5,000.",
        "The start of the workers is 18% of the quickest run.",
    ),
)
"""Five strategies, of which three tie and one fails, and the textbook's three; the last is cut off in a plot."""

IO = comparison(
    entry("asyncio", 1.22, 1.20, 1.24, cpu=0.8, start=0.35, decoding=0.02, handover=0.03, output=0.05),
    entry("threads", 1.41, 1.40, 1.47, cpu=0.9, decoding=0.02, handover=0.06, output=0.05),
    entry("hybrid", 1.52, 1.50, 1.53, cpu=0.9, start=0.37, decoding=0.02, handover=0.08, output=0.05),
    entry("processes", 25.8, 25.7, 25.9, cpu=0.1, start=0.5, decoding=0.01, handover=0.01),
    workload="io",
    judgement=Judgement(
        Bound.NETWORK,
        ("The workers were inside the work 2% of the time, and waited for a row 90% of it.",),
        "asyncio",
        "the quickest of those measured",
        "penstock run urls.txt --out images --strategy asyncio",
    ),
)
"""No ties, and one that takes 20 times as long as the others."""

HICCUP = comparison(entry("asyncio", 2.3, 2.2, 2.4), entry("threads", 2.5, 2.4, 52.5), entry("hybrid", 3.1, 3.0, 3.1))
"""A single run that took 20 times as long as all others."""
