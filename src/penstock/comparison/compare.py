"""The experiment: which rows, which schemes, in which order, how often; and what comes out of it.

::

    list ──first rows──▶ [record once, replay] ──▶ the rows, as JSON lines
                                                      │
       probe of the GIL, warm-up of every scheme ◀────┤
                                                      ▼
       round 1: threads … auto    round 2: auto … threads    round 3: …      each trial in a process of its own
                                                      │
                                                      ▼
                                          medians, spreads, judgement

Rounds go through the schemes there and back, so that what changes slowly (a neighbour on the machine, a server that warms
up) falls on all of them alike.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from penstock.build import choose
from penstock.comparison.child import ChildError, call
from penstock.comparison.judge import judge
from penstock.comparison.probe import probe_gil
from penstock.comparison.recording import Recorded, record, replay_config, replay_row, replay_server
from penstock.comparison.results import Comparison, Entry, GilProbe, Trial
from penstock.comparison.textbook import TextbookTask, run_textbook
from penstock.comparison.trial import Task, run_trial
from penstock.comparison.workloads import WORKLOADS, rows_for
from penstock.config import NOT_COMPARED, STRATEGIES, CompareConfig, ImageConfig, RunConfig, available_cores
from penstock.crew.base import Work
from penstock.crew.choose import gil_enabled
from penstock.crew.script import stop_if_in_worker
from penstock.errors import ConfigError, OutputError, SourceError
from penstock.image.work import ImageWork, Transform, TransformWork, check_picklable
from penstock.records import Failure, Fetched, Row
from penstock.report.failures import FailedRow, ReasonGroup, group_by_reason
from penstock.report.machine import machine_facts
from penstock.runner import make_config
from penstock.source import open_source
from penstock.testing.server import ImageServer

__all__ = ["Comparing", "OnStep", "compare", "split_options"]

SAMPLE = 200
"""Rows of a list that are measured unless ``--count`` says otherwise."""

FEW = 24
"""Rows of the warm-up, and for the probe of the GIL. Arbitrary: enough to open every connection that matters."""

START_COUNTS = 0.25
"""Share of the wall time from which the start is worth a note."""

TEXTBOOK = tuple(f"textbook {scheme}" for scheme in ("threads", "processes", "hybrid"))

OnStep = Callable[[str, int, int], None]
"""Called before each step with what comes, how many steps are done, and how many there will be."""


def compare(
    source: Any = None,
    *,
    transform: Transform | None = None,
    config: RunConfig | None = None,
    scratch: str | os.PathLike[str] | None = None,
    on_step: OnStep | None = None,
    **options: Any,
) -> Comparison:
    """Measure threads, processes, hybrid and asyncio on one workload, and say what bounds it.

    >>> comparison = penstock.compare("urls.parquet", count=500, size=256, once=True)  # doctest: +SKIP
    >>> comparison.best.name, comparison.judgement.bound  # doctest: +SKIP
    ('auto', <Bound.GIL_RELEASED: 'cpu-gil-released'>)
    >>> [(entry.name, entry.wall, entry.spread) for entry in comparison.ranking]  # doctest: +SKIP

    Every trial is a whole run, into a folder that is deleted, in a process of its own. Where nothing could be measured the
    `ranking` is empty, and `failures` and the entries' `failure` say why.

    Args:
        source: as of `penstock.run`; None for Penstock's own server and pictures.
        transform: a picklable function of a module, as of `penstock.run`, in place of Penstock's own resize.
        config: all the options of the runs at once; or give them one by one:
        scratch: folder to write the output of the trials in; default: where the system keeps temporary files.
        on_step: called before each step.
        **options: fields of `CompareConfig` (``count``, ``runs``, ``strategies``, ``workload``, ``once``, ``textbook``)
            and of `RunConfig`, except those that a comparison sets itself.

    Raises:
        ConfigError: an option cannot be used.
        SourceError: the list cannot be read, or is empty.
        OutputError: the scratch folder cannot be written.

    *Cancellation*: KeyboardInterrupt ends the trial at work, and leaves nothing behind.
    """
    stop_if_in_worker()
    experiment, settings = split_options(options)
    comparing = Comparing(source, experiment, settings, transform=transform, config=config, scratch=scratch)
    return comparing.execute(on_step)


def split_options(options: Mapping[str, Any]) -> tuple[CompareConfig, dict[str, Any]]:
    """The options of the comparison, and those of the runs that it is made of."""
    own = {spec.name for spec in dataclasses.fields(CompareConfig)}
    experiment = CompareConfig(**{name: value for name, value in options.items() if name in own})
    return experiment, {name: value for name, value in options.items() if name not in own}


class Comparing:
    """One comparison, checked before anything slow begins.

    Args:
        source: the list; None for Penstock's own server.
        experiment: what to measure.
        options: those of the runs that were given; the others are the workload's, then the defaults.
        transform: the user's function.
        config: options of the runs, underneath `options`.
        scratch: folder for the output of the trials.
    """

    def __init__(
        self,
        source: Any,
        experiment: CompareConfig,
        options: Mapping[str, Any],
        *,
        transform: Transform | None = None,
        config: RunConfig | None = None,
        scratch: str | os.PathLike[str] | None = None,
    ) -> None:
        if transform is not None and experiment.workload != "images":
            raise ConfigError(f"--workload {experiment.workload!r} is a transform of its own; give one of the two")
        self.experiment = experiment
        self._workload = WORKLOADS[experiment.workload]
        self._named_transform = transform
        self._transform = transform or self._workload.transform
        if transform is not None:
            check_picklable(transform)
        self._config = self._checked_config(source, config, options)
        self._scratch = _checked_scratch(scratch)
        self._source = None
        if source is not None:
            columns = {name: getattr(self._config, name) for name in ("url_column", "caption_column", "keep_columns")}
            self._source = open_source(source, **columns)

    @property
    def rows(self) -> int:
        """Rows that are asked for."""
        if self.experiment.count is not None:
            return self.experiment.count
        return SAMPLE if self._source is not None else rows_for(self._workload, choose(self._config).workers)

    @property
    def schemes(self) -> tuple[str, ...]:
        """What is measured, in order."""
        return self.experiment.strategies + (TEXTBOOK if self.experiment.textbook else ())

    @property
    def fetches_again(self) -> bool:
        """Whether other people's servers pay for every trial."""
        return self._source is not None and not self.experiment.once

    @property
    def times_fetched(self) -> int:
        """How often each row is fetched, warm-up and probe of a few rows aside."""
        return self.experiment.runs * len(self.schemes)

    def execute(self, on_step: OnStep | None = None) -> Comparison:
        """Do it; see `compare`."""
        steps = _Steps(2 + self.experiment.once + len(self.schemes) * (1 + self.experiment.runs), on_step)
        with _folder(self._scratch) as folder, contextlib.ExitStack() as stack:
            rows, config = self._first_rows(stack, steps)
            recorded: tuple[Recorded, ...] = ()
            if self.experiment.once:
                steps.begin(f"fetching {len(rows)} rows, once")
                recorded = call(record, rows, config, folder / "cache")
                server = stack.enter_context(replay_server(folder / "cache"))
                rows, config = [replay_row(row) for row in recorded], replay_config(config, server.url)
            bench = _Bench(folder, rows, config, self._transform)
            steps.begin("finding out whether the work holds the GIL")
            gil = bench.probe()
            self._rounds(bench, steps)
            return self._comparison(bench, gil, _failures(bench, recorded))

    def _checked_config(self, source: Any, config: RunConfig | None, options: Mapping[str, Any]) -> RunConfig:
        for name in NOT_COMPARED:
            if name in options:
                raise ConfigError(f"{name!r} is no option of a comparison, which runs every one of its strategies anew")
        if source is not None:
            return make_config(config, options)
        config = make_config(config or RunConfig(**self._workload.options), options)
        return dataclasses.replace(config, allow_network=(*config.allow_network, "127.0.0.0/8"))

    def _first_rows(self, stack: contextlib.ExitStack, steps: _Steps) -> tuple[list[Row], RunConfig]:
        """The rows to measure, and the options to reach them with."""
        if self._source is None:
            steps.begin("making pictures and starting a server")
            server = stack.enter_context(ImageServer(**self._workload.server))
            source = open_source(server.image_urls(self.rows))
        else:
            steps.begin("reading the list")
            source = self._source
        rows = list(source.rows(0, self.rows))
        if not rows:
            raise SourceError(f"{source.description} has no rows")
        return rows, self._config

    def _rounds(self, bench: _Bench, steps: _Steps) -> None:
        """The warm-up, then every scheme as often as asked for; ends early if the rows turn out to give no image."""
        for scheme in self.schemes:
            steps.begin(f"warm-up: {scheme}")
            if not bench.warm_up(scheme):
                break  # the first whole trial will tell whether there is any image at all
        for number in range(self.experiment.runs):
            for scheme in self.schemes[:: -1 if number % 2 else 1]:
                steps.begin(f"run {number + 1} of {self.experiment.runs}: {scheme}")
                bench.measure(scheme)
                if bench.hopeless:
                    return

    def _comparison(self, bench: _Bench, gil: GilProbe | None, failures: Sequence[ReasonGroup]) -> Comparison:
        entries = [bench.entry(scheme) for scheme in self.schemes]
        ranking = sorted((entry for entry in entries if entry.measured), key=lambda entry: -entry.images_per_second)
        name = self._transform_name()
        source = self._source.description if self._source is not None else ""
        return Comparison(
            workload=name or self._workload.name,
            source=source,
            rows=len(bench.rows),
            runs=self.experiment.runs,
            entries=(*ranking, *(entry for entry in entries if entry.failure)),
            gil=gil,
            judgement=judge(ranking, gil, config=self._config, source=source, transform=name),
            notes=tuple(self._notes(bench, ranking, failures)),
            failures=tuple(failures),
            machine=machine_facts(),
        )

    def _transform_name(self) -> str:
        """Of the user's function; empty if there is none."""
        if self._named_transform is None:
            return ""
        return str(getattr(self._named_transform, "__qualname__", type(self._named_transform).__qualname__))

    def _notes(self, bench: _Bench, ranking: Sequence[Entry], failures: Sequence[ReasonGroup]) -> Iterator[str]:
        if len(bench.rows) < self.rows:
            yield f"the list is shorter than the {self.rows} rows asked for: it was measured with its {len(bench.rows)}"
        if failures and ranking:
            named = ", ".join(f"{group.count} {group.reason}" for group in failures)
            yield f"{sum(group.count for group in failures)} of the {len(bench.rows)} rows gave no image: {named}"
        if self.experiment.once:
            yield "replayed from this machine: name look-ups and TLS are not in the figures"
        if self.experiment.textbook and bench.failed:
            yield "the textbook schemes got the other rows only: one that fails would end them"
        if not gil_enabled():
            yield "this interpreter has no GIL (free-threaded Python): threads of one process run Python code side by side"
        quickest = next((entry for entry in ranking if entry.name in STRATEGIES), None)
        if quickest is not None and (quickest.first_image or 0.0) > START_COUNTS * quickest.wall:
            yield (
                f"the first image of {quickest.name} came after {quickest.first_image:.2f} s of {quickest.wall:.2f} s: "
                "starting counts much in these figures, and less with more rows (--count)"
            )


