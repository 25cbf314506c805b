"""Whole runs into an object store: a real server of S3's protocol, real kills, the command line."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pytest
from invariants import assert_finished, assert_journal_is_true, digests

import penstock
from penstock.cli import main
from penstock.config import RunConfig
from penstock.errors import ConfigError, OutputError, OutputRefusedError
from penstock.folder import OutputBucket
from penstock.folder import lease as lease_module
from penstock.folder.lease import Lease
from penstock.location import location_of
from penstock.records import Kind, Outcome, Reason, Request, Row, Settled
from penstock.sink import objects
from penstock.sink.shards import ShardStore
from penstock.testing.server import ImageServer
from stores import Store, download, s3_store

if TYPE_CHECKING:
    from upath import UPath

pytestmark = [
    pytest.mark.slow,
    pytest.mark.leaks_ok("the store's client keeps its thread and its connections for as long as the process lives"),
]

OPTIONS: dict[str, Any] = {
    "size": 32,
    "shard_size": 8,
    "workers": 1,
    "per_host": 64,
    "allow_network": ("127.0.0.0/8",),
    "timeout": 20,
}
ROWS, WRITTEN = 40, 39


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """A bucket."""
    with s3_store() as store:
        yield store


@pytest.fixture
def out(store: Store) -> str:
    """A place in it where nothing is."""
    return store.prefix()


@pytest.fixture
def urls(image_server: ImageServer, tmp_path: Path) -> list[str]:
    """Forty URLs, one of which fails."""
    urls = [f"{url}&store" for url in image_server.image_urls(ROWS)]
    urls[7] = f"{image_server.url}/status/404?i=7"
    return urls


@pytest.fixture
def listed(urls: list[str], tmp_path: Path) -> Path:
    """The same as a file."""
    path = tmp_path / "urls.txt"
    path.write_text("".join(f"{url}\n" for url in urls))
    return path


@pytest.mark.parametrize("form", ["webdataset", "parquet", "files", "arrays"])
def test_shards_are_those_on_a_disk(form: str, urls: list[str], out: str, tmp_path: Path) -> None:
    """Byte for byte, but for times; the copy on a disk is a whole output, and can be read back."""
    plain = penstock.run(urls, tmp_path / "plain", **OPTIONS, format=form)
    report = penstock.run(urls, out, **OPTIONS, format=form)
    copy = download(out, tmp_path / "copy")
    assert_finished(copy, rows=ROWS, written=WRITTEN)
    assert digests(copy) == digests(tmp_path / "plain")
    assert (report.rows, report.written, report.reasons) == (plain.rows, plain.written, plain.reasons)
    assert penstock.verify(out) == []
    assert penstock.run(urls, out, **OPTIONS, format=form).verdict.startswith("nothing to do")
    with penstock.stream(copy, batch_size=8, size=32) as batches:
        assert sum(len(batch.keys) for batch in batches) == WRITTEN


def root_of(out: str) -> UPath:
    """What `penstock.sink.objects` works with."""
    root = location_of(out)
    assert not isinstance(root, Path)
    return root


def command(listed: Path, out: str, *more: str) -> list[str]:
    """A run that does not fit into one shard."""
    options = [
        "--size",
        "32",
        "--shard-size",
        "8",
        "--workers",
        "1",
        "--per-host",
        "64",
        "--allow-network",
        "127.0.0.0/8",
    ]
    return [sys.executable, "-m", "penstock", "run", str(listed), "--out", out, *options, *more]


def test_killed_run_goes_on(urls: list[str], out: str, image_server: ImageServer, tmp_path: Path) -> None:
    """After SIGKILL shards that exist stay, the others are made by the same command, and nothing else is left."""
    urls[36] = (
        f"{image_server.url}/slow/300/{image_server.pictures[0]}?{tmp_path.name}"  # the last shard is never whole
    )
    listed = tmp_path / "urls.txt"
    listed.write_text("".join(f"{url}\n" for url in urls))
    with subprocess.Popen(command(listed, out, "--timeout", "600"), stderr=subprocess.DEVNULL) as process:
        _wait_for_shards(out, 4, process)
        process.send_signal(signal.SIGKILL)
    assert_journal_is_true(download(out, tmp_path / "killed"))
    objects.write(b"x", root_of(out), ".penstock/tmp/00004-leftover/00004.tar")
    done = subprocess.run(command(listed, out, "--timeout", "2", "--json"), capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert report["rows_before"] == 32
    assert (report["rows"], report["written"]) == (ROWS, WRITTEN - 1)
    assert_finished(download(out, tmp_path / "copy"), rows=ROWS, written=WRITTEN - 1)


def _wait_for_shards(out: str, count: int, process: subprocess.Popen[bytes]) -> None:
    """Until the journal has so many, each an object of its own, after the one that says which run it is."""
    root = root_of(out)
    while len(objects.names_below(root, ".penstock/journal")) < 1 + count:
        assert process.poll() is None


def test_interrupted_run_says_what_is_done(listed: Path, out: str, image_server: ImageServer, tmp_path: Path) -> None:
    """Ctrl-C leaves the store in order: whole shards, no lock; rows of shards under way are not promised to be kept."""
    with listed.open("a") as file:
        file.write(f"{image_server.url}/slow/300/{image_server.pictures[0]}?{tmp_path.name}\n")
    with subprocess.Popen(command(listed, out, "--timeout", "600", "--json"), stdout=subprocess.PIPE) as process:
        _wait_for_shards(out, 5, process)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        report = json.loads(process.stdout.read())
    assert process.returncode == 130
    assert (report["rows"], report["rows_waiting"], report["finished"]) == (40, 0, False)
    root = root_of(out)
    assert objects.read(root, ".penstock/lock") is None


def test_lanes(listed: Path, out: str, tmp_path: Path) -> None:
    """Lanes in processes of their own put their shards there, and the parent keeps the journal."""
    report = penstock.run(listed, out, **(OPTIONS | {"lanes": 2, "workers": 2}))
    assert report.lanes == 2
    assert_finished(download(out, tmp_path / "copy"), rows=ROWS, written=WRITTEN)


def test_duplicates(urls: list[str], out: str, tmp_path: Path) -> None:
    """``--dedup`` finds them once, and a finished run has nothing to do."""
    report = penstock.run([*urls, *urls[:5]], out, **OPTIONS, dedup=True)
    assert report.reasons["policy.duplicate"] == 5
    assert penstock.run([*urls, *urls[:5]], out, **OPTIONS, dedup=True).verdict.startswith("nothing to do")


def test_failed_rows_are_retried(image_server: ImageServer, out: str, tmp_path: Path) -> None:
    """``--retry-failed`` puts what may have passed into new shards."""
    urls = [f"{image_server.url}/flaky/1/{image_server.pictures[0]}?id={tmp_path.name}{i}" for i in range(20)]
    options = {**OPTIONS, "retries": 0}
    before = penstock.run(urls, out, **options)
    after = penstock.run(urls, out, **options, retry_failed=True)
    assert (before.written, before.reasons) == (0, {"http.server_error": 20})
    assert (after.rows, after.written, after.shards) == (20, 20, 6)
    assert_finished(download(out, tmp_path / "copy"), rows=20, written=20)


def test_overwrite_leaves_nothing_of_before(urls: list[str], out: str, tmp_path: Path) -> None:
    """Another format over it: the files of the earlier one go, those beyond the end too."""
    penstock.run(urls, out, **OPTIONS)
    with pytest.raises(OutputRefusedError, match="--format was 'webdataset' there and is 'files' now"):
        penstock.run(urls, out, **OPTIONS, format="files")
    penstock.run(urls[:16], out, **OPTIONS, format="files", overwrite=True)
    copy = download(out, tmp_path / "copy")
    assert_finished(copy, rows=16, written=15)
    assert not list(copy.glob("*.tar"))


def test_damage_is_found_and_mended(urls: list[str], out: str, tmp_path: Path) -> None:
    """Verify names objects that are missing or other ones; a run with ``--verify`` makes these shards again."""
    penstock.run(urls, out, **OPTIONS)
    root = root_of(out)
    objects.write(b"x", root, "00001.tar")
    objects.remove(["00003.parquet"], root)
    objects.write(b"x", root, "00009.tar")
    problems = {problem.file: problem.what for problem in penstock.verify(out)}
    assert set(problems) == {"00001.tar", "00003.parquet", "00009.tar"}
    assert problems["00003.parquet"] == "is missing"
    assert penstock.run(urls, out, **OPTIONS, verify=True).rows_before == 24
    assert penstock.verify(out) == []


def test_trouble_of_the_store_is_no_damage(urls: list[str], out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its client cannot tell is not taken for a lost shard: nothing is given up."""
    penstock.run(urls[:8], out, **OPTIONS)
    root = root_of(out)

    def failing(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, "Bad Gateway")

    with monkeypatch.context() as patch:
        patch.setattr(root.fs, "info", failing)
        patch.setattr(objects, "PAUSES", ())
        with pytest.raises(OutputError, match=r"cannot check the shards of s3://.*Bad Gateway; run again when"):
            penstock.run(urls[:8], out, **OPTIONS, verify=True)
    assert penstock.verify(out) == []


