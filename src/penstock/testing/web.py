"""A simulated web: which hosts there are, which rows a list has, and how each of them ends.

The failures are mixed as published runs met them, and the rows are spread over hosts as in real lists: a few large ones
and a long tail of hosts with a single row. A world is a pure function of its arguments::

    mixture ──largest remainders──▶ rows of each fate ─┐
    hosts, sizes by a power law ───────────────────────┼─seeded shuffle──▶ World: hosts, rows, what is expected
    pictures ──────────────────────────────────────────┘

`penstock.testing.web_server` serves it: ``python -m penstock.testing.server --web``. After a run over its list with
``--keep-columns expected``, ``python -m penstock.testing.web_check OUT`` compares.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from penstock.records import Reason

__all__ = ["MIN_ROWS", "MIXTURES", "WRITTEN", "Host", "Row", "World", "make_world"]

WRITTEN = "written"
"""What is expected of a row that should become a sample."""

MIN_ROWS = 200
"""With fewer, there are too few hosts of a single row to make up exact totals."""

MAX_OPT_OUTS = 0.5
"""Share of the rows; more, and there would be too few hosts small enough."""

MIXTURES: Mapping[str, Mapping[str, int]] = {
    "cc3m-2022": {
        "ok": 8100,
        "404": 569,
        "403": 126,
        "temporary dns": 584,
        "no such name": 158,
        "time-outs": 36,
        "certificates": 14,
        "undecodable": 205,
    },
    "cc12m-2024": {
        "ok": 7080,
        "404": 900,
        "403": 358,
        "no such name": 266,
        "certificates": 34,
        "undecodable": 176,
    },
    "datacomp-2024": {
        "ok": 7741,
        "404": 566,
        "403": 283,
        "temporary dns": 54,
        "no such name": 314,
        "certificates": 43,
        "undecodable": 99,
    },
    "datacomp-2025": {
        "ok": 6926,
        "404": 940,
        "403": 555,
        "temporary dns": 118,
        "no such name": 538,
        "time-outs": 241,
        "certificates": 63,
        "undecodable": 132,
    },
}
"""Published runs, per 10,000 URLs: CC3M of December 2022, CC12M of January 2024, DataComp small of August 2024, DataComp
12M of November 2025. What is missing to 10,000 ended otherwise: here, as the fates of the column ``others``."""

HOSTS_PER_ROW = 0.4397
LARGEST_HOST = 0.0562
"""Share of the rows. Both as in a real list of 10,000 rows: 4,397 hosts, the largest with 562 rows."""

HTTPS = 0.6
"""Share of the rows, as in the same list."""

RULES = 0.2
"""Share of the hosts whose robots.txt has rules, though harmless ones; most hosts have none."""

LATENCY = 0.08
LATENCY_SPREAD = 0.9
MAX_LATENCY = 2.0
"""Median of the hosts in seconds, standard deviation of its logarithm, and the longest."""

PATIENCE = 20.0
"""Seconds: the latency of all rows of a host, one after the other. Hosts of many rows are quick ones, as in the real web:
otherwise the slowest large host would be all that a run waits for."""


@dataclass(frozen=True, slots=True)
class Fate:
    """How a request ends at a host that works."""

    expected: str
    """`WRITTEN`, or reasons separated by bars, any of which is right."""
    path: str
    """Of `penstock.testing.behaviours`, with ``{picture}`` and ``{row}``."""
    sparse: bool = False
    """At most one row of a host: it takes long, or holds the host up."""


@dataclass(frozen=True, slots=True)
class Death:
    """What all rows of a host share."""

    expected: str
    port: str = ""
    """One of `penstock.testing.ports`; empty: the real server."""
    robots: str = ""
    """Kind of robots.txt, one of `penstock.testing.behaviours.ROBOTS`; empty: one that forbids nothing."""
    resolves: str = "here"
    certificate: str = "valid"
    https: bool = False
    """Whether it takes TLS to die of it."""
    most_rows: int = 25
    """Of one such host."""

    @property
    def silent(self) -> bool:
        """Whether a client may give the host up before it has asked for each row: it gets no answer."""
        return bool(self.port) or self.resolves != "here"


_ALIVE = Death(WRITTEN)
_SLOW = 6
"""Rows of a host at most where each takes 20 seconds to fail: a client lets several fail before it gives a host up."""

FATES: Mapping[str, Fate] = {
    "image": Fate(WRITTEN, "/image/{picture}?row={row}"),
    "redirected": Fate(WRITTEN, "/redirect/1/{picture}?row={row}"),
    "limited once": Fate(WRITTEN, "/flaky/1/{picture}?id={row}&status=429&retry_after=1", sparse=True),
    "down once": Fate(WRITTEN, "/flaky/1/{picture}?id={row}"),
    "404": Fate(Reason.HTTP_NOT_FOUND, "/status/404?row={row}"),
    "403": Fate(Reason.HTTP_FORBIDDEN, "/status/403?row={row}"),
    "410": Fate(Reason.HTTP_GONE, "/status/410?row={row}"),
    "500": Fate(Reason.HTTP_SERVER_ERROR, "/status/500?row={row}"),
    "loop": Fate(Reason.HTTP_REDIRECT_LIMIT, "/redirect-loop?row={row}"),
    "empty": Fate(Reason.BODY_EMPTY, "/empty?row={row}"),
    "short": Fate(Reason.BODY_TRUNCATED, "/short/{picture}?row={row}"),
    "tarpit": Fate(f"{Reason.TIMEOUT_IDLE}|{Reason.TIMEOUT_TOTAL}", "/silent?row={row}", sparse=True),
    "drip": Fate(f"{Reason.TIMEOUT_LOW_SPEED}|{Reason.TIMEOUT_TOTAL}", "/drip/20/{picture}?row={row}", sparse=True),
    "stall": Fate(f"{Reason.TIMEOUT_IDLE}|{Reason.TIMEOUT_TOTAL}", "/stall/{picture}?row={row}", sparse=True),
    "page": Fate(Reason.CONTENT_NOT_IMAGE, "/html?row={row}"),
    "truncated": Fate(Reason.IMAGE_TRUNCATED, "/bad/truncated.jpg?row={row}"),
    "corrupt": Fate(Reason.IMAGE_CORRUPT, "/bad/bad-crc.png?row={row}"),
    "svg": Fate(Reason.CONTENT_UNSUPPORTED, "/bad/picture.svg?row={row}"),
    "x-robots-tag": Fate(Reason.OPTOUT_HEADER, "/header/{picture}?X-Robots-Tag=noai&row={row}"),
    "tdm": Fate(Reason.OPTOUT_TDM, "/header/{picture}?tdm-reservation=1&row={row}"),
}

DEATHS: Mapping[str, Death] = {
    "refused": Death(Reason.CONNECT_REFUSED, port="refused"),
    "reset": Death(Reason.CONNECT_RESET, port="reset"),
    "black hole": Death(Reason.CONNECT_TIMEOUT, port="blackhole", most_rows=_SLOW),
    "silent tls": Death(Reason.TLS_TIMEOUT, port="silent", https=True, most_rows=_SLOW),
    "silent dns": Death(Reason.DNS_TIMEOUT, resolves="silent", most_rows=_SLOW),
    "servfail": Death(Reason.DNS_TEMPORARY, resolves="servfail"),
    "dns refused": Death(Reason.DNS_TEMPORARY, resolves="refused"),
    "nxdomain": Death(Reason.DNS_NXDOMAIN, resolves="nxdomain"),
    "expired": Death(Reason.TLS_CERTIFICATE, certificate="expired", https=True),
    "unknown ca": Death(Reason.TLS_CERTIFICATE, certificate="unknown ca", https=True),
    "wrong name": Death(Reason.TLS_CERTIFICATE, certificate="wrong name", https=True),
    "robots forbid": Death(Reason.OPTOUT_ROBOTS, robots="forbid"),
    "robots fail": Death(Reason.OPTOUT_ROBOTS_UNREACHABLE, robots="error"),
}

COLUMNS: Mapping[str, Mapping[str, int]] = {
    "ok": {"image": 940, "redirected": 40, "limited once": 10, "down once": 10},
    "404": {"404": 1},
    "403": {"403": 1},
    "temporary dns": {"servfail": 3, "dns refused": 1},
    "no such name": {"nxdomain": 1},
    "time-outs": {"tarpit": 5, "drip": 3, "stall": 3, "black hole": 4, "silent tls": 3, "silent dns": 2},
    "certificates": {"expired": 2, "unknown ca": 1, "wrong name": 2},
    "undecodable": {"page": 5, "truncated": 2, "corrupt": 2, "svg": 1},
    "others": {"refused": 8, "500": 5, "410": 2, "reset": 2, "empty": 1, "short": 2, "loop": 1},
    "opt-outs": {"robots forbid": 3, "robots fail": 1, "x-robots-tag": 1, "tdm": 1},
}
"""The fates that a column of the published tables stands for, and their weights: ours, since they are not published."""

WITHOUT_TLS = {"expired": "refused", "unknown ca": "refused", "wrong name": "refused", "silent tls": "black hole"}
"""What stands for the fates that a web without https cannot have."""


@dataclass(frozen=True, slots=True)
class Host:
    """A host, and what is wrong with it."""

    name: str
    rows: int
    https: bool
    robots: str
    """Kind of its robots.txt, one of `penstock.testing.behaviours.ROBOTS`."""
    latency: float
    """Seconds."""
    death: str
    """One of `DEATHS`; empty if it works."""

    @property
    def scheme(self) -> str:
        """Of its URLs."""
        return "https" if self.https else "http"

    @property
    def trouble(self) -> Death:
        """What is wrong with it; nothing if it works."""
        return DEATHS.get(self.death, _ALIVE)

    @property
    def door(self) -> str:
        """The port to connect to: of `penstock.testing.ports`, or the scheme and the kind of robots.txt: ``http none``."""
        return self.trouble.port or f"{self.scheme} {self.robots}"

    @property
    def expected(self) -> str:
        """How its rows end, if not as their own fates have it."""
        expected = self.trouble.expected
        return f"{expected}|{Reason.HOST_UNAVAILABLE}" if self.trouble.silent and self.rows > 1 else expected


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the list."""

    host: Host
    fate: str
    """One of `FATES` or `DEATHS`."""
    path: str
    expected: str

    def url(self, doors: Mapping[str, int]) -> str:
        """The URL, once the ports are known."""
        return f"{self.host.scheme}://{self.host.name}:{doors[self.host.door]}{self.path}"


