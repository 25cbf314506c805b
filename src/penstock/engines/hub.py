"""The meeting point of a run on a cluster: lanes say what they have done and need, the driver hears of it.

::

    lane ──Word(reports, progress, needs)──▶ Hub ◀──drain(ended lots)── driver
         ◀─Reply(limits, stop)──────────────     ──News(reports, lanes)─▶

Both engines host one such object where every lane can reach it (Ray: an actor on the driver's node; Dask: a plugin of the
scheduler) and carry the messages; what is said, they do not look at. Nothing hangs on a message that is lost: a task's
result repeats its reports, and the driver knows them by the attempt's name. Not thread-safe; time is passed in.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from penstock.engines.work import Progress
from penstock.fetch.policy.shares import HostSlots, Need
from penstock.flow import LaneStatistics
from penstock.records import ShardReport

__all__ = ["DRIVER_GRACE", "PATIENCE", "Hub", "LaneNews", "News", "Reply", "Word"]

DRIVER_GRACE = 60.0
"""Seconds without a sign of the driver after which its lanes end: nobody would adopt what they make."""

PATIENCE = 10.0
"""Seconds that a lane waits for an answer. Then it gives up its host slots, until it is heard again."""

LANE_GRACE = 2 * PATIENCE
"""Seconds without a word, beyond the interval, after which a lane's host slots go to others: whoever lives has given them
up by then."""

LEAST_INTERVAL = 0.5
"""Seconds between two words of a lane that needs nothing."""

WORDS_PER_SECOND = 400
"""Of all lanes together, at most: a scheduler and an actor take a few thousand, and have other things to do."""

MAX_ENDED = 65_536
"""Lots that are remembered as ended, for lanes that come back from a network that was split; the oldest goes first."""


@dataclass(frozen=True, slots=True)
class Word:
    """What a lane has to say."""

    lane: str
    """Of this execution of the task; no other has the same."""
    lot: str
    """What it works on; a lot may have several lanes, if the engine runs a task twice."""
    reports: tuple[ShardReport, ...] = ()
    """Shards that it has prepared since it last said so."""
    progress: Progress | None = None
    statistics: LaneStatistics | None = None
    needs: Mapping[str, Need] = field(default_factory=dict)
    """Of hosts, as far as they have changed; all of them if `anew`."""
    anew: bool = False
    """It has forgotten what it was told before: at the beginning, and when a reply was lost."""
    turn: int = 0
    """How many words it has said before: one that was given up may arrive after its successor."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What it is told."""

    limits: Mapping[str, int]
    """Requests at a time that it may have at a host; hosts that are not named stay as they were."""
    stop: bool
    """Take no more rows."""
    interval: float
    """Seconds after which another word is in time."""
    forget: bool = False
    """Its host slots are others' by now: it has to say anew what it needs."""
    done: tuple[int, ...] = ()
    """To its first word: shards of the lot that another lane has prepared."""


@dataclass(frozen=True, slots=True)
class LaneNews:
    """The last that a lane has said of itself."""

    lot: str
    progress: Progress
    statistics: LaneStatistics


@dataclass(frozen=True, slots=True)
class News:
    """What the driver hears."""

    reports: tuple[tuple[str, ShardReport], ...]
    """Lanes, and the shards that they have prepared."""
    lanes: Mapping[str, LaneNews]
    """Of those that have said something since."""
    spoken: tuple[str, ...]
    """Lots of which a lane has been heard for the first time."""


class Hub:
    """See above.

    Args:
        per_host: requests at a time at one host, over all lanes.
        now: seconds.
    """

    def __init__(self, per_host: int, now: float) -> None:
        self._slots = HostSlots(per_host)
        self._heard: dict[str, tuple[float, str, int]] = {}
        """When each lane was heard last, its lot, and which of its words this was."""
        self._lots: dict[str, list[int]] = {}
        """Lots at work, and their shards that are prepared."""
        self._ended: dict[str, None] = {}
        self._reports: list[tuple[str, ShardReport]] = []
        self._lanes: dict[str, LaneNews] = {}
        self._spoken: list[str] = []
        self._stopped = False
        self._driver_heard = now

    def exchange(self, word: Word, now: float) -> Reply:
        """Take a lane's word and answer it."""
        if self._stopped or word.lot in self._ended or now - self._driver_heard > DRIVER_GRACE:
            self.left(word.lane)
            self._take(word)  # what it has prepared counts all the same
            return Reply({}, stop=True, interval=LEAST_INTERVAL)
        if word.lane not in self._heard and not word.anew:  # it was given up, and others have its slots
            self._take(word)
            return Reply({}, stop=False, interval=LEAST_INTERVAL, forget=True)
        done = () if word.lane in self._heard else tuple(self._lots.get(word.lot, ()))
        self._take(word)
        if word.lane in self._heard and word.turn < self._heard[word.lane][2]:
            return Reply({}, stop=False, interval=self._interval)  # nobody hears it any more
        self._heard[word.lane] = now, word.lot, word.turn
        limits = self._slots.exchange(word.lane, word.needs, now, anew=word.anew)
        return Reply(limits, stop=False, interval=self._interval, done=done)

    @property
    def _interval(self) -> float:
        return max(LEAST_INTERVAL, len(self._heard) / WORDS_PER_SECOND)

    def _take(self, word: Word) -> None:
        if word.lot in self._ended:
            return
        if word.lot not in self._lots:
            self._lots[word.lot] = []
            self._spoken.append(word.lot)
        self._lots[word.lot] += [report.shard for report in word.reports]
        self._reports += [(word.lane, report) for report in word.reports]
        if word.progress is not None and word.statistics is not None:
            self._lanes[word.lane] = LaneNews(word.lot, word.progress, word.statistics)

    def drain(self, ended: Collection[str], now: float) -> News:
        """What was said since the driver asked last; `ended` are the lots that have come to an end since."""
        self._driver_heard = now
        for lot in ended:
            self._lots.pop(lot, None)
            self._ended[lot] = None
        while len(self._ended) > MAX_ENDED:
            del self._ended[next(iter(self._ended))]
        silent = now - LANE_GRACE - self._interval
        for lane in [lane for lane, (heard, lot, _) in self._heard.items() if heard < silent or lot in self._ended]:
            self.left(lane)
        news = News(tuple(self._reports), dict(self._lanes), tuple(self._spoken))
        self._reports, self._lanes, self._spoken = [], {}, []
        return news

    def left(self, lane: str) -> None:
        """A lane has come to its end and holds nothing."""
        self._heard.pop(lane, None)
        self._slots.drop(lane)

    def stop(self) -> None:
        """Let all lanes end."""
        self._stopped = True
