"""One suite over both fetchers, against a server of raw sockets: the same faults must have the same outcome."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable

import pytest
import trustme

from conformance.fetching import LOOPBACK, PICTURE, QUICK, Basket, Server, config, fetch, reason_of, rows_of
from penstock.config import FetchConfig
from penstock.fetch import pool
from penstock.fetch.base import Fetcher
from penstock.fetch.dns import Resolver
from penstock.fetch.policy.addresses import AddressGuard
from penstock.fetch.policy.deadlines import Limits
from penstock.fetch.pool import SyncClient, ThreadFetcher
from penstock.records import Failure, Fetched, Reason, Request, Row
from penstock.testing.server import ImageServer


def test_a_picture_arrives_whole(make: Callable[..., Fetcher], server: Server) -> None:
    """Known length, chunked and until the end of the connection give the same bytes, at the first attempt."""
    for outcome in fetch(make, *(f"{server.base}/{path}" for path in ("ok", "chunked", "until_close"))):
        assert isinstance(outcome, Fetched)
        assert (outcome.data, outcome.http_status, outcome.attempts) == (PICTURE, 200, 1)


@pytest.fixture
def timed(make: Callable[..., Fetcher], image_server: ImageServer) -> Callable[[str], Fetched | Failure]:
    """Fetches from the image server, whose answers take the time that their path says."""
    return lambda path: fetch(make, f"{image_server.url}{path}/{image_server.pictures[0]}", limits=Limits(10, 5))[0]


def test_a_wait_for_the_head_is_not_the_body_s(timed: Callable[[str], Fetched | Failure]) -> None:
    """The time of the body begins with the head of the answer."""
    outcome = timed("/slow/0.3")
    assert isinstance(outcome, Fetched)
    assert 0 <= outcome.body_seconds <= outcome.seconds - 0.3


def test_a_slow_body_takes_its_time(timed: Callable[[str], Fetched | Failure]) -> None:
    """A body that comes slowly, after a wait: each has its share of the time."""
    outcome = timed("/replay/0.1/10000")
    assert isinstance(outcome, Fetched)
    due = len(outcome.data) / 10_000
    assert 0.7 * due <= outcome.body_seconds <= outcome.seconds - 0.1
    assert outcome.seconds >= 0.1 + 0.95 * due


def test_the_body_s_time_is_that_of_the_last_attempt(make: Callable[..., Fetcher], image_server: ImageServer) -> None:
    """What went before, attempts and redirects, is in the time of the whole alone."""
    url = f"{image_server.url}/redirect-to?url=/slow/0.3/{image_server.pictures[0]}"
    outcome = fetch(make, url)[0]
    assert isinstance(outcome, Fetched)
    assert outcome.body_seconds <= outcome.seconds - 0.3


def test_failures_have_their_time(make: Callable[..., Fetcher], server: Server, image_server: ImageServer) -> None:
    """A failure says how long it took: until a 404 came, until patience was at its end; nothing without an attempt."""
    late, silent, none = fetch(make, f"{image_server.url}/replay/0.3/0/gone", f"{server.base}/silent", None)
    assert isinstance(late, Failure)
    assert isinstance(silent, Failure)
    assert isinstance(none, Failure)
    assert late.seconds >= 0.29
    assert silent.seconds >= QUICK.idle
    assert none.seconds == 0


def test_the_request_is_honest(make: Callable[..., Fetcher], server: Server) -> None:
    """The request names Penstock, asks for no compression, and carries the path as policy encoded it."""
    fetch(make, f"{server.base}/ok/a%2fb%zz ü?q=%41 b|c#top")
    head = server.heads[0].decode()
    assert head.startswith("GET /ok/a%2fb%zz%20%C3%BC?q=%41%20b|c HTTP/1.1\r\n")
    fields = dict(line.split(": ", 1) for line in head.strip().split("\r\n")[1:])
    assert fields["User-Agent"].startswith("penstock/")
    assert fields["Accept-Encoding"] == "identity"
    assert fields["Host"] == f"127.0.0.1:{server.port}"
    assert not {"Cookie", "Referer", "Authorization"} & fields.keys()


@pytest.mark.parametrize(
    ("path", "reason", "status"),
    [
        ("status/404", Reason.HTTP_NOT_FOUND, 404),
        ("status/403", Reason.HTTP_FORBIDDEN, 403),
        ("status/410", Reason.HTTP_GONE, 410),
        ("status/451", Reason.HTTP_LEGAL, 451),
        ("status/418", Reason.HTTP_CLIENT_ERROR, 418),
        ("status/500", Reason.HTTP_SERVER_ERROR, 500),
        ("status/429", Reason.HTTP_RATE_LIMITED, 429),
        ("status/204", Reason.HTTP_UNEXPECTED, 204),
        ("status/304", Reason.HTTP_REDIRECT_INVALID, 304),
        ("nowhere", Reason.HTTP_REDIRECT_INVALID, None),
        ("loop", Reason.HTTP_REDIRECT_LIMIT, None),
        ("to/file:~~~etc~passwd", Reason.URL_SCHEME_DENIED, None),
        ("to/http:~~169.254.169.254~latest", Reason.SSRF_BLOCKED, None),
        ("to/http:~~[::ffff:10.0.0.1]~", Reason.SSRF_BLOCKED, None),
        ("to/http:~~127.0.0.1:22~", Reason.URL_PORT_DENIED, None),
        ("to/http:~~u:p@127.0.0.1~", Reason.URL_CREDENTIALS, None),
        ("truncated", Reason.BODY_TRUNCATED, 200),
        ("chunked/cut", Reason.BODY_TRUNCATED, 200),
        ("size/0", Reason.BODY_EMPTY, 200),
        ("reset", Reason.BODY_RESET, 200),
        ("early", Reason.CONNECT_RESET, None),
        ("announced/99999999999", Reason.BODY_TOO_LARGE, 200),
        ("announced/-5", Reason.HTTP_PROTOCOL_ERROR, None),
        ("garbage", Reason.HTTP_PROTOCOL_ERROR, None),
        ("lengths", Reason.HTTP_PROTOCOL_ERROR, None),
        ("flood", Reason.HTTP_PROTOCOL_ERROR, None),
        ("encoded/true", Reason.HTTP_ENCODING, 200),
        ("encoded/lie", None, 200),
        ("to/~ok", None, 200),
        ("to/..~ok", None, 200),
    ],
)
def test_faults_have_their_reason(
    make: Callable[..., Fetcher], server: Server, path: str, reason: Reason | None, status: int | None
) -> None:
    """Each fault has its reason from the closed list, and the status where there was one."""
    outcome = fetch(make, f"{server.base}/{path}")[0]
    assert reason_of(outcome) == reason, outcome
    if status is not None:
        assert outcome.http_status == status
    assert outcome.attempts == 1


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("silent", Reason.TIMEOUT_IDLE),
        ("stall", Reason.TIMEOUT_IDLE),
        ("drip/headers", Reason.TIMEOUT_IDLE),
        ("drip/body", Reason.TIMEOUT_LOW_SPEED),
    ],
)
def test_slow_servers_are_given_up(make: Callable[..., Fetcher], server: Server, path: str, reason: Reason) -> None:
    """Silence and drips end by a deadline, in the head and in the body."""
    assert reason_of(fetch(make, f"{server.base}/{path}")[0]) == reason


def test_the_attempt_has_a_deadline(make: Callable[..., Fetcher], server: Server) -> None:
    """A body that is neither silent nor too slow for the floor still ends with the attempt's time."""
    limits = Limits(total=0.4, connect=1.0, idle=1.0, window=9.0)
    outcome = fetch(make, f"{server.base}/drip/body", limits=limits)[0]
    assert reason_of(outcome) == Reason.TIMEOUT_TOTAL
    assert isinstance(outcome, Failure)
    assert outcome.size > 0