@dataclass(frozen=True, slots=True)
class World:
    """All hosts and all rows."""

    hosts: tuple[Host, ...]
    rows: tuple[Row, ...]


def make_world(
    rows: int,
    pictures: Sequence[str],
    *,
    mixture: str = "datacomp-2025",
    seed: int = 0,
    https: bool = True,
    opt_outs: float = 0.0,
) -> World:
    """The world of these arguments: the same ones, the same world. How often each fate occurs does not depend on the seed.

    Args:
        rows: Of the list, at least `MIN_ROWS`.
        pictures: Names of good pictures.
        mixture: One of `MIXTURES`.
        seed: Of everything that is left to chance.
        https: Whether any host has TLS.
        opt_outs: Share of the rows that ask not to be used, taken from those that are well; `MAX_OPT_OUTS` at most.

    Raises:
        ValueError: Too few rows, an unknown mixture, or another share.
    """
    if rows < MIN_ROWS:
        raise ValueError(f"expected at least {MIN_ROWS} rows")
    if mixture not in MIXTURES:
        raise ValueError(f"expected a mixture out of {', '.join(MIXTURES)}")
    if not 0 <= opt_outs <= MAX_OPT_OUTS:
        raise ValueError(f"expected opt-outs from 0 to {MAX_OPT_OUTS}")
    chance = random.Random(seed)  # noqa: S311 - deals out fates, guards nothing
    fates = _fates(rows, mixture, opt_outs=opt_outs, https=https)
    hosts = _make_hosts(chance, rows, fates, HTTPS if https else 0.0)
    slots = [host for host in hosts for _ in range(host.rows)]
    chance.shuffle(slots)
    dealt = _deal(chance, slots, {fate: count for fate, count in fates.items() if fate in FATES})

    def row(index: int, host: Host) -> Row:
        name = host.death or dealt[index]
        fate = FATES.get(name, FATES["image"])
        path = fate.path.format(picture=quote(pictures[index % len(pictures)]), row=index)
        return Row(host, name, path, host.expected if host.death else fate.expected)

    return World(tuple(hosts), tuple(row(index, host) for index, host in enumerate(slots)))


