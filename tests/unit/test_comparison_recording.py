"""A recording asks each URL once, and its replay gives every scheme the same answers from this machine."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import penstock
from penstock.comparison.recording import (
    LONGEST_WAIT,
    Recorded,
    record,
    replay_config,
    replay_row,
    replay_server,
)
from penstock.config import FetchConfig, RunConfig
from penstock.errors import OutputError
from penstock.fetch.policy.deadlines import Limits
from penstock.fetch.policy.urls import MAX_REDIRECTS, check_url
from penstock.records import Failure, Reason, Request, Row
from penstock.testing.behaviours import SILENCE, Behaviours
from penstock.testing.server import ImageServer

LATENCY = 0.3
RATE = 2_000
"""Bytes a second: the body takes over a second, longer than a busy machine holds up the head of an answer."""
EARLY = 0.002
"""Seconds that a wait of the server may be too short: uvloop rounds a delay, and the time it starts at, to milliseconds."""

CONFIG = RunConfig(
    allow_network=("127.0.0.0/8",), retries=0, size=16, workers=2, per_host=64, format="parquet", memory=2**24
)


def rows_of(*urls: str | None) -> list[Row]:
    return [Row(index, (Request("image", url),)) for index, url in enumerate(urls)]


def targets_of(server: ImageServer, tag: str) -> list[str]:
    """Good, slow, dripping, cut, absent and broken: paths on the server, distinct by their tag."""
    name = server.pictures[0]
    paths = [
        *(f"/image/{name}" for name in server.pictures[:6]),
        f"/slow/{LATENCY}/{name}",
        f"/replay/0/{RATE}/{name}",
        f"/redirect/2/{name}",
        f"/chunked/{name}",
        f"/truncated/{name}",
        f"/short/{name}",
        f"/replay/{LATENCY}/0/absent",
        "/status/404",
        "/html",
    ]
    return [f"{path}?{tag}={index}" for index, path in enumerate(paths)]


@dataclasses.dataclass
class Recording:
    """What the tests look at: recorded once, for all of them."""

    entries: tuple[Recorded, ...]
    folder: Path
    targets: list[str]
    server: ImageServer
    """What was recorded."""
    replay: ImageServer

    def of(self, path: str) -> Recorded:
        return next(entry for entry in self.entries if path in str(entry.row.url))

    def again(self, folder: Path) -> tuple[Recorded, ...]:
        """A recording of the replay."""
        return record([replay_row(entry) for entry in self.entries], replay_config(CONFIG, self.replay.url), folder)


@pytest.fixture(scope="module")
def recording(image_server: ImageServer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("recording") / "bodies"
    targets = targets_of(image_server, "recorded")
    rows = rows_of(*(f"{image_server.url}{target}" for target in targets), None, "ftp://example.org/x")
    entries = record(rows, CONFIG, folder)
    with replay_server(folder) as replay:
        yield Recording(entries, folder, targets, image_server, replay)


def test_each_url_is_fetched_once(recording: Recording) -> None:
    """The server has seen every target exactly once, whatever became of it."""
    by_target = recording.server.statistics().by_target
    assert [by_target[target] for target in recording.targets] == [1] * len(recording.targets)


def test_every_row_has_its_entry(recording: Recording) -> None:
    """Entries stand in the order of the rows; each has either a file of its size or a failure."""
    assert [entry.row.index for entry in recording.entries] == list(range(len(recording.entries)))
    for entry in recording.entries:
        assert (entry.name is None) == (entry.failure is not None)
        if entry.name is not None:
            assert (recording.folder / entry.name).stat().st_size > 0
    reasons = [entry.failure.reason for entry in recording.entries if entry.failure is not None]
    assert reasons == [
        Reason.BODY_TRUNCATED,
        *[Reason.HTTP_NOT_FOUND] * 2,
        Reason.URL_MISSING,
        Reason.URL_SCHEME_DENIED,
    ]


def test_latency_and_speed_are_those_of_the_server(recording: Recording) -> None:
    """A wait before the head is latency, a slow body is speed, and a failure took as long as it took."""
    assert recording.of("/slow/").latency >= LATENCY - EARLY
    slow = recording.of(f"/replay/0/{RATE}/")
    assert slow.speed < 2 * RATE
    assert slow.latency < (recording.folder / str(slow.name)).stat().st_size / slow.speed
    assert recording.of("/absent").latency >= LATENCY - EARLY


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["threads", "processes", "asyncio"])
def test_replay_gives_every_strategy_the_same_images(recording: Recording, tmp_path: Path, strategy: Any) -> None:
    """Every row that was recorded whole is fetched again byte for byte, every other one fails; no server but ours is asked."""
    before = recording.server.statistics().requests
    config = dataclasses.replace(replay_config(CONFIG, recording.replay.url), strategy=strategy)
    report = penstock.run(
        [{"url": replay_row(entry).url} for entry in recording.entries], tmp_path / "out", config=config
    )
    table = pq.read_table(next((tmp_path / "out").glob("*.parquet")), columns=["key", "sha256", "reason"])
    rows = sorted(table.to_pylist(), key=lambda row: str(row["key"]))
    for entry, row in zip(recording.entries, rows, strict=True):
        if row["reason"] is None:
            assert hashlib.sha256((recording.folder / str(entry.name)).read_bytes()).hexdigest() == row["sha256"]
    assert report.reasons == {
        "image.truncated": 1,  # recorded whole, as it came
        "content.not_image": 1,
        "http.not_found": 3,  # two of them were, one had broken off
        "url.missing": 1,
        "url.scheme_denied": 1,
    }
    assert recording.server.statistics().requests == before


def test_a_recording_of_the_replay_is_the_same(recording: Recording, tmp_path: Path) -> None:
    """Bytes and order are kept, and no answer comes sooner than it did: neither its head nor its end."""
    for entry, replayed in zip(recording.entries, recording.again(tmp_path), strict=True):
        assert (replayed.row.index, replayed.name) == (entry.row.index, entry.name)
        assert replayed.latency >= min(entry.latency, LATENCY) - EARLY
        if entry.name is not None:
            assert (tmp_path / entry.name).read_bytes() == (recording.folder / entry.name).read_bytes()


HOSTS = [
    "example.org",
    "EXAMPLE.org",
    "example.org:8080",
    "example.org.",
    "Bücher.example",
    "xn--bcher-kva.example",
    "under_score.example",
    "8.8.8.8",
    "8.8.8.8:8443",
    "[2606:4700:4700::1111]",
    "[2606:4700:4700:0:0:0:0:1111]:8443",
]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_hosts_stay_apart_and_together(recording: Recording, tmp_path: Path, scheme: str) -> None:
    """Every kind of host passes the policy, counts as the host it was, and its request arrives at the proxy."""
    good = recording.entries[0]
    rows = rows_of(*(f"{scheme}://{host}/a%20b?c=d#e" for host in HOSTS))
    replayed = [replay_row(dataclasses.replace(good, row=row)) for row in rows]
    assert [check_url(row.url).host_key for row in replayed] == [check_url(row.url).host_key for row in rows]
    fetched = record(replayed, replay_config(RunConfig(), recording.replay.url), tmp_path)
    assert [entry.failure for entry in fetched] == [None] * len(HOSTS)
    assert {(tmp_path / str(entry.name)).read_bytes() for entry in fetched} == {
        (recording.folder / "000000000").read_bytes()
    }


def test_all_but_the_url_stays() -> None:
    """Index, caption, kept columns and the name of the part are those of the row."""
    row = Row(7, (Request("photo", "https://example.org/x.jpg"),), "a caption", {"id": 3})
    replayed = replay_row(Recorded(row, "000000007", 0.25, 50_000.0))
    expected = "http://example.org/replay/0.250000/50000.000000/000000007"
    assert replayed == dataclasses.replace(row, requests=(Request("photo", expected),))


@pytest.mark.parametrize(
    "url", [None, "", "ftp://example.org/x", "http://127.1/x", "http://u:p@example.org/", "http://x:22/"]
)
def test_a_bad_url_stays_as_it_is(url: str | None) -> None:
    """What is refused before anything is sent is refused again, for the same reason."""
    (row,) = rows_of(url)
    assert replay_row(Recorded(row, None, 0.0, 0.0, Failure(Reason.URL_INVALID))) is row


def test_a_redirect_to_a_bad_url_is_replayed() -> None:
    """The reason may lie in a Location: then the row's own URL is a good one, which must not be asked again."""
    (row,) = rows_of("http://example.org/moved")
    replayed = replay_row(Recorded(row, None, 0.5, 0.0, Failure(Reason.URL_SCHEME_DENIED, attempts=1, seconds=0.5)))
    assert replayed.url == "http://example.org/replay/0.500000/0.000000/gone"