def test_a_handshake_that_never_comes_is_a_tls_timeout(make: Callable[..., Fetcher]) -> None:
    """A port that accepts and says nothing is told apart from one that does not accept."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        limits = Limits(total=2.0, connect=0.3)
        assert reason_of(fetch(make, url, limits=limits)[0]) == Reason.TLS_TIMEOUT


def test_a_handshake_that_drips_is_given_up(make: Callable[..., Fetcher]) -> None:
    """A byte now and then keeps every single read alive, and the handshake ends with its time all the same."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"\x16\x03\x03\x3f\xff")  # the head of a record of 16 KB
                while True:
                    connection.sendall(b"\x02")
                    time.sleep(0.02)

        thread = threading.Thread(target=drip)
        thread.start()
        limits = Limits(total=3.0, connect=0.3)
        assert reason_of(fetch(make, f"https://127.0.0.1:{listener.getsockname()[1]}/", limits=limits)[0]) == (
            Reason.TLS_TIMEOUT
        )
        thread.join()


def test_a_closed_port_refuses(make: Callable[..., Fetcher]) -> None:
    """No server: connect.refused."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert reason_of(fetch(make, f"http://127.0.0.1:{port}/")[0]) == Reason.CONNECT_REFUSED


def test_endless_bodies_are_cut(make: Callable[..., Fetcher], server: Server) -> None:
    """Without a length the bytes are counted while they arrive, and the download stops soon after --max-bytes."""
    outcome = fetch(make, f"{server.base}/endless", options=config(max_bytes=10**6))[0]
    assert isinstance(outcome, Failure)
    assert outcome.reason == Reason.BODY_TOO_LARGE
    assert 10**6 < outcome.size < 3 * 10**6


@pytest.mark.parametrize("path", ["flaky/429-0", "flaky/503-1", "flaky/503", "date", "flaky/408"])
def test_second_attempts(make: Callable[..., Fetcher], server: Server, path: str) -> None:
    """What is worth it is tried again, and the attempts are counted."""
    outcome = fetch(make, f"{server.base}/{path}", options=config(retries=2))[0]
    assert isinstance(outcome, Fetched), outcome
    assert outcome.attempts == 2


def test_a_final_failure_counts_its_attempts(make: Callable[..., Fetcher], server: Server) -> None:
    """What never works is tried as often as the reason is worth: truncated bodies twice, whatever the options say."""
    outcome = fetch(make, f"{server.base}/truncated", options=config(retries=5))[0]
    assert (reason_of(outcome), outcome.attempts) == (Reason.BODY_TRUNCATED, 2)
    assert server.requests["/truncated"] == 2


def test_connections_are_kept(make: Callable[..., Fetcher], server: Server) -> None:
    """One after the other over one connection, refused ones and redirects included."""
    paths = ["ok", "status/404", "to/~ok", "chunked"] * 5
    basket = Basket()
    fetcher = make(config(per_host=1))
    fetcher.start(basket.deliver, basket.budget, basket.broken.append)
    for row in rows_of(*(f"{server.base}/{path}" for path in paths)):
        fetcher.submit(row)
    basket.wait(len(paths))
    fetcher.close()
    assert server.accepted == 1


def test_the_race_for_an_idle_connection_costs_no_attempt(make: Callable[..., Fetcher], server: Server) -> None:
    """A kept connection that the server has closed is replaced without counting an attempt."""
    outcomes = fetch(make, *[f"{server.base}/once"] * 3, options=config(per_host=1))
    assert [outcome.attempts for outcome in outcomes if isinstance(outcome, Fetched)] == [1, 1, 1]


def test_an_old_connection_is_not_used_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections have a longest time between two requests; urllib3 itself has none."""
    monkeypatch.setattr(pool, "KEEPALIVE", 0.0)
    fetch(ThreadFetcher, *[f"{server.base}/ok"] * 3, options=config(per_host=1))
    assert server.accepted == 3


