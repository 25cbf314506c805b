"""The command line: arguments → config → run → report. No decision is made here.

Exit codes: 0 done; 1 damage found by ``verify``, or a bug; 2 bad usage or input; 3 done, below ``--min-success``;
4 the output folder is refused; 5 the output cannot be written; 130, 143 and 129 interrupted, can go on.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import inspect
import io
import json
import os
import signal
import sys
import tomllib
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from cyclopts import App, Parameter
from rich.console import Console

from penstock import __version__
from penstock.config import NOT_COMPARED, CompareConfig, RunConfig, Strategy
from penstock.crew.lifetime import GROUP_SIGNALS
from penstock.errors import ConfigError, PenstockError, SourceError
from penstock.location import local_folder, location_of
from penstock.records import Reason

if typing.TYPE_CHECKING:
    from rich.console import RenderableType

    from penstock.comparison.compare import OnStep
    from penstock.engines.work import Progress
    from penstock.flow import LaneStatistics
    from penstock.report.report import Report
    from penstock.runner import OnProgress, Run

__all__ = ["main"]

app = App(
    name="penstock",
    version=__version__,
    help="A list of image URLs in, training-ready images out.",
    help_format="plaintext",
    suppress_keyboard_interrupt=False,  # `main` knows which signal it was
    default_parameter=Parameter(negative_iterable=(), negative_none=()),
)

Quiet = Annotated[bool, Parameter(negative=(), show_default=False, help="show no progress and no summary")]
Json = Annotated[
    bool,
    Parameter(
        negative=(), show_default=False, help="print the result as JSON on standard output, and nothing else there"
    ),
]

Folder = Annotated[str, Parameter(help="a run's output: a folder, or an object store's URL")]


@app.command
def demo(
    *,
    count: Annotated[int, Parameter(help="URLs")] = 1000,
    out: Annotated[str, Parameter(help="output folder")] = "penstock-demo",
    strategy: Annotated[Strategy, Parameter(help="which kind of concurrency")] = "auto",
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Start a server of generated pictures on this machine and run over it."""
    from penstock.demo import LATENCY, Demo
    from penstock.testing.server import ImageServer

    show = _Show(quiet=quiet, json=json)
    plan = Demo(count, local_folder(out, "the demo"), strategy)
    plan.take_folder()
    show.note(f"making {plan.pictures} pictures and starting a server that answers after {LATENCY * 1000:.0f} ms ...")
    with ImageServer(count=plan.pictures, latency=LATENCY) as server:
        report, code = _execute(plan.run_on(server), show)
    if code == 0:
        show.note(f"contact sheet: {plan.write_sheet(report)}")
        show.note(
            "\ntry next:\n"
            f"  penstock failures {out}\n"
            f"  penstock verify {out}\n"
            "  penstock compare YOUR_URLS.txt --once\n"
            "  penstock run YOUR_URLS.txt --out images --size 256"
        )
    return code


def run(
    source: str, *, out: str, config: Path | None = None, quiet: bool = False, json: bool = False, **options: Any
) -> int:
    """Turn a list of image URLs into dataset shards.

    The same command again goes on where an earlier one stopped.
    """
    from penstock.runner import Run, make_config

    settings = make_config(None, (_read_config(config) if config else {}) | given(options))
    show = _Show(quiet=quiet, json=json)
    if settings.proxy is not None:
        show.note(
            "--proxy: where the proxy connects to is for the proxy to judge; the address guard covers the proxy only"
        )
    report, code = _execute(Run(source, out, config=settings), show)
    return 3 if code == 0 and report.success < settings.min_success else code


