"""The three schemes as textbooks print them."""

from __future__ import annotations

import http.server
import itertools
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args

import numpy as np
import pytest

from penstock.comparison import textbook, textbook_meter
from penstock.comparison.results import Shares, Trial
from penstock.comparison.textbook import TextbookTask, run_textbook
from penstock.comparison.textbook_meter import Meter
from penstock.comparison.textbook_steps import Loaded, RowError, Timed, load, preprocess
from penstock.image.work import Transform
from penstock.records import Request, Row
from penstock.testing.server import ImageServer
from run.textbook_steps import fail_on_row_3, head, say_process_and_stop

# Pillow's, of one of the pictures: a textbook does not heed it, and pytest makes it an error.
pytestmark = pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")

Scheme = Literal["threads", "processes", "hybrid"]

SCHEMES = get_args(Scheme)

PROCESSES = 1
"""Worker processes: each costs most of a second to start."""


def rows_of(urls: list[str]) -> tuple[Row, ...]:
    return tuple(Row(index, (Request("image", url),)) for index, url in enumerate(urls))


def task(scheme: Scheme, urls: list[str], transform: Transform | None = None, proxy: str | None = None) -> TextbookTask:
    return TextbookTask(scheme, rows_of(urls), 32, PROCESSES, transform, proxy)


def total(shares: Shares) -> float:
    return shares.starting + shares.waiting + shares.decoding + shares.handover + shares.output


def assert_whole(trial: Trial, rows: int) -> None:
    """Every row is written, and the figures can be."""
    assert (trial.rows, trial.written) == (rows, rows)
    assert trial.first_image is not None
    assert 0 < trial.first_image <= trial.wall
    assert (trial.cpu_seconds > trial.own_cpu_seconds) is (trial.crew == "processes")
    assert trial.peak_bytes > 10e6
    assert 0 < trial.busy <= 1
    assert total(trial.shares) == pytest.approx(1)


def assert_gapless(trial: Trial) -> None:
    """The slices of the timeline follow each other from the start to the end."""
    assert trial.timeline[0].start == 0
    assert trial.timeline[-1].stop == pytest.approx(trial.wall)
    assert all(before.stop == after.start for before, after in itertools.pairwise(trial.timeline))
    assert all(total(part.shares) == pytest.approx(1) for part in trial.timeline)
    assert sum(part.shares.decoding for part in trial.timeline) > 0
    assert sum(part.shares.output for part in trial.timeline) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("scheme", "fetch", "crew"),
    [
        ("threads", "threads", "threads"),
        ("processes", "processes", "processes"),
        ("hybrid", "threads", "processes"),
    ],
)
def test_every_scheme_works_off_every_row(image_server: ImageServer, scheme: Scheme, fetch: str, crew: str) -> None:
    """Pictures of all kinds; the trial says who did what."""
    asked = task(scheme, image_server.image_urls(40))
    trial = run_textbook(pickle.loads(pickle.dumps(asked)))
    assert (trial.fetch, trial.crew) == (fetch, crew)
    assert trial.workers == (asked.threads if scheme == "threads" else PROCESSES)
    assert_whole(trial, 40)
    assert_gapless(trial)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_transform_takes_the_place_of_decode_and_resize(image_server: ImageServer, scheme: Scheme) -> None:
    """It gets bytes that are no image, too."""
    trial = run_textbook(task(scheme, [*image_server.image_urls(4), f"{image_server.url}/html"], head))
    assert_whole(trial, 5)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_one_row_that_fails_ends_it_all(image_server: ImageServer, scheme: Scheme) -> None:
    """As in a textbook; the error can be pickled, and names the row and what was wrong."""
    urls = [*image_server.image_urls(10), f"{image_server.url}/status/404"]
    with pytest.raises(RowError, match=r"/status/404: HTTPError: HTTP Error 404"):
        run_textbook(task(scheme, urls))


