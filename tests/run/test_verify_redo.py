"""``--verify``: shards that are missing or damaged are made again, and the account closes."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import penstock
from penstock.config import RunConfig
from penstock.errors import OutputError
from penstock.folder import OutputFolder, read_ledger, stored_report
from penstock.ledger import finished_entry, run_entry, shard_entry
from penstock.records import Kind, Outcome, Reason, Request, Row, Settled
from penstock.runner import Run
from penstock.sink.shards import ShardStore
from penstock.testing.server import ImageServer

RunFunction = Callable[..., penstock.Report]


def contents(out: Path) -> dict[str, bytes]:
    """The files of all shards but their statistics, which hold times."""
    files = [path for pattern in ("0*", "0*/*") for path in out.glob(pattern) if path.is_file()]
    return {str(path.relative_to(out)): path.read_bytes() for path in files if path.suffix != ".json"}


def outcomes(out: Path) -> Counter[tuple[str, str]]:
    """How often each row has which outcome, over all tables."""
    return Counter(
        (row["key"], row["outcome"])
        for path in out.glob("*.parquet")
        for row in pq.read_table(path, columns=["key", "outcome"]).to_pylist()
    )


def delete(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def flip_a_byte(path: Path) -> None:
    path = min(path.iterdir()) if path.is_dir() else path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def put_a_folder_there(path: Path) -> None:
    delete(path)
    (path / "mine").mkdir(parents=True)


@pytest.mark.parametrize("damage", [delete, flip_a_byte, put_a_folder_there])
@pytest.mark.parametrize(
    ("format", "name"),
    [("webdataset", "00001.tar"), ("parquet", "00001.parquet"), ("files", "00001"), ("arrays", "00001.npy")],
)
def test_damaged_shard_is_made_again(
    run: RunFunction,
    urls: list[str],
    tmp_path: Path,
    image_server: ImageServer,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    format: str,  # noqa: A002 - the option's name
    name: str,
) -> None:
    """Only its rows are fetched again; afterwards the files are what they were, to the byte."""
    out = tmp_path / "out"
    first = run(urls, format=format)
    before = contents(out)
    damage(out / name)
    asked = image_server.statistics().requests
    with caplog.at_level(logging.WARNING, "penstock"):
        again = run(urls, format=format, verify=True)
    assert 16 <= image_server.statistics().requests - asked <= 18  # the truncated one is asked for twice; robots.txt
    assert (again.rows, again.written, again.reasons) == (40, 38, first.reasons)
    assert (again.finished, again.rows_before) == (True, 24)
    assert contents(out) == before
    assert penstock.verify(out) == []
    assert [record.getMessage().endswith("shard 00001 is made again") for record in caplog.records] == [True]


def test_whole_folder_stays_as_it_is(run: RunFunction, urls: list[str], image_server: ImageServer) -> None:
    """Where nothing is wrong, --verify fetches nothing."""
    run(urls)
    asked = image_server.statistics().requests
    assert run(urls, verify=True).rows_settled == 0
    assert image_server.statistics().requests == asked


def test_without_verify_the_journal_is_trusted(run: RunFunction, urls: list[str], tmp_path: Path) -> None:
    """A plain resume does not read the shards that exist."""
    run(urls)
    (tmp_path / "out/00001.tar").unlink()
    assert run(urls).rows_settled == 0
    assert not (tmp_path / "out/00001.tar").exists()


def test_all_files_of_all_shards(run: RunFunction, urls: list[str], tmp_path: Path) -> None:
    """Nothing is left but the journal: everything is made again, and what the account says is true."""
    first = run(urls)
    for path in (tmp_path / "out").glob("0*"):
        path.unlink()
    again = run(urls, verify=True)
    assert (again.rows, again.written, again.reasons, again.rows_before) == (40, 38, first.reasons, 0)
    assert penstock.verify(tmp_path / "out") == []


def test_run_that_was_cut_off(run: RunFunction, urls: list[str], tmp_path: Path) -> None:
    """A folder whose list is not done goes on, damaged shards and missing rows together."""
    run(urls)
    journal = tmp_path / "out/.penstock/journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(line for line in lines if b'"finished"' not in line and b'"shard":2' not in line))
    flip_a_byte(tmp_path / "out/00000.parquet")
    again = run(urls, verify=True)
    assert (again.rows, again.written, again.rows_before) == (40, 38, 16)
    assert penstock.verify(tmp_path / "out") == []


@pytest.mark.slow
def test_several_lanes(run: RunFunction, urls: list[str], tmp_path: Path) -> None:
    """Lane processes fill the gaps in the middle, and only these."""
    listing = tmp_path / "urls.txt"
    listing.write_text("\n".join(urls) + "\n")
    run(listing, shard_size=8)
    before = contents(tmp_path / "out")
    for name in ("00001.tar", "00003.parquet"):
        flip_a_byte(tmp_path / "out" / name)
    again = run(listing, shard_size=8, verify=True, lanes=2, workers=2)
    assert (again.rows, again.written, again.rows_before, again.lanes) == (40, 38, 24, 2)
    assert contents(tmp_path / "out") == before


def test_list_that_can_be_read_only_once(run: RunFunction, urls: list[str], tmp_path: Path) -> None:
    """Its lost rows come by again; rows behind its end are refused as before."""
    run(iter(urls))
    before = contents(tmp_path / "out")
    delete(tmp_path / "out/00002.tar")
    with pytest.raises(penstock.OutputRefusedError, match="had 40 rows, and this one has more"):
        run(iter([*urls, *urls]), verify=True)
    again = run(iter(urls), verify=True)
    assert (again.rows, again.written) == (40, 38)
    assert contents(tmp_path / "out") == before


@pytest.fixture
def flaky(run: RunFunction, image_server: ImageServer, tmp_path: Path) -> list[str]:
    """Forty rows in three shards, and a fourth of two retried ones (3 and 20) that were written the second time."""
    urls = image_server.image_urls(40)
    for index in (3, 20):
        urls[index] = f"{image_server.url}/flaky/1/{image_server.pictures[0]}?id={tmp_path.name}-{index}"
    assert run(urls, retries=0).reasons == {"http.server_error": 2}
    assert run(urls, retries=0, retry_failed=True).written == 40
    return urls


@pytest.mark.parametrize("name", ["00003.tar", "00003.parquet", "00003_stats.json"])
def test_lost_shard_of_retried_rows(run: RunFunction, flaky: list[str], tmp_path: Path, name: str) -> None:
    """Its rows are the failures again that they were; --retry-failed fetches them."""
    out = tmp_path / "out"
    flip_a_byte(out / name)
    again = run(flaky, retries=0, verify=True)
    assert (again.rows, again.written, again.reasons) == (40, 38, {"http.server_error": 2})
    assert (again.finished, stored_report(out).written) == (True, 38)
    assert list(out.glob("00003*")) == []
    assert penstock.verify(out) == []
    assert run(flaky, retries=0, verify=True, retry_failed=True).written == 40
    assert penstock.verify(out) == []


@pytest.mark.parametrize("retry_failed", [False, True])
def test_lost_shard_whose_rows_were_retried(
    run: RunFunction, flaky: list[str], tmp_path: Path, retry_failed: bool
) -> None:
    """Its rows get new outcomes, so the retried shard goes with it, and no row is written twice."""
    out = tmp_path / "out"
    delete(out / "00000.tar")
    again = run(flaky, retries=0, verify=True, retry_failed=retry_failed)
    assert (again.rows, again.written) == (40, 40 if retry_failed else 39)  # row 3 succeeds now; row 20 failed in 00001
    assert sum(count for (_, outcome), count in outcomes(out).items() if outcome == "written") == again.written
    assert sorted(read_ledger(out).shards) == ([0, 1, 2, 3] if retry_failed else [0, 1, 2])
    assert penstock.verify(out) == []


def test_file_that_cannot_be_read_just_now(
    run: RunFunction, urls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that may not be read says nothing about its content: the run stops, and gives nothing up."""
    run(urls)
    before = contents(tmp_path / "out")

    def denied(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("penstock.verifying.describe", denied)
    with pytest.raises(OutputError, match=r"cannot check the shards of .*00000\.tar"):
        run(urls, verify=True)
    assert contents(tmp_path / "out") == before
    assert sorted(read_ledger(tmp_path / "out").shards) == [0, 1, 2]


def test_stop_while_shards_are_compared(run: RunFunction, urls: list[str], tmp_path: Path) -> None:
    """A run that is told to stop before all shards are compared does not say that it is done."""
    run(urls)
    options: dict[str, Any] = {"size": 32, "shard_size": 16, "allow_network": ("127.0.0.0/8",), "verify": True}
    again = Run(urls, tmp_path / "out", config=RunConfig(**options))
    again.stop()
    with pytest.raises(KeyboardInterrupt):
        again.execute()


def test_skipped_rows_are_retried_and_taken_back(run: RunFunction, image_server: ImageServer, tmp_path: Path) -> None:
    """A row that was skipped for a reason that may pass is fetched again, and is skipped no more."""
    urls, out = image_server.image_urls(4), tmp_path / "out"
    options: dict[str, Any] = {"size": 32, "shard_size": 16, "allow_network": ("127.0.0.0/8",)}
    config = RunConfig(**options)
    later = Reason.OPTOUT_ROBOTS_UNREACHABLE
    with OutputFolder(out) as folder:
        manifest = Run(urls, out, config=config)._manifest()
        folder.append(run_entry(manifest))
        shard = ShardStore(out, config, run_id=manifest.run_id).open(0)
        for index, url in enumerate(urls):
            reason = Reason.OPTOUT_ROBOTS if index == 2 else later
            row = Row(index, (Request("image", url),))
            shard.add(Settled(Outcome(row, Kind.SKIPPED, reason)))
        folder.append(shard_entry(shard.commit(4)))
        folder.append(finished_entry(4))
    report = run(urls, retry_failed=True)
    assert (report.rows, report.written, report.failed, report.skipped) == (4, 3, 0, 1)
    assert report.reasons == {"optout.robots": 1}
    assert penstock.verify(out) == []
