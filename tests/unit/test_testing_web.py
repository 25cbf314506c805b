"""The simulated web is what published runs met, and serves what it promises."""

from __future__ import annotations

import csv
import http.client
import json
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dns.message
import dns.query
import dns.rcode
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.image.sniff import kind_of
from penstock.records import Reason
from penstock.testing import web_check
from penstock.testing.ports import PORTS
from penstock.testing.web import DEATHS, FATES, HTTPS, MIXTURES, WRITTEN, Row, World, apportion, host_sizes, make_world
from penstock.testing.web_server import write_list

PATIENCE = 10.0
"""Seconds after which a test gives up on the web."""

PICTURES = ("a.jpg", "b.png")


def _count(world: World) -> Counter[str]:
    return Counter(row.fate for row in world.rows)


# ---- the world


def test_the_same_arguments_make_the_same_world() -> None:
    """A world is a pure function of its arguments, and another seed makes another."""
    first = make_world(500, PICTURES, seed=1)
    assert make_world(500, PICTURES, seed=1) == first
    assert make_world(500, PICTURES, seed=2) != first


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("seed", [0, 1])
def test_totals_are_those_of_the_mixture_to_the_row(mixture: str, seed: int) -> None:
    """Of 10,000 rows, as many end in each way as the published table says, whatever the seed."""
    count = _count(make_world(10_000, PICTURES, mixture=mixture, seed=seed))
    columns = {
        "ok": ("image", "redirected", "limited once", "down once"),
        "404": ("404",),
        "403": ("403",),
        "temporary dns": ("servfail", "dns refused"),
        "no such name": ("nxdomain",),
        "time-outs": ("tarpit", "drip", "stall", "black hole", "silent tls", "silent dns"),
        "certificates": ("expired", "unknown ca", "wrong name"),
        "undecodable": ("page", "truncated", "corrupt", "svg"),
    }
    assert {column: sum(count[fate] for fate in columns[column]) for column in MIXTURES[mixture]} == MIXTURES[mixture]
    assert count.total() == 10_000


def test_smaller_worlds_round_by_the_largest_remainders() -> None:
    """2,000 rows are the exact fifth of 10,000, rounded so that their sum is 2,000."""
    world = make_world(2000, PICTURES, mixture="datacomp-2025")
    expected = Counter(row.expected.partition("|")[0] for row in world.rows)
    assert len(world.rows) == 2000
    assert (expected[WRITTEN], expected[Reason.HTTP_NOT_FOUND], expected[Reason.DNS_NXDOMAIN]) == (1385, 188, 108)
    assert (expected[Reason.TLS_CERTIFICATE], expected[Reason.DNS_TEMPORARY]) == (13, 24)


def test_apportion_loses_nothing() -> None:
    """The parts sum up, and none is off by one or more."""
    for total in range(50):
        parts = apportion(total, {"a": 5, "b": 3, "c": 1})
        assert sum(parts.values()) == total
        assert all(abs(parts[name] - total * weight / 9) < 1 for name, weight in {"a": 5, "b": 3, "c": 1}.items())


def test_hosts_are_spread_as_in_a_real_list() -> None:
    """10,000 rows: 4,397 hosts, the largest with 562 rows; most have a single one."""
    sizes = host_sizes(10_000)
    assert (len(sizes), sizes[0], sum(sizes), min(sizes)) == (4397, 562, 10_000, 1)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes.count(1) > 3000
    assert [sum(host_sizes(rows)) for rows in (200, 333, 2000)] == [200, 333, 2000]


@pytest.mark.parametrize("mixture", MIXTURES)
def test_hosts_hold_together(mixture: str) -> None:
    """All rows of a host share its troubles; large dead hosts exist; what holds a host up is spread over many."""
    world = make_world(2000, PICTURES, mixture=mixture)
    assert Counter(row.host for row in world.rows) == {host: host.rows for host in world.hosts}
    assert all(row.fate == row.host.death if row.host.death else row.fate in FATES for row in world.rows)
    assert all(host.rows <= DEATHS[host.death].most_rows for host in world.hosts if host.death)
    assert all(host.https for host in world.hosts if host.trouble.https)
    assert max(host.rows for host in world.hosts if host.death) >= 20
    sparse = Counter(row.host.name for row in world.rows if row.fate in FATES and FATES[row.fate].sparse)
    assert set(sparse.values()) == {1}


def test_a_host_without_answer_may_be_given_up() -> None:
    """Of a dead host with several rows, those that were not asked for may say so; of one with a wrong certificate not."""
    world = make_world(2000, PICTURES)
    for host in world.hosts:
        silent = host.death and (host.trouble.port or host.trouble.resolves != "here") and host.rows > 1
        assert (Reason.HOST_UNAVAILABLE in host.expected.split("|")) == bool(silent)


