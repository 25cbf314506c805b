"""What a stream is to do, and where: everything that can be wrong is found here, before anything is started."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import logging
import math
import operator
import pickle
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, Self

import numpy as np

from penstock.build import BUDGET_SHARE, Setup, build_work, check_fetchable, choose
from penstock.config import NOT_STREAMED, ImageConfig, StreamConfig, check_option_names
from penstock.crew.base import Work
from penstock.crew.choose import processes_possible
from penstock.crew.script import NoScriptError, required_script
from penstock.errors import ConfigError
from penstock.image.work import Steps
from penstock.parts import Column, Image, Images, Part, Text, image_config
from penstock.reading import ShardFetcher, ShardSource, is_shards, stored_work
from penstock.records import PART
from penstock.source import Source, open_list
from penstock.streaming.feeding import Feed
from penstock.streaming.hosts import CHUNK, ChildHost, Host, ThreadHost
from penstock.streaming.layout import Layout, Stack
from penstock.streaming.order import Order
from penstock.streaming.pump import Job
from penstock.streaming.state import State

__all__ = ["Plan", "make_plan"]

MOST_WAITING = 1024
"""Rows that may wait for those before them, where order is kept, however small they are. Arbitrary."""

LONG = 16
"""Files of a list from which on a state holds their digest, and not each one's mark: some loaders save it with every batch."""

_SIZES = ("size", "resize")
_WRITTEN = ("parts", "url_column", "caption_column", "encoding")

_logger = logging.getLogger("penstock")


@dataclass(frozen=True)
class Plan:
    """Everything about a stream but how far it has come."""

    config: StreamConfig
    source: Source | ShardSource
    setup: Setup
    work: Work
    layout: Layout | None
    """Of a batch, where it is known before the first sample."""
    order: Order
    even: bool
    in_thread: bool
    """The pump stands in a thread of this process: it can have no children, or the work cannot be sent to one."""

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What decides which row a position means: see `State.identity`."""
        identity = {"source": _short(self.source.fingerprint), **dataclasses.asdict(self.order), "even": self.even}
        if self.even:  # an epoch is so many batches then, and a state counts them
            identity |= {"batch_size": self.config.batch_size, "drop_last": self.config.drop_last}
        return identity

    @cached_property
    def rows(self) -> int:
        """Rows of the list; may cost a pass over it."""
        count = self.source.count
        return sum(1 for _ in self.source.rows()) if count is None else count

    @cached_property
    def batches(self) -> int | None:
        """For each epoch, if all parts are to have the same number.

        It is what the one with the most rows needs, whatever fails; with `drop_last`, what the one with the fewest can fill.
        """
        if not self.even:
            return None
        size, parts = self.config.batch_size, self.order.parts
        batches = self.rows // parts // size if self.config.drop_last else math.ceil(self.rows / parts / size)
        if self.rows < parts or not batches:
            raise ConfigError(
                f"even: the list has {self.rows} rows for {parts} parts, which is not enough for a batch of "
                f"{size if self.config.drop_last else 1} each"
            )
        return batches

    def until_epoch(self, number: int) -> Self:
        """The same plan, up to the end of that epoch; a stream of that epoch alone begins there."""
        plan = copy.copy(self)  # unlike `replace`, this keeps what was found out by reading the list
        object.__setattr__(plan, "config", dataclasses.replace(self.config, epochs=number + 1))
        return plan

    def open_host(self, state: State) -> Host:
        """Start what delivers the batches that are missing.

        Raises:
            WorkerError: the process cannot be started.
        """
        feed = Feed(
            order=self.order,
            epochs=self.config.epochs,
            first_epoch=state.epoch,
            done=tuple(state.done.as_list()),
            size=self.order.size(self.rows) if self.even else None,
        )
        job = self._job(state)
        if self.in_thread:
            return ThreadHost(job, feed, self.source)
        if self.source.spec is not None:
            return ChildHost(job, feed, None, self.source.spec, chunk=CHUNK)
        return ChildHost(job, feed, self.source, None, chunk=CHUNK if self.source.rereadable else 1)

    def _job(self, state: State) -> Job:
        begun = state.epoch or state.done.count
        item = sum(stack.nbytes for stack in self.layout.stacks) if self.layout else 3 * self.config.size**2
        room = self.config.memory // BUDGET_SHARE // max(1, item)
        return Job(
            config=self.config,
            setup=self.setup,
            work=self.work,
            layout=self.layout,
            loose=_loose(self.config.parts),
            window=max(2 * self.config.batch_size, min(MOST_WAITING, room)),
            batches=self.batches,
            resumed=(state.epoch, state.batches) if begun else None,
            fetcher=partial(ShardFetcher, self.source.folder, self.source.texts)
            if isinstance(self.source, ShardSource)
            else None,
        )

    @property
    def captioned(self) -> bool:
        """Whether rows have captions."""
        shards = isinstance(self.source, ShardSource) and self.source.options.get("caption_column") is not None
        return shards or self.config.caption_column is not None

    def parts_of(self, parts: Mapping[str, Any], count: int) -> dict[str, Any]:
        """The parts of a batch of `count` rows as its user knows them: all that were asked for, in that order, texts as str."""
        asked = self.config.parts
        if asked is None:
            return dict(parts)
        nothing: list[Any] = [None] * count
        return {
            name: list(map(_text, parts.get(name, nothing)))
            if isinstance(part, Text | Column)
            else parts.get(name, nothing)
            for name, part in asked.items()
        }

    def fields_of(self, fields: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        """The kept columns among a batch's fields: those that parts are made of are there as well."""
        kept = fields if self.config.parts is None else self.config.keep_columns
        return {name: fields[name] for name in kept}


