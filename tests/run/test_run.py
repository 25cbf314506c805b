"""Whole runs: a list and a real server in, a folder out."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import penstock
from penstock.testing.server import ImageServer
from run.transforms import length_head_and_name

RunFunction = Callable[..., penstock.Report]

STRATEGIES = ["threads", "processes", "hybrid", "asyncio", "auto"]


def table(folder: Path) -> list[dict[str, Any]]:
    """The rows of all shards' tables, in order."""
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def contents(folder: Path) -> dict[str, str]:
    """Hashes of the shards, but for the statistics, which hold times."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.suffix in (".tar", ".parquet", ".npy")
    }


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_account_and_reasons(run: RunFunction, urls: list[str], tmp_path: Path, strategy: str) -> None:
    """Under every strategy 38 of 40 rows are written, and the two others have their reasons."""
    report = run(urls, strategy=strategy)
    assert (report.rows, report.written, report.failed, report.skipped) == (40, 38, 2, 0)
    assert report.reasons == {"http.not_found": 1, "image.truncated": 1}
    assert report.finished
    assert report.strategy == strategy
    rows = table(tmp_path / "out")
    assert [row["key"] for row in rows] == [f"{index:09d}" for index in range(40)]
    assert rows[7]["reason"] == "http.not_found"
    assert rows[7]["http_status"] == 404
    assert rows[20]["reason"] == "image.truncated"
    assert rows[20]["status"] == "failed_to_resize"
    assert json.loads((tmp_path / "out/report.json").read_text())["written"] == 38


@pytest.mark.slow
def test_strategies_make_the_same_shards(run: RunFunction, urls: list[str], tmp_path: Path) -> None:
    """Rows, pixels and account do not depend on the strategy, to the byte."""
    made = []
    for strategy in STRATEGIES:
        run(urls, strategy, strategy=strategy, workers=2)
        made.append(contents(tmp_path / strategy))
    assert all(one == made[0] for one in made)
    assert len(made[0]) == 6


@pytest.mark.parametrize("format", ["webdataset", "parquet", "files", "arrays"])
def test_formats(run: RunFunction, urls: list[str], tmp_path: Path, format: str) -> None:  # noqa: A002 - the option's name
    """Every format holds the 38 images and the 40 rows, and verifies."""
    report = run(urls, format=format)
    assert report.written == 38
    assert len(table(tmp_path / "out")) == 40
    assert list(penstock.verify(tmp_path / "out")) == []


def test_arrays_are_loaded_back(run: RunFunction, urls: list[str], tmp_path: Path) -> None:
    """`penstock.load` gives the pixels as uint8, and as float32 in [0, 1]."""
    run(urls, format="arrays")
    images = penstock.load(tmp_path / "out")
    assert images.shape == (38, 32, 32, 3)
    assert images.dtype == np.uint8
    floats = penstock.load(tmp_path / "out", dtype="float32")
    assert np.array_equal(floats[5], images[5].astype(np.float32) / np.float32(255))


def test_same_command_again_does_nothing(run: RunFunction, urls: list[str], image_server: ImageServer) -> None:
    """A finished folder is left as it is, and no request is made."""
    run(urls)
    before = image_server.statistics().requests
    report = run(urls)
    assert image_server.statistics().requests == before
    assert report.rows == report.rows_before == 40
    assert report.verdict.startswith("nothing to do")


def test_one_shot_list_goes_on_and_is_compared(run: RunFunction, urls: list[str], tmp_path: Path) -> None:
    """A generator cannot be fingerprinted, so the rows passed over are compared with what the shards were made from."""

    def once(items: list[str]) -> Iterator[str]:
        yield from items

    assert run(once(urls)).written == 38
    assert run(once(urls)).rows_before == 40
    with pytest.raises(penstock.OutputRefusedError, match="shard 00001 are not the same"):
        run(once([*urls[:20], *urls[19:39]]))


def test_other_options_are_refused(run: RunFunction, urls: list[str]) -> None:
    """Options that would make other shards are refused by name, and --overwrite starts anew."""
    run(urls)
    with pytest.raises(penstock.OutputRefusedError, match="--size was 32 there and is 48 now"):
        run(urls, size=48)
    assert run(urls, size=48, overwrite=True).written == 38


def test_foreign_folder_is_refused(run: RunFunction, urls: list[str], tmp_path: Path) -> None:
    """A folder with other files is not touched, even by --overwrite."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(penstock.OutputRefusedError, match=r"notes\.txt"):
            run(urls, overwrite=overwrite)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_overwrite_keeps_foreign_files(run: RunFunction, urls: list[str], tmp_path: Path) -> None:
    """What the user has put beside the shards survives --overwrite."""
    run(urls)
    (tmp_path / "out/notes.txt").write_text("mine")
    run(urls[:20], overwrite=True)
    assert (tmp_path / "out/notes.txt").read_text() == "mine"
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == ["00000.tar", "00001.tar"]


