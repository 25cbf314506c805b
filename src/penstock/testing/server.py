"""An image server for demonstrations, benchmarks and tests: quick, with a latency, and with faults on demand.

It runs in a process of its own, on a free port of the loopback, and never outlives its parent::

    with ImageServer(count=200, latency=0.05) as server:
        report = penstock.run(server.image_urls(1000), "out/", allow_network=("127.0.0.0/8",))

Every path is a behaviour: `penstock.testing.behaviours` and `penstock.testing.http_faults` list them. Faults below HTTP
are ports, listed by `penstock.testing.ports`. `penstock.testing.faults` has all of them as data, with what Penstock makes
of each. By hand::

    python -m penstock.testing.server --count 200 --latency 0.05

prints one line of JSON when it is ready, and serves until SIGTERM, SIGINT or the end of its standard input, whichever
comes first. The line is ``{"url": "http://127.0.0.1:40123", "pictures": ["000000.jpg", …], "ports": {"refused":
"http://127.0.0.1:40124", …}}``.

With ``--web`` it is a whole web instead, of many hosts with names, certificates, latencies and failures as published runs
met them: `penstock.testing.web_server`. The line then has the list of URLs and the command that runs over it.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import http.client
import json
import os
import resource
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote, urlsplit

from penstock.testing.behaviours import ROBOTS, Behaviours, Robots
from penstock.testing.connection import Connection, Service, Statistics
from penstock.testing.ports import PORTS, open_ports

__all__ = ["ImageServer", "Statistics"]

BACKLOG = 1024
"""Connections that may wait to be accepted: a client opens hundreds at once."""

GRACE = 5.0
"""Seconds that the server gets to go by itself before it is killed."""


class ImageServer:
    """The server as a context manager.

    Args:
        count: Pictures to make.
        latency: Seconds from a request to its answer.
        jitter: Up to as many seconds more, uniformly distributed.
        seed: Of the pictures and of the jitter: the same seed, the same bytes.
        mean_bytes: Size of the pictures on average. Small ones (4,000) make a server that starts at once.
        corpus: A folder whose files are served in place of made pictures.
        host: Address to bind.
        certificate: File with a certificate chain in PEM; with it, the server speaks TLS.
        key: File with the key of the certificate.
        robots: What ``/robots.txt`` answers, one of `penstock.testing.behaviours.ROBOTS`.
        start_timeout: Seconds that the server may take to be ready.

    Raises:
        RuntimeError: The server did not start; the message has what it wrote to standard error.

    Cancellation: leaving the block by any exception ends and reaps the process.
    """

    url: str
    """``http://127.0.0.1:40123``, without a slash at its end."""
    pictures: tuple[str, ...]
    """Names of the pictures, in order."""
    plain_url: str
    """Without TLS: the same as `url` unless there is a certificate."""
    refused_url: str
    """Where connections are refused."""
    blackhole_url: str
    """Where connections are neither accepted nor refused (on Linux)."""
    silent_url: str
    """Where connections are accepted, and nothing is ever said."""
    reset_url: str
    """Where connections are accepted and reset at once."""
    plain_on_tls_url: str
    """An https URL where plain HTTP is spoken."""

    def __init__(
        self,
        *,
        count: int = 200,
        latency: float = 0.0,
        jitter: float = 0.0,
        seed: int = 0,
        mean_bytes: int = 150_000,
        corpus: Path | None = None,
        host: str = "127.0.0.1",
        certificate: Path | None = None,
        key: Path | None = None,
        robots: Robots = "none",
        start_timeout: float = 120.0,
    ) -> None:
        options = {
            "count": count,
            "latency": latency,
            "jitter": jitter,
            "seed": seed,
            "mean-bytes": mean_bytes,
            "corpus": corpus,
            "host": host,
            "certificate": certificate,
            "key": key,
            "robots": robots,
        }
        given = (f"--{name}={value}" for name, value in options.items() if value is not None)
        self._command = [sys.executable, "-m", __name__, *given]
        self._start_timeout = start_timeout
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._running.pid

    def start(self) -> None:
        """Start the process and wait until it serves. The block does it by itself."""
        with tempfile.TemporaryFile() as errors:  # a file: nobody has to read it for the server to go on
            self._process = subprocess.Popen(  # noqa: S603 - our own module, by our own interpreter
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # Ctrl-C is for the client; its end is ours
            )
            try:
                self._wait_until_ready(errors)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """End the process, by force if it takes longer than a few seconds. May be called twice."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
        finally:
            process.wait()
            _close_pipes(process)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def image_urls(self, count: int) -> list[str]:
        """`count` distinct URLs of pictures; the pictures come round again, the URLs do not."""
        names = [quote(name) for name in self.pictures]
        return [f"{self.url}/image/{names[index % len(names)]}?i={index}" for index in range(count)]

    def statistics(self) -> Statistics:
        """What the server has done since its start."""
        assert self.pid  # it runs
        connection = self._connect()
        try:
            connection.request("GET", "/statistics")
            return Statistics(**json.load(connection.getresponse()))
        finally:
            connection.close()

    def cpu_seconds(self) -> float:
        """User and system time of the server's process, including its start: compare two readings."""
        return self.statistics().cpu_seconds

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the image server is not running; use it as a context manager: with ImageServer() as …")
        return self._process

    def _wait_until_ready(self, errors: IO[bytes]) -> None:
        process = self._running
        assert process.stdout is not None
        # A child that is killed closes its end of the pipe: so the read below ends in time, whatever the child does.
        deadline = threading.Timer(self._start_timeout, process.kill)
        deadline.start()
        try:
            line = process.stdout.readline()
        finally:
            deadline.cancel()
            deadline.join()
        if not line.endswith(b"\n"):
            raise RuntimeError(self._diagnosis(process, errors))
        ready = json.loads(line)
        self.url, self.pictures = ready["url"], tuple(ready["pictures"])
        for name, url in ready["ports"].items():
            setattr(self, f"{name}_url", url)

    def _diagnosis(self, process: subprocess.Popen[bytes], errors: IO[bytes]) -> str:
        process.kill()
        status = process.wait()
        late = status == -signal.SIGKILL
        what = f"was not ready after {self._start_timeout:g} s" if late else f"ended at its start, with status {status}"
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip() or "nothing"
        return f"the image server {what}; it wrote to standard error: {said}"

    def _connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        if parts.scheme == "http":
            return http.client.HTTPConnection(host, parts.port, timeout=GRACE)
        context = ssl.create_default_context()
        context.check_hostname = False  # it is our own child: its certificate is what the test wants it to be
        context.verify_mode = ssl.CERT_NONE
        return http.client.HTTPSConnection(host, parts.port, timeout=GRACE, context=context)


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until told to stop; the entry point of ``python -m penstock.testing.server``."""
    options = _parser().parse_args(arguments)
    pictures = _load(options.corpus) if options.corpus else _make(options.count, options.seed, options.mean_bytes)
    _raise_file_limit()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve_web(pictures, options) if options.web else _serve(pictures, options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m penstock.testing.server", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="pictures to make (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the pictures and of the jitter")
    parser.add_argument("--mean-bytes", type=int, default=150_000, help="size of the pictures on average")
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="serve the files of this folder instead")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds from a request to its answer")
    parser.add_argument("--jitter", type=float, default=0.0, help="up to as many seconds more")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (default: %(default)s)")
    parser.add_argument("--certificate", type=Path, metavar="PEM", help="certificate chain: serve over TLS")
    parser.add_argument("--key", type=Path, metavar="PEM", help="key of the certificate")
    parser.add_argument("--robots", choices=ROBOTS, default="none", help="what /robots.txt answers (default: a 404)")
    web = parser.add_argument_group("a simulated web of many hosts, with a list of URLs and a name server")
    web.add_argument("--web", action="store_true", help="serve it: penstock.testing.web (needs penstock[testing])")
    web.add_argument("--rows", type=int, default=2000, help="of the list (default: %(default)s)")
    web.add_argument("--mixture", default="datacomp-2025", help="cc3m-2022, cc12m-2024, datacomp-2024 or %(default)s")
    web.add_argument("--list", type=Path, metavar="FILE", help="where to write it: .csv, .jsonl or .parquet")
    web.add_argument("--https", action=argparse.BooleanOptionalAction, default=True, help="for 60 %% of the rows")
    web.add_argument("--opt-outs", type=float, default=0.0, metavar="SHARE", help="of the rows, ask not to be used")
    return parser


def _make(count: int, seed: int, mean_bytes: int) -> Mapping[str, bytes]:
    from penstock.testing.images import make_images  # noqa: PLC0415 - a server of a corpus needs neither Pillow nor numpy

    return {picture.name: picture.data for picture in make_images(count, seed=seed, mean_bytes=mean_bytes)}


def _load(folder: Path) -> Mapping[str, bytes]:
    pictures = {path.relative_to(folder).as_posix(): path.read_bytes() for path in _files(folder)}
    if not pictures:
        raise SystemExit(f"--corpus {folder}: there are no files in this folder")
    return pictures


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _raise_file_limit() -> None:
    """Allow as many connections as the system does: the usual soft limit of 1024 is less than some clients open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS names a limit that it does not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop  # noqa: PLC0415 - up to a third less CPU for a request; not available everywhere
    except ImportError:
        return asyncio.new_event_loop
    else:
        return uvloop.new_event_loop