def make_plan(
    source: Any,
    steps: Steps,
    *,
    split: tuple[int, int],
    even: bool,
    config: StreamConfig | None,
    options: Mapping[str, Any],
) -> Plan:
    """Check everything, and open the list; see `penstock.stream`."""
    check_option_names(
        options, [spec.name for spec in dataclasses.fields(StreamConfig) if spec.name not in NOT_STREAMED]
    )
    given = dataclasses.replace(config or StreamConfig(), **options)
    for name in _changed(given, NOT_STREAMED):
        raise ConfigError(f"{name}: means nothing to a stream, which stores nothing and is one pipeline; leave it out")
    if is_shards(source):
        opened = _open_shards(source, given, steps, asked=_asked(config, options))
    else:
        opened = _open_list(source, given, steps)
    if not opened.is_shaped:
        _check_shape(opened.config)
    _check_rereadable(opened.source, opened.config, even=even)
    setup, in_thread = _place(opened.config, steps, opened.work)
    plan = Plan(
        config=opened.config,
        source=opened.source,
        setup=setup,
        work=opened.work,
        layout=None if opened.is_shaped else _layout(opened.config),
        order=_order(opened.config, split),
        even=even,
        in_thread=in_thread,
    )
    _ = plan.batches  # what is wrong with them is to be said now
    return plan


def _asked(config: StreamConfig | None, options: Mapping[str, Any]) -> set[str]:
    """Options of the size that were given; a config does not tell its defaults from the same values given."""
    return {*(name for name in _SIZES if name in options), *_changed(config or StreamConfig(), _SIZES)}


def _changed(config: StreamConfig, names: Iterable[str]) -> list[str]:
    """Which of these options are not as they are by default."""
    default = StreamConfig()
    return [name for name in names if getattr(config, name) != getattr(default, name)]


class _Opened(NamedTuple):
    """A list or a folder, and what is done with its rows."""

    source: Source | ShardSource
    config: StreamConfig
    work: Work
    is_shaped: bool
    """A function of the user's decides what the arrays look like."""


def _open_shards(folder: Any, given: StreamConfig, steps: Steps, *, asked: Collection[str]) -> _Opened:
    """What rows are made of is as it was written; so are sizes, unless they are among the options that were `asked` for."""
    shards = ShardSource(folder, given.keep_columns)
    for name in _changed(given, _WRITTEN):
        raise ConfigError(f"{name}: {shards.description} have what they were written with; leave it out")
    stored = {name: value for name, value in _as_stored(shards).items() if name not in asked}
    config = dataclasses.replace(given, **stored, parts=shards.parts, keep_columns=shards.keep_columns)
    resize = any(name in asked for name in _SIZES)
    work = stored_work(shards, config.part(ImageConfig), steps, resize=resize)
    return _Opened(shards, config, work, steps.decide_parts or shards.is_shaped_by_user)