def compare(
    source: str | None = None,
    *,
    plot: Path | None = None,
    scratch: Path | None = None,
    config: Path | None = None,
    quiet: bool = False,
    json: bool = False,
    **options: Any,
) -> int:
    """Measure threads, processes, hybrid and asyncio side by side on one workload, and say what bounds it."""
    from penstock.comparison.compare import Comparing, split_options
    from penstock.comparison.text import render_comparison

    if plot is not None:
        from penstock.comparison.plot import check_plot, write_plot

        check_plot(plot)
    show = _Show(quiet=quiet, json=json)
    # The file may be that of a run: what has no meaning here is left out.
    from_file = _read_config(config) if config else {}
    options = {name: value for name, value in from_file.items() if name not in NOT_COMPARED} | given(options)
    experiment, settings = split_options(options)
    comparing = Comparing(source, experiment, settings, scratch=scratch)
    if comparing.times_fetched > 1:
        show.note(
            f"every strategy fetches the first {comparing.rows} rows of the list again, {comparing.times_fetched} times in "
            "all; --once fetches each a single time and replays it"
        )
    elif comparing.once and not experiment.once:
        show.note("--textbook on a list implies --once: the textbook's programs guard no address")
    with _interruptible(), show.steps() as on_step:
        comparison = comparing.execute(on_step)
    show.result(comparison.as_dict(), lambda: render_comparison(comparison))
    if plot is not None and comparison.ranking:
        write_plot(comparison, plot)
        show.note(f"plot: {plot}")
    return 0 if comparison.ranking else 3


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given; one that was given several times is what it would be once, with commas."""
    return {
        name: ",".join(value) if isinstance(value, list) else value
        for name, value in options.items()
        if value is not None
    }


@app.command
def report(folder: Folder, /, *, json: Json = False) -> int:
    """Show the report of a run."""
    from penstock.folder import stored_report

    _Show(json=json).report(stored_report(folder))
    return 0


@app.command
def failures(
    folder: Folder,
    /,
    *,
    examples: Annotated[int, Parameter(help="rows to show for each reason")] = 3,
    json: Json = False,
    csv: Annotated[bool, Parameter(negative=(), show_default=False, help="print every failed row as CSV")] = False,
) -> int:
    """Show which rows failed or were skipped, by reason."""
    from penstock.folder import read_ledger
    from penstock.report.failures import group_by_reason, read_failures
    from penstock.report.text import render_failures

    location = location_of(folder)
    rows = read_failures(location, read_ledger(location).shards)
    if csv:
        _write_csv(rows)
    elif json:
        _write_json([dataclasses.asdict(group) for group in group_by_reason(rows, examples)])
    else:
        _stdout().print(render_failures(group_by_reason(rows, examples)))
    return 0


@app.command
def verify(
    folder: Folder,
    /,
    *,
    quick: Annotated[
        bool, Parameter(negative=(), show_default=False, help="compare sizes and counts, not hashes")
    ] = False,
    json: Json = False,
) -> int:
    """Check that every file that a run has committed is there and whole."""
    from penstock.folder import read_ledger
    from penstock.verifying import verify as find_problems

    account = read_ledger(folder).account
    problems = list(find_problems(folder, quick=quick))
    if json:
        _write_json([dataclasses.asdict(problem) for problem in problems])
        return 1 if problems else 0
    for problem in problems:
        _stdout().print(f"{problem.file}: {problem.what}", markup=False, highlight=False)
    verdict = f"{len(problems)} problems" if problems else "all files are there and whole"
    _stdout().print(f"{folder}: {account.rows:,} rows, {account.written:,} images; {verdict}", markup=False)
    return 1 if problems else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        result = app(
            sys.argv[1:] if arguments is None else list(arguments),
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
    except cyclopts.CycloptsError as error:
        return _complain(str(error).rstrip("."), 2)
    except PenstockError as error:
        local = f" ({error.reason.value})" if error.reason is not None else ""
        return _complain(f"{error}{local}", error.exit_code)
    except _Signalled as signalled:
        return 128 + signalled.number
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the interpreter's last flush is quiet
        return 128 + signal.SIGPIPE
    return result if isinstance(result, int) else 0


def _complain(message: str, code: int) -> int:
    print("penstock:", " ".join(message.split()), file=sys.stderr)  # noqa: T201 - the one line of an error
    return code


def _stdout() -> Console:
    """Where people read: a character that the terminal's encoding lacks becomes a question mark, not an exception."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    return Console(highlight=False, soft_wrap=False)


def _write_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")


def _write_csv(rows: Any) -> None:
    columns = ("key", "url", "outcome", "reason", "error_message", "http_status", "attempts")
    writer = csv.writer(sys.stdout)
    writer.writerow(columns)
    writer.writerows([getattr(row, name) for name in columns] for row in rows)


def _read_config(path: Path) -> dict[str, Any]:
    """Options from a TOML file: the names of the flags, with hyphens or underscores."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: not TOML: {error}") from error
    return {name.replace("-", "_"): value for name, value in values.items()}


class _Show:
    """What a person sees of a run: progress and notes on standard error, the report on standard output."""

    def __init__(self, *, quiet: bool = False, json: bool = False) -> None:
        self.quiet = quiet or json
        self.json = json
        self._stderr = Console(stderr=True, highlight=False)

    def note(self, text: str) -> None:
        if not self.quiet:
            self._stderr.print(text, markup=False, soft_wrap=True)

    def report(self, report: Report) -> None:
        from penstock.report.text import render_report

        self.result(report.as_dict(), lambda: render_report(report))

    def result(self, values: dict[str, Any], render: Callable[[], RenderableType]) -> None:
        """What the command was called for, as JSON or for people."""
        if self.json:
            _write_json(values)
        elif not self.quiet:
            _stdout().print(render(), crop=False)  # a line to paste is whole, however narrow the terminal

    @contextlib.contextmanager
    def steps(self) -> Iterator[OnStep]:
        """A line that says which step is at work, and the function that changes it."""
        from penstock.report.progress import step_line

        if self.quiet:
            yield lambda _what, _done, _total: None
            return
        with step_line(self._stderr) as tell:
            yield tell

    @contextlib.contextmanager
    def progress(self, total: int | None) -> Iterator[OnProgress]:
        """A bar, and the function that moves it."""
        from penstock.report.progress import progress_bar

        if self.quiet:
            yield lambda _progress, _statistics: None
            return
        with progress_bar(self._stderr, total) as update:
            waiting = ""

            def show(progress: Progress, statistics: LaneStatistics) -> None:
                nonlocal waiting
                if statistics.fetch.trouble != waiting:
                    waiting = statistics.fetch.trouble
                    self.note(f"waiting: {waiting}, {Reason.named(waiting).meaning}" if waiting else "going on")
                done = progress.settled + progress.recovered
                update(done, progress.failed, progress.bytes_downloaded, waiting, progress.lanes)

            yield show


def _execute(run: Run, show: _Show) -> tuple[Report, int]:
    """Run it with a bar, stop it on signals, show the report; the exit code is 0, 130 or 143."""
    with _stopping(run.stop) as received, show.progress(run.source.count) as update:
        try:
            report = run.execute(update)
        except KeyboardInterrupt as error:  # it was stopped where there was nothing to report yet
            raise error if isinstance(error, _Signalled) or not received else _Signalled(received[0]) from None
    if report.finished and not report.rows_settled:
        show.note("nothing to do: the folder holds this run, finished")
    show.report(report)
    return report, 128 + received[0] if received and not report.finished else 0


class _Signalled(KeyboardInterrupt):
    """The user, or the system, wants an end at once."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextlib.contextmanager
