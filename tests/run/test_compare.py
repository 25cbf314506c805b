"""Whole comparisons: what they measure, what they say, and what they leave behind."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import penstock
from penstock.cli import main
from penstock.comparison import probe
from penstock.comparison.bench import Bench
from penstock.comparison.compare import Comparing
from penstock.comparison.results import Bound
from penstock.config import STRATEGIES, CompareConfig, available_cores
from penstock.crew.choose import gil_enabled
from penstock.errors import ConfigError, OutputError, SourceError
from penstock.image.work import TransformWork
from penstock.records import Fetched, Request, Row
from penstock.testing.server import ImageServer
from run.transforms import hang_on_the_third, kill_on_the_seventh, length_head_and_name, only_in_a_worker_process

Compare = Callable[..., penstock.Comparison]

QUICK = {"size": 32, "per_host": 64, "workers": 1, "runs": 1, "allow_network": ("127.0.0.0/8",), "timeout": 10}
FLAGS = ["--size", "32", "--per-host", "64", "--workers", "1", "--runs", "1", "--allow-network", "127.0.0.0/8"]

ROW = Row(0, (Request("image", "http://a/b"),))

several_cores = pytest.mark.skipif(available_cores() < 2, reason="on one core nothing runs side by side")


@pytest.fixture
def compare(tmp_path: Path) -> Compare:
    """`penstock.compare`, small and quick, with its scratch folder below the test's; nothing may stay in it."""

    def compare(source: Any = None, **options: Any) -> penstock.Comparison:
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        comparison = penstock.compare(source, scratch=scratch, **{**QUICK, **options})
        assert list(scratch.iterdir()) == []
        return comparison

    return compare


def by_name(comparison: penstock.Comparison) -> dict[str, Any]:
    return {entry.name: entry for entry in comparison.entries}


@pytest.mark.slow
def test_list_with_flaws(compare: Compare, urls: list[str]) -> None:
    """Every strategy does the same rows, and the rows that fail are told once."""
    steps: list[tuple[str, int, int]] = []
    comparison = compare(urls, on_step=lambda *step: steps.append(step), caption_column=None)
    assert sorted(entry.name for entry in comparison.ranking) == sorted(STRATEGIES)
    assert {trial.written for entry in comparison.entries for trial in entry.trials} == {38}
    assert {group.reason: group.count for group in comparison.failures} == {"http.not_found": 1, "image.truncated": 1}
    assert any("shorter than the 200 rows" in note for note in comparison.notes)
    assert any("2 of the 40 rows gave no image" in note for note in comparison.notes)
    assert comparison.judgement is not None
    assert [done for _, done, _ in steps] == list(range(steps[-1][2]))
    json.dumps(comparison.as_dict())


@pytest.mark.slow
def test_figures_of_a_trial_hang_together(compare: Compare, urls: list[str]) -> None:
    """Times, shares and memory are those of one run."""
    comparison = compare(urls, strategies=("threads", "hybrid", "processes"))
    for entry in comparison.ranking:
        (trial,) = entry.trials
        assert trial.first_image is not None
        assert 0 < trial.first_image <= trial.wall
        assert 0 < trial.own_cpu_seconds <= trial.cpu_seconds
        assert trial.peak_bytes > 20e6
        assert trial.timeline[-1].stop == pytest.approx(trial.wall)
        assert (entry.wall, entry.spread) == (trial.wall, 0)
    trials = {entry.name: entry.trials[0] for entry in comparison.ranking}
    assert (trials["threads"].fetch, trials["threads"].crew) == ("threads", "threads")
    assert trials["threads"].cpu_seconds == trials["threads"].own_cpu_seconds
    assert (trials["hybrid"].fetch, trials["hybrid"].crew) == ("threads", "processes")
    assert (trials["processes"].fetch, trials["processes"].crew) == ("worker", "processes")


@pytest.mark.slow
def test_scheme_that_dies_is_a_row_with_its_reason(compare: Compare, urls: list[str]) -> None:
    """A crash in a thread ends that strategy, and the comparison goes on."""
    good = [url for url in urls if "/image/" in url]
    entries = by_name(compare(good, strategies=("threads", "asyncio"), transform=kill_on_the_seventh))
    assert (entries["threads"].measured, entries["threads"].failure) == (False, "its process died: exit 3")
    assert entries["asyncio"].trials[0].written == len(good) - 1


