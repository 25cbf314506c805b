"""``--once``: every URL is fetched a single time, and each scheme gets its answer from a server of our own.

::

    rows ──record──▶ folder with the bodies, Recorded … ──replay_row──▶ rows ──▶ any scheme, with replay_config
              │                 └──replay_server──▶ local server ◀── as its proxy ──┘
        remote servers

What is replayed of an answer is its bytes, the time until its head came, and the speed of its body. That time holds all
that went before: name look-up, connection, TLS, redirects, attempts that failed and the pauses between them; so a scheme
spends none of its own CPU on those, and keeps a connection where a pause would have set it free.

The local server is reached as a proxy, so that the URLs can keep their hosts: the limit for each host acts as on the
real list, and no name is looked up.
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.config import FetchConfig, RunConfig
from penstock.errors import ItemError, OutputError, PenstockError
from penstock.fetch.budget import ByteBudget
from penstock.fetch.client import AsyncFetcher
from penstock.fetch.descriptors import raise_limit
from penstock.fetch.policy.urls import MAX_REDIRECTS, check_url
from penstock.records import Failure, Fetched, Request, Row
from penstock.testing.behaviours import SILENCE
from penstock.testing.server import ImageServer

__all__ = ["LONGEST_WAIT", "Recorded", "record", "replay_config", "replay_row", "replay_server"]

BUDGET_SHARE = 8
"""Of ``--memory``, one part in eight for bodies on their way to the folder, as for those of a run."""

LEAST_SECONDS = 0.001
"""Of a body. What took less had come with the head, and says nothing of the speed."""

LONGEST_WAIT = (MAX_REDIRECTS + 1) * SILENCE
"""Seconds; a head that came later is replayed after as many. The server breaks the wait by redirects, as it must not be
silent for long, and only so many are followed."""

GONE = "gone"
"""Name of a file that is never there: the others are numbers."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of one row when it was fetched."""

    row: Row
    """As it was given, with its first request only."""
    name: str | None
    """Its file in the folder; None for a failure."""
    latency: float
    """Seconds from the start of the first attempt to the head of the last answer; of a failure, until it was final."""
    speed: float
    """Of the body, in bytes per second; 0 for a failure."""
    failure: Failure | None = None
    """None if and only if there is a file."""


def record(rows: Sequence[Row], config: RunConfig, folder: Path) -> tuple[Recorded, ...]:
    """Fetch the first request of each row once, as ``--strategy asyncio`` does, and keep the bodies in `folder`.

    Bodies go to their files as they come, so that memory stays within ``--memory``, however many there are.

    Args:
        rows: What to fetch, each index once.
        config: All its options of fetching apply: retries, limits for each host, allowed networks, a proxy.
        folder: Made if need be; gets a file for each row that could be fetched.

    Returns:
        One entry for each row, in their order.

    Raises:
        OutputError: the folder cannot be written.

    *Cancellation*: an exception, KeyboardInterrupt too, closes all connections and leaves the files that are whole.
    """
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    answers: queue.SimpleQueue[tuple[Row, tuple[Fetched | Failure, ...]] | PenstockError] = queue.SimpleQueue()
    budget = ByteBudget(config.memory // BUDGET_SHARE)
    recorded: dict[int, Recorded] = {}
    raise_limit()
    fetcher = AsyncFetcher(config.part(FetchConfig))
    fetcher.start(lambda row, parts: answers.put((row, parts)), budget, answers.put)
    with contextlib.closing(fetcher):
        for row in rows:  # all of them: they are in memory anyway, and the budget bounds what comes for them
            fetcher.submit(dataclasses.replace(row, requests=row.requests[:1]))
        for _ in rows:
            answer = answers.get()
            if isinstance(answer, PenstockError):
                raise answer
            row, (part,) = answer
            recorded[row.index] = _keep(row, part, folder)
            budget.release(len(part.data) if isinstance(part, Fetched) else 0)
    return tuple(recorded[row.index] for row in rows)


def _keep(row: Row, part: Fetched | Failure, folder: Path) -> Recorded:
    if isinstance(part, Failure):
        return Recorded(row, None, part.seconds, 0.0, part)
    with _writing(folder):
        (folder / row.key).write_bytes(part.data)
    speed = len(part.data) / max(part.body_seconds, LEAST_SECONDS)
    return Recorded(row, row.key, part.seconds - part.body_seconds, speed)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write to {folder}: {error.strerror}; --once needs room for every download"
        ) from error


def replay_row(recorded: Recorded) -> Row:
    """The row by which a scheme gets the recorded answer from `replay_server`, its proxy.

    Its URL has the recorded one's host, so that it counts against the same limit, and says to the server what to answer.
    It is always http at the usual port: TLS is not replayed, and hosts are told apart by their names alone.

    A URL that is no good stays as it is, and fails in the same way before anything is sent. So does an address inside
    that is not allowed. Every other failure becomes a 404, after as long as the failure took.
    """
    row = recorded.row
    try:
        target = check_url(row.url)
    except ItemError:
        return row
    host = f"[{target.host}]" if ":" in target.host else target.host
    wait = min(recorded.latency, LONGEST_WAIT)
    url = f"http://{host}/replay/{wait:.6f}/{recorded.speed:.6f}/{recorded.name or GONE}"
    return dataclasses.replace(row, requests=(Request(row.requests[0].part, url),))


def replay_config(config: RunConfig, proxy: str) -> RunConfig:
    """The options under which rows are replayed: those of the recording, with two of them changed.

    ``proxy`` is the replay server. It needs no ``allow_network``: the guard does not judge the address of a proxy.
    Addresses that stand in the URLs themselves are still judged, so ``allow_network`` stays as it was.

    ``timeout`` is longer, for what is replayed in one attempt may have taken several.
    """
    return dataclasses.replace(config, proxy=proxy, robots="ignore", timeout=LONGEST_WAIT + config.timeout)


def replay_server(folder: Path) -> ImageServer:
    """The server of what `record` left in `folder`, not yet started; it holds all the bodies in its memory.

    >>> with replay_server(folder) as server:  # doctest: +SKIP
    ...     penstock.run([replay_row(r).url for r in recorded], "out", config=replay_config(config, server.url))
    """
    if any(folder.iterdir()):
        return ImageServer(corpus=folder)
    return ImageServer(count=1, mean_bytes=4_000)  # nothing was recorded: whatever is asked of it is gone