def test_directory_without_members(image_server: ImageServer, out: str, tmp_path: Path) -> None:
    """A store has no empty directories: a shard of failures alone is whole all the same, there and in a copy."""
    urls = [f"{image_server.url}/status/404?i={i}" for i in range(8)]
    penstock.run(urls, out, **OPTIONS, format="files")
    assert penstock.verify(out) == []
    assert penstock.verify(download(out, tmp_path / "copy")) == []


def test_overtaken_run_touches_nothing(urls: list[str], out: str) -> None:
    """A run that another has taken over puts no file over one of that other, however late it comes."""
    with OutputBucket(root_of(out)) as bucket:
        config = RunConfig(**OPTIONS)
        assert bucket.work_folder is not None
        store = ShardStore(out, config, run_id="", work_folder=bucket.work_folder, owner=bucket.owner)
        shard = store.open(0)
        shard.add(Settled(Outcome(Row(0, (Request("image", urls[0]),)), Kind.FAILED, Reason.HTTP_GONE)))
        objects.write(b'{"token": "another"}', root_of(out), ".penstock/lock")
        with pytest.raises(OutputRefusedError, match="another run has gone on"):
            shard.commit(rows=1)
        shard.close()
    assert objects.names_below(root_of(out), "") == [".penstock/lock"]