@pytest.mark.slow
def test_scheme_without_an_image_is_a_row_with_its_reason(compare: Compare, urls: list[str]) -> None:
    """A transform that fails in one strategy only says nothing of the others, in whatever order they come."""
    good = [url for url in urls if "/image/" in url]
    entries = by_name(compare(good, strategies=("threads", "asyncio"), runs=2, transform=only_in_a_worker_process))
    assert (entries["threads"].measured, len(entries["asyncio"].trials)) == (False, 2)
    assert entries["threads"].failure == f"not one image came out ({len(good)} transform.error)"


@pytest.mark.slow
def test_transform_that_hangs_is_survived(compare: Compare, urls: list[str]) -> None:
    """In the probe as in the runs."""
    options = {"workers": 2, "decode_timeout": 0.5, "strategies": ("auto",)}
    comparison = compare(urls[:5], transform=hang_on_the_third, **options)
    assert {group.reason: group.count for group in comparison.failures} == {"decode.timeout": 1}


@pytest.mark.slow
def test_lanes_share_the_rows(compare: Compare, image_server: ImageServer, tmp_path: Path) -> None:
    """Several lanes are measured as one: their shares are of the time after their own start."""
    listing = tmp_path / "urls.txt"
    listing.write_text("\n".join(image_server.image_urls(120)))
    (entry,) = compare(listing, strategies=("threads",), lanes=2, workers=2).ranking
    (trial,) = entry.trials
    assert (trial.lanes, trial.written) == (2, 120)
    assert trial.shares.starting == 0.0
    assert sum(dataclasses.astuple(trial.shares)) == pytest.approx(1.0)


@pytest.mark.slow
def test_first_rows_without_an_image(compare: Compare, urls: list[str]) -> None:
    """A list that begins with dead rows is measured by those that come later."""
    dead = [f"{urls[0].rpartition('/image/')[0]}/status/404?i={index}" for index in range(30)]
    comparison = compare(dead + urls[:5], strategies=("threads",), workers=2)
    assert comparison.ranking[0].written == 5
    assert comparison.gil is None
    assert comparison.judgement is not None


@pytest.mark.slow
def test_once_fetches_once(compare: Compare, urls: list[str], image_server: ImageServer) -> None:
    """With ``once`` the list's servers see each URL a single time, and the failures are those that they gave."""
    before = image_server.statistics()
    comparison = compare(urls, strategies=("threads", "auto"), once=True, runs=2)
    after = image_server.statistics()
    assert after.requests - before.requests == len(urls)
    assert {trial.written for entry in comparison.ranking for trial in entry.trials} == {38}
    groups = {group.reason: group.examples[0].url for group in comparison.failures}
    assert groups == {"http.not_found": urls[7], "image.truncated": urls[20]}
    assert any("replayed" in note for note in comparison.notes)


@pytest.mark.slow
def test_textbook_schemes_stand_beside(compare: Compare, urls: list[str], image_server: ImageServer) -> None:
    """They get the rows that can be had, are ranked, and are not recommended."""
    before = image_server.statistics().requests
    comparison = compare(urls, strategies=("threads",), textbook=True)
    assert image_server.statistics().requests - before == len(urls)  # they only get a replay
    entries = by_name(comparison)
    assert set(entries) == {"threads", "textbook threads", "textbook processes", "textbook hybrid"}
    assert {entry.trials[0].written for entry in entries.values()} == {38}
    assert comparison.judgement is not None
    assert comparison.judgement.strategy == "threads"
    assert comparison.judgement.command.startswith("penstock run YOUR_URLS.txt ")  # a Python list cannot be typed


@pytest.mark.slow
def test_transform_of_the_user(compare: Compare, urls: list[str]) -> None:
    """A function of a module is measured in place of the resize, and the line to paste is Python."""
    comparison = compare(urls, strategies=("auto",), transform=length_head_and_name)
    assert comparison.workload == "length_head_and_name"
    assert comparison.judgement is not None
    assert "transform=length_head_and_name" in comparison.judgement.command
    assert comparison.ranking[0].trials[0].written == 39  # a cut picture is bytes like any other


BOUNDS = {
    "images": Bound.GIL_RELEASED,
    "io": Bound.NETWORK,
    "python": Bound.GIL_HELD if gil_enabled() else Bound.GIL_RELEASED,
    "native": Bound.GIL_RELEASED,
}


