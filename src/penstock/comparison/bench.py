"""The rows, and every scheme measured on them: one trial after the other, each in a process of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from penstock.build import build_work, choose
from penstock.comparison.child import ChildError, call, call_within
from penstock.comparison.probe import probe_gil
from penstock.comparison.recording import Recorded, record
from penstock.comparison.results import Entry, GilProbe, Trial
from penstock.comparison.textbook import TextbookTask, run_textbook
from penstock.comparison.trial import Task, run_trial
from penstock.config import RunConfig
from penstock.crew.base import Work
from penstock.errors import PenstockError
from penstock.image.work import Steps, Transform
from penstock.records import Fetched, Reason, Row
from penstock.report.failures import FailedRow

__all__ = ["TEXTBOOK", "Bench"]

TEXTBOOK = tuple(f"textbook {scheme}" for scheme in ("threads", "processes", "hybrid"))

FEW = 24
"""Rows of the warm-up, and for the probe of the GIL. Arbitrary: enough to open every connection that matters."""

PROBE_SECONDS = 10.0
"""That the probe of the GIL may take beyond the time that the options allow for one image."""


@dataclass(slots=True)
class Bench:
    """The rows, and what was measured on them so far.

    Args:
        folder: for everything that is written; whoever made it deletes it.
        rows: those to measure; a row's index is its position.
        config: the options of the runs, whatever the strategy.
        transform: in place of Penstock's own resize.
    """

    folder: Path
    rows: Sequence[Row]
    config: RunConfig
    transform: Transform | None
    failed: dict[int, FailedRow] = field(default_factory=dict)
    """Rows that gave no image in some trial, by position."""
    _trials: dict[str, list[Trial]] = field(default_factory=dict)
    _broken: dict[str, str] = field(default_factory=dict)
    """Why a scheme could not be measured."""
    nothing_came: bool = False
    """Whether the last strategy that ran could not download a single row: then no other will."""

    def probe(self) -> GilProbe | None:
        """Whether the work holds the GIL, by the first rows; None if it cannot be told, for whatever reason."""
        if choose(self.config).workers < 2:
            return None
        folder = self.folder / "probe"
        recorded = call(record, self.rows[:FEW], self.config, folder)
        work = build_work(self.config, Steps(self.transform), as_array=self.config.format == "arrays")
        # A transform that dies or hangs here will be a strategy's failure in a moment.
        with contextlib.suppress(ChildError):
            return call_within(self.config.decode_timeout + PROBE_SECONDS, _probe, recorded, folder, work)
        return None

    def warm_up(self, scheme: str) -> None:
        """Do it once with a few rows; a scheme that breaks is left out from then on."""
        self._try(scheme, self.rows[:FEW])

    def measure(self, scheme: str) -> None:
        """One trial with all the rows; a scheme that gives no image at all is left out from then on."""
        trial = self._try(scheme, self.rows)
        if trial is None:
            return
        if trial.written:
            self._trials.setdefault(scheme, []).append(trial)
        else:
            self._broken[scheme] = f"not one image came out ({self._reasons()})"

    def entry(self, scheme: str) -> Entry:
        """What there is of a scheme."""
        broken = self._broken.get(scheme, "")
        return Entry(scheme, () if broken else tuple(self._trials.get(scheme, ())), broken)

    def _reasons(self) -> str:
        counts = Counter(row.reason for row in self.failed.values())
        return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())

    def _try(self, scheme: str, rows: Sequence[Row]) -> Trial | None:
        if scheme in self._broken:
            return None
        try:
            return self._textbook(scheme, rows) if scheme in TEXTBOOK else self._strategy(scheme, rows)
        except PenstockError as error:
            self._broken[scheme] = str(error)
            return None

    def _strategy(self, strategy: str, rows: Sequence[Row]) -> Trial:
        task = self._task(strategy, rows)
        try:
            measured = call(run_trial, task)
        finally:
            shutil.rmtree(task.folder, ignore_errors=True)
        for row in measured.failed:
            self.failed.setdefault(row.index, row)
        reached_work = any(Reason.named(row.reason).downloaded for row in measured.failed)
        self.nothing_came = not measured.trial.written and not reached_work
        return measured.trial

    def _task(self, strategy: str, rows: Sequence[Row]) -> Task:
        config = dataclasses.replace(self.config, strategy=cast("Any", strategy))
        lanes = choose(config).lanes
        if lanes > 1:  # a shard is what a lane is dealt: there must be enough of them to go round
            config = dataclasses.replace(config, shard_size=min(config.shard_size, math.ceil(len(rows) / (2 * lanes))))
        listed = self.folder / f"{len(rows)}.jsonl"
        if not listed.exists():
            listed.write_text("".join(json.dumps(_as_mapping(row, config)) + "\n" for row in rows), encoding="utf-8")
        return Task(listed, self.folder / "trial", config, self.transform)

    def _textbook(self, scheme: str, rows: Sequence[Row]) -> Trial | None:
        good = tuple(row for row in rows if row.index not in self.failed)
        if not good:
            return None
        task = TextbookTask(
            scheme=cast("Literal['threads', 'processes', 'hybrid']", scheme.removeprefix("textbook ")),
            rows=good,
            size=self.config.size,
            workers=choose(self.config).workers,
            transform=self.transform,
            proxy=self.config.proxy,
        )
        return call(run_textbook, task)


def _probe(recorded: Sequence[Recorded], folder: Path, work: Work) -> GilProbe | None:
    """Whether `work` on what was recorded holds the GIL. Runs in a child process."""
    whole = [(item.row, folder / item.name) for item in recorded if item.name is not None]
    return probe_gil(work, [(row, (Fetched("image", path.read_bytes(), 200, 1, 0.0),)) for row, path in whole])


def _as_mapping(row: Row, config: RunConfig) -> dict[str, Any]:
    """A row of the list as it was read: what reading it again gives the same row of."""
    caption = {} if config.caption_column is None else {config.caption_column: row.caption}
    return {**row.fields, **caption, config.url_column: row.url}