def _as_stored(shards: ShardSource) -> dict[str, Any]:
    """The size that the images of a folder have, so that they are read as they are; none if they differ in size."""
    stored = {name: shards.options[name] for name in _SIZES}
    return stored if stored["resize"] in ("crop", "stretch", "pad") else {}


def _open_list(source: Any, config: StreamConfig, steps: Steps) -> _Opened:
    check_fetchable(config)
    opened = open_list(source, config)
    return _Opened(opened, config, build_work(config, steps, as_array=True), steps.decide_parts)


def _check_shape(config: StreamConfig) -> None:
    for name, image in _image_configs(config).items():
        part = None if config.parts is None else config.parts[name]
        may_differ = isinstance(part, Image) and not part.required  # a batch has a list of them
        if image.resize in ("fit", "none") and not may_differ:
            where = "" if config.parts is None else f"part {name}: "
            raise ConfigError(
                f"{where}resize={image.resize!r}: a batch needs one shape for all images; expected one of crop, stretch, pad"
            )


def _image_configs(config: StreamConfig) -> dict[str, ImageConfig]:
    """The options of each part that is an image, or a list of them."""
    own = config.part(ImageConfig)
    if config.parts is None:
        return {PART: own}
    return {name: image_config(part, own) for name, part in config.parts.items() if isinstance(part, Image | Images)}


def _loose(parts: Mapping[str, Part] | None) -> tuple[str, ...]:
    """Parts that are arrays, of which a row may have none or several: a batch has them as a list."""
    parts = parts or {}
    return tuple(
        name
        for name, part in parts.items()
        if isinstance(part, Images) or (isinstance(part, Image) and not part.required)
    )


def _check_rereadable(source: Source | ShardSource, config: StreamConfig, *, even: bool) -> None:
    if (config.epochs != 1 or even) and not source.rereadable:
        why = "even counts its rows" if even else f"epochs={config.epochs} goes through it again"
        raise ConfigError(f"{source.description} can be read only once, and {why}; pass a file or a list")


def _place(config: StreamConfig, steps: Steps, work: Work) -> tuple[Setup, bool]:
    """How wide, and whether the pump has to stand in a thread of this process.

    Raises:
        ConfigError: a function cannot be sent to worker processes; the message names it.
    """
    setup = choose(config, splittable=False)
    if not processes_possible():
        return setup, True
    if setup.crew == "processes":
        steps.check_picklable(', or give strategy="threads"')
    try:
        required_script(pickle.dumps(work))
    except NoScriptError as error:
        _logger.warning("threads of this process decode, which slows its own work down: %s", error)
        return dataclasses.replace(
            setup, crew="threads", fetch=setup.fetch if setup.fetch != "worker" else "threads"
        ), True
    except Exception:  # noqa: BLE001 - pickle raises all sorts; with threads nothing need be sent anywhere
        return setup, True
    return setup, False


def _layout(config: StreamConfig) -> Layout:
    """How a batch is divided, where no function of the user's decides that."""
    sizes = {name: image.size for name, image in _image_configs(config).items() if name not in _loose(config.parts)}
    stacks = tuple(Stack(name, np.dtype(np.uint8).str, (size, size, 3)) for name, size in sizes.items())
    return Layout(stacks, config.batch_size)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def _order(config: StreamConfig, split: tuple[int, int]) -> Order:
    try:
        part, parts = split
        return Order(config.shuffle, config.seed, operator.index(part), operator.index(parts))
    except (TypeError, ValueError):
        raise ConfigError(
            f"split {split!r}: expected (i, n), the i-th of n parts, with i from 0 to n - 1; such as (rank, world_size)"
        ) from None


def _short(fingerprint: dict[str, Any] | None) -> dict[str, Any] | None:
    """A fingerprint that can be saved with every batch."""
    if fingerprint is None or len(fingerprint.get("files", ())) < LONG:
        return fingerprint
    files = json.dumps(fingerprint["files"], sort_keys=True)
    return {"file_count": len(fingerprint["files"]), "sha256": hashlib.sha256(files.encode()).hexdigest()}