def test_idle_connections_are_bounded(server: Server) -> None:
    """A long list of hosts leaves no long list of open connections."""
    resolver = Resolver(AddressGuard(LOOPBACK), lambda host: ["127.0.0.1"])
    basket = Basket()
    fetcher = ThreadFetcher(config(connections=1), resolver=resolver)
    fetcher.start(basket.deliver, basket.budget, basket.broken.append)
    for row in rows_of(*(f"http://host{i}.example:{server.port}/ok" for i in range(40))):
        fetcher.submit(row)
    basket.wait(40)
    assert server.accepted == 40
    while server.open_connections() > 16:  # the server hears of their end a little later
        time.sleep(0.001)
    fetcher.close()
    resolver.close()


def test_a_fresh_connection_that_breaks_is_asked_once(make: Callable[..., Fetcher], server: Server) -> None:
    """Only kept connections get the free second request."""
    fetch(make, f"{server.base}/early")
    assert server.requests["/early"] == 1


def test_hosts_have_a_bound(make: Callable[..., Fetcher], server: Server) -> None:
    """Never more connections to a host than --per-host."""
    fetch(make, *[f"{server.base}/ok"] * 40, options=config(per_host=3))
    assert server.accepted <= 3


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "http://[::1]/", "http://localhost/", "http://10.0.0.1:8080/x"])
def test_the_inside_is_closed(make: Callable[..., Fetcher], url: str) -> None:
    """Without --allow-network nothing on this machine or its networks is connected to, by name or by address."""
    assert reason_of(fetch(make, url, options=FetchConfig(retries=0, robots="ignore"))[0]) == Reason.SSRF_BLOCKED


