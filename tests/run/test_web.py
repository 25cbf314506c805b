"""A run over the simulated web: every row ends as the server knows it should."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.testing import web_check


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The 2025 mixture, with hosts that opt out: what the server says of itself."""
    folder = tmp_path_factory.mktemp("web")
    command = [sys.executable, "-m", "penstock.testing.server", "--web", "--rows", "2000", "--opt-outs", "0.03"]
    size = ["--count", "40", "--mean-bytes", "20000", "--list", str(folder / "web.csv")]
    with subprocess.Popen([*command, *size], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
        process.terminate()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["asyncio", "threads"])
def test_every_row_of_the_web_ends_as_it_should(
    web: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], strategy: str
) -> None:
    """Names, certificates, dead hosts, tarpits, drips, lies, refusals: 2,000 rows, each with the reason that the server knows."""
    command = web["run"].replace("--out web-out", f"--out {shlex.quote(str(tmp_path / 'out'))}")
    command = command.replace(" penstock run ", f" {sys.executable} -m penstock run ")
    done = subprocess.run(
        f"{command} --strategy {strategy} --json", shell=True, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["rows"] == 2000
    assert report["skipped"] > 0
    assert report["waits"] == {}, "dead hosts are no outage"
    assert web_check.main([str(tmp_path / "out")]) == 0, capsys.readouterr().out
