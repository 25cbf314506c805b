"""What a comparison has found: data, and the arithmetic of medians and spreads.

::

    Comparison ─┬─ entries: Entry ── trials: Trial ─┬─ shares: Shares
                │                                   └─ timeline: Slice …
                ├─ gil: GilProbe
                ├─ judgement: Judgement (bound, evidence, recommendation)
                └─ machine
"""

from __future__ import annotations

import dataclasses
import enum
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from penstock.report.failures import ReasonGroup

__all__ = ["Bound", "Comparison", "Entry", "GilProbe", "Judgement", "Shares", "Slice", "Trial"]


SINGLE_SPREAD = 0.1
"""Share of the wall time by which a single trial may be off. Arbitrary: what two runs on a shared machine differ by."""


class Bound(enum.StrEnum):
    """What a workload spends its time on; the one thing to widen if it is to be faster."""

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Self:
        """Make a member whose value is the name and nothing else."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    NETWORK = "network", "waiting for the network"
    CPU = "cpu", "CPU; whether the work holds the GIL could not be found out"
    GIL_HELD = "cpu-gil-held", "CPU, with the GIL held: only one thread of a process computes at a time"
    GIL_RELEASED = "cpu-gil-released", "CPU, with the GIL released: threads of one process compute side by side"
    LANE = "lane", "CPU of the process that downloads, which holds its GIL: one lane is full"
    HANDOVER = "hand-over", "hand-over: rows on their way between the stages, processes and threads"
    OUTPUT = "output", "the output: writing the results"


@dataclass(frozen=True, slots=True)
class Shares:
    """What the workers' time went into, 0 to 1 each; together they are 1."""

    starting: float = 0.0
    """Before the first result of the worker's lane, while processes start; and after its last one."""
    waiting: float = 0.0
    """The worker had no row, or waited for its own download."""
    decoding: float = 0.0
    """Inside the work: decode and resize, or the user's transform. A thread that waits for the GIL counts here."""
    handover: float = 0.0
    """The worker had a row, and the work was not running: it was packed, sent, received."""
    output: float = 0.0
    """The worker had no row, while the lane was held up by its sink; and the end: commit, processes that end."""


@dataclass(frozen=True, slots=True)
class Slice:
    """A stretch of a run."""

    start: float
    """Seconds since the run began."""
    stop: float
    shares: Shares


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of one scheme over all the rows, measured inside a process of its own."""

    rows: int
    """Of the list."""
    written: int
    """Images."""
    wall: float
    """Seconds from the call to the last file's commit; the start of the interpreter is not in it, that of workers is."""
    first_image: float | None
    """Seconds to the first image; None if there was none."""
    cpu_seconds: float
    """User and system time of the process and of all its children."""
    own_cpu_seconds: float
    """The part of the process itself: the download, the hub and the sink, and the decoders where they are threads."""
    peak_bytes: int
    """Largest resident memory of the process tree, sampled; shared pages count for each process."""
    busy: float
    """Share of the workers' time, from the first result on, inside the work."""
    workers: int
    """Decoders, over all lanes."""
    shares: Shares
    """From the first result to the end, start aside."""
    timeline: tuple[Slice, ...] = ()
    consumer: float = 0.0
    """Share of the hub's time in the sink."""
    fetching: float = 0.0
    """Rows under way or waiting for their turn, on average."""
    in_flight: float = 0.0
    """Of these, rows whose download was under way, on average."""
    fetch: str = ""
    """What downloaded: ``asyncio``, ``threads``, or ``worker``."""
    crew: str = ""
    """What decoded: ``processes`` or ``threads``."""
    lanes: int = 1
    """Pipelines side by side."""

    @property
    def images_per_second(self) -> float:
        """Images over wall time."""
        return self.written / self.wall if self.wall else 0.0

    @property
    def cores(self) -> float:
        """Cores in use, on average."""
        return self.cpu_seconds / self.wall if self.wall else 0.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the table: a scheme and its trials, or why there are none."""

    name: str
    """A strategy, or ``textbook threads``, ``textbook processes``, ``textbook hybrid``."""
    trials: tuple[Trial, ...] = ()
    failure: str = ""
    """Why the scheme could not be measured; empty if it could."""

    @property
    def measured(self) -> bool:
        """Whether there is anything to rank."""
        return bool(self.trials) and not self.failure and self.median.written > 0

    @property
    def median(self) -> Trial:
        """The trial whose wall time is the median (the longer one of the middle two)."""
        return sorted(self.trials, key=lambda trial: trial.wall)[len(self.trials) // 2]

    @property
    def wall(self) -> float:
        """Seconds, of the median trial."""
        return self.median.wall

    @property
    def fastest(self) -> float:
        """Seconds of the quickest trial."""
        return min(trial.wall for trial in self.trials)

    @property
    def slowest(self) -> float:
        """Seconds of the slowest trial."""
        return max(trial.wall for trial in self.trials)

    @property
    def spread(self) -> float:
        """Seconds between the quickest and the slowest trial."""
        return self.slowest - self.fastest

    @property
    def images_per_second(self) -> float:
        """Of the median trial."""
        return self.median.images_per_second

    @property
    def first_image(self) -> float | None:
        """Seconds to the first image, median; None if there was none."""
        firsts = [trial.first_image for trial in self.trials if trial.first_image is not None]
        return statistics.median(firsts) if firsts else None

    @property
    def cpu_per_1000(self) -> float:
        """CPU seconds for 1,000 images, parent and children, median."""
        return statistics.median(1000 * trial.cpu_seconds / max(1, trial.written) for trial in self.trials)

    @property
    def written(self) -> int:
        """Images of the median trial."""
        return self.median.written

    @property
    def peak_bytes(self) -> int:
        """Largest of all trials."""
        return max(trial.peak_bytes for trial in self.trials)

    @property
    def busy(self) -> float:
        """Share of the workers' time inside the work, median."""
        return statistics.median(trial.busy for trial in self.trials)

    def ties_with(self, other: Entry) -> bool:
        """Whether the difference is within the two spreads: measurements that cannot be told apart.

        Both are added, since a few runs on a shared machine seldom show all that it does.
        """
        return abs(self.behind(other)) <= self.uncertainty + other.uncertainty * self.written / other.written

    def behind(self, other: Entry) -> float:
        """Seconds that `other` would have needed less for as many images."""
        return self.wall - other.wall * self.written / other.written

    @property
    def uncertainty(self) -> float:
        """Seconds of difference that say nothing: the spread. A single trial has none; a tenth is taken for it."""
        return self.spread if len(self.trials) > 1 else SINGLE_SPREAD * self.wall


