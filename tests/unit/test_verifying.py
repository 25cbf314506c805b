"""Every kind of damage is found, and nothing else."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from penstock.config import OutputConfig
from penstock.errors import OutputError, SourceError
from penstock.folder import read_ledger
from penstock.records import Kind, Outcome, Reason, Request, Row, Sample, Settled, ShardFile, ShardReport
from penstock.sink.disk import describe
from penstock.sink.shards import ShardStore
from penstock.verifying import shard_problems, verify

FORMATS = ("webdataset", "parquet", "files", "arrays")
MAIN = {"webdataset": "00000.tar", "parquet": "00000.parquet", "files": "00000/", "arrays": "00000.npy"}


def commit(folder: Path, sink: str, shard: int, indices: list[int]) -> ShardReport:
    """A shard of these rows; the odd ones fail."""
    store = ShardStore(folder, OutputConfig(format=sink), run_id="")  # type: ignore[arg-type]  # one of FORMATS
    spool = store.open(shard)
    for index in indices:
        row = Row(index, (Request("image", "https://example.com/"),))
        sample = Sample(
            {"image": np.full((2, 2, 3), index, np.uint8)} if sink == "arrays" else {"jpg": bytes([index] * 9)}
        )
        if index % 2:
            spool.add(Settled(Outcome(row, Kind.FAILED, Reason.HTTP_GONE)))
        else:
            spool.add(Settled(Outcome(row, Kind.WRITTEN), sample))
    report = spool.commit()
    store.forget(shard)
    return report


def journal(folder: Path, reports: list[ShardReport]) -> None:
    """The journal of these shards."""
    run = {"run": {"version": 1, "run_id": "", "source": None, "options": {}}}
    lines = [json.dumps(entry) + "\n" for entry in [run, *map(asdict, reports)]]
    (folder / ".penstock" / "journal.jsonl").write_text("".join(lines))


@pytest.fixture(params=FORMATS)
def sink(request: pytest.FixtureRequest) -> str:
    """Each of the formats."""
    return str(request.param)


@pytest.fixture
def folder(tmp_path: Path, sink: str) -> Path:
    """Two shards: eight rows, and two of the failed ones again."""
    journal(tmp_path, [commit(tmp_path, sink, 0, list(range(8))), commit(tmp_path, sink, 1, [1, 3])])
    return tmp_path


@pytest.mark.parametrize("quick", [False, True])
def test_a_whole_folder_has_no_problem(folder: Path, quick: bool) -> None:
    """Neither has one with files that are not Penstock's."""
    (folder / "notes.txt").touch()
    assert verify(folder, quick=quick) == []


def lose(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def cut(path: Path) -> None:
    path = next(path.iterdir()) if path.is_dir() else path
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    path = next(path.iterdir()) if path.is_dir() else path
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "what"),
    [(lose, "is missing"), (cut, "bytes, expected"), (flip, "SHA-256 is not the one in the journal")],
)
def test_damaged_files_are_named(folder: Path, sink: str, damage: Callable[[Path], None], what: str) -> None:
    """A lost, cut or changed file is one problem, which names it."""
    damage(folder / MAIN[sink])
    problems = verify(folder)
    assert [problem.file for problem in problems] == [MAIN[sink]]
    assert what in problems[0].what
    assert (verify(folder, quick=True) == problems) == (damage is not flip)  # only the digest sees a changed byte


def test_leftovers_are_named(folder: Path, sink: str) -> None:
    """Files of a shard that the journal does not know."""
    commit(folder, sink, 2, [10])
    names = {problem.file for problem in verify(folder)}
    assert names == {path.name for path in folder.glob("00002*")}


def test_rows_written_twice(folder: Path, sink: str) -> None:
    """A key may be written once over all shards; failing more often is allowed."""
    journal(folder, [commit(folder, sink, 0, list(range(8))), commit(folder, sink, 1, [1, 4, 6])])
    assert [(problem.file, problem.what) for problem in verify(folder)] == [
        ("00001.parquet", "2 keys were written before, the first is 000000004")
    ]


def test_counts_that_differ_from_the_journal(folder: Path, sink: str) -> None:
    """Files that are what the journal says, but hold other rows."""
    report = commit(folder, sink, 0, list(range(8)))
    entry = asdict(report) | {"written": 5, "failed": 3}
    journal(folder, [ShardReport(**(entry | {"files": report.files}))])
    for path in folder.glob("00001*"):
        lose(path)
    assert ["has other rows than the journal says" in problem.what for problem in verify(folder)] == [True]


@pytest.mark.parametrize("sink", ["webdataset", "files", "arrays"], indirect=True)
def test_samples_that_differ_from_the_table(folder: Path, sink: str, tmp_path: Path) -> None:
    """The samples of another shard beside this one's table."""
    other = tmp_path / "other"
    commit(other, sink, 0, list(range(6)))
    main = folder / MAIN[sink]
    lose(main)
    (other / MAIN[sink]).rename(main)
    _accept(folder, describe(main))
    problems = verify(folder)
    assert [problem.file for problem in problems] == [MAIN[sink]]
    expected = "holds 3 arrays, expected 4" if sink == "arrays" else "1 differ, the first is 000000006"
    assert expected in problems[0].what


@pytest.mark.parametrize("name", ["00000.tar", "00000.npy", "00000.parquet"])
def test_files_that_cannot_be_opened(tmp_path: Path, name: str) -> None:
    """Rubbish that the journal vouches for is a problem, not an exception."""
    sink = {"00000.tar": "webdataset", "00000.npy": "arrays", "00000.parquet": "parquet"}[name]
    journal(tmp_path, [commit(tmp_path, sink, 0, [0, 2])])
    (tmp_path / name).write_bytes(b"rubbish" * 200)
    _accept(tmp_path, describe(tmp_path / name))
    assert [(problem.file, problem.what[:14]) for problem in verify(tmp_path)] == [(name, "cannot be read")]


def _accept(folder: Path, file: ShardFile) -> None:
    """Let the journal vouch for this file of its first shard."""
    path = folder / ".penstock" / "journal.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    files = [entry if entry["name"] != file.name else asdict(file) for entry in lines[1]["files"]]
    lines[1]["files"] = files
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_no_run(tmp_path: Path) -> None:
    """A folder without a journal is a SourceError."""
    with pytest.raises(SourceError, match="not the output of a run"):
        verify(tmp_path)


@pytest.mark.parametrize("damage", [lose, cut, flip])
def test_problems_of_one_shard(folder: Path, sink: str, damage: Callable[[Path], None]) -> None:
    """A shard's files are compared with its line, and nobody else's."""
    first, second = read_ledger(folder).shards.values()
    damage(folder / MAIN[sink])
    assert [problem.file for problem in shard_problems(folder, first)] == [MAIN[sink]]
    assert shard_problems(folder, second) == []


@pytest.mark.parametrize(("number", "lost"), [(errno.EIO, True), (errno.EACCES, False), (errno.EMFILE, False)])
def test_only_a_disk_that_lost_it_damages_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, lost: bool
) -> None:
    """A file that may not or cannot be read just now is not given up."""
    report = commit(tmp_path, "parquet", 0, [0, 1])

    def failing(_: Path) -> ShardFile:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("penstock.verifying.describe", failing)
    if lost:
        assert {problem.file for problem in shard_problems(tmp_path, report)} == {"00000.parquet", "00000_stats.json"}
    else:
        with pytest.raises(OutputError, match="cannot check the shards of"):
            shard_problems(tmp_path, report)
