"""The command line as a user types it."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.cli import main
from penstock.testing.server import ImageServer

ALLOW = ["--allow-network", "127.0.0.0/8", "--size", "32", "--per-host", "64", "--workers", "1"]


@pytest.fixture
def listing(urls: list[str], tmp_path: Path) -> str:
    path = tmp_path / "urls.txt"
    path.write_text("\n".join(urls) + "\n")
    return str(path)


def penstock(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]  # the options are of many kinds
        [sys.executable, "-m", "penstock", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        **options,
    )


def test_run_report_failures_verify(listing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One folder through all the commands."""
    out = str(tmp_path / "out")
    assert main(["run", listing, "--out", out, *ALLOW, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["written"] == 38
    assert main(["report", out]) == 0
    assert "40 rows = 38 written + 2 failed + 0 skipped" in capsys.readouterr().out
    assert main(["failures", out]) == 0
    text = capsys.readouterr().out
    assert "http.not_found" in text
    assert "image.truncated" in text
    assert main(["failures", out, "--json"]) == 0
    assert {group["reason"] for group in json.loads(capsys.readouterr().out)} == {"http.not_found", "image.truncated"}
    assert main(["failures", out, "--csv"]) == 0
    assert [row["key"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))] == ["000000007", "000000020"]
    assert main(["verify", out]) == 0
    assert "all files are there and whole" in capsys.readouterr().out


def test_finished_folder_says_so(listing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command again does nothing and says it."""
    arguments = ["run", listing, "--out", str(tmp_path / "out"), *ALLOW]
    assert main(arguments) == 0
    capsys.readouterr()
    assert main(arguments) == 0
    assert "nothing to do" in capsys.readouterr().err


def test_verify_finds_damage(listing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A changed byte is found, and the exit code tells."""
    out = tmp_path / "out"
    main(["run", listing, "--out", str(out), *ALLOW, "--quiet"])
    data = bytearray((out / "00000.tar").read_bytes())
    data[1000] ^= 1
    (out / "00000.tar").write_bytes(data)
    assert main(["verify", str(out)]) == 1
    assert "00000.tar" in capsys.readouterr().out


def test_repeated_option(listing: str, tmp_path: Path) -> None:
    """Networks may be given one by one."""
    more = ["--allow-network", "10.0.0.0/8", "--quiet"]
    assert main(["run", listing, "--out", str(tmp_path / "out"), *ALLOW, *more, "--min-success", "0.9"]) == 0


def test_min_success(listing: str, tmp_path: Path) -> None:
    """Too few images: done, and exit code 3."""
    assert main(["run", listing, "--out", str(tmp_path / "out"), *ALLOW, "--min-success", "0.99", "--quiet"]) == 3


def test_config_file(listing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Options come from TOML, and flags win."""
    config = tmp_path / "options.toml"
    config.write_text('size = 999\nformat = "parquet"\n"per-host" = 64\nallow_network = ["127.0.0.0/8"]\nworkers = 1\n')
    arguments = ["run", listing, "--out", str(tmp_path / "out"), "--config", str(config), "--size", "16", "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "parquet"
    assert pq.read_table(tmp_path / "out/00000.parquet")["width"][0].as_py() == 16


BAD_INPUTS = {
    "missing file": (["none.txt"], "none.txt"),
    "empty list": (["empty.txt"], "no rows"),
    "broken parquet": (["broken.parquet"], "broken.parquet"),
    "missing column": (["table.parquet"], "'link'"),
    "column in other case": (["table.csv"], "'URL'"),
    "bad value": (["one.txt", "--size", "big"], "--size"),
    "bad choice": (["one.txt", "--resize", "shrink"], "crop"),
    "bad unit": (["one.txt", "--max-bytes", "3XB"], "--max-bytes"),
    "bad network": (["one.txt", "--allow-network", "localhost"], "--allow-network"),
    "unknown option": (["one.txt", "--sise", "3"], "--sise"),
    "unknown engine": (["one.txt", "--engine", "spark"], "local"),
    "bad toml": (["one.txt", "--config", "bad.toml"], "not TOML"),
    "missing toml": (["one.txt", "--config", "none.toml"], "none.toml"),
}
"""Name → (arguments after ``run``, what the one line must say)."""


@pytest.fixture
def bad_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of `BAD_INPUTS`, in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("")
    Path("broken.parquet").write_bytes(b"PAR1 this is no parquet")
    Path("table.csv").write_text("URL,text\nhttp://a/b.jpg,x\n")
    Path("bad.toml").write_text("size = = 3")
    Path("one.txt").write_text("http://a/b.jpg\n")
    pq.write_table(pa.table({"link": ["http://a/b.jpg"]}), "table.parquet")
    return tmp_path


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_is_one_line(case: str, bad_files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, one clear line on standard error, nothing on standard output, nothing written."""
    arguments, needle = BAD_INPUTS[case]
    before = sorted(bad_files.iterdir())
    assert main(["run", *arguments, "--out", "out"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("penstock: ")
    assert needle in captured.err
    assert sorted(bad_files.iterdir()) == before


def test_locked_folder(listing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two runs never share a folder: exit 4."""
    from penstock.folder import OutputFolder

    with OutputFolder(tmp_path / "out"):
        assert main(["run", listing, "--out", str(tmp_path / "out"), *ALLOW]) == 4
    assert "another run works in" in capsys.readouterr().err


def test_unwritable_folder(listing: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that cannot be made: exit 5."""
    assert main(["run", listing, "--out", "/proc/penstock", *ALLOW]) == 5
    assert "/proc/penstock" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["report", "failures", "verify"])
def test_folder_without_a_run(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The other commands say that there is no run: exit 2."""
    assert main([command, str(tmp_path)]) == 2
    assert "not the output of a run" in capsys.readouterr().err


def test_standard_input(urls: list[str], tmp_path: Path) -> None:
    """``-`` reads the list from standard input."""
    done = penstock("run", "-", "--out", str(tmp_path / "out"), *ALLOW, "--json", input="\n".join(urls) + "\n")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["written"] == 38


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_stops_and_the_same_command_goes_on(
    image_server: ImageServer, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """The first signal ends the run in order; then nothing is fetched twice that was settled."""
    slow = [f"{image_server.url}/slow/60/{image_server.pictures[0]}?{number}={i}" for i in range(4)]
    fast = [f"{url}&{number}" for url in image_server.image_urls(20)]
    listing = tmp_path / "urls.txt"
    listing.write_text("\n".join(fast + slow) + "\n")
    arguments = ["run", str(listing), "--out", str(tmp_path / "out"), *ALLOW, "--shard-size", "8", "--timeout", "100"]
    process = subprocess.Popen([sys.executable, "-m", "penstock", *arguments], stdout=subprocess.PIPE, text=True)
    try:
        wait_for_shards(process, tmp_path / "out", 2)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code
    assert "not finished" in output
    again = penstock(*arguments[:-1], "0.5", "--retries", "0", "--json")
    report = json.loads(again.stdout)
    assert (report["rows"], report["written"], report["rows_before"]) == (24, 20, 20)
    assert set(report["reasons"]) == {"timeout.total"}


def test_signal_ends_the_wait_for_a_silent_pipe(tmp_path: Path) -> None:
    """Ctrl-C while standard input says nothing: the run ends in order, at once."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "penstock", "run", "-", "--out", str(out), *ALLOW]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stdin is not None
    try:
        process.stdin.write(b"http://127.0.0.1:1/a.jpg\n" * 3)
        process.stdin.flush()
        wait_for_file(process, out / ".penstock/spool/00000.spool")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
        process.wait()
        process.stdin.close()


def wait_for_file(process: subprocess.Popen[bytes], path: Path) -> None:
    """Until the file is there, or the process has ended."""
    while process.poll() is None:
        if path.exists():
            return
        os.sched_yield()
    pytest.fail("the run ended before it was stopped")


def wait_for_shards(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    """Until the journal has `count` shards, or the process has ended."""
    journal = folder / ".penstock/journal.jsonl"
    while process.poll() is None:
        if journal.exists() and journal.read_text().count('"shard":') >= count:
            return
        os.sched_yield()
    pytest.fail("the run ended before it was stopped")


def test_help_and_version() -> None:
    """Help names the commands and the flags with their defaults; the version is the package's."""
    assert {"run", "demo", "report", "failures", "verify"} <= set(penstock("--help").stdout.replace("│", " ").split())
    text = penstock("run", "--help").stdout
    assert "--max-bytes" in text
    assert "32MiB" in text
    assert penstock("--version").stdout.strip() == "0.1.0"