@dataclass(slots=True)
class _Steps:
    """Tells of each step before it begins."""

    total: int
    tell: OnStep | None
    done: int = 0

    def begin(self, what: str) -> None:
        if self.tell is not None:
            self.tell(what, self.done, self.total)
        self.done += 1


@dataclass(slots=True)
class _Bench:
    """The rows, and what was measured on them so far."""

    folder: Path
    rows: Sequence[Row]
    config: RunConfig
    transform: Transform | None
    trials: dict[str, list[Trial]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    """Why a scheme could not be measured."""
    failed: dict[int, FailedRow] = field(default_factory=dict)
    """Rows that gave no image in some trial, by position."""

    @property
    def hopeless(self) -> bool:
        """Whether a whole trial gave no image at all."""
        return any(not trial.written for trials in self.trials.values() for trial in trials)

    def probe(self) -> GilProbe | None:
        """The work on the first rows, by one thread and by several; None if it cannot be told, for whatever reason."""
        work = work_of(self.config, self.transform)
        threads = min(choose(self.config).workers, available_cores())
        if threads < 2:
            return None
        with contextlib.suppress(ChildError):  # a transform that dies will be a strategy's failure in a moment
            return call(probe_rows, self.rows[:FEW], self.config, work, threads, self.folder / "probe")
        return None

    def warm_up(self, scheme: str) -> bool:
        """Do it once with a few rows; whether they gave an image. A scheme that fails is left out from then on."""
        trial = self._try(scheme, self.rows[:FEW])
        return trial is None or trial.written > 0

    def measure(self, scheme: str) -> None:
        """One trial with all the rows."""
        trial = self._try(scheme, self.rows)
        if trial is not None:
            self.trials.setdefault(scheme, []).append(trial)

    def entry(self, scheme: str) -> Entry:
        """What there is of a scheme."""
        return Entry(scheme, tuple(self.trials.get(scheme, ())), self.broken.get(scheme, ""))

    def _try(self, scheme: str, rows: Sequence[Row]) -> Trial | None:
        if scheme in self.broken:
            return None
        try:
            return self._textbook(scheme, rows) if scheme in TEXTBOOK else self._strategy(scheme, rows)
        except ChildError as error:
            self.broken[scheme] = str(error)
            return None

    def _strategy(self, strategy: str, rows: Sequence[Row]) -> Trial:
        task = self._task(strategy, rows)
        try:
            measured = call(run_trial, task)
        finally:
            shutil.rmtree(task.folder, ignore_errors=True)
        for row in measured.failed:
            self.failed.setdefault(row.index, row)
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

    def _textbook(self, scheme: str, rows: Sequence[Row]) -> Trial:
        task = TextbookTask(
            scheme=cast("Literal['threads', 'processes', 'hybrid']", scheme.removeprefix("textbook ")),
            rows=tuple(row for row in rows if row.index not in self.failed),
            size=self.config.size,
            workers=choose(self.config).workers,
            transform=self.transform,
            proxy=self.config.proxy,
        )
        return call(run_textbook, task)


def probe_rows(rows: Sequence[Row], config: RunConfig, work: Work, threads: int, cache: Path) -> GilProbe | None:
    """Fetch these rows, then see whether `work` on them holds the GIL. Runs in a child process."""
    whole = [item for item in record(rows, config, cache) if item.name is not None]
    parts = [(item.row, (Fetched("image", (cache / str(item.name)).read_bytes(), 200, 1, 0.0),)) for item in whole]
    return probe_gil(work, parts, threads)


def work_of(config: RunConfig, transform: Transform | None) -> Work:
    """What a run with these options does with a row."""
    if transform is not None:
        return TransformWork(transform)
    return ImageWork(config.part(ImageConfig), as_array=config.format == "arrays")


def _as_mapping(row: Row, config: RunConfig) -> dict[str, Any]:
    """A row of the list as it was read: what reading it again gives the same row of."""
    caption = {} if config.caption_column is None else {config.caption_column: row.caption}
    return {**row.fields, **caption, config.url_column: row.url}


def _failures(bench: _Bench, recorded: Sequence[Recorded]) -> list[ReasonGroup]:
    """Rows without an image, by reason: as they failed at the recording, if there was one, and not at the replay."""
    failed = dict(bench.failed)
    for item in recorded:
        if item.failure is not None:
            failed[item.row.index] = _failed_row(item, item.failure)
        elif item.row.index in failed:
            failed[item.row.index] = dataclasses.replace(failed[item.row.index], url=item.row.url)
    return group_by_reason(row for _, row in sorted(failed.items()))


def _failed_row(recorded: Recorded, failure: Failure) -> FailedRow:
    row = recorded.row
    return FailedRow(
        row.key, row.url, "failed", failure.reason.value, failure.detail, failure.http_status, failure.attempts, {}
    )


def _checked_scratch(scratch: str | os.PathLike[str] | None) -> Path | None:
    if scratch is None:
        return None
    if not Path(scratch).is_dir():
        raise ConfigError(f"--scratch {os.fspath(scratch)!r}: expected a folder that exists")
    return Path(scratch)


@contextlib.contextmanager
def _folder(scratch: Path | None) -> Iterator[Path]:
    """A folder for all that a comparison writes; nothing of it stays."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="penstock-compare-", dir=scratch, ignore_cleanup_errors=True)
    except OSError as error:
        raise OutputError(f"cannot write to {scratch or tempfile.gettempdir()}: {error.strerror}") from error
    with folder as name:
        yield Path(name)