@several_cores
@pytest.mark.slow
@pytest.mark.parametrize("workload", BOUNDS)
def test_bound_of_a_workload_that_is_made_for_it(workload: str, tmp_path: Path) -> None:
    """The verdict names what the workload was built to be bound by."""
    comparison = penstock.compare(
        workload=workload, strategies=("threads", "auto"), runs=1, count=150, workers=2, scratch=tmp_path
    )
    assert comparison.judgement is not None
    assert comparison.judgement.bound is BOUNDS[workload], comparison.judgement.evidence


SHARED, APART = (100.0, 104.0), (100.0, 190.0)
"""Images a second of one thread and of two: where they have one core between them, and where each has its own."""


def rounds(*native: probe.Rates, work: probe.Rates) -> Iterator[probe.Rates]:
    """What a probe measures in so many rounds, at an hour in which the machine is what the native code shows."""
    return itertools.chain.from_iterable((SHARED if rates is SHARED else work, rates) for rates in native)


@pytest.mark.parametrize(
    ("measured", "released"),
    [
        (rounds(*[APART] * 5, work=SHARED), False),
        (rounds(*[SHARED] * 5, *[APART] * 3, work=SHARED), False),
        (rounds(*[SHARED] * 5, *[APART] * 3, work=APART), True),
        (rounds(SHARED, APART, SHARED, APART, SHARED, APART, work=APART), True),
    ],
    ids=["quiet machine", "busy at first, held", "busy at first, released", "busy by turns"],
)
def test_rounds_without_two_cores_do_not_count(
    monkeypatch: pytest.MonkeyPatch, measured: Iterator[probe.Rates], released: bool
) -> None:
    """While a virtual machine lacks its host's cores nothing gains by a second thread: the probe goes on until it has them."""
    monkeypatch.setattr(probe, "available_cores", lambda: 2)
    monkeypatch.setattr(probe, "_both_rates", lambda *_: next(measured))
    found = probe.probe_gil(TransformWork(length_head_and_name), [(ROW, (Fetched("image", b"bytes", 200, 1, 0.1),))])
    assert found is not None
    assert (found.released, found.reference) == (released, 1.9)
    assert next(measured, None) is None


def test_cores_that_stay_shared_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds by chance are no answer, and neither is waiting for ever."""
    measured = itertools.chain(rounds(APART, APART, work=SHARED), rounds(*[SHARED] * 1000, work=SHARED))
    seconds = itertools.count(0.0, 0.8)
    monkeypatch.setattr(probe, "available_cores", lambda: 2)
    monkeypatch.setattr(probe, "_both_rates", lambda *_: next(measured))
    monkeypatch.setattr(probe, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    work = TransformWork(length_head_and_name)
    assert probe.probe_gil(work, [(ROW, (Fetched("image", b"bytes", 200, 1, 0.1),))]) is None
    assert next(seconds) < 2 * probe.LAST_PATIENCE


@several_cores
@pytest.mark.slow
@pytest.mark.skipif(not gil_enabled(), reason="without the GIL threads run Python code side by side")
def test_the_gil_makes_threads_slower(tmp_path: Path) -> None:
    """Work that holds it takes threads longer than processes, which is what the command is there to show."""
    comparison = penstock.compare(
        workload="python", strategies=("threads", "hybrid"), runs=1, count=300, workers=2, scratch=tmp_path
    )
    assert [entry.name for entry in comparison.ranking] == ["hybrid", "threads"]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"strategies": ("threads", "magic")}, ConfigError, "unknown strategy 'magic'; expected some of threads, proc"),
        ({"workload": "magic"}, ConfigError, "expected one of images, io, python, native"),
        ({"strategy": "threads"}, ConfigError, "no option of a comparison"),
        ({"stratgies": ("threads",)}, ConfigError, "unknown option 'stratgies'; did you mean strategies"),
        (
            {"transform": lambda data, row: {"a": data}},
            ConfigError,
            "a lambda.*write it as a function at the top level of",
        ),
        ({"transform": length_head_and_name, "workload": "io"}, ConfigError, "give one of the two"),
        ({"scratch": "/nowhere"}, ConfigError, "expected a folder that exists"),
        ({"source": "/nowhere.txt"}, SourceError, "no such file"),
        ({"source": []}, SourceError, "no rows"),
    ],
)
def test_bad_input(options: dict[str, Any], error: type[Exception], says: str) -> None:
    """What cannot be used is said before anything starts."""
    with pytest.raises(error, match=says):
        penstock.compare(**options)


def test_scratch_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk's no is one line."""
    monkeypatch.setattr("tempfile.mkdtemp", lambda *_: Path("/nowhere").stat())
    with pytest.raises(OutputError, match="cannot write to"):
        penstock.compare(["http://example.org/a.jpg"], scratch=tmp_path)


