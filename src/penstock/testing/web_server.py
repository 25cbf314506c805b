"""The simulated web on the loopback: what ``python -m penstock.testing.server --web`` runs.

One process plays all hosts of a `penstock.testing.web.World`::

    name server ── h0123.web.test ▶ 127.0.0.1, or what is wrong with that name
    doors ──────── a port for http and one for https, for each kind of robots.txt; the certificate by the name asked for
    dead ports ─── `penstock.testing.ports`: refused, black hole, silent, reset

Needs the extra `testing`.
"""

from __future__ import annotations

import asyncio
import csv
import functools
import json
import re
import shlex
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from penstock.errors import MissingExtraError
from penstock.testing.answers import Answer
from penstock.testing.behaviours import Behaviours, Robots
from penstock.testing.connection import Connection, Service
from penstock.testing.names import NXDOMAIN, REFUSED, SERVFAIL, SILENT, NameService, Reply
from penstock.testing.ports import open_ports
from penstock.testing.web import LATENCY, Host, World

try:
    import trustme
except ImportError as error:
    raise MissingExtraError("a web with https needs trustme: pip install 'penstock[testing]'") from error

__all__ = ["Web", "open_web", "open_web_with_list", "write_list"]

ADDRESS = "127.0.0.1"

BACKLOG = 1024
"""Connections that may wait to be accepted: a client opens hundreds at once."""

REPLIES: Mapping[str, Reply] = {
    "here": Reply((ADDRESS,)),
    "nxdomain": NXDOMAIN,
    "servfail": SERVFAIL,
    "refused": REFUSED,
    "silent": SILENT,
}

ROW = re.compile(r"[?&](?:row|id)=([0-9]+)")


@dataclass(frozen=True, slots=True)
class Web:
    """A web that is being served."""

    url: str
    """Of a plain server: its ``/statistics`` counts what came by http to hosts without a robots.txt."""
    dns: str
    """Address of the name server, as ``--dns`` takes it."""
    authority: bytes
    """The certificate of the authority that clients have to trust, in PEM: ``SSL_CERT_FILE`` names a file with it."""
    rows: Sequence[tuple[str, str]]
    """URL and what is expected of it: ``written`` or a reason, or several of them separated by bars."""


@asynccontextmanager
async def open_web(world: World, pictures: Mapping[str, bytes]) -> AsyncIterator[Web]:
    """Serve a world.

    Args:
        world: What is served.
        pictures: By name; the names are those that the world was made with.

    Cancellation: closes everything.
    """
    authority = trustme.CA()
    latencies = [row.host.latency for row in world.rows]
    async with AsyncExitStack() as stack:
        doors = dict(await stack.enter_async_context(open_ports(ADDRESS)))
        tls = _tls(authority, {host.name: host for host in world.hosts})
        for door in sorted({host.door for host in world.hosts} - doors.keys()):
            scheme, robots = door.split()
            service = _WebService(Behaviours(pictures, cast("Robots", robots)), latencies)
            doors[door] = await _listen(service, stack, tls if scheme == "https" else None)
        names = NameService({host.name: REPLIES[host.trouble.resolves] for host in world.hosts})
        await names.start()
        stack.callback(names.close)
        rows = [(row.url(doors), row.expected) for row in world.rows]
        yield Web(f"http://{ADDRESS}:{doors['http none']}", names.address, authority.cert_pem.bytes(), rows)


@asynccontextmanager
async def open_web_with_list(
    world: World, pictures: Mapping[str, bytes], path: Path | None = None
) -> AsyncIterator[Mapping[str, str | int]]:
    """Serve a world, and write what a client needs: its list, and the authority to trust.

    Args:
        world: What is served.
        pictures: By name; the names are those that the world was made with.
        path: Of the list; by default in a temporary folder, which goes when the web does.

    Yields:
        What is to be known of it, as ``--web`` prints it.

    Raises:
        ValueError: The name of the list has an unknown ending.
    """
    with tempfile.TemporaryDirectory(prefix="penstock-web-") as folder:
        table, authority = path or Path(folder) / "web.csv", Path(folder) / "ca.pem"
        async with open_web(world, pictures) as web:
            write_list(table, web.rows)
            authority.write_bytes(web.authority)
            command = ["penstock", "run", table, "--out", "web-out", "--keep-columns", "expected", "--timeout", "10"]
            command += ["--dns", web.dns, "--allow-network", "127.0.0.0/8"]
            yield {
                "url": web.url,
                "list": str(table),
                "dns": web.dns,
                "ca": str(authority),
                "rows": len(web.rows),
                "run": f"SSL_CERT_FILE={shlex.quote(str(authority))} {shlex.join(map(str, command))}",
            }


def write_list(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    """Write the columns ``url`` and ``expected``, as CSV, JSON lines or Parquet by the ending of the name.

    Raises:
        ValueError: Another ending.
    """
    writer = _WRITERS.get(path.suffix)
    if writer is None:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(_WRITERS)}")
    writer(path, rows)


class _WebService(Service):
    """Answers each row as late as its host does."""

    def __init__(self, behaviours: Behaviours, latencies: Sequence[float]) -> None:
        super().__init__(behaviours, latency=0.0, jitter=0.0, seed=0)
        self._latencies = latencies

    def answer(self, target: str) -> Answer:
        """The answer to a request for a row, or for what a row was redirected to."""
        answer, row = super().answer(target), ROW.search(target)
        return replace(answer, wait=answer.wait + (self._latencies[int(row[1])] if row else LATENCY))

    def robots(self, target: str) -> Answer:
        """The answer to a request of ``/robots.txt``."""
        return replace(super().robots(target), wait=LATENCY)


async def _listen(service: Service, stack: AsyncExitStack, tls: ssl.SSLContext | None) -> int:
    """Serve at a free port until the stack is unwound."""
    make = functools.partial(Connection, service)
    server = await asyncio.get_running_loop().create_server(make, ADDRESS, 0, backlog=BACKLOG, ssl=tls)
    stack.callback(service.close)
    stack.callback(server.close)
    return int(server.sockets[0].getsockname()[1])


def _tls(authority: trustme.CA, hosts: Mapping[str, Host]) -> ssl.SSLContext:
    """Has for each host the certificate that it should have: the right one if the client names none."""
    certificates = {
        "valid": authority.issue_cert("*.web.test"),
        "expired": authority.issue_cert("*.web.test", not_after=datetime(2020, 1, 1, tzinfo=UTC)),
        "unknown ca": trustme.CA().issue_cert("*.web.test"),
        "wrong name": authority.issue_cert("elsewhere.test"),
    }
    contexts = {}
    for name, certificate in certificates.items():
        contexts[name] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(contexts[name])

    def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        host = hosts.get(name or "")
        if host is not None:
            connection.context = contexts[host.trouble.certificate]

    contexts["valid"].sni_callback = choose
    return contexts["valid"]


def _write_csv(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("url", "expected"), *rows])


def _write_json_lines(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    lines = (json.dumps({"url": url, "expected": expected}) for url, expected in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _write_parquet(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    import pyarrow as pa  # noqa: PLC0415 - takes a while to load
    import pyarrow.parquet as pq  # noqa: PLC0415 - the same

    urls, expected = zip(*rows, strict=True)
    pq.write_table(pa.table({"url": urls, "expected": expected}), path)


_WRITERS: Mapping[str, Callable[[Path, Sequence[tuple[str, str]]], None]] = {
    ".csv": _write_csv,
    ".jsonl": _write_json_lines,
    ".parquet": _write_parquet,
}