def test_a_name_that_turns_inwards_is_blocked(make: Callable[..., Fetcher], server: Server) -> None:
    """Rebinding: a resolver without a guard returns an inner address, and the connection is refused all the same."""
    everything = Resolver(AddressGuard(("0.0.0.0/0",)), lambda host: ["127.0.0.1"])
    outcome = fetch(
        make,
        f"http://rebind.example:{server.port}/ok",
        options=FetchConfig(retries=0, robots="ignore"),
        resolver=everything,
    )[0]
    everything.close()
    assert reason_of(outcome) == Reason.SSRF_BLOCKED
    assert server.accepted == 0


def test_names_are_resolved_once(make: Callable[..., Fetcher], server: Server) -> None:
    """One question for all requests of a host; a dead address is passed over."""
    asked: list[str] = []

    def lookup(host: str) -> list[str]:
        asked.append(host)
        return ["127.0.0.2", "127.0.0.1"]  # the server listens at the second only

    resolver = Resolver(AddressGuard(LOOPBACK), lookup)
    outcomes = fetch(make, *[f"http://name.example:{server.port}/ok"] * 5, resolver=resolver)
    resolver.close()
    assert [reason_of(outcome) for outcome in outcomes] == [None] * 5
    assert asked == ["name.example"]


def test_a_hanging_resolver_times_out(make: Callable[..., Fetcher]) -> None:
    """The name's time is part of the connect timeout; close does not wait for the lookup."""
    gate = threading.Event()

    def lookup(host: str) -> list[str]:
        gate.wait()
        return []

    resolver = Resolver(AddressGuard(), lookup)
    limits = Limits(total=2.0, connect=0.2)
    assert reason_of(fetch(make, "http://slow.example/", limits=limits, resolver=resolver)[0]) == Reason.DNS_TIMEOUT
    gate.set()
    resolver.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize(
    ("name", "trusted", "reason"),
    [
        ("good.example", True, None),
        ("other.example", True, Reason.TLS_CERTIFICATE),
        ("good.example", False, Reason.TLS_CERTIFICATE),
    ],
)
def test_certificates(
    make: Callable[..., Fetcher], authority: trustme.CA, name: str, trusted: bool, reason: Reason | None
) -> None:
    """A connection to an address is still checked by the host's name; unknown authorities and wrong names are refused."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("good.example").configure_cert(context)
    server = Server(context)
    ours = ssl.create_default_context()
    if trusted:
        authority.configure_trust(ours)
    resolver = Resolver(AddressGuard(LOOPBACK), lambda host: ["127.0.0.1"])
    try:
        urls = [f"https://{name}:{server.port}/ok"] * 2
        outcomes = fetch(make, *urls, resolver=resolver, ssl_context=ours)
        assert [reason_of(outcome) for outcome in outcomes] == [reason] * 2
    finally:
        resolver.close()
        server.close()


def test_tls_to_a_plain_port_is_a_protocol_error(make: Callable[..., Fetcher], server: Server) -> None:
    """HTTP on the port of an https URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(ConnectionResetError):
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.recv(65536)

        thread = threading.Thread(target=answer)
        thread.start()
        outcome = fetch(make, f"https://127.0.0.1:{listener.getsockname()[1]}/")[0]
        thread.join()
    assert reason_of(outcome) == Reason.TLS_PROTOCOL


