"""Two runs that want the same folder, at the same time or one after the other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock.testing.server import ImageServer

RunFunction = Callable[..., penstock.Report]
COMMAND = [sys.executable, "-m", "penstock", "run", "urls.txt", "--out", "out", "--allow-network", "127.0.0.0/8"]


@pytest.fixture
def listing(image_server: ImageServer, tmp_path: Path) -> Path:
    """Four URLs of a server that takes a minute to answer."""
    urls = [f"{image_server.url}/slow/60/{image_server.pictures[0]}?two={i}" for i in range(4)]
    path = tmp_path / "urls.txt"
    path.write_text("\n".join(urls) + "\n")
    return path


@pytest.fixture
def first(listing: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run that works in ``out``."""
    with subprocess.Popen([*COMMAND, "--quiet", "--strategy", "threads"], cwd=tmp_path) as process:
        while process.poll() is None and not (tmp_path / "out/.penstock/journal.jsonl").exists():
            os.sched_yield()
        yield process
        process.kill()


@pytest.mark.slow
def test_second_run_is_refused_until_the_first_is_gone(
    first: subprocess.Popen[bytes], listing: Path, tmp_path: Path
) -> None:
    """Exit code 4 with the number of the first one's process; a SIGKILL frees the folder, and nothing has to be deleted."""
    second = subprocess.run([*COMMAND, "--quiet"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert second.returncode == 4
    assert f"another run works in out (process {first.pid})" in second.stderr
    assert len(second.stderr.splitlines()) == 1
    assert first.poll() is None
    first.kill()
    first.wait()
    impatient: dict[str, Any] = {"allow_network": ("127.0.0.0/8",), "timeout": 0.1, "retries": 0}
    report = penstock.run(listing, tmp_path / "out", **impatient)
    assert (report.finished, report.rows, report.written) == (True, 4, 0)


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"robots": "ignore"}, "--robots was 'respect' there"),
        ({"opt_outs": "ignore"}, "--opt-outs was 'respect' there"),
        ({"deny_hosts": "example.org"}, "--deny-hosts was"),
        ({"insecure": True}, "--insecure was False there"),
        ({"min_size": 9}, "--min-size was 2 there"),
        ({"max_aspect": 3}, "--max-aspect was None there"),
        ({"verify": True, "format": "parquet"}, "--format was 'webdataset' there"),
    ],
)
def test_other_options_are_refused_by_name(
    run: RunFunction, urls: list[str], options: dict[str, Any], difference: str
) -> None:
    """A finished folder is not taken for the result of other options."""
    run(urls[:4])
    with pytest.raises(penstock.OutputRefusedError, match=difference):
        run(urls[:4], **options)


def test_another_list_is_refused(run: RunFunction, urls: list[str], tmp_path: Path) -> None:
    """A list that has changed since is another one, even if only one row has."""
    listing = tmp_path / "urls.txt"
    listing.write_text("\n".join(urls[:4]) + "\n")
    run(listing)
    listing.write_text("\n".join([*urls[:3], urls[4]]) + "\n")
    with pytest.raises(penstock.OutputRefusedError, match="the list is not the same"):
        run(listing)
