"""A list → a folder.

::

    options ─▶ RunConfig          list ─▶ Source          --out ─▶ OutputFolder (lock, journal)
                     ╲               │                        ╱
                      ▼              ▼                       ▼
                 Job (what a lane must know)      Plan (rows not yet done)
                                 ╲                 ╱
                                  ▼               ▼
                       engine: lanes ──ShardReport──▶ journal ──▶ Report
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

import penstock
from penstock.build import Setup, build_work, check_fetchable, choose
from penstock.config import RunConfig, check_option_names
from penstock.crew.script import stop_if_in_worker
from penstock.duplicates import find_duplicates
from penstock.engines.base import Engine, Plan
from penstock.engines.clusters import Choice, ClusterEngine, chosen, cores_of
from penstock.engines.filling import Placed
from penstock.engines.local import LocalEngine
from penstock.engines.task import lane_setup
from penstock.engines.work import TICK, Job, Progress, Stoppable, Summary, Watch
from penstock.errors import ConfigError
from penstock.fetch.policy.urls import UrlRules
from penstock.flow import LaneStatistics
from penstock.folder import open_output, read_report
from penstock.image.work import NO_STEPS, ImageTransform, Initializer, Steps, Transform
from penstock.ledger import Ledger, Manifest, finished_entry, lost_entry, run_entry, shard_entry
from penstock.location import Location, location_of
from penstock.parts import request_names
from penstock.records import MAX_TRACEBACKS, PART, Request, Row, ShardReport
from penstock.report.account import Account
from penstock.report.report import Report
from penstock.report.verdict import Shares, verdict
from penstock.sink.shards import ShardStore
from penstock.sink.table import requests_of
from penstock.source import open_list
from penstock.verifying import shard_problems

__all__ = ["OnProgress", "Run", "make_config", "run"]

T = TypeVar("T")

_logger = logging.getLogger("penstock")

OnProgress = Callable[[Progress, LaneStatistics], None]
"""Called a few times a second while a run works, on the thread that runs it."""


def run(
    source: Any,
    out: str | os.PathLike[str],
    *,
    transform: Transform | None = None,
    transform_image: ImageTransform | None = None,
    initializer: Initializer | None = None,
    engine: str | Choice = "local",
    config: RunConfig | None = None,
    on_progress: OnProgress | None = None,
    **options: Any,
) -> Report:
    """Turn a list of image URLs into dataset shards.

    >>> report = penstock.run("urls.parquet", "out/", size=256, resize="crop")  # doctest: +SKIP
    >>> report.written, report.failed, report.reasons  # doctest: +SKIP
    (998, 2, {'http.not_found': 1, 'image.truncated': 1})

    The same call again goes on where an earlier one stopped, and does nothing when that one had finished.

    Args:
        source: a file (txt, csv, tsv, json, jsonl, parquet, each but parquet also .gz), a folder of them, any fsspec
            URL, ``-`` for standard input, or any iterable of URLs or of mappings.
        out: the output folder: new, empty, or one that holds this same run. With ``://`` a prefix of an object store that
            fsspec knows, such as ``s3://bucket/images``.
        transform: a picklable function ``(bytes, row) -> dict of arrays or bytes`` in place of decode, resize and encode.
        transform_image: a picklable function ``(array, row) -> array or dict of arrays or bytes`` of the image after
            decode and resize: (H, W, 3) uint8 RGB, which it may change. What it returns as ``image`` is encoded as the
            options say if it is such an image again; any other array is stored as ``.npy``.
        initializer: a picklable function of no arguments, called once in each worker, before its first row.
        engine: where the work is done: ``local``, ``ray``, ``dask`` (with ``address``), or `penstock.engines.Ray` or `Dask`.
        config: all the options at once; or give them one by one:
        on_progress: called a few times a second.
        **options: fields of `RunConfig`.

    Raises:
        ConfigError: an option cannot be used, or a function cannot be sent to worker processes.
        SourceError: the list cannot be read.
        OutputRefusedError: the folder holds something else, or another run works in it.
        OutputError: the disk refuses.
        WorkerError: the workers cannot work at all, or the initializer raises.

    *Cancellation*: KeyboardInterrupt leaves the folder in order and passes on; the same call then goes on.
    """
    stop_if_in_worker()
    steps = Steps(transform, transform_image, initializer)
    if isinstance(engine, str):
        options |= {"engine": engine} if engine != "local" or config is None else {}
        return Run(source, out, config=make_config(config, options), steps=steps).execute(on_progress)
    config = make_config(config, options | {"engine": engine.name})
    return Run(source, out, config=config, steps=steps, cluster=engine).execute(on_progress)


def make_config(config: RunConfig | None, options: Mapping[str, Any]) -> RunConfig:
    """`config` with these options over it; an unknown one is a ConfigError that names the nearest."""
    check_option_names(options, [spec.name for spec in dataclasses.fields(RunConfig)])
    return dataclasses.replace(config or RunConfig(), **options)


def _checked_location(out: str | os.PathLike[str]) -> Location:
    """Where `out` is, if Arrow can write there: it takes names as UTF-8."""
    location = location_of(out)
    try:
        str(location).encode()
    except UnicodeEncodeError:
        raise ConfigError(f"--out {os.fsencode(out)!r}: expected a name in UTF-8") from None
    return location


class Run(Watch):
    """One run, so that it can be looked at and stopped from outside.

    >>> run = Run("urls.txt", "out", config=RunConfig(size=128))  # doctest: +SKIP
    >>> report = run.execute()  # doctest: +SKIP

    Args:
        source: as of `run`; so is `out`.
        out: the output folder.
        config: the options.
        steps: the user's own functions.
        cluster: the one to work on; by default what the config says.
        tick: seconds between two reports of progress.
    """

    def __init__(
        self,
        source: Any,
        out: str | os.PathLike[str],
        *,
        config: RunConfig,
        steps: Steps = NO_STEPS,
        cluster: Choice | None = None,
        tick: float = TICK,
    ) -> None:
        self.config = config
        cluster = cluster or chosen(config)
        self._cluster = cluster
        if cluster is not None:
            cluster.check(config)
        self._tick = tick
        self.out = _checked_location(out)
        self.source = open_list(source, config)
        if config.dedup and not self.source.rereadable:
            raise ConfigError(f"--dedup reads the list twice, and {self.source.description} can be read only once")
        check_fetchable(config)
        if cluster is not None and not self.source.rereadable:
            raise ConfigError(
                f"--engine {cluster.name}: {self.source.description} can be read only once; write the list to a file first"
            )
        self._setup = self._choose_setup()
        if cluster is None and (self._setup.crew == "processes" or self._setup.lanes > 1):
            steps.check_picklable()
        self._steps = steps
        self._work = build_work(config, steps, as_array=config.format == "arrays")
        # Refuses names of columns and parts that the table beside the shards needs for itself.
        ShardStore(self.out, config, run_id="", kept_schema=self.source.kept_schema, parts=self._known_parts())
        self._ledger = Ledger()
        self._folder = open_output(self.out)
        self._lane: Stoppable | None = None
        self._stop_asked = False
        self._rows_committed = 0
        self._tracebacks: dict[str, str] = {}
        """Of the user's own code, by kind of exception, as they stand in the log."""
        self._on_progress: OnProgress | None = None

    def _choose_setup(self) -> Setup:
        if self._cluster is not None:
            return lane_setup(self.config, cores_of(self.config))
        return choose(self.config, splittable=self.source.spec is not None)

    def stop(self) -> None:
        """Take no more rows, commit what is whole, and let `execute` return. Safe in a signal handler."""
        self._stop_asked = True
        if self._lane is not None:
            self._lane.stop()

    def execute(self, on_progress: OnProgress | None = None) -> Report:
        """Do the work; see `run`."""
        self._on_progress = on_progress
        started = dt.datetime.now(dt.UTC)
        with self._folder:
            job = self._prepare()
            before = self._ledger.account
            clock = time.perf_counter()
            summary = self._do(job)
            if summary is None:
                return self._finished_report()
            report = self._report(summary, before, time.perf_counter() - clock, started)
            self._folder.write_report(report.as_dict())
            return report

    def _do(self, job: Job) -> Summary | None:
        """The list and, if they are wanted, the retries; None if there was nothing to do."""
        summary = None if self._list_is_done() else self._do_list(job)
        retries = self.config.retry_failed and self._ledger.finished_rows is not None
        if retries:
            if self._stop_asked and summary is None:
                raise KeyboardInterrupt  # "nothing to do" would not be true
            later = self._do_retries(job)
            summary = later if summary is None else summary.followed_by(later)
        if summary is not None and summary.complete:
            # A lane that died may have left its work in progress.
            job.store().sweep(self._ledger.shards, strays=retries)
        return summary

    def _prepare(self) -> Job:
        """Make the folder this run's, and say what its lanes must know."""
        manifest = self._manifest()
        ledger = self._folder.read_ledger()
        if ledger.manifest is not None and self.config.overwrite:
            self._folder.clear(ledger)
            ledger = Ledger()
        if ledger.manifest is not None:
            ledger.manifest.check_same(manifest)
            manifest = ledger.manifest
        self._folder.check_writable()
        job = Job(
            config=self.config,
            setup=self._setup,
            folder=self.out,
            run_id=manifest.run_id,
            work=self._work,
            kept_schema=self.source.kept_schema,
            parts=self._known_parts(),
            tick=self._tick,
            work_folder=self._folder.work_folder,
            owner=self._folder.owner,
        )
        if ledger.manifest is None:
            # What a run left that was overwritten goes before this one begins: afterwards nobody would look for it.
            job.store().sweep(())
            self._folder.append(run_entry(manifest))
            ledger.manifest = manifest
        self._ledger = ledger
        if self.config.dedup:
            self.source.leave_out(self._folder.duplicates(self._find_duplicates))
        if self.config.verify:
            self._take_back_damaged()
            # What an earlier run gave up, and was killed before it deleted it.
            job.store().sweep(ledger.shards)
        return job

    def _known_parts(self) -> tuple[str, ...]:
        """Names of the parts that samples will have; none where only the user's function knows them."""
        if self.config.parts is not None:
            return request_names(self.config.parts)
        if self._steps.decide_parts:
            return ()
        return (PART,) if self.config.format == "arrays" else (self.config.encode,)

    def _find_duplicates(self) -> npt.NDArray[np.int64]:
        rows = map(self._unless_stopped, self.source.rows())
        return find_duplicates(rows, UrlRules.of(self.config))

    def _unless_stopped(self, item: T) -> T:
        """For loops that come before the lane, which hears by itself that the run is to stop."""
        if self._stop_asked:
            raise KeyboardInterrupt
        return item

    def _take_back_damaged(self) -> None:
        """Give up the shards whose files are not what was committed: what follows does their rows again."""
        for number in map(self._unless_stopped, sorted(self._ledger.shards)):
            problems = shard_problems(self.out, self._ledger.shards[number]) if number in self._ledger.shards else []
            if problems:
                _logger.warning("%s %s: shard %05d is made again", problems[0].file, problems[0].what, number)
                lost = self._ledger.lost_with(number)
                self._record(lost_entry(number))
                self._folder.take_back(lost)

    def _manifest(self) -> Manifest:
        return Manifest.of(uuid.uuid4().hex, self.source.fingerprint, self.config, self._steps.names())

    def _list_is_done(self) -> bool:
        """Whether every row of the list has its outcome; for a list without a fingerprint only reading it can tell."""
        return self._ledger.finished_rows is not None and self.source.fingerprint is not None

    def _do_list(self, job: Job) -> Summary:
        """The rows of the list that are in no committed shard."""
        compared = self.source.fingerprint is None
        # The rows in a spool cannot be compared with those of a list that has no fingerprint, so they are not kept.
        job.store().sweep(self._ledger.shards, spools=compared, strays=False)
        plan = Plan(
            self.source,
            self.config.shard_size,
            self._ledger.digests,
            check_digests=compared,
            finished_rows=self._ledger.list_rows,
        )
        summary = self._run(job, plan)
        if summary.complete:
            rows = self._ledger.account.rows
            self._ledger.account.check(self.source.count)
            if self._ledger.finished_rows is None:
                self._record(finished_entry(rows))
        return summary

    def _do_retries(self, job: Job) -> Summary:
        """The failed rows that are worth it, into new shards."""
        job.store().sweep(self._ledger.shards, spools=True, strays=False)  # which rows they held may have changed since
        retry = self._failed_rows(self._ledger.next_shard)
        plan = Plan(self.source, self.config.shard_size, {}, retry=retry, first_new=self._ledger.next_shard)
        summary = self._run(job, plan)
        self._ledger.account.check(self._ledger.finished_rows)
        return summary

    def _failed_rows(self, first_shard: int) -> Iterator[Placed]:
        """Rows whose reason may have passed, read from the tables of the shards that exist, for those from `first_shard` on."""
        from penstock.report.failures import read_failures

        config = self.config
        added = [name for name, asked in (("caption", config.caption_column), ("parts", config.parts)) if asked]
        columns = (*added, *config.kept_columns)
        failures = read_failures(self.out, self._ledger.shards, columns)
        worth = (row for row in failures if row.worth_retrying)
        for position, failed in enumerate(worth):
            fields = dict(failed.fields)
            caption = fields.pop("caption", None) if config.caption_column else None
            plain = (Request(PART, failed.url),)
            requests = plain if config.parts is None else requests_of(fields.pop("parts"), config.parts)
            row = Row(failed.index, requests, caption, fields)
            yield Placed(first_shard + position // config.shard_size, row, failed.reason)

    def _run(self, job: Job, plan: Plan) -> Summary:
        engine: Engine = LocalEngine()
        if self._cluster is not None:
            engine = ClusterEngine(self._cluster, self._steps)
        summary = engine.run(job, plan, self)
        if summary.lanes:
            cores = cores_of(self.config)
            self._setup = dataclasses.replace(self._setup, lanes=summary.lanes, workers=summary.lanes * cores)
        return summary

    def _record(self, *entries: Mapping[str, Any]) -> None:
        self._folder.append(*entries)
        for entry in entries:
            self._ledger.apply(entry)

    def shard_done(self, report: ShardReport) -> None:
        """Write the line by which the shard exists."""
        self.shards_done([report])

    def shards_done(self, reports: Sequence[ShardReport]) -> None:
        """Write their lines, with one flush."""
        self._rows_committed += sum(report.rows for report in reports)
        self._record(*map(shard_entry, reports))

    def started(self, lane: Stoppable) -> None:
        """Keep what can be stopped."""
        self._lane = lane
        if self._stop_asked:
            lane.stop()

    def progressed(self, progress: Progress, statistics: LaneStatistics) -> None:
        """Pass it on; what the user's code raises for the first time goes into the log."""
        for kind, trace in progress.tracebacks.items():
            if kind not in self._tracebacks and len(self._tracebacks) < MAX_TRACEBACKS:
                self._tracebacks[kind] = trace
                _logger.warning("the transform raised %s; such rows fail as transform.error\n%s", kind, trace)
        if self._on_progress is not None:
            self._on_progress(progress, statistics)

    def _report(self, summary: Summary, before: Account, seconds: float, started: dt.datetime) -> Report:
        blank = self._blank_report()
        progress, shares, fetch = (
            summary.progress,
            summary.statistics.shares(self.config.connections),
            summary.statistics.fetch,
        )
        settled = progress.settled + progress.recovered
        return dataclasses.replace(
            blank,
            seconds=round(seconds, 3),
            images_per_second=round(progress.written / seconds, 1),
            bytes_downloaded=progress.bytes_downloaded,
            verdict=self._verdict(shares, progress),
            peak_rss_bytes=summary.peak_resident_bytes,
            finished=summary.complete,
            rows_before=before.rows + progress.recovered,
            rows_settled=progress.settled,
            rows_waiting=0 if summary.complete or not self._keeps_spools else settled - self._rows_committed,
            retries=fetch.retries,
            attempts_given_back=fetch.given_back,
            waits={reason: round(seconds, 1) for reason, seconds in fetch.trouble_seconds.items()},
            loop_lag_seconds=round(fetch.loop_lag, 3),
            stages=dataclasses.asdict(shares),
            started=started.isoformat(timespec="seconds"),
            tracebacks=self._tracebacks,
        )

    @property
    def _keeps_spools(self) -> bool:
        """Whether rows of shards that are not whole are still there for the next run."""
        return self._folder.work_folder is None

    def _finished_report(self) -> Report:
        """The report of a run that had nothing to do; it is stored only if no earlier run's tells the same account."""
        report = self._blank_report()
        stored = read_report(self.out)
        if stored is None or not stored.finished or stored.with_account(self._ledger.account) != stored:
            self._folder.write_report(report.as_dict())
        return report

    def _blank_report(self) -> Report:
        """The folder's account, of a run that did nothing itself."""
        account = self._ledger.account
        account.check()
        report = Report(
            verdict="nothing to do: the folder holds this run, finished",
            strategy=self.config.strategy,
            workers=self._setup.workers,
            connections=self.config.connections,
            folder=str(self.out),
            format=self.config.format,
            finished=True,
            rows_before=account.rows,
            shards=len(self._ledger.shards),
            lanes=self._setup.lanes,
            fetch=self._setup.fetch,
            crew=self._setup.crew,
            ignored=self.config.ignored,
            version=penstock.__version__,
        )
        return report.with_account(account)

    def _verdict(self, shares: Shares, progress: Progress) -> str:
        if not progress.written:
            return "none: no image was written in this run; the reasons tell why"
        return verdict(
            shares,
            workers=self._setup.workers,
            connections=self.config.connections,
            per_host=self.config.per_host,
        )
