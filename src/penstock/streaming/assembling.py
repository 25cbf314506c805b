"""From settled rows to full batches. Decides, and does no I/O but writing into a batch's memory.

::

    row enters ──fed──▶ Assembler ◀──place_for── lane: where shall the crew write this row's arrays?
                            │
    row is settled ──add──▶ │ ──▶ [Assembled …] full batches only, but for the last one of an epoch
                            │     EpochEnded

*Unordered* (the usual case), a row gets a place in the oldest open slab when it goes to the crew, which writes its arrays
there; the place of a row that fails goes to the next one. What is left at the end of an epoch is moved together.
*Ordered*, rows wait until all before them are settled, and are written then; how many may wait is bounded.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections import Counter, deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.config import StreamConfig
from penstock.crew.arena import Arena, Place
from penstock.errors import ConfigError, NoImagesError, RowFailedError, TooManyFailuresError
from penstock.records import Kind, Outcome, Reason, Row, Sample, Settled
from penstock.streaming.layout import Layout, differing, stacks_of
from penstock.streaming.messages import Assembled, Broken, EpochEnded, Fallen, Output
from penstock.streaming.order import StreamRow

__all__ = ["Assembler", "Slabs"]

PROBATION = 100
"""Rows before `min_success` counts."""

MOST_FALLEN = 4096
"""Rows that fell out and wait for the next batch to tell of them: some 5 MB. More of them go out by themselves. Arbitrary."""

MOST_ENDED = 2
"""Epochs whose rows have all gone in and not all come out. More would only be a queue of epochs of a short list."""


class Slabs:
    """The memory of batches: parts of the arena, used again when the training loop has let them go.

    Args:
        arena: shared with whoever takes the batches.
    """

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.freed: deque[int] = deque()
        """Filled by another thread."""
        self._free: list[int] = []
        """A heap: the lowest first, so that those which the training loop has mapped are used again and again."""

    def take(self, size: int) -> int | None:
        """The offset of a slab of `size` bytes, the same for all; None if there is no shared memory."""
        while self.freed:
            heapq.heappush(self._free, self.freed.popleft())
        return heapq.heappop(self._free) if self._free else self.arena.allocate(size)


@dataclass(slots=True, eq=False)
class _Slab:
    """A batch in the making."""

    offset: int | None
    """In the arena."""
    private: npt.NDArray[np.uint8] | None
    """Its memory, if it is not in the arena."""
    rows: list[tuple[Outcome, dict[str, Any]] | None]
    """By place: the row and its loose parts, once it is settled."""
    free: list[int]
    """Places nobody has, the first one last."""
    filled: int = 0


@dataclass(slots=True)
class _Epoch:
    number: int
    resumed: bool
    """Some of it was delivered by an earlier stream."""
    target: int | None
    """Images to deliver, where that is fixed."""
    ended: bool = False
    """All its rows have gone in."""
    inside: int = 0
    settled: int = 0
    images: int = 0
    batches: int = 0
    barren: int = 0
    """Rows in succession that gave no image, up to now."""
    order: deque[int] = field(default_factory=deque)
    """Positions in the order in which they went in; kept if order is asked for."""
    waiting: dict[int, Settled] = field(default_factory=dict)
    """Rows that wait for those before them, by position."""
    slabs: list[_Slab] = field(default_factory=list)
    """Open ones, the oldest first."""
    outcomes: list[Outcome] = field(default_factory=list)
    """Rows that fell out since the last batch."""
    full: deque[Assembled] = field(default_factory=deque)
    """Batches that wait for the epoch before."""
    reasons: Counter[Reason] = field(default_factory=Counter)

    @property
    def complete(self) -> bool:
        done = self.ended if self.target is None else self.images >= self.target
        return done and not self.inside


class Assembler:
    """Makes batches of what a lane has settled.

    Args:
        config: the stream's options.
        slabs: where batches lie.
        layout: of a batch, where it is known beforehand; else the first sample decides.
        loose: parts of which rows may have any number, so that they are not stacked.
        window: rows that may be inside, where order is kept.
        batches: so many for each epoch, whatever fails: the feeder goes round until there are enough.
        resumed: the first epoch, and how many of its batches were delivered before; None if it begins anew.
    """

    def __init__(
        self,
        config: StreamConfig,
        slabs: Slabs,
        *,
        layout: Layout | None,
        loose: Collection[str] = (),
        window: int,
        batches: int | None = None,
        resumed: tuple[int, int] | None = None,
    ) -> None:
        self._config = config
        self._slabs = slabs
        self._layout = layout
        self._example: Row | None = None
        """The row whose sample has decided the layout."""
        self._loose = frozenset(loose)
        self._window = window
        self._batches = batches
        self._resumed = resumed
        self._epochs: dict[int, _Epoch] = {}
        self._places: dict[tuple[int, int], tuple[_Slab, int]] = {}
        """Of rows inside the crew, by epoch and position."""
        self._settled = self._images = 0
        self._reasons: Counter[Reason] = Counter()
        """Of all epochs, as are the two before."""
        self.finished = -1 if resumed is None else resumed[0] - 1
        """The last epoch that is complete."""

    @property
    def fallen(self) -> tuple[Outcome, ...]:
        """Rows that fell out and have not been told of, for the end of a stream that cannot go on."""
        return tuple(outcome for epoch in self._epochs.values() for outcome in epoch.outcomes)

    def may_feed(self) -> bool:
        """Whether another row may go in."""
        if not self._epochs:
            return True
        newest = self._epochs[max(self._epochs)]
        if newest.target is not None and (newest.images + newest.inside >= newest.target or self._has_dried_up(newest)):
            return False
        if self._config.ordered and len(newest.order) >= self._window:
            return False
        held_back = sum(len(epoch.full) for epoch in self._epochs.values())
        return held_back < self._config.prefetch and sum(epoch.ended for epoch in self._epochs.values()) < MOST_ENDED

    def fed(self, row: StreamRow) -> None:
        """A row goes in."""
        epoch = self._epoch(row.epoch)
        epoch.inside += 1
        if self._config.ordered:
            epoch.order.append(row.position)

    def epoch_fed(self, number: int) -> list[Output]:
        """All rows of an epoch have gone in."""
        self._epoch(number).ended = True
        return list(self._released())

    def place_for(self, row: Row) -> Place | None:
        """Where the crew is to write the row's arrays; None if they are to come by wire."""
        if self._config.ordered or self._loose or self._layout is None or not self._layout.stacks:
            return None
        assert isinstance(row, StreamRow)
        slab, index = self._take(self._epochs[row.epoch], self._layout)
        self._places[row.epoch, row.position] = slab, index
        return None if slab.offset is None else self._layout.place(index, slab.offset)

    def add(self, settled: Settled) -> Iterator[Output]:
        """A row is settled: the batches that can go out now, also if a row behind them raises an error.

        Raises:
            ConfigError: its arrays have another shape than those before.
            RowFailedError: it has failed, and `on_failure` says that this is an error.
            TooManyFailuresError: so have too many.

        An epoch that ends without a single image ends in a `Broken` with a NoImagesError.
        """
        row = _stream_row(settled)
        epoch = self._epochs[row.epoch]
        if self._config.ordered:
            epoch.waiting[row.position] = settled
            while epoch.order and epoch.order[0] in epoch.waiting:
                self._settle(epoch, epoch.waiting.pop(epoch.order.popleft()))
                yield from self._released()
        else:
            self._settle(epoch, settled)
            yield from self._released()

    def _epoch(self, number: int) -> _Epoch:
        if number not in self._epochs:
            before = self._resumed[1] if self._resumed is not None and self._resumed[0] == number else None
            target = None if self._batches is None else (self._batches - (before or 0)) * self._config.batch_size
            self._epochs[number] = _Epoch(number, resumed=bool(before), target=target)
        return self._epochs[number]

    def _settle(self, epoch: _Epoch, settled: Settled) -> None:
        row = _stream_row(settled)
        place = self._places.pop((row.epoch, row.position), None)
        epoch.inside -= 1
        epoch.settled += 1
        self._settled += 1
        if settled.sample is not None:
            self._images += 1
            epoch.barren = 0
            self._put(epoch, place, settled.outcome, settled.sample)
        else:
            epoch.barren += 1
            if place is not None:
                slab, index = place
                slab.free.append(index)
            self._fall_out(epoch, settled.outcome)
        self._check_share()

    def _fall_out(self, epoch: _Epoch, outcome: Outcome) -> None:
        epoch.outcomes.append(outcome)
        assert outcome.reason is not None
        epoch.reasons[outcome.reason] += 1
        self._reasons[outcome.reason] += 1
        if outcome.kind is Kind.FAILED and self._config.on_failure == "raise":
            raise RowFailedError(outcome)

    def _check_share(self) -> None:
        """Stop where even with all the rows that are inside the share would be too small: those that fail are settled first."""
        wanted = self._config.min_success
        inside = sum(open_epoch.inside for open_epoch in self._epochs.values())
        if self._settled >= PROBATION and self._images + inside < wanted * (self._settled + inside):
            raise TooManyFailuresError(
                f"only {self._images} of the first {self._settled} rows gave an image, and min_success is {wanted:g}:"
                f"\n{_table(self._reasons)}"
            )

    def _put(self, epoch: _Epoch, place: tuple[_Slab, int] | None, outcome: Outcome, sample: Sample) -> None:
        layout = self._agreed_layout(outcome.row, sample)
        slab, index = place or self._take(epoch, layout)
        for name, (start, _) in zip((stack.name for stack in layout.stacks), layout.place(index), strict=True):
            part = sample.parts[name]
            if isinstance(part, np.ndarray):
                self._write(slab, start, part)
        slab.rows[index] = outcome, {name: part for name, part in sample.parts.items() if not self._is_stack(name)}
        slab.filled += 1
        epoch.images += 1
        if slab.filled == self._config.batch_size:
            epoch.slabs.remove(slab)
            epoch.full.append(self._assembled(epoch, slab))

    def _is_stack(self, name: str) -> bool:
        assert self._layout is not None
        return any(stack.name == name for stack in self._layout.stacks)

    def _agreed_layout(self, row: Row, sample: Sample) -> Layout:
        stacks = stacks_of(sample, self._loose)
        if self._layout is None:
            self._layout = Layout(stacks, self._config.batch_size)
            self._example = row
        if stacks != self._layout.stacks:
            before, now = differing(self._layout.stacks, stacks)
            whose = f"row {self._example.index} has" if self._example is not None else "the batch has"
            raise ConfigError(
                f"row {row.index} ({row.url}) gave {now}, and {whose} {before}: a batch needs arrays of one shape and "
                "dtype; have the transform return the same for every row, or return bytes"
            )
        return self._layout

    def _take(self, epoch: _Epoch, layout: Layout) -> tuple[_Slab, int]:
        """A free place in the oldest slab that has one."""
        for slab in epoch.slabs:
            if slab.free:
                return slab, slab.free.pop()
        offset = self._slabs.take(layout.size) if layout.size else None
        size = self._config.batch_size
        private = np.empty(layout.size, np.uint8) if offset is None else None
        slab = _Slab(offset, private, [None] * size, list(range(size))[::-1])
        epoch.slabs.append(slab)
        return slab, slab.free.pop()

    def _write(self, slab: _Slab, start: int, array: npt.NDArray[Any]) -> None:
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if slab.private is not None:
            slab.private[start : start + data.nbytes] = data
        else:
            assert slab.offset is not None
            self._slabs.arena.write(slab.offset + start, data.data)

    def _move(self, source: _Slab, source_index: int, target: _Slab, target_index: int) -> None:
        """A row from one place to another."""
        assert self._layout is not None
        places = zip(self._layout.place(source_index), self._layout.place(target_index), strict=True)
        for (source_start, size), (target_start, _) in places:
            self._write(target, target_start, self._read(source, source_start, size))
        target.rows[target_index], source.rows[source_index] = source.rows[source_index], None
        target.filled += 1
        source.filled -= 1

    def _read(self, slab: _Slab, start: int, size: int) -> npt.NDArray[np.uint8]:
        if slab.private is not None:
            return slab.private[start : start + size].copy()
        assert slab.offset is not None
        return np.frombuffer(self._slabs.arena.read(slab.offset + start, size), np.uint8)

    def _released(self) -> Iterator[Output]:
        """What can go out: the batches of the oldest epoch, and of those after it once it is complete."""
        while self._epochs:
            epoch = self._epochs[min(self._epochs)]
            if not epoch.complete:
                yield from _drained(epoch.full)
                if len(epoch.outcomes) >= MOST_FALLEN:
                    outcomes, epoch.outcomes = tuple(epoch.outcomes), []
                    yield Fallen(epoch.number, outcomes)
                if self._has_dried_up(epoch) and not epoch.inside:
                    why = f"none of the last {epoch.barren} rows gave an image:\n{_table(epoch.reasons)}"
                    yield Broken(NoImagesError(why), tuple(epoch.outcomes))
                return
            self._flush(epoch)
            batches = list(_drained(epoch.full))
            del self._epochs[epoch.number]
            self.finished = epoch.number
            yield from _closed(epoch, batches)
            if (nothing := self._why_nothing(epoch)) is not None:
                yield Broken(NoImagesError(nothing))

    def _has_dried_up(self, epoch: _Epoch) -> bool:
        """Whether an epoch that goes round its rows has gone through all of them without an image."""
        return self._batches is not None and epoch.barren > (self._batches + 1) * self._config.batch_size

    def _why_nothing(self, epoch: _Epoch) -> str | None:
        """Why a complete epoch gave nothing, if that is an error: no row was any good, or it would go on like that for ever."""
        if epoch.resumed:
            return None
        if epoch.settled and not epoch.images:
            return f"none of the {epoch.settled} rows gave an image:\n{_table(epoch.reasons)}"
        if self._config.epochs is not None or epoch.batches:
            return None
        if not epoch.settled:
            return "this part of the list has no rows"
        return f"an epoch has {epoch.images} images, too few for a batch of {self._config.batch_size} (drop_last)"

    def _flush(self, epoch: _Epoch) -> None:
        """Make batches of what lies in the open slabs of a complete epoch."""
        slabs = [slab for slab in epoch.slabs if slab.filled]
        self._compact(slabs)
        for slab in slabs:
            if slab.filled == self._config.batch_size or (slab.filled and not self._config.drop_last):
                epoch.full.append(self._assembled(epoch, slab))
            else:
                epoch.outcomes += _dropped(slab)
        self._forget(epoch)

    def _compact(self, slabs: list[_Slab]) -> None:
        """Fill the holes in front with the rows behind them, so that all the rows lie together."""
        places = [(slab, index) for slab in slabs for index in range(self._config.batch_size)]
        filled = sum(slab.filled for slab in slabs)
        holes = [(slab, index) for slab, index in places[:filled] if slab.rows[index] is None]
        behind = [(slab, index) for slab, index in places[filled:] if slab.rows[index] is not None]
        for source, target in zip(behind, holes, strict=True):
            self._move(*source, *target)

    def _forget(self, epoch: _Epoch) -> None:
        """Give back the slabs that did not become batches."""
        going = {batch.slab for batch in epoch.full}
        self._slabs.freed.extend(
            slab.offset for slab in epoch.slabs if slab.offset is not None and slab.offset not in going
        )
        epoch.slabs.clear()

    def _assembled(self, epoch: _Epoch, slab: _Slab) -> Assembled:
        assert self._layout is not None
        epoch.batches += 1
        entries = [entry for entry in slab.rows if entry is not None]
        rows = [outcome.row for outcome, _ in entries]
        outcomes, epoch.outcomes = tuple(epoch.outcomes), []
        return Assembled(
            epoch=epoch.number,
            positions=tuple(row.position for row in rows if isinstance(row, StreamRow)),
            keys=[row.key for row in rows],
            fields={name: [row.fields.get(name) for row in rows] for name in rows[0].fields},
            captions=[row.caption for row in rows],
            layout=self._layout,
            slab=slab.offset,
            inline=slab.private,
            loose=_columns([parts for _, parts in entries]),
            part_outcomes=[outcome.parts for outcome, _ in entries],
            outcomes=outcomes,
            downloaded=sum(outcome.size for outcome, _ in entries),
            last=False,
        )