def test_retry_failed(run: RunFunction, image_server: ImageServer, tmp_path: Path) -> None:
    """Rows whose reason may pass are fetched again into new shards, and the account counts no row twice."""
    urls = image_server.image_urls(20)
    urls[3] = f"{image_server.url}/flaky/2/{image_server.pictures[0]}?id={tmp_path.name}"
    urls[5] = f"{image_server.url}/status/404"
    first = run(urls, retries=0)
    assert first.reasons == {"http.not_found": 1, "http.server_error": 1}
    again = run(urls, retries=0, retry_failed=True)
    assert (again.rows, again.written, again.reasons) == (20, 18, first.reasons)
    last = run(urls, retries=0, retry_failed=True)
    assert (last.rows, last.written, last.failed, last.reasons) == (20, 19, 1, {"http.not_found": 1})
    assert list(penstock.verify(tmp_path / "out")) == []
    with tarfile.open(tmp_path / "out/00003.tar") as tar:
        assert "000000003.jpg" in tar.getnames()


def test_transform(run: RunFunction, urls: list[str], tmp_path: Path) -> None:
    """A user's function decides what is stored; it gets the bytes and the row."""
    report = run(urls, transform=length_head_and_name)
    assert report.written == 39
    with tarfile.open(tmp_path / "out/00000.tar") as tar:
        names = tar.getnames()
    assert {"000000000.length.npy", "000000000.bin", "000000000.name", "000000000.json"} <= set(names)


def test_lambda_is_refused_by_name(run: RunFunction, urls: list[str], tmp_path: Path) -> None:
    """What cannot be pickled is named before anything is written."""
    with pytest.raises(penstock.ConfigError, match="lambda"):
        run(urls, transform=lambda data, row: {"x": data})
    assert not (tmp_path / "out").exists()


def test_captions_and_columns(run: RunFunction, image_server: ImageServer, tmp_path: Path) -> None:
    """Captions and kept columns arrive in the shards and in the table."""
    rows = [{"url": url, "text": f"Bild {i} 画", "n": i} for i, url in enumerate(image_server.image_urls(5))]
    run(rows, caption_column="text", keep_columns=("n",))
    assert [row["n"] for row in table(tmp_path / "out")] == [0, 1, 2, 3, 4]
    with tarfile.open(tmp_path / "out/00000.tar") as tar:
        handle = tar.extractfile("000000003.txt")
        assert handle is not None
        assert handle.read().decode() == "Bild 3 画"


def test_lanes_make_the_same_shards(run: RunFunction, urls: list[str], tmp_path: Path) -> None:
    """Two lane processes make what one lane makes, to the byte."""
    listing = tmp_path / "urls.txt"
    listing.write_text("\n".join(urls) + "\n")
    one, two = run(listing, "one"), run(listing, "two", lanes=2, workers=2)
    assert (two.written, two.failed, two.reasons, two.lanes) == (one.written, one.failed, one.reasons, 2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_progress_is_reported(run: RunFunction, urls: list[str]) -> None:
    """The callback sees counters that only grow."""
    seen: list[int] = []
    run(urls, on_progress=lambda progress, _: seen.append(progress.settled))
    assert seen
    assert seen == sorted(seen)


def test_blocked_without_permission(run: RunFunction, urls: list[str]) -> None:
    """Loopback is not fetched from unless it is allowed, and that is a reason like any other."""
    report = run(urls[:5], allow_network=())
    assert report.reasons == {"ssrf.blocked": 5}
    assert report.written == 0


def test_longer_one_shot_list_is_refused_after_retries(run: RunFunction, image_server: ImageServer) -> None:
    """The shards of retried rows have the numbers after the list's, so that a list must not grow into them."""
    urls = image_server.image_urls(32)
    urls[3] = f"{image_server.url}/flaky/1/{image_server.pictures[0]}?id=grow"
    run(iter(urls), retries=0)
    run(iter(urls), retries=0, retry_failed=True)
    with pytest.raises(penstock.OutputRefusedError):
        run(iter(urls * 2))


def test_foreign_folder_called_by_a_number_is_kept(run: RunFunction, urls: list[str], tmp_path: Path) -> None:
    """What the user puts beside the shards is not swept away, whatever its name."""
    run(iter(urls))
    (tmp_path / "out/20240101").mkdir()
    (tmp_path / "out/20240101/notes.txt").write_text("mine")
    run(iter(urls))
    assert (tmp_path / "out/20240101/notes.txt").read_text() == "mine"
    assert list(penstock.verify(tmp_path / "out")) == []


def test_lost_report_is_written_again(run: RunFunction, urls: list[str], tmp_path: Path) -> None:
    """A finished run that was killed before its last file gets it from the next call."""
    run(urls)
    (tmp_path / "out/report.json").unlink()
    run(urls)
    assert json.loads((tmp_path / "out/report.json").read_text())["written"] == 38


def test_lambda_works_in_threads(run: RunFunction, urls: list[str]) -> None:
    """What cannot be pickled need not be, where nothing is pickled."""
    assert run(urls[:5], transform=lambda data, row: {"head": data[:4]}, strategy="threads").written == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sise": 3}, "did you mean size"),
        ({"size": 0}, "--size 0"),
        ({"format": "arrays", "resize": "fit"}, "--resize 'fit'"),
        ({"overwrite": True, "retry_failed": True}, "--retry-failed"),
        ({"max_bytes": "1" + "0" * 400}, "--max-bytes"),
        ({"size": 10**400}, "--size"),
    ],
)
def test_bad_options(run: RunFunction, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """A bad option is named, and nothing is written."""
    with pytest.raises(penstock.ConfigError, match=message):
        run(["http://a/b.jpg"], **options)
    assert not (tmp_path / "out").exists()
