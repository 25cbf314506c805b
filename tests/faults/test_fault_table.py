"""The catalogue against both fetchers, and its images against the image work: each fault ends as the table says."""

from __future__ import annotations

import datetime as dt
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from penstock.config import FetchConfig, ImageConfig
from penstock.errors import ItemError, PenstockError
from penstock.fetch.base import Fetcher
from penstock.fetch.budget import ByteBudget
from penstock.fetch.client import AsyncFetcher
from penstock.fetch.dns import Resolver
from penstock.fetch.policy import retry
from penstock.fetch.policy.addresses import AddressGuard
from penstock.fetch.policy.deadlines import Limits
from penstock.fetch.pool import ThreadFetcher
from penstock.image.work import ImageWork
from penstock.records import Failure, Fetched, Reason, Request, Row
from penstock.testing.bad_images import BAD_IMAGES, BadImage
from penstock.testing.faults import FAULTS, Certificate, Fault, table
from penstock.testing.images import make_images
from penstock.testing.leaks import no_leaks
from penstock.testing.server import ImageServer

pytestmark = pytest.mark.slow

LOOPBACK = ("127.0.0.0/8",)
RETRIES = 2
MAX_BYTES = 2_000_000
"""More than the server's bomb has on the wire, and a five-hundredth of what it unpacks to."""

QUICK = Limits(total=6.0, connect=1.5, idle=1.5, window=2.0, floor=1024)
SLACK = 10.0
"""Seconds that a busy machine may add to a row's time."""

FETCHERS: dict[str, Callable[..., Fetcher]] = {"asyncio": AsyncFetcher, "threads": ThreadFetcher}
OF_THE_WIRE = [fault for fault in FAULTS if not fault.place.startswith("/bad/")]
"""The others differ in their bytes only."""

GROUPS = {
    "ignore": [fault for fault in OF_THE_WIRE if fault.robots is None],
    "respect": [fault for fault in OF_THE_WIRE if fault.robots is not None],
}
"""By what is done about robots.txt."""

WORK = ImageWork(ImageConfig(), as_array=False)