def test_every_expected_reason_exists() -> None:
    """What is expected is on the closed list."""
    for expected in [*(fate.expected for fate in FATES.values()), *(death.expected for death in DEATHS.values())]:
        assert all(part == WRITTEN or Reason.named(part) for part in expected.split("|"))


def test_sixty_per_cent_are_https() -> None:
    """The share of https is that of the rows, and none if there is to be none."""
    for rows in (200, 2000):
        assert sum(row.host.https for row in make_world(rows, PICTURES).rows) == pytest.approx(rows * HTTPS, abs=3)
    plain = make_world(2000, PICTURES, https=False)
    assert not any(host.https for host in plain.hosts)
    assert Counter(row.expected for row in plain.rows)[WRITTEN] == 1385


def test_latencies() -> None:
    """About 80 ms by the median, up to 2 s, and large hosts quick."""
    hosts = make_world(10_000, PICTURES).hosts
    latencies = sorted(host.latency for host in hosts)
    assert latencies[len(latencies) // 2] == pytest.approx(0.08, rel=0.1)
    assert 1 < latencies[-1] <= 2
    assert all(host.latency * host.rows <= 20.001 for host in hosts)


def test_opt_outs_are_taken_from_what_is_well() -> None:
    """A share of the rows asks not to be used; the failures stay as they are."""
    plain, asking = (_count(make_world(1000, PICTURES, opt_outs=share)) for share in (0.0, 0.05))
    asked = {fate for fate, count in asking.items() if fate in ("robots forbid", "robots fail", "x-robots-tag", "tdm")}
    assert sum(asking[fate] for fate in asked) == 50
    assert len(asked) == 4
    assert all(asking[fate] == plain[fate] for fate in ("404", "nxdomain", "tarpit", "page"))


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (199, {}, "at least 200 rows"),
        (200, {"mixture": "laion"}, "datacomp-2025"),
        (200, {"opt_outs": 0.6}, "from 0 to 0.5"),
        (200, {"opt_outs": -0.1}, "from 0 to 0.5"),
    ],
)
def test_worlds_that_cannot_be(rows: int, options: dict[str, Any], message: str) -> None:
    """What is asked for is refused, with what is allowed."""
    with pytest.raises(ValueError, match=message):
        make_world(rows, PICTURES, **options)


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("opt_outs", [0.0, 0.5])
@pytest.mark.parametrize("https", [True, False])
def test_small_worlds_come_out_even(mixture: str, opt_outs: float, https: bool) -> None:
    """The rows of dead hosts sum up exactly, though there are few hosts to choose from."""
    for rows in (200, 207, 231):
        world = make_world(rows, PICTURES, mixture=mixture, opt_outs=opt_outs, https=https, seed=rows)
        assert len(world.rows) == rows


# ---- the list and the check


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_lists(tmp_path: Path, ending: str) -> None:
    """Each format holds the same two columns."""
    path = tmp_path / f"list{ending}"
    rows = [("http://a.test/?a,b", "written"), ("http://b.test/", "http.gone|written")]
    write_list(path, rows)
    if ending == ".parquet":
        read = [tuple(row.values()) for row in pq.read_table(path).to_pylist()]
    elif ending == ".jsonl":
        read = [tuple(json.loads(line).values()) for line in path.read_text().splitlines()]
    else:
        read = [tuple(row) for row in csv.reader(path.read_text().splitlines())][1:]
    assert read == rows


def test_a_list_of_another_kind_is_refused(tmp_path: Path) -> None:
    """The message names the endings."""
    with pytest.raises(ValueError, match=r"\.csv, \.jsonl, \.parquet"):
        write_list(tmp_path / "list.txt", [])


def _write_run(folder: Path, rows: list[tuple[str, str, str | None]]) -> None:
    expected, outcomes, reasons = zip(*rows, strict=True)
    reason = pa.array(reasons, pa.string())
    pq.write_table(pa.table({"expected": expected, "outcome": outcomes, "reason": reason}), folder / "00000.parquet")