def test_a_transform_that_fails_while_the_queue_is_full(
    image_server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The threads that wait for room in the queue are let go, and an error that cannot be pickled is told all the same."""
    asked = task("hybrid", image_server.image_urls(100), fail_on_row_3)
    monkeypatch.setattr(textbook, "QUEUE", asked.threads)
    with pytest.raises(RowError, match=r"i=3: UnpicklableError: "):
        run_textbook(asked)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_images_that_would_fill_the_memory(
    image_server: ImageServer, scheme: Scheme, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends with a line that says why, before the machine is out of memory."""
    monkeypatch.setattr(textbook_meter, "machine_bytes", lambda _name: 2000)
    text = (
        r"the textbook keeps every decoded image in memory: 0\.0 GB for \d+ of 40 rows, more than half of what is free$"
    )
    with pytest.raises(MemoryError, match=text):
        run_textbook(task(scheme, image_server.image_urls(40)))


@contextmanager
def a_proxy(answer: bytes) -> Iterator[tuple[str, list[str]]]:
    """A proxy that gives one answer to everything: its URL, and what it was asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            """Nothing to standard error."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def test_a_proxy_is_used() -> None:
    """Every request goes through it, with the whole URL."""
    urls = [f"http://pictures.invalid/{index}" for index in range(3)]
    with a_proxy(b"some bytes") as (proxy, asked):
        trial = run_textbook(task("threads", urls, head, proxy))
    assert trial.written == 3
    assert sorted(asked) == urls


def test_only_the_web_is_downloaded_from(tmp_path: Path) -> None:
    """urllib reads files as well, if it is let."""
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(RowError, match=r"url\.scheme_denied"):
        run_textbook(task("threads", [(tmp_path / "secret").as_uri()], head))


def test_the_steps_make_what_the_tutorial_makes(image_server: ImageServer) -> None:
    """Pixels as Pillow decodes them; resized and normalised ones."""
    loaded = load(rows_of(image_server.image_urls(1))[0], proxy=None, decoded=True)
    assert isinstance(loaded.value.pixels, np.ndarray)
    assert loaded.value.pixels.shape[2:] == (3,)
    array = preprocess(loaded.value, size=32, transform=None).value
    assert (array.shape, array.dtype) == ((32, 32, 3), np.float32)
    assert 0 <= array.min() < array.max() <= 1


def test_the_notes_become_shares_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start, download and decode; then pickled, preprocessed, and nothing to do: each is counted as what it was."""
    clock = iter([100.0, 108.0])
    monkeypatch.setattr(textbook_meter, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    image = Loaded(rows_of(["http://example.com/"])[0], b"")
    with Meter(1, workers=1) as meter:
        meter.loaded(100.0, Timed(image, computing=(103.0, 104.0), downloading=(101.0, 103.0)))
        meter.finished(104.0, Timed({}, computing=(105.0, 107.0)))
    trial = meter.trial("processes", "processes")
    assert (trial.wall, trial.first_image, trial.workers) == (8.0, 8.0, 1)
    assert trial.busy == pytest.approx(2 / 3)
    assert trial.shares.waiting == pytest.approx(1 / 3)
    names = ["starting", "waiting", "decoding", "handover"]
    seconds = {
        name: sum(getattr(part.shares, name) * (part.stop - part.start) for part in trial.timeline) for name in names
    }
    assert seconds == pytest.approx({"starting": 1, "waiting": 3, "decoding": 3, "handover": 1}, abs=0.1)


SCRIPT = """
import sys
from penstock.comparison.child import call
from penstock.comparison.textbook import TextbookTask, run_textbook
from penstock.crew.script import stop_if_in_worker
from penstock.records import Request, Row

def transform(data, row):
    return {"bin": data}

stop_if_in_worker()  # as penstock.compare does
print("begun")
rows = tuple(Row(index, (Request("image", url),)) for index, url in enumerate(sys.argv[1:]))
print(call(run_textbook, TextbookTask("processes", rows, 32, 1, transform, None)).written)
"""


@pytest.mark.slow
def test_a_script_with_a_transform_needs_no_guard(image_server: ImageServer, tmp_path: Path) -> None:
    """The workers define its transform, and do not begin the comparison anew."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    ended = subprocess.run(
        [sys.executable, str(script), *image_server.image_urls(3)], capture_output=True, text=True, check=False
    )
    assert (ended.stdout, ended.stderr) == ("begun\n3\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
@pytest.mark.parametrize("scheme", ["processes", "hybrid"])
def test_workers_do_not_outlive_a_scheme_that_is_killed(image_server: ImageServer, scheme: Scheme) -> None:
    """Nothing keeps the pipe open, which every process of the scheme had as its standard output."""
    asked = task(scheme, image_server.image_urls(3), say_process_and_stop)
    code = "import pickle, sys; sys.path[:] = sys.argv[1:]; task = pickle.load(sys.stdin.buffer); from penstock.comparison.textbook import run_textbook; run_textbook(task)"
    with subprocess.Popen(
        [sys.executable, "-c", code, *sys.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(pickle.dumps(asked))
        process.stdin.close()
        assert int(process.stdout.readline()) not in (0, process.pid)
        process.send_signal(signal.SIGKILL)
        assert process.stdout.read() == b""  # comes when the last of them has gone