@dataclass
class Servers:
    """One for each thing that a server can be started with."""

    pictures: Path
    authority: trustme.CA
    stack: ExitStack

    def __post_init__(self) -> None:
        self._running: dict[str, ImageServer] = {}

    def of(self, fault: Fault) -> ImageServer:
        """The running server that has this fault."""
        if fault.needs not in self._running:
            files = self._certificate(fault.certificate) if fault.certificate else (None, None)
            server = ImageServer(
                corpus=self.pictures, robots=fault.robots or "none", certificate=files[0], key=files[1]
            )
            self._running[fault.needs] = self.stack.enter_context(server)
        return self._running[fault.needs]

    def bytes_sent(self) -> int:
        return sum(server.statistics().bytes_sent for server in self._running.values())

    def _certificate(self, kind: Certificate) -> tuple[Path, Path]:
        yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
        authority = trustme.CA() if kind == "unknown" else self.authority
        name = "elsewhere.example" if kind == "other host" else "*.faults.example"
        issued = authority.issue_cert(name, not_after=yesterday if kind == "expired" else None)
        chain, key = (self.pictures.parent / f"{kind}-{part}.pem" for part in ("chain", "key"))
        issued.private_key_and_cert_chain_pem.write_to_path(chain)
        issued.private_key_pem.write_to_path(key)
        return chain, key

    def trusting(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("faults") / "pictures"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(make_images(1, mean_bytes=4_000)[0].data)
    with ExitStack() as stack:
        yield Servers(folder, trustme.CA(), stack)


class Inbox:
    """Rows as they are delivered."""

    def __init__(self, count: int) -> None:
        self.budget = ByteBudget(2**27)
        self.peak = 0
        self.outcomes: dict[int, Fetched | Failure] = {}
        self.broken: list[PenstockError] = []
        self._count = count
        self._full = threading.Event()

    def deliver(self, row: Row, parts: tuple[Fetched | Failure, ...]) -> None:
        assert row.index not in self.outcomes, "delivered twice"
        self.peak = max(self.peak, self.budget.used)
        self.outcomes[row.index] = parts[0]
        self.budget.release(sum(len(part.data) for part in parts if isinstance(part, Fetched)))
        if len(self.outcomes) == self._count:
            self._full.set()

    def wait(self) -> list[Fetched | Failure]:
        """All of them, in the order of the rows."""
        assert self._full.wait(60), f"{len(self.outcomes)} of {self._count}"
        assert not self.broken
        return [self.outcomes[index] for index in range(self._count)]


@contextmanager
def fetching(make: Callable[..., Fetcher], servers: Servers, urls: list[str], config: FetchConfig) -> Iterator[Inbox]:
    """Each URL is being fetched, all at the same time; every name is this machine."""
    inbox = Inbox(len(urls))
    resolver = Resolver(AddressGuard(LOOPBACK), lambda host: ["127.0.0.1"])
    fetcher = make(config, limits=QUICK, resolver=resolver, ssl_context=servers.trusting())
    fetcher.start(inbox.deliver, inbox.budget, inbox.broken.append)
    try:
        for index, url in enumerate(urls):
            fetcher.submit(Row(index, (Request("image", url),)))
        yield inbox
    finally:
        fetcher.close()
        resolver.close()


def config(**options: object) -> FetchConfig:
    chosen: dict[str, object] = {
        "allow_network": LOOPBACK,
        "retries": RETRIES,
        "max_bytes": MAX_BYTES,
        "connections": 32,
        "robots": "ignore",
    } | options
    return FetchConfig(**chosen)  # type: ignore[arg-type]  # checked by the config itself


Table = dict[str, Fetched | Failure]


@pytest.fixture(scope="module", params=list(FETCHERS))
def fetcher(request: pytest.FixtureRequest) -> str:
    """Which one it is."""
    return str(request.param)


@pytest.fixture(scope="module")
def outcomes(fetcher: str, servers: Servers) -> Table:
    """Of the whole table by name: all faults at once, each of a host of its own, so that none is another's excuse."""
    make, table = FETCHERS[fetcher], Table()
    urls = {fault: fault.url(servers.of(fault), f"{fault.name}.faults.example") for fault in OF_THE_WIRE}
    before = servers.bytes_sent()
    with no_leaks(), pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setattr(retry, "BASE", 0.02)  # seconds of back-off
        inboxes = [
            stack.enter_context(fetching(make, servers, [urls[fault] for fault in faults], config(robots=robots)))
            for robots, faults in GROUPS.items()
        ]
        for inbox, faults in zip(inboxes, GROUPS.values(), strict=True):
            table |= {fault.name: outcome for fault, outcome in zip(faults, inbox.wait(), strict=True)}
    assert [inbox.budget.used for inbox in inboxes] == [0, 0], "every reservation was given back"
    assert all(inbox.peak <= inbox.budget.limit for inbox in inboxes)
    assert servers.bytes_sent() - before < 20 * MAX_BYTES, "what is too large is not read to its end"
    return table


def reason_of(outcome: Fetched | Failure) -> Reason | None:
    """Why there is no image at the end."""
    if isinstance(outcome, Failure):
        return outcome.reason
    try:
        WORK(Row(0, (Request("image", ""),)), (outcome,))
    except ItemError as error:
        return error.reason
    return None


@pytest.mark.parametrize("fault", OF_THE_WIRE, ids=lambda fault: fault.name)
def test_each_fault_ends_as_the_table_says(fetcher: str, outcomes: Table, fault: Fault) -> None:
    """Reason and attempts are those of the table; the bytes are bounded, and the time."""
    outcome = outcomes[fault.name]
    if fetcher == "threads" and fault.threads is not None:
        fault = fault.threads
    assert reason_of(outcome) == fault.reason, outcome
    assert outcome.attempts == fault.attempts(RETRIES), outcome
    assert outcome.seconds <= outcome.attempts * QUICK.total + SLACK
    size = len(outcome.data) if isinstance(outcome, Fetched) else outcome.size
    assert size <= MAX_BYTES + 2**20


def test_a_downgrade_is_told(outcomes: Table) -> None:
    """A redirect from https to http is followed, and stands in the outcome; nothing else does."""
    downgraded = [name for name, outcome in outcomes.items() if isinstance(outcome, Fetched) and outcome.downgraded]
    assert downgraded == ["downgrade"]


def test_a_secret_stays_one(outcomes: Table) -> None:
    """What a redirect names as user and password is in no outcome."""
    assert not [outcome for outcome in outcomes.values() if isinstance(outcome, Failure) and "secret" in outcome.detail]


@pytest.mark.parametrize("path", ["/race/a.jpg", "/surplus/a.jpg"])
@pytest.mark.parametrize("make", FETCHERS.values(), ids=FETCHERS)
def test_a_connection_is_not_trusted_twice(make: Callable[..., Fetcher], servers: Servers, path: str) -> None:
    """A kept connection that is closed under a request costs no attempt; one with bytes left over is not used again."""
    plain = servers.of(next(fault for fault in FAULTS if not fault.needs))
    urls = [f"{plain.url}{target}?{index}" for index in range(4) for target in (path, "/image/a.jpg")]
    with fetching(make, servers, urls, config(per_host=1)) as inbox:
        outcomes = inbox.wait()
    pictures = outcomes[1::2]
    picture = (servers.pictures / "a.jpg").read_bytes()
    assert [outcome.data for outcome in pictures if isinstance(outcome, Fetched)] == [picture] * 4
    assert [outcome.attempts for outcome in outcomes] == [1] * 8


@pytest.mark.parametrize("bad", BAD_IMAGES.values(), ids=lambda bad: bad.name)
def test_each_image_ends_as_the_table_says(bad: BadImage) -> None:
    """Whatever is in a file, the image work gives an image or the reason of the table, and the same one again."""
    fetched = Fetched("image", bad.data, 200, 1, 0.0)
    assert [reason_of(fetched), reason_of(fetched)] == [bad.expected] * 2


def test_the_guide_has_the_table() -> None:
    """The table of the guide is what ``python -m penstock.testing.faults`` prints."""
    guide = Path(__file__).parents[2] / "docs/guides/fault-server.md"
    assert table() in guide.read_text(encoding="utf-8")
