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
import os
import pickle
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.build import choose
from penstock.comparison.bench import TEXTBOOK, Bench
from penstock.comparison.child import call
from penstock.comparison.judge import judge
from penstock.comparison.recording import Recorded, record, replay_config, replay_row, replay_server
from penstock.comparison.results import Comparison, Entry, GilProbe
from penstock.comparison.workloads import WORKLOADS, rows_for
from penstock.config import (
    NOT_COMPARED,
    STRATEGIES,
    CompareConfig,
    RunConfig,
    available_cores,
    check_option_names,
)
from penstock.crew.choose import gil_enabled
from penstock.crew.script import required_script, stop_if_in_worker
from penstock.errors import ConfigError, OutputError, SourceError
from penstock.image.work import Transform, check_picklable
from penstock.records import Failure, Row
from penstock.report.failures import FailedRow, ReasonGroup, group_by_reason
from penstock.report.machine import machine_facts
from penstock.runner import make_config
from penstock.source import open_source
from penstock.testing.server import ImageServer

__all__ = ["Comparing", "OnStep", "compare", "split_options"]

SAMPLE = 200
"""Rows of a list that are measured unless ``--count`` says otherwise."""

LOOPBACK = ("127.0.0.0/8",)
"""Where Penstock's own server is."""

START_COUNTS = 0.25
"""Share of the wall time from which the start is worth a note."""

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
    """The options of the comparison, and those of the runs that it is made of.

    Raises:
        ConfigError: an option that there is not, or that a comparison sets itself.
    """
    own = [spec.name for spec in dataclasses.fields(CompareConfig)]
    runs = [spec.name for spec in dataclasses.fields(RunConfig) if spec.name not in NOT_COMPARED]
    for name in NOT_COMPARED:
        if name in options:
            raise ConfigError(f"{name!r} is no option of a comparison, which makes all of its runs anew")
    check_option_names(options, own + runs)
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
        if transform is not None:
            _check_transform(transform, experiment.workload)
        self.experiment = experiment
        self._workload = WORKLOADS[experiment.workload]
        self._user_transform = transform
        own = {} if source is not None else self._workload.options
        self._usual = RunConfig(**own)
        """What the options are if nobody gives any."""
        self._config = _for_trials(make_config(config or self._usual, options))
        self._scratch = _checked_scratch(scratch)
        self._location = os.fspath(source) if isinstance(source, (str, os.PathLike)) else ""
        self._source = None
        if source is not None:
            columns = {
                name: getattr(self._config, name)
                for name in ("url_column", "caption_column", "keep_columns", "encoding")
            }
            self._source = open_source(source, **columns)

    @property
    def rows(self) -> int:
        """Rows that are asked for."""
        if self.experiment.count is not None:
            return self.experiment.count
        workers = min(choose(self._config).workers, available_cores())  # more of them finish no sooner
        return SAMPLE if self._source is not None else rows_for(self._workload, workers)

    @property
    def schemes(self) -> tuple[str, ...]:
        """What is measured, in order."""
        return self.experiment.strategies + (TEXTBOOK if self.experiment.textbook else ())

    @property
    def once(self) -> bool:
        """Whether rows are fetched a single time. The textbook's programs guard no address, so they get a replay."""
        return self.experiment.once or (self.experiment.textbook and self._source is not None)

    @property
    def times_fetched(self) -> int:
        """How often other people's servers are asked for each row, the few rows of warm-up and probe aside."""
        return 0 if self._source is None else 1 if self.once else self.experiment.runs * len(self.schemes)

    def execute(self, on_step: OnStep | None = None) -> Comparison:
        """Do it; see `compare`."""
        steps = _Steps(2 + self.once + len(self.schemes) * (1 + self.experiment.runs), on_step)
        with _folder(self._scratch) as folder, contextlib.ExitStack() as stack:
            rows, config = self._first_rows(stack, steps)
            recorded: tuple[Recorded, ...] = ()
            if self.once:
                steps.begin(f"fetching {len(rows)} rows, once")
                recorded = call(record, rows, config, folder / "cache")
                server = stack.enter_context(replay_server(folder / "cache"))
                rows, config = [replay_row(row) for row in recorded], replay_config(config, server.url)
            bench = Bench(folder, rows, config, self._user_transform or self._workload.transform)
            steps.begin("finding out whether the work holds the GIL")
            gil = bench.probe()
            self._rounds(bench, steps)
            return self._comparison(bench, gil, _failures(bench, recorded))

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
        if self._source is None:
            return rows, dataclasses.replace(self._config, allow_network=(*self._config.allow_network, *LOOPBACK))
        return rows, self._config

    def _rounds(self, bench: Bench, steps: _Steps) -> None:
        """The warm-up, then every scheme as often as asked for; ends early where no row can be downloaded."""
        for scheme in self.schemes:
            steps.begin(f"warm-up: {scheme}")
            bench.warm_up(scheme)
            if bench.nothing_came:
                break  # the first whole trial will tell whether there is anything at all
        for number in range(self.experiment.runs):
            for scheme in self.schemes[:: -1 if number % 2 else 1]:
                steps.begin(f"run {number + 1} of {self.experiment.runs}: {scheme}")
                bench.measure(scheme)
                if bench.nothing_came:
                    return

    def _comparison(self, bench: Bench, gil: GilProbe | None, failures: Sequence[ReasonGroup]) -> Comparison:
        entries = [bench.entry(scheme) for scheme in self.schemes]
        ranking = sorted((entry for entry in entries if entry.measured), key=lambda entry: -entry.images_per_second)
        return Comparison(
            workload=self._workload.name if self._user_transform is None else _name_of(self._user_transform),
            source=self._source.description if self._source is not None else "",
            rows=len(bench.rows),
            runs=self.experiment.runs,
            entries=(*ranking, *(entry for entry in entries if entry.failure)),
            gil=gil,
            judgement=judge(
                ranking,
                gil,
                config=self._config,
                given=self._given(),
                source=self._location,
                transform=_typed(self._user_transform),
            ),
            notes=tuple(self._notes(bench, ranking, failures)),
            failures=tuple(failures),
            machine=machine_facts(),
            options={**self._config.as_dict(), "proxy": _masked(self._config.proxy), **self.experiment.as_dict()},
        )

    def _given(self) -> dict[str, Any]:
        """The options that differ from the usual ones."""
        values = {spec.name: getattr(self._config, spec.name) for spec in dataclasses.fields(RunConfig)}
        given = {name: value for name, value in values.items() if value != getattr(self._usual, name)}
        return {name: _masked(value) if name == "proxy" else value for name, value in given.items()}

    def _notes(self, bench: Bench, ranking: Sequence[Entry], failures: Sequence[ReasonGroup]) -> Iterator[str]:
        if len(bench.rows) < self.rows:
            yield f"the list is shorter than the {self.rows} rows asked for: it was measured with its {len(bench.rows)}"
        if failures and ranking:
            named = ", ".join(f"{group.count} {group.reason}" for group in failures)
            yield f"{sum(group.count for group in failures)} of the {len(bench.rows)} rows gave no image in some run: {named}"
        strategies = [entry for entry in ranking if entry.name in STRATEGIES]
        if len({entry.written for entry in strategies}) > 1:
            counts = ", ".join(f"{entry.name} {entry.written}" for entry in strategies)
            yield f"not all gave the same number of images ({counts}): compare images/s, and run it again"
        if self._source is not None and self._workload.transform is not None:
            yield f"what was done with each download is the workload's own ({self._workload.name}), not a resize"
        if self.once:
            yield "replayed from this machine: name look-ups and TLS are not in the figures"
        if self.experiment.textbook and self._source is not None:
            yield "the textbook's programs guard no address and one failure ends them: they got a replay of the good rows"
        if not gil_enabled():
            yield "this interpreter has no GIL (free-threaded Python): threads of one process run Python code side by side"
        if strategies and (strategies[0].first_image or 0.0) > START_COUNTS * strategies[0].wall:
            yield (
                f"the first image of {strategies[0].name} came after {strategies[0].first_image:.2f} s of "
                f"{strategies[0].wall:.2f} s: starting counts much in these figures, and less with more rows (--count)"
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


def _failures(bench: Bench, recorded: Sequence[Recorded]) -> list[ReasonGroup]:
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


def _check_transform(transform: Transform, workload: str) -> None:
    """See to it that it can be measured, in processes that have not run the caller's code."""
    if workload != "images":
        raise ConfigError(f"--workload {workload!r} is a transform of its own; give one of the two")
    check_picklable(transform, otherwise="")
    required_script(pickle.dumps(transform))


def _for_trials(config: RunConfig) -> RunConfig:
    """These options without those that a comparison sets itself."""
    return dataclasses.replace(config, **{name: getattr(RunConfig(), name) for name in NOT_COMPARED})


def _name_of(transform: Transform) -> str:
    return str(getattr(transform, "__qualname__", type(transform).__qualname__))


def _typed(transform: Transform | None) -> str:
    """The user's function as one would type it: its name, or dots where it is none; empty if there is none."""
    if transform is None:
        return ""
    return transform.__qualname__ if isinstance(transform, types.FunctionType) else "..."


def _masked(proxy: str | None) -> str | None:
    """Without the password, which is nobody's business on a screen or in a file."""
    if proxy is None or "@" not in proxy:
        return proxy
    scheme, _, rest = proxy.rpartition("://")
    return f"{scheme}://***@{rest.rpartition('@')[2]}"


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