def test_a_proxy_gets_everything(make: Callable[..., Fetcher], server: Server) -> None:
    """With a proxy the whole URL goes to it, the name is not resolved here, and inner literals are still refused."""
    options = FetchConfig(retries=0, robots="ignore", proxy=server.base)
    outcomes = fetch(make, "http://far.example/a", "http://10.1.2.3/b", options=options)
    assert [reason_of(outcome) for outcome in outcomes] == [None, Reason.SSRF_BLOCKED]
    assert list(server.requests) == ["http://far.example/a"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("good.example", None), ("other.example", Reason.TLS_CERTIFICATE)],
)
def test_a_proxy_tunnels_tls(
    make: Callable[..., Fetcher], server: Server, authority: trustme.CA, name: str, reason: Reason | None
) -> None:
    """An https URL goes through the proxy by CONNECT, and the certificate behind it is checked by the host's name."""
    server.tunnel = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("good.example").configure_cert(server.tunnel)
    ours = ssl.create_default_context()
    authority.configure_trust(ours)
    options = FetchConfig(retries=0, robots="ignore", proxy=server.base, per_host=1)
    outcomes = fetch(make, *[f"https://{name}/ok/a%2f%zz"] * 2, options=options, ssl_context=ours)
    assert [reason_of(outcome) for outcome in outcomes] == [reason] * 2
    assert server.requests["/ok/a%2f%zz"] == (0 if reason else 2)
    assert server.accepted == (2 if reason else 1), "a tunnel is kept like any other connection"


def test_a_proxy_that_refuses_is_unreachable(make: Callable[..., Fetcher], server: Server) -> None:
    """No tunnel: the fault lies between us and the host."""
    options = FetchConfig(retries=0, robots="ignore", proxy=server.base)
    assert reason_of(fetch(make, "https://far.example/", options=options)[0]) == Reason.CONNECT_UNREACHABLE


def test_parts_come_together(make: Callable[..., Fetcher], server: Server) -> None:
    """A row with several requests is delivered once, with an entry for each of them in their order."""
    basket = Basket()
    fetcher = make(config())
    fetcher.start(basket.deliver, basket.budget, basket.broken.append)
    paths = ["ok", "status/404", "chunked", "ok"]
    requests = tuple(Request(str(i), f"{server.base}/{path}") for i, path in enumerate(paths))
    fetcher.submit(Row(0, (*requests, Request("none", None))))
    basket.wait(1)
    fetcher.close()
    assert [reason_of(part) for part in basket.rows[0]] == [None, Reason.HTTP_NOT_FOUND, None, None, Reason.URL_MISSING]
    assert [part.part for part in basket.rows[0] if isinstance(part, Fetched)] == ["0", "2", "3"]
    assert basket.budget.used == 0


def test_one_slow_host_holds_up_nobody(make: Callable[..., Fetcher], server: Server) -> None:
    """All slots of a silent host are taken, more wait for them, and the other host's rows come at once."""
    resolver = Resolver(AddressGuard(LOOPBACK), lambda host: ["127.0.0.1"])
    basket = Basket()
    fetcher = make(config(per_host=2, connections=4), resolver=resolver)
    fetcher.start(basket.deliver, basket.budget, basket.broken.append)
    slow = [f"http://slow.example:{server.port}/silent"] * 10
    quick = [f"http://quick.example:{server.port}/ok"] * 10
    for row in rows_of(*slow, *quick):
        fetcher.submit(row)
    basket.wait(10)
    fetcher.close()
    resolver.close()
    assert sorted(basket.rows) == list(range(10, 20))


def test_a_limited_host_is_held_and_the_others_go_on(make: Callable[..., Fetcher], server: Server) -> None:
    """Retry-After stops the host that sent it, for all of its rows; what waits for it needs no attempt."""
    resolver = Resolver(AddressGuard(LOOPBACK), lambda host: ["127.0.0.1"])
    basket = Basket()
    fetcher = make(config(per_host=1, retries=1), resolver=resolver)
    fetcher.start(basket.deliver, basket.budget, basket.broken.append)
    limited = [f"http://limited.example:{server.port}/flaky/429-9999", f"http://limited.example:{server.port}/ok"]
    for row in rows_of(*limited, f"http://free.example:{server.port}/ok"):
        fetcher.submit(row)
    basket.wait(3)
    fetcher.close()
    resolver.close()
    assert [reason_of(basket.rows[i][0]) for i in range(3)] == [Reason.HTTP_RATE_LIMITED] * 2 + [None]
    assert [basket.rows[i][0].attempts for i in range(3)] == [1, 0, 1]
    assert server.requests["/ok"] == 1


