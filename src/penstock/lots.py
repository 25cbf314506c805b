"""Lots of a list as images, for frameworks that bring a scheduler of their own (`penstock.ray`, `penstock.dask`).

A lot is some rows in a row. Wherever the framework decides to work on it, one lane of threads fetches and decodes them, and the
result is arrays of one shape. Which rows a lot holds does not depend on what becomes of them.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from penstock.build import Setup, build_lane, build_work, check_fetchable
from penstock.config import StreamConfig, check_option_names
from penstock.errors import ConfigError
from penstock.image.work import Steps
from penstock.records import PART, Row, Settled
from penstock.source import SourceSpec, open_list

__all__ = ["Failures", "Images", "Lot", "open_lots"]

Failures = Literal["drop", "keep"]

NOT_OF_LOTS = (
    *("encode", "quality", "lanes", "workers", "strategy", "parts"),
    *("batch_size", "drop_last", "ordered", "shuffle", "seed", "epochs", "on_failure", "min_success", "prefetch"),
)
"""Options of a stream that are the framework's business, or that arrays of one shape have no use for."""


@dataclass(frozen=True, slots=True)
class Lot:
    """Some rows of a list, as small as the list allows."""

    start: int
    stop: int
    source: SourceSpec | None
    """By which a worker opens the list, if it can take the rows out of its middle."""
    rows: tuple[Row, ...] = ()
    """The rows themselves, if it cannot."""

    def open(self) -> Iterator[Row]:
        """The rows, on any machine that sees the list."""
        return iter(self.rows) if self.source is None else self.source.open().rows(self.start, self.stop)


@dataclass(frozen=True, slots=True)
class Images:
    """What is made of a lot."""

    config: StreamConfig
    steps: Steps
    failures: Failures
    cores: int
    """Threads that decode."""

    def rows(self, lot: Lot) -> list[dict[str, Any]]:
        """A mapping for each row, in the order of the list.

        ``image`` (H, W, 3) uint8 RGB, ``index`` (the position in the list), ``caption`` if there is one, and the kept columns.
        Rows without an image are left out, or, with ``failures="keep"``, have zeros, and all rows have ``url``, ``outcome``
        and ``reason``.
        """
        work = build_work(self.config, self.steps, as_array=True)
        setup = Setup("asyncio", "threads", self.cores, 1)
        with build_lane(setup, self.config, work) as lane:
            settled = sorted(lane.settle(lot.open()), key=lambda one: one.outcome.row.index)
        return [self._row(one) for one in settled if one.sample is not None or self.failures == "keep"]

    def columns(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The same by column: ``image`` is (N, H, W, 3) uint8, the others are lists."""
        size = self.config.size
        images = [row["image"] for row in rows]
        names = list(rows[0]) if rows else list(self._names())
        columns: dict[str, Any] = {name: [row[name] for row in rows] for name in names if name != PART}
        stacked = np.stack(images) if images else np.empty((0, size, size, 3), np.uint8)
        return {PART: stacked, **columns}

    def _names(self) -> Iterator[str]:
        yield from (PART, "index")
        if self.config.caption_column is not None:
            yield "caption"
        yield from self.config.kept_columns
        if self.failures == "keep":
            yield from ("url", "outcome", "reason")

    def _row(self, settled: Settled) -> dict[str, Any]:
        outcome, sample, size = settled.outcome, settled.sample, self.config.size
        row = outcome.row
        image = np.zeros((size, size, 3), np.uint8) if sample is None else sample.parts[PART]
        made: dict[str, Any] = {PART: image, "index": row.index}
        if self.config.caption_column is not None:
            made["caption"] = row.caption or ""
        made |= row.fields
        if self.failures == "keep":
            reason = outcome.reason.value if outcome.reason else ""
            made |= {"url": row.url or "", "outcome": outcome.kind.value, "reason": reason}
        return made


def open_lots(
    source: Any, *, lot: int, tasks: int, cores: int, failures: Failures, steps: Steps, options: Mapping[str, Any]
) -> tuple[list[Lot], Images]:
    """Check everything, and deal the list.

    Args:
        source: as of `penstock.stream`.
        lot: rows of each lot.
        tasks: how many may run at a time: each gets its part of ``per_host``, but at least one request.
        cores: threads of each that decode.
        failures: what becomes of rows without an image.
        steps: the user's own functions.
        options: fields of `StreamConfig`, but those of `NOT_OF_LOTS`.

    Raises:
        ConfigError: an option cannot be used.
        SourceError: the list cannot be read.
    """
    known = [spec.name for spec in dataclasses.fields(StreamConfig) if spec.name not in NOT_OF_LOTS]
    check_option_names(options, known)
    if failures not in ("drop", "keep"):
        raise ConfigError(f"failures={failures!r}: expected drop or keep")
    config = StreamConfig(**options)
    if config.resize in ("fit", "none"):
        raise ConfigError(f"resize={config.resize!r}: arrays need one shape; expected one of crop, stretch, pad")
    check_fetchable(config)
    opened = open_list(source, config)
    if not opened.rereadable:
        raise ConfigError(f"{opened.description} can be read only once; write the list to a file first")
    config = dataclasses.replace(config, per_host=max(1, config.per_host // max(1, tasks)), workers=cores)
    images = Images(config, steps, failures, cores)
    if opened.seekable and opened.count is not None:
        starts = range(0, opened.count, lot)
        return [Lot(start, min(start + lot, opened.count), opened.spec) for start in starts], images
    rows = opened.rows()
    lots = []
    while members := tuple(itertools.islice(rows, lot)):
        lots.append(Lot(members[0].index, members[-1].index + 1, None, members))
    return lots, images