def test_the_check_is_content(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Written and expected reasons, one of several too, are right."""
    right = [
        ("written", "written", None),
        ("http.gone", "failed", "http.gone"),
        ("dns.timeout|host.unavailable", "failed", "host.unavailable"),
    ]
    _write_run(tmp_path, right)
    assert web_check.main([str(tmp_path)]) == 0
    assert "0 of 3 rows ended otherwise" in capsys.readouterr().out


def test_the_check_complains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong ending is marked, and the status is 1."""
    _write_run(tmp_path, [("written", "failed", "http.gone"), ("http.gone", "failed", "http.gone")])
    assert web_check.main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert re.search(r"^! written +1 +http\.gone$", out, re.MULTILINE)
    assert "1 of 2 rows ended otherwise" in out


def test_the_check_needs_a_run(tmp_path: Path) -> None:
    """A folder without rows, and a run without the column, are a wrong use."""
    with pytest.raises(SystemExit):
        web_check.main([str(tmp_path)])
    pq.write_table(pa.table({"outcome": ["written"]}), tmp_path / "00000.parquet")
    with pytest.raises(SystemExit):
        web_check.main([str(tmp_path)])


# ---- the web itself


@dataclass(frozen=True)
class Serving:
    """A small web, by the command line."""

    facts: Mapping[str, str]
    rows: tuple[tuple[Row, str], ...]
    """With the URLs of the list."""
    trust: ssl.SSLContext


ARGUMENTS = ["--web", "--rows=600", "--count=4", "--mean-bytes=4000", "--opt-outs=0.05"]


@pytest.fixture(scope="module")
def web() -> Iterator[Serving]:
    command = [sys.executable, "-m", "penstock.testing.server", *ARGUMENTS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            facts = json.loads(process.stdout.readline())
            pictures = tuple(f"{index:06d}.jpg" for index in range(4))
            world = make_world(600, pictures, opt_outs=0.05)
            table = list(csv.DictReader(Path(facts["list"]).read_text().splitlines()))
            assert [line["expected"] for line in table] == [row.expected for row in world.rows]
            assert facts["rows"] == len(world.rows)
            trust = ssl.create_default_context(cafile=facts["ca"])
            yield Serving(facts, tuple(zip(world.rows, (line["url"] for line in table), strict=True)), trust)
        finally:
            process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
    assert not Path(facts["ca"]).exists()


def _some(web: Serving, fate: str) -> tuple[Row, str]:
    """A row of this fate, and its URL."""
    return next(pair for pair in web.rows if pair[0].fate == fate)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def _connect(web: Serving, url: str, stack: ExitStack, timeout: float = PATIENCE) -> http.client.HTTPConnection:
    """A connection as a client would make it, the name resolved here."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 0
    assert _resolve(web, host) == "127.0.0.1"
    wire: socket.socket = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout))
    if parts.scheme == "https":
        wire = stack.enter_context(web.trust.wrap_socket(wire, server_hostname=host))
    connection = http.client.HTTPConnection(host, port)
    connection.sock = wire
    return connection


def _resolve(web: Serving, host: str) -> str:
    """The address, or the name of the error."""
    server, _, port = web.facts["dns"].rpartition(":")
    response = dns.query.udp(dns.message.make_query(host, "A"), server, timeout=0.2, port=int(port))
    if response.rcode():
        return dns.rcode.to_text(response.rcode())
    return str(response.answer[0][0])


def _get(web: Serving, url: str, stack: ExitStack, target: str = "") -> tuple[http.client.HTTPResponse, bytes]:
    parts = urlsplit(url)
    connection = _connect(web, url, stack)
    connection.request("GET", target or f"{parts.path}?{parts.query}")
    response = connection.getresponse()
    return response, response.read()


def test_what_is_printed(web: Serving) -> None:
    """One line has all that a client needs, and the command to copy."""
    assert {"url", "list", "dns", "ca", "rows", "run"} == web.facts.keys()
    for fact in ("list", "dns", "ca"):
        assert web.facts[fact] in web.facts["run"]


@pytest.mark.parametrize("https", [False, True])
def test_good_rows(web: Serving, stack: ExitStack, https: bool) -> None:
    """A row that is expected to be written is a picture, over TLS with a good certificate as well."""
    row, url = next(pair for pair in web.rows if pair[0].fate == "image" and pair[0].host.https == https)
    response, body = _get(web, url, stack)
    assert (response.status, kind_of(body)) == (200, "jpeg")
    assert row.expected == WRITTEN


@pytest.mark.parametrize(("fate", "status"), [("limited once", 429), ("down once", 503), ("redirected", 302)])
def test_rows_that_end_well_in_the_end(web: Serving, stack: ExitStack, fate: str, status: int) -> None:
    """The second request is answered with a picture."""
    _, url = _some(web, fate)
    response, _ = _get(web, url, stack)
    assert response.status == status
    assert response.headers["Retry-After"] == ("1" if status == 429 else None)
    response, body = _get(web, url, stack, response.headers["Location"] or "")
    assert (response.status, kind_of(body)) == (200, "jpeg")


@pytest.mark.parametrize(
    ("fate", "status", "kind"),
    [
        ("404", 404, ""),
        ("403", 403, ""),
        ("410", 410, ""),
        ("500", 500, ""),
        ("page", 200, "html"),
        ("truncated", 200, "jpeg"),
        ("corrupt", 200, "png"),
        ("svg", 200, "svg"),
        ("x-robots-tag", 200, "jpeg"),
        ("tdm", 200, "jpeg"),
    ],
)
def test_rows_that_are_answered_and_fail(web: Serving, stack: ExitStack, fate: str, status: int, kind: str) -> None:
    """Each has its status, and a body of the kind that it should have."""
    _, url = _some(web, fate)
    response, body = _get(web, url, stack)
    assert response.status == status
    if kind:
        assert kind_of(body) == kind
    assert response.headers["X-Robots-Tag"] == ("noai" if fate == "x-robots-tag" else None)
    assert response.headers["tdm-reservation"] == ("1" if fate == "tdm" else None)


def test_a_body_that_is_cut(web: Serving, stack: ExitStack) -> None:
    """Its announced length is a lie."""
    with pytest.raises(http.client.IncompleteRead):
        _get(web, _some(web, "short")[1], stack)


def test_a_tarpit(web: Serving, stack: ExitStack) -> None:
    """It takes the request and says nothing at all."""
    row, url = _some(web, "tarpit")
    connection = _connect(web, url, stack, timeout=row.host.latency + 0.5)
    connection.request("GET", row.path)
    with pytest.raises(TimeoutError):
        connection.getresponse()


@pytest.mark.parametrize("fate", ["stall", "drip"])
def test_a_body_that_takes_too_long(web: Serving, stack: ExitStack, fate: str) -> None:
    """The head comes, and then too little: half of the body and no more, or two bytes at a time."""
    row, url = _some(web, fate)
    connection = _connect(web, url, stack)
    connection.request("GET", row.path)
    response = connection.getresponse()
    size = int(response.headers["Content-Length"])
    if fate == "drip":
        assert 0 < len(response.read1(size)) < 100
    else:
        assert len(response.read(size // 2)) == size // 2
        connection.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            response.read()


@pytest.mark.parametrize(
    ("fate", "came"), [("nxdomain", "NXDOMAIN"), ("servfail", "SERVFAIL"), ("dns refused", "REFUSED")]
)
def test_names_that_fail(web: Serving, fate: str, came: str) -> None:
    """The name server says it."""
    assert _resolve(web, _some(web, fate)[0].host.name) == came


def test_a_name_of_which_nothing_is_said(web: Serving) -> None:
    """The name server is silent."""
    with pytest.raises(dns.exception.Timeout):
        _resolve(web, _some(web, "silent dns")[0].host.name)


@pytest.mark.parametrize("fate", ["expired", "unknown ca", "wrong name"])
def test_bad_certificates(web: Serving, stack: ExitStack, fate: str) -> None:
    """A client that verifies does not get through."""
    with pytest.raises(ssl.SSLCertVerificationError):
        _connect(web, _some(web, fate)[1], stack)


@pytest.mark.parametrize(
    ("fate", "error"),
    [("refused", ConnectionRefusedError), ("black hole", TimeoutError), ("silent tls", TimeoutError)],
)
def test_ports_that_are_dead(web: Serving, stack: ExitStack, fate: str, error: type[Exception]) -> None:
    """Each fails in its own way, before a request is sent."""
    with pytest.raises(error):
        _connect(web, _some(web, fate)[1], stack, timeout=0.3)


def test_a_port_that_resets(web: Serving, stack: ExitStack) -> None:
    """The connection is torn down."""
    with pytest.raises(OSError, match="reset"):
        _get(web, _some(web, "reset")[1], stack)


@pytest.mark.parametrize(
    ("robots", "status", "text"),
    [("none", 404, b""), ("allow", 200, b"Allow: /"), ("forbid", 200, b"Disallow: /"), ("error", 503, b"")],
)
def test_robots(web: Serving, stack: ExitStack, robots: str, status: int, text: bytes) -> None:
    """Each host has its robots.txt, or none."""
    url = next(url for row, url in web.rows if row.host.robots == robots and row.host.door not in PORTS and _alive(row))
    response, body = _get(web, url, stack, "/robots.txt")
    assert response.status == status
    assert text in body


def _alive(row: Row) -> bool:
    return row.host.trouble.resolves == "here" and row.host.trouble.certificate == "valid"


def test_a_wrong_use_is_told() -> None:
    """No traceback."""
    command = [sys.executable, "-m", "penstock.testing.server", "--web", "--count=1", "--mean-bytes=4000", "--rows=5"]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode
    assert ended.stderr.startswith("--web: expected at least 200 rows")