def test_addresses_inside_stay_forbidden(recording: Recording, tmp_path: Path) -> None:
    """The proxy opens no way to an address that the recording was not allowed either."""
    rows = rows_of("http://10.0.0.1/x.jpg", "http://[::1]/x.jpg")
    entries = record(rows, RunConfig(), tmp_path)
    again = record([replay_row(e) for e in entries], replay_config(RunConfig(), recording.replay.url), tmp_path)
    assert [entry.failure.reason for entry in (*entries, *again) if entry.failure] == [Reason.SSRF_BLOCKED] * 4


def test_only_the_first_part_is_recorded(recording: Recording, tmp_path: Path) -> None:
    """A row with several requests is one entry, with its first request."""
    url = f"{recording.server.url}/image/{recording.server.pictures[0]}"
    row = Row(3, (Request("left", url), Request("right", "http://never.invalid/")))
    (entry,) = record([row], CONFIG, tmp_path)
    assert (entry.row.requests, entry.name) == ((Request("left", url),), "000000003")


def test_nothing_recorded_is_replayed_too(image_server: ImageServer, tmp_path: Path) -> None:
    """Every row failed, so there is no file; the server serves all the same, and they fail again."""
    entries = record(rows_of(f"{image_server.url}/status/410"), CONFIG, tmp_path / "bodies")
    with replay_server(tmp_path / "bodies") as server:
        again = record([replay_row(e) for e in entries], replay_config(CONFIG, server.url), tmp_path / "again")
    reasons = [entry.failure.reason for entry in (*entries, *again) if entry.failure]
    assert reasons == [Reason.HTTP_GONE, Reason.HTTP_NOT_FOUND]