def _stopping(stop: Callable[[], None]) -> Iterator[list[int]]:
    """First SIGINT, SIGTERM or SIGHUP: `stop`. Second: an exception, at once. What ``nohup`` ignores stays ignored."""
    received: list[int] = []

    def handle(number: int, _frame: object) -> None:
        received.append(number)
        if len(received) > 1:
            raise _Signalled(number)
        stop()

    heard = (number for number in GROUP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN)
    earlier = {number: signal.signal(number, handle) for number in heard}
    try:
        yield received
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM, and the end of the terminal, end what is inside as Ctrl-C does: in order, at once."""

    def end(number: int, _frame: object) -> None:
        raise _Signalled(number)

    earlier = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


OUT_HELP = "output folder, or a place in an object store: s3://BUCKET/FOLDER"
SOURCE_HELP = "file, folder, fsspec URL, or - for standard input"


def _flags(config: type[Any], without: Sequence[str] = ()) -> list[inspect.Parameter]:
    """A flag for each field of a config class, all with None for *not given*."""
    hints = typing.get_type_hints(config)
    return [
        _option(spec.name, _flag(spec, hints[spec.name]))
        for spec in dataclasses.fields(config)
        if spec.name not in without
    ]


def _option(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _source(kind: Any, text: str, default: Any) -> inspect.Parameter:
    annotation = Annotated[kind, Parameter(help=text, allow_leading_hyphen=True, validator=_no_flag)]
    return inspect.Parameter("source", inspect.Parameter.POSITIONAL_ONLY, annotation=annotation, default=default)


def _no_flag(_hint: Any, source: str | None) -> None:
    """A list may be ``-``; what else begins with a hyphen is a flag that there is not."""
    if source is not None and source.startswith("-") and source != "-":
        # No ValueError, around which the parser would put words of its own.
        raise SourceError(f"there is no option {source}; a file of this name would be ./{source}")


_COMMON = [
    _option("config", Annotated[Path | None, Parameter(help="TOML file with options; flags win")]),
    _option("quiet", Quiet, default=False),
    _option("json", Json, default=False),
]


def _run_parameters() -> list[inspect.Parameter]:
    out = _option("out", Annotated[str, Parameter(help=OUT_HELP)], inspect.Parameter.empty)
    return [_source(str, SOURCE_HELP, inspect.Parameter.empty), out, *_flags(RunConfig), *_COMMON]


def _compare_parameters() -> list[inspect.Parameter]:
    plot = "draw bars and timelines into this file, FILE.svg or FILE.png"
    scratch = "folder for the output of the runs, which is deleted; default: where the system keeps temporary files"
    return [
        _source(str | None, f"{SOURCE_HELP}; default: Penstock's own server and pictures", None),
        *_flags(CompareConfig),
        _option("plot", Annotated[Path | None, Parameter(help=plot, metavar="FILE")]),
        _option("scratch", Annotated[Path | None, Parameter(help=scratch, metavar="DIR")]),
        *_flags(RunConfig, without=NOT_COMPARED),
        *_COMMON,
    ]


def _take(function: Callable[..., int], parameters: list[inspect.Parameter]) -> None:
    """Make the command take these parameters, which it declares as ``**options``."""
    function.__signature__ = inspect.Signature(parameters, return_annotation=int)  # type: ignore[attr-defined]  # functions take it, the stubs do not know
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(function)


def _flag(spec: dataclasses.Field[Any], hint: Any) -> Any:
    text = spec.metadata["help"]
    if spec.default is not None and spec.default is not False and spec.default != ():
        text += f" [default: {spec.metadata['shown'] or spec.default}]"
    negative = () if spec.default is False else None
    if hint == tuple[str, ...]:
        hint = list[str]  # several times, or once with commas
    elif spec.metadata["parse"] is not None:
        hint = str
    return Annotated[
        hint | None, Parameter(help=text, metavar=spec.metadata["metavar"], negative=negative, show_default=False)
    ]


_take(run, _run_parameters())
_take(compare, _compare_parameters())