def test_what_belongs_on_the_line_to_paste(urls: list[str], tmp_path: Path) -> None:
    """What was given and is not the workload's; nothing that a comparison sets itself; no password."""
    listing = tmp_path / "urls.txt"
    listing.write_text("\n".join(urls))
    config = penstock.RunConfig(overwrite=True, strategy="threads", min_success=0.5)
    comparing = Comparing(listing, CompareConfig(), {"proxy": "http://me:secret@127.0.0.1:1"}, config=config)
    assert comparing._given() == {"proxy": "http://***@127.0.0.1:1"}
    assert Comparing(None, CompareConfig(), {"size": 512})._given() == {"size": 512}


def test_interpreter_without_a_gil_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture is another one there, so it is said; elsewhere it is not."""
    comparing = Comparing(None, CompareConfig(count=1), {})
    bench = Bench(tmp_path, [ROW], penstock.RunConfig(), None)
    for enabled in (True, False):
        monkeypatch.setattr("penstock.comparison.compare.gil_enabled", lambda enabled=enabled: enabled)
        assert any("no GIL" in note for note in comparing._notes(bench, [], [])) is not enabled


def test_file_of_options_may_be_that_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Options without meaning here are left out; the others count."""
    options = tmp_path / "options.toml"
    options.write_text('strategy = "threads"\nmin-success = 0.5\nworkload = "magic"\n')
    assert main(["compare", "--config", str(options)]) == 2
    assert "--workload 'magic': expected one of images, io, python, native" in capsys.readouterr().err


def test_list_without_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No ranking, but the failures and exit 3."""
    listing = tmp_path / "urls.txt"
    listing.write_text("no url\nhttp://127.0.0.1:1/a.jpg\n")
    assert main(["compare", str(listing), *FLAGS]) == 3
    shown = capsys.readouterr()
    assert "nothing could be measured" in shown.out
    assert "url.invalid" in shown.out
    assert "--once" in shown.err


@pytest.mark.slow
def test_json_and_plot(urls: list[str], tmp_path: Path) -> None:
    """``--json`` prints everything measured and nothing else; ``--plot`` leaves a picture."""
    pytest.importorskip("matplotlib")
    plot = tmp_path / "compare.svg"
    shown = penstock_compare(urls, tmp_path, "--strategies", "threads,auto", "--json", "--plot", str(plot))
    values = json.loads(shown)
    assert {entry["name"] for entry in values["entries"]} == {"threads", "auto"}
    assert values["entries"][0]["relative"] == 1.0
    assert {"cores", "python", "gil", "pillow"} <= set(values["machine"])
    assert values["judgement"]["bound"] in list(Bound)
    assert plot.read_text(encoding="utf-8").lstrip().startswith("<?xml")


@pytest.mark.slow
def test_command_to_paste_is_one_line(urls: list[str], tmp_path: Path) -> None:
    """However narrow the terminal and poor its characters, the line is whole."""
    shown = penstock_compare(urls, tmp_path, "--strategies", "threads", COLUMNS="60", PYTHONIOENCODING="ascii")
    (line,) = (line for line in shown.splitlines() if line.startswith("penstock run"))
    assert line.split()[-4:] == ["--allow-network", "127.0.0.0/8", "--workers", "1"]


def penstock_compare(urls: list[str], folder: Path, *flags: str, **environment: str) -> str:
    """What ``penstock compare`` prints about these URLs."""
    listing = folder / ("long" * 20 + ".txt")
    listing.write_text("\n".join(urls))
    command = [sys.executable, "-m", "penstock", "compare", str(listing), *FLAGS, *flags]
    variables = {**os.environ, **environment}
    return subprocess.run(command, env=variables, stdout=subprocess.PIPE, check=True, timeout=100, text=True).stdout


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signal_ends_it_and_leaves_nothing(number: signal.Signals, code: int, tmp_path: Path) -> None:
    """In the middle of a trial: no process, no file stays, and the exit code says why."""
    arguments = ["compare", "--workload", "io", "--count", "100000", "--scratch", str(tmp_path)]
    arguments += ["--strategies", "auto", "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "penstock", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while not list(tmp_path.glob("*/100000.jsonl")):  # written when the first whole trial begins
        assert process.poll() is None
        os.sched_yield()
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output, list(tmp_path.iterdir())) == (code, b"", [])