@dataclass(frozen=True, slots=True)
class GilProbe:
    """The work alone, on bytes in memory: by one thread, and by several at the same time.

    >>> GilProbe(threads=2, one=100.0, all=130.0, reference=1.35).released  # two hyper-threads of one core
    True
    """

    threads: int
    one: float
    """Images a second of one thread."""
    all: float
    """Images a second of `threads` threads."""
    reference: float
    """Speed-up of native code that is known to release the GIL, by the same threads: what this machine allows."""

    @property
    def speedup(self) -> float:
        """Near 1: the work holds the GIL. Near `reference`: it releases it (or there is none)."""
        return self.all / self.one if self.one else 0.0

    @property
    def released(self) -> bool:
        """Nearer to `reference` than to 1."""
        return self.speedup >= (1 + self.reference) / 2


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the figures mean."""

    bound: Bound
    evidence: tuple[str, ...]
    """Sentences with figures."""
    strategy: str
    """What to use."""
    why: str
    """One sentence."""
    command: str
    """The setting, as a line to paste."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The strategies side by side; what `penstock.compare` returns and ``penstock compare --json`` prints."""

    workload: str
    """``images``, ``io``, ``python``, ``native``, or the name of the user's transform."""
    source: str
    """The list; empty for Penstock's own server."""
    rows: int
    """Rows that every scheme worked off."""
    runs: int
    """Trials of every scheme."""
    entries: tuple[Entry, ...]
    """The quickest first; what could not be measured last."""
    gil: GilProbe | None = None
    """None where no image could be had, or there is but one core."""
    judgement: Judgement | None = None
    """None if nothing could be measured."""
    notes: tuple[str, ...] = ()
    """What to know when reading the figures: fewer rows than asked for, no GIL, a start that counts much."""
    failures: tuple[ReasonGroup, ...] = ()
    """Rows that gave no image, by reason."""
    machine: Mapping[str, str | int] = field(default_factory=dict)
    """Cores, Python, GIL, library versions."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the comparison and of its runs."""

    @property
    def ranking(self) -> tuple[Entry, ...]:
        """The entries that could be measured, the quickest first."""
        return tuple(entry for entry in self.entries if entry.measured)

    @property
    def best(self) -> Entry | None:
        """The quickest; None if there is none."""
        return next(iter(self.ranking), None)

    def relative(self, entry: Entry) -> float:
        """Speed of a measured entry, the best one's being 1."""
        best = max(other.images_per_second for other in self.ranking)
        return entry.images_per_second / best

    def as_dict(self) -> dict[str, Any]:
        """All of it, and the figures of the table for each entry, as JSON takes it."""
        values = dataclasses.asdict(self)
        for entry, entry_values in zip(self.entries, values["entries"], strict=True):
            entry_values.update(self._figures(entry))
        if self.gil is not None:
            values["gil"].update(speedup=self.gil.speedup, released=self.gil.released)
        return values

    def _figures(self, entry: Entry) -> Iterator[tuple[str, Any]]:
        if entry.measured:
            names = (
                "wall",
                "fastest",
                "slowest",
                "spread",
                "written",
                "images_per_second",
                "first_image",
                "cpu_per_1000",
                "peak_bytes",
                "busy",
            )
            yield from ((name, getattr(entry, name)) for name in names)
            yield "relative", self.relative(entry)