async def _serve(pictures: Mapping[str, bytes], options: argparse.Namespace) -> None:
    stop = _stop_event()
    behaviours = Behaviours(pictures, options.robots)
    service = Service(behaviours, latency=options.latency, jitter=options.jitter, seed=options.seed)
    loop = asyncio.get_running_loop()
    listen = functools.partial(loop.create_server, functools.partial(Connection, service), options.host, 0)
    tls = _tls(options.certificate, options.key) if options.certificate else None
    server = await listen(backlog=BACKLOG, ssl=tls)
    plain = await listen(backlog=BACKLOG) if tls else server
    url = _url("https" if tls else "http", options.host, _port(server))
    async with open_ports(options.host) as numbers:
        ports = {name: _url(PORTS[name], options.host, number) for name, number in numbers.items()}
        ports["plain"] = _url("http", options.host, _port(plain))
        print(json.dumps({"url": url, "pictures": tuple(pictures), "ports": ports}), flush=True)  # noqa: T201 - the parent waits for it
        await stop.wait()
    for each in {server, plain}:
        each.close()
    service.close()


async def _serve_web(pictures: Mapping[str, bytes], options: argparse.Namespace) -> None:
    from penstock.testing.web import make_world  # noqa: PLC0415 - who serves no web does not need it
    from penstock.testing.web_server import open_web_with_list  # noqa: PLC0415 - needs the extra `testing`

    stop = _stop_event()
    try:
        world = make_world(
            options.rows,
            tuple(pictures),
            mixture=options.mixture,
            seed=options.seed,
            https=options.https,
            opt_outs=options.opt_outs,
        )
        async with open_web_with_list(world, pictures, options.list) as facts:
            print(json.dumps(facts), flush=True)  # noqa: T201 - the parent waits for it
            await stop.wait()
    except ValueError as error:
        raise SystemExit(f"--web: {error}") from None


def _stop_event() -> asyncio.Event:
    """Set by SIGTERM, by SIGINT, and at the end of standard input."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    threading.Thread(target=_watch_stdin, args=(loop, stop.set), daemon=True).start()
    return stop


def _watch_stdin(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    # Not sys.stdin: a thread that waits in its buffer while the interpreter shuts down is a fatal error.
    with suppress(OSError):
        while os.read(0, 4096):
            pass
    with suppress(RuntimeError):  # the loop is closed: we are on our way out already
        loop.call_soon_threadsafe(stop)


def _tls(certificate: Path, key: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context


def _port(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


def _url(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


if __name__ == "__main__":
    main()