@pytest.mark.parametrize("limit", [1, 300_000, 2_000_000])
def test_the_budget_holds_and_never_locks_up(make: Callable[..., Fetcher], server: Server, limit: int) -> None:
    """Bodies larger than the whole budget come through one at a time, with and without a known length."""
    basket = Basket(limit)
    fetcher = make(config())
    fetcher.start(basket.deliver, basket.budget, basket.broken.append)
    paths = ["size/700000", "ok", "chunked", "until_close", "size/400000", "status/404"] * 4
    for row in rows_of(*(f"{server.base}/{path}" for path in paths)):
        fetcher.submit(row)
    basket.wait(len(paths))
    fetcher.close()
    assert all(reason_of(basket.rows[i][0]) is None for i in range(len(paths)) if paths[i] != "status/404")
    assert basket.peak <= limit + 700_000 + 2**18
    assert basket.budget.used == 0


def test_a_full_budget_stops_new_rows_until_it_is_given_back(make: Callable[..., Fetcher], server: Server) -> None:
    """Delivered bytes count until the flow releases them; waiting costs the rows neither time nor attempts."""
    basket = Basket(2_000_000, keep=True)
    fetcher = make(config(), limits=QUICK)
    fetcher.start(basket.deliver, basket.budget, basket.broken.append)
    for row in rows_of(*[f"{server.base}/size/900000"] * 6):
        fetcher.submit(row)
    for count in range(1, 7):
        basket.wait(count)
        assert basket.budget.used <= 2_000_000 + 900_000
        basket.give_back(basket.rows[list(basket.rows)[count - 1]])
    fetcher.close()
    assert all(part.attempts == 1 for parts in basket.rows.values() for part in parts)
    assert basket.budget.used == 0


@pytest.mark.parametrize("path", ["silent", "stall", "endless", "drip/body", "limited/60"])
def test_close_leaves_nothing(make: Callable[..., Fetcher], server: Server, path: str) -> None:
    """Closing in the middle of things ends at once, may be repeated, and (see conftest) leaves no thread or descriptor."""
    basket = Basket()
    fetcher = make(config(retries=2, max_bytes=2**40))
    fetcher.start(basket.deliver, basket.budget, basket.broken.append)
    for row in rows_of(*[f"{server.base}/{path}"] * 6):
        fetcher.submit(row)
    while not server.requests:
        time.sleep(0.001)
    fetcher.close()
    fetcher.close()
    fetcher.submit(rows_of(f"{server.base}/ok")[0])
    assert not basket.rows


def test_close_waits_for_no_handshake(make: Callable[..., Fetcher]) -> None:
    """A handshake under way is broken off, however long its own time would be."""
    basket = Basket()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fetcher = make(config(), limits=Limits(total=1000.0, connect=1000.0))
        fetcher.start(basket.deliver, basket.budget, basket.broken.append)
        fetcher.submit(rows_of(f"https://127.0.0.1:{listener.getsockname()[1]}/")[0])
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(5)[:1] == b"\x16"  # the handshake has begun
            fetcher.close()
    assert not basket.rows


def test_close_without_rows(make: Callable[..., Fetcher]) -> None:
    """A fetcher that never got a row closes all the same."""
    basket = Basket()
    fetcher = make(config())
    fetcher.start(basket.deliver, basket.budget, basket.broken.append)
    fetcher.close()


def test_the_synchronous_client(server: Server) -> None:
    """One row at a time, with second attempts, over a kept connection."""
    with SyncClient(config(retries=1)) as synchronous:
        outcomes = [
            synchronous.fetch(Row(i, (Request("image", f"{server.base}/{path}"),)))[0]
            for i, path in enumerate(["ok", "flaky/503-0", "status/404", "ok"])
        ]
    assert [reason_of(outcome) for outcome in outcomes] == [None, None, Reason.HTTP_NOT_FOUND, None]
    assert [outcome.attempts for outcome in outcomes] == [1, 2, 1, 1]
    assert server.accepted == 1


def test_the_synchronous_client_breaks_off(server: Server) -> None:
    """Closing it from another thread ends a fetch that hangs."""
    synchronous = SyncClient(config())
    failures: list[BaseException] = []

    def work() -> None:
        try:
            synchronous.fetch(rows_of(f"{server.base}/silent")[0])
        except RuntimeError as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not server.requests:
        time.sleep(0.001)
    synchronous.close()
    thread.join()
    assert len(failures) == 1