def _stream_row(settled: Settled) -> StreamRow:
    row = settled.outcome.row
    assert isinstance(row, StreamRow)
    return row


def _dropped(slab: _Slab) -> Iterator[Outcome]:
    """The rows of a batch that is not full, where such a one is not wanted."""
    for outcome, _ in filter(None, slab.rows):
        yield dataclasses.replace(outcome, kind=Kind.SKIPPED, reason=Reason.POLICY_DROP_LAST)


def _drained(batches: deque[Assembled]) -> Iterator[Assembled]:
    while batches:
        yield batches.popleft()


def _closed(epoch: _Epoch, batches: list[Assembled]) -> Iterator[Assembled | EpochEnded]:
    """The last batches of an epoch, and what fell out behind them."""
    if not batches:
        yield EpochEnded(epoch.number, tuple(epoch.outcomes))
        return
    yield from batches[:-1]
    end = batches[-1]
    yield dataclasses.replace(end, outcomes=(*end.outcomes, *epoch.outcomes), last=True)


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The loose parts of several rows by name; None where a row has none."""
    names = dict.fromkeys(name for parts in rows for name in parts)
    return {name: [parts.get(name) for parts in rows] for name in names}


def _table(reasons: Counter[Reason]) -> str:
    """Reasons with their counts and meanings, the commonest first."""
    return "\n".join(f"  {count:>7}  {reason.value}: {reason.meaning}" for reason, count in reasons.most_common())