def test_whole_bucket(urls: list[str], store: Store, tmp_path: Path) -> None:
    """The output may be all that a bucket holds."""
    out = "s3://penstock-tests-whole"
    fsspec.filesystem("s3").mkdir(out)
    penstock.run(urls[:16], out, **OPTIONS)
    assert penstock.verify(out) == []
    assert penstock.run(urls[:16], out, **OPTIONS).verdict.startswith("nothing to do")
    assert_finished(download(out, tmp_path / "copy"), rows=16, written=15)


def test_memory_is_not_shared(listed: Path) -> None:
    """What lanes would put into their own memory is not taken for an output: they say that they do not see it."""
    with pytest.raises(OutputError, match=r"memory://.* is not what the driver sees"):
        penstock.run(listed, "memory://bucket/out", **(OPTIONS | {"lanes": 2, "workers": 2}))


def test_copy_is_to_be_read(urls: list[str], out: str, tmp_path: Path) -> None:
    """A run into the copy of a store's output is refused: it would have two lives."""
    penstock.run(urls[:8], out, **OPTIONS)
    copy = download(out, tmp_path / "copy")
    with pytest.raises(OutputRefusedError, match="is a copy of an object store's output"):
        penstock.run(urls[:8], copy, **OPTIONS)


def test_second_run_at_the_same_time(urls: list[str], out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused while the first one gives signs of life."""
    monkeypatch.setattr(lease_module, "BEAT", 0.1)
    root = root_of(out)
    with (
        Lease(root, "first"),
        pytest.raises(OutputRefusedError, match=r"another run works in s3://.* \(process \d+ on"),
    ):
        penstock.run(urls, out, **OPTIONS)


def test_commands(urls: list[str], out: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Report, failures and verify take the URL."""
    penstock.run(urls, out, **OPTIONS)
    assert main(["report", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["written"] == WRITTEN
    assert main(["failures", out]) == 0
    assert "http.not_found" in capsys.readouterr().out
    assert main(["verify", out]) == 0
    assert "all files are there and whole" in capsys.readouterr().out.replace("\n", " ")


def test_places_that_cannot_be_used(urls: list[str], out: str) -> None:
    """One line that says what to do: no bucket, a stream of what a run has put there, mapped arrays."""
    with pytest.raises(OutputError, match="bucket does not exist; make the bucket"):
        penstock.run(urls, "s3://no-such-bucket/out", **OPTIONS)
    penstock.run(urls[:8], out, **OPTIONS)
    with pytest.raises(ConfigError, match="is the output of a run; a stream reads such from a disk"):
        penstock.stream(out)
    with pytest.raises(ConfigError, match=r"penstock\.load needs the files on this machine"):
        penstock.load(out)
