"""Both fetchers under dead hosts, dead networks, refusals and their own failure."""

from __future__ import annotations

import json
import queue
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
import trustme

from conformance.fetching import LOOPBACK, PICTURE, Basket, Server, config, fetch, reason_of, rows_of
from penstock.errors import PenstockError, WorkerError
from penstock.fetch.base import Fetcher
from penstock.fetch.dns import Resolver
from penstock.fetch.policy.addresses import AddressGuard
from penstock.fetch.policy.deadlines import Limits
from penstock.fetch.policy.dispatch import Dispatch
from penstock.fetch.policy.manners import DEAD
from penstock.records import Fetched, Reason
from penstock.testing.server import ImageServer

PATIENT = Limits(total=20.0, connect=10.0)


class Names:
    """A resolver that knows every name, while it is there."""

    def __init__(self) -> None:
        self.down = threading.Event()
        self.asked = threading.Semaphore(0)

    def __call__(self, host: str) -> list[str]:
        self.asked.release()
        if self.down.is_set():
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return ["127.0.0.1"]


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
def resolver(names: Names) -> Iterator[Resolver]:
    resolver = Resolver(AddressGuard(LOOPBACK), names)
    yield resolver
    resolver.close()


@pytest.mark.slow
def test_an_outage_in_the_middle_fails_no_row(
    make: Callable[..., Fetcher], image_server: ImageServer, names: Names, resolver: Resolver
) -> None:
    """The resolver goes away under the run and comes back: it waits, says why, and every row has its first attempt left."""
    port = image_server.url.rpartition(":")[2]
    path = f"image/{image_server.pictures[0]}"
    rows = rows_of(*(f"http://host{index}.example:{port}/{path}" for index in range(600)))
    basket = Basket()
    fetcher = make(config(connections=32, retries=0), limits=PATIENT, resolver=resolver)
    fetcher.start(basket.deliver, basket.budget, basket.broken.append)
    try:
        for row in rows[:100]:
            fetcher.submit(row)
        basket.wait(100)
        names.down.set()
        for row in rows[100:]:
            fetcher.submit(row)
        while fetcher.statistics().trouble != Reason.LOCAL_DNS_DOWN.value:
            time.sleep(0.01)  # polls a condition; the test's own time-out bounds it
        names.down.clear()
        basket.wait(600)
        statistics = fetcher.statistics()
    finally:
        fetcher.close()
    outcomes = [basket.rows[index][0] for index in range(600)]
    assert all(isinstance(outcome, Fetched) and outcome.attempts == 1 for outcome in outcomes)
    assert statistics.trouble == ""
    assert statistics.trouble_seconds[Reason.LOCAL_DNS_DOWN.value] > 0
    assert statistics.given_back > 100


def test_a_thousand_rows_of_a_dead_host_cost_a_few_attempts(make: Callable[..., Fetcher], server: Server) -> None:
    """A name that the resolver fails for is asked for a handful of times; the rest fails at once, the others do not wait."""
    asked: list[str] = []

    def lookup(host: str) -> list[str]:
        asked.append(host)
        if host == "dead.example":
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return ["127.0.0.1"]

    resolver = Resolver(AddressGuard(LOOPBACK), lookup)
    urls = [f"http://dead.example:{server.port}/{index}" for index in range(1000)]
    outcomes = fetch(make, *urls, f"http://alive.example:{server.port}/ok", limits=PATIENT, resolver=resolver)
    resolver.close()
    reasons = [reason_of(outcome) for outcome in outcomes]
    assert reasons[-1] is None
    assert set(reasons[:-1]) == {Reason.DNS_TEMPORARY, Reason.HOST_UNAVAILABLE}
    assert DEAD <= reasons.count(Reason.DNS_TEMPORARY) <= DEAD + 1
    assert asked.count("dead.example") <= DEAD + 1