def apportion(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """`total` in whole parts, as near to the weights as they can be: the method of largest remainders.

    >>> apportion(10, {"a": 2, "b": 1})
    {'a': 7, 'b': 3}
    """
    everything = sum(weights.values())
    exact = {name: total * weight / everything for name, weight in weights.items()}
    parts = {name: math.floor(part) for name, part in exact.items()}
    by_remainder = sorted(exact, key=lambda name: parts[name] - exact[name])
    for name in by_remainder[: total - sum(parts.values())]:
        parts[name] += 1
    return parts


def _fates(rows: int, mixture: str, *, opt_outs: float, https: bool) -> dict[str, int]:
    """How many rows have each fate."""
    published = MIXTURES[mixture]
    columns = apportion(rows, {**published, "others": 10_000 - sum(published.values())})
    columns["opt-outs"] = min(round(rows * opt_outs), columns["ok"])
    columns["ok"] -= columns["opt-outs"]
    fates: dict[str, int] = {}
    for column, count in columns.items():
        for fate, part in apportion(count, COLUMNS[column]).items():
            name = fate if https else WITHOUT_TLS.get(fate, fate)
            fates[name] = fates.get(name, 0) + part
    return fates


def host_sizes(rows: int) -> list[int]:
    """Rows of each host, the largest first: a power law with the number of hosts and the largest one of a real list."""
    count, largest = round(rows * HOSTS_PER_ROW), round(rows * LARGEST_HOST)

    def sizes(exponent: float) -> list[int]:
        return [max(1, round(largest * rank**-exponent)) for rank in range(1, count + 1)]

    low, high = 0.0, 4.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(sizes(middle)) >= rows else (low, middle)
    found = sizes(low)
    surplus = sum(found) - rows
    for index in range(count - 1, 0, -1):  # the smallest that can spare a row do
        if found[index] > 1 and surplus > 0:
            found[index] -= 1
            surplus -= 1
    return found


def _make_hosts(chance: random.Random, rows: int, fates: Mapping[str, int], https: float) -> list[Host]:
    sizes = host_sizes(rows)
    chance.shuffle(sizes)
    deaths = _choose_deaths(sizes, fates)
    secure = _choose_secure(sizes, deaths, round(rows * https))
    width = len(str(len(sizes)))
    return [
        _make_host(chance, f"h{index:0{width}d}.web.test", size, deaths.get(index, ""), https=index in secure)
        for index, size in enumerate(sizes)
    ]


def _choose_deaths(sizes: Sequence[int], fates: Mapping[str, int]) -> dict[int, str]:
    """Which hosts are dead and of what, so that their rows are exactly as many as there should be.

    The first of each kind is as large as allowed, the others come as they come. There is always one left that fits, since
    most hosts have a single row.
    """
    deaths: dict[int, str] = {}
    for death, properties in DEATHS.items():
        wanted = fates.get(death, 0)
        most = min(wanted, properties.most_rows)
        fitting = [index for index, size in enumerate(sizes) if index not in deaths and size <= most]
        largest = max(fitting, key=sizes.__getitem__, default=None)
        for index in sorted(fitting, key=lambda index: index != largest):
            if sizes[index] <= wanted:
                deaths[index] = death
                wanted -= sizes[index]
    return deaths


def _choose_secure(sizes: Sequence[int], deaths: Mapping[int, str], wanted: int) -> set[int]:
    """Which hosts have TLS: those that must, and others up to the number of rows that is wanted."""
    secure = {index for index, death in deaths.items() if DEATHS[death].https}
    wanted -= sum(sizes[index] for index in secure)
    for index, size in enumerate(sizes):
        if index not in secure and size <= wanted:
            secure.add(index)
            wanted -= size
    return secure


def _make_host(chance: random.Random, name: str, rows: int, death: str, *, https: bool) -> Host:
    latency = LATENCY * math.exp(chance.gauss(0.0, LATENCY_SPREAD))
    robots = "allow" if chance.random() < RULES else "none"
    return Host(
        name,
        rows,
        https,
        robots=DEATHS[death].robots or robots if death else robots,
        latency=min(latency, MAX_LATENCY, PATIENCE / rows),
        death=death,
    )


def _deal(chance: random.Random, slots: Sequence[Host], fates: Mapping[str, int]) -> dict[int, str]:
    """The fate of each row of a working host; sparse ones go to different hosts."""
    free = [index for index, host in enumerate(slots) if not host.death]
    chance.shuffle(free)
    dealt: dict[int, str] = {}
    busy: set[str] = set()
    candidates = iter(free)
    for fate in (fate for fate, count in fates.items() if FATES[fate].sparse for _ in range(count)):
        index = next(index for index in candidates if slots[index].name not in busy)
        busy.add(slots[index].name)
        dealt[index] = fate
    others = (fate for fate, count in fates.items() if not FATES[fate].sparse for _ in range(count))
    return dealt | dict(zip((index for index in free if index not in dealt), others, strict=True))