def test_memory_is_given_back(image_server: ImageServer, tmp_path: Path) -> None:
    """More bytes than the budget come through, since each body's share is released when it is written."""
    urls = [f"{image_server.url}/big?size=600000&i={index}" for index in range(12)]
    entries = record(rows_of(*urls), CONFIG, tmp_path)
    assert sum((tmp_path / str(entry.name)).stat().st_size for entry in entries) == 7_200_000 > CONFIG.memory // 8


def test_a_folder_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    """Trouble of the disk is an OutputError that names the folder."""
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write to .*file: "):
        record(rows_of("http://example.org/"), CONFIG, tmp_path / "file")


def test_an_interrupted_recording_leaves_nothing_running(
    image_server: ImageServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception passes through at once (and see conftest: no thread or connection is left)."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("penstock.comparison.recording._keep", interrupt)
    urls = [f"{image_server.url}/stall/{image_server.pictures[0]}", f"{image_server.url}/empty"]
    with pytest.raises(KeyboardInterrupt):
        record(rows_of(*urls), CONFIG, tmp_path)


@pytest.mark.parametrize("latency", [0.0, SILENCE, SILENCE + 0.5, 20.0, LONGEST_WAIT, 1e6])
def test_long_waits_are_within_the_limits_of_a_fetcher(latency: float) -> None:
    """No single silence is longer than a fetcher's patience, nor are there more redirects than it follows."""
    (row,) = rows_of("http://example.org/")
    behaviours = Behaviours({"000000000": b"picture"})
    url = str(replay_row(Recorded(row, "000000000", latency, 7000.0)).url)
    answers = [behaviours.answer(url.removeprefix("http://example.org"))]
    while b"Location: " in answers[-1].head:
        answers.append(behaviours.answer(answers[-1].head.partition(b"Location: ")[2].split()[0].decode()))
    limits = Limits.of(replay_config(RunConfig(timeout=0.05), "http://127.0.0.1:1").part(FetchConfig))
    assert sum(answer.wait for answer in answers) == pytest.approx(min(latency, LONGEST_WAIT))
    assert max(answer.wait for answer in answers) < limits.idle
    assert len(answers) - 1 <= MAX_REDIRECTS
    assert list(answers[-1].body) == [b"picture"]
    assert limits.total > LONGEST_WAIT