def test_a_fetcher_that_fails_says_so(
    make: Callable[..., Fetcher], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in the dispatcher must not leave the flow waiting for a row for ever."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Dispatch, "ended", fail)
    broken: queue.SimpleQueue[PenstockError] = queue.SimpleQueue()
    basket = Basket()
    fetcher = make(config(), limits=PATIENT)
    fetcher.start(basket.deliver, basket.budget, broken.put)
    try:
        fetcher.submit(rows_of(f"{server.base}/ok")[0])
        error = broken.get(timeout=20)
    finally:
        fetcher.close()
    assert isinstance(error, WorkerError)
    assert isinstance(error.__cause__, ZeroDivisionError)


def test_insecure_takes_any_certificate(make: Callable[..., Fetcher]) -> None:
    """By default an unknown authority is a failure; with --insecure it is none."""
    context = trustme_context()
    server = Server(context)
    try:
        url = f"{server.base}/ok"
        assert reason_of(fetch(make, url, limits=PATIENT)[0]) is Reason.TLS_CERTIFICATE
        (outcome,) = fetch(make, url, limits=PATIENT, options=config(insecure=True))
        assert isinstance(outcome, Fetched)
    finally:
        server.close()


def trustme_context() -> ssl.SSLContext:
    """Of a server whose authority nobody knows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


def test_denied_hosts_are_not_asked(make: Callable[..., Fetcher], server: Server) -> None:
    """Neither by a row nor by a redirect."""
    options = config(deny_hosts=("127.0.0.1",))
    assert reason_of(fetch(make, f"{server.base}/ok", options=options)[0]) is Reason.POLICY_DENIED
    assert not server.requests


def test_stored_objects_are_read_if_their_scheme_is_allowed(make: Callable[..., Fetcher]) -> None:
    """A storage is another source of bytes: same limits, same account; without the option it is refused."""
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/picture.jpg", PICTURE)
    urls = ["memory://bucket/picture.jpg", "memory://bucket/missing.jpg"]
    found, missing = fetch(make, *urls, limits=PATIENT, options=config(allow_scheme=("memory",), retries=2))
    assert isinstance(found, Fetched)
    assert (found.data, found.http_status, found.attempts) == (PICTURE, None, 1)
    assert reason_of(missing) is Reason.STORAGE_NOT_FOUND
    small = config(allow_scheme=("memory",), max_bytes=100)
    assert reason_of(fetch(make, urls[0], limits=PATIENT, options=small)[0]) is Reason.BODY_TOO_LARGE
    assert reason_of(fetch(make, urls[0])[0]) is Reason.URL_SCHEME_DENIED


def test_a_black_hole_costs_a_moment_where_another_address_answers(
    make: Callable[..., Fetcher], server: Server
) -> None:
    """Addresses are tried at short intervals, not one after the time-out of the other."""
    blackhole = socket.create_server(("127.0.0.2", server.port), backlog=0)
    fillers = [socket.socket() for _ in range(4)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(("127.0.0.2", server.port))
    resolver = Resolver(AddressGuard(LOOPBACK), lambda _: ["127.0.0.2", "127.0.0.1"])
    try:
        patient = Limits(total=60, connect=40)
        (outcome,) = fetch(make, f"http://two.example:{server.port}/ok", limits=patient, resolver=resolver)
    finally:
        resolver.close()
        for opened in (*fillers, blackhole):
            opened.close()
    assert isinstance(outcome, Fetched)
    assert outcome.seconds < 15, "half of the time to connect would be twenty seconds"


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["asyncio", "threads"])
def test_few_descriptors_slow_a_run_down_and_fail_nothing(
    image_server: ImageServer, tmp_path: Path, strategy: str
) -> None:
    """With hardly any descriptors beyond the reserve, connections wait for each other, and every row is written."""
    name = image_server.pictures[0]
    listing = tmp_path / "urls.txt"
    listing.write_text("\n".join(f"{image_server.url}/slow/0.2/{name}?i={index}" for index in range(150)))
    options = "--allow-network 127.0.0.0/8 --per-host 128 --size 32 --workers 1 --json --robots ignore"
    command = f"ulimit -n 110; exec {sys.executable} -m penstock run {listing} --out {tmp_path / 'out'} {options}"
    done = subprocess.run(
        ["bash", "-c", f"{command} --strategy {strategy}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["written"], report["failed"]) == (150, 0)
    assert report["attempts_given_back"] > 0
    assert set(report["waits"]) == {Reason.LOCAL_DESCRIPTORS.value}
