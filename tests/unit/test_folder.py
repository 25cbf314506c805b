"""The output folder: whose it is, its lock, its journal, its report."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from penstock.config import RunConfig
from penstock.errors import OutputError, OutputRefusedError, SourceError
from penstock.folder import OutputFolder, read_ledger, stored_report
from penstock.ledger import Manifest, finished_entry, run_entry, shard_entry
from penstock.records import ShardFile, ShardReport
from penstock.report.report import Report

JOURNAL = ".penstock/journal.jsonl"
RUN = run_entry(Manifest.of("id", {"files": []}, RunConfig(), {}))


def shard(number: int) -> ShardReport:
    file = ShardFile(f"{number:05d}.tar", 3, "ab")
    return ShardReport(number, 4, 3, 1, 0, {"http.gone": 1}, 10, (file,), 0, 3)


def write_run(path: Path, *entries: dict[str, Any]) -> None:
    """A folder whose journal has these lines after its first."""
    with OutputFolder(path) as folder:
        for entry in (RUN, *entries):
            folder.append(entry)


def test_new_folder_is_made_and_empty(tmp_path: Path) -> None:
    """A folder that is not there is made, with its parents, and holds no run."""
    with OutputFolder(tmp_path / "a/b") as folder:
        assert folder.read_ledger().manifest is None


def test_journal_is_read_back(tmp_path: Path) -> None:
    """What was appended is what the next run reads."""
    write_run(tmp_path, shard_entry(shard(0)), finished_entry(4))
    with OutputFolder(tmp_path) as folder:
        ledger = folder.read_ledger()
    assert ledger.shards == {0: shard(0)}
    assert ledger.finished_rows == 4
    assert ledger.manifest is not None
    assert ledger.manifest.run_id == "id"


def test_only_one_at_a_time(tmp_path: Path) -> None:
    """A second run is refused with the number of the first one's process; when that has ended it is not."""
    with (
        OutputFolder(tmp_path),
        pytest.raises(OutputRefusedError, match=f"process {os.getpid()}"),
        OutputFolder(tmp_path),
    ):
        pytest.fail("two runs in one folder")
    with OutputFolder(tmp_path):
        pass


def test_file_is_refused(tmp_path: Path) -> None:
    """--out must not be a file."""
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputRefusedError, match="is a file"):
        OutputFolder(tmp_path / "out").__enter__()
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("beside", [(), (".penstock",), (".penstock-probe-x",)])
def test_without_a_journal_nothing_in_the_folder_is_ours(tmp_path: Path, beside: tuple[str, ...]) -> None:
    """A run that failed before its journal leaves only its own folders, which do not make the user's shards ours."""
    for name in beside:
        (tmp_path / name).mkdir()
    with OutputFolder(tmp_path):
        pass
    (tmp_path / "00000.tar").write_text("another tool's")
    with pytest.raises(OutputRefusedError, match=r"00000\.tar"):
        OutputFolder(tmp_path).__enter__()


@pytest.mark.parametrize("function", ["open", "pwrite"])
def test_full_disk_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    """A disk without room for the lock is an OutputError, and leaves no descriptor open."""

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, function, full)
    with pytest.raises(OutputError, match="No space left"):
        OutputFolder(tmp_path).__enter__()


def test_name_that_no_file_system_takes(tmp_path: Path) -> None:
    """A name that is too long is an OutputError like any other trouble."""
    with pytest.raises(OutputError, match="too long"):
        OutputFolder(tmp_path / ("x" * 300)).__enter__()


def test_cut_line_is_removed(tmp_path: Path) -> None:
    """What a crash left of a line goes, so that the next line does not end up behind it."""
    write_run(tmp_path)
    with (tmp_path / JOURNAL).open("ab") as journal:
        journal.write('{"shard":0,"röws'.encode()[:-6])
    with OutputFolder(tmp_path) as folder:
        assert folder.read_ledger().shards == {}
        folder.append(shard_entry(shard(1)))
        assert set(folder.read_ledger().shards) == {1}


def test_line_that_could_not_be_written_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error the journal is as it was, so that a later line is whole."""
    write_run(tmp_path)

    def failing(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with OutputFolder(tmp_path) as folder:
        monkeypatch.setattr(os, "fsync", failing)
        with pytest.raises(OutputError, match="journal"):
            folder.append(shard_entry(shard(0)))
        monkeypatch.undo()
        folder.append(shard_entry(shard(1)))
        assert set(folder.read_ledger().shards) == {1}


def test_rest_of_a_line_is_cut_off_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If half a line can neither be written nor taken away, the next one does not end up behind it."""
    write_run(tmp_path)
    with OutputFolder(tmp_path) as folder:
        folder.read_ledger()
        with (tmp_path / JOURNAL).open("ab") as journal:
            journal.write(b'{"shard"')
        folder.append(shard_entry(shard(1)))
        assert set(folder.read_ledger().shards) == {1}


def test_journal_that_is_gone_is_not_begun_anew(tmp_path: Path) -> None:
    """Only the first line makes the file: without it nobody would know whose shards these are."""
    write_run(tmp_path)
    with OutputFolder(tmp_path) as folder:
        folder.read_ledger()
        (tmp_path / JOURNAL).unlink()
        with pytest.raises(OutputError, match=r"cannot write the journal of .*taken it away"):
            folder.append(shard_entry(shard(1)))
    assert not (tmp_path / JOURNAL).exists()


def test_clear_that_is_cut_short_leaves_no_shard_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files may be there or not: the journal says whose the folder is, and that nothing in it exists."""
    write_run(tmp_path, shard_entry(shard(0)), finished_entry(4))

    def failing(_: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with OutputFolder(tmp_path) as folder:
        monkeypatch.setattr("penstock.folder.disk.remove", failing)
        with pytest.raises(OutputError, match=r"cannot delete 00000\.tar in"):
            folder.clear(folder.read_ledger())
    ledger = read_ledger(tmp_path)
    assert ledger.manifest is not None
    assert (dict(ledger.shards), ledger.finished_rows) == ({}, None)


def test_files_of_lost_shards_go_with_the_report(tmp_path: Path) -> None:
    """What is taken back leaves no file, and no report that counts it."""
    write_run(tmp_path, shard_entry(shard(0)))
    for name in ("00000.tar", "00001.tar", "report.json"):
        (tmp_path / name).touch()
    with OutputFolder(tmp_path) as folder:
        folder.take_back([shard(0)])
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["00001.tar"]


@pytest.mark.parametrize(
    "line", [b"\xff\xfe\n", b"not json\n", b"3\n", b'{"shard": 0}\n', b'{"run": {"version": 1}}\n']
)
def test_damaged_journal_is_refused(tmp_path: Path, line: bytes) -> None:
    """A line that nobody can read is named, whoever reads it."""
    write_run(tmp_path)
    with (tmp_path / JOURNAL).open("ab") as journal:
        journal.write(line)
    with pytest.raises(OutputRefusedError, match=r"journal\.jsonl is damaged"):
        read_ledger(tmp_path)
    with OutputFolder(tmp_path) as folder, pytest.raises(OutputRefusedError, match="damaged"):
        folder.read_ledger()


def test_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    """A format that this Penstock does not know is not guessed at."""
    with OutputFolder(tmp_path) as folder:
        folder.append({"run": {**RUN["run"], "version": 2}})
    with pytest.raises(OutputRefusedError, match="version 2"):
        read_ledger(tmp_path)


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    """A list whose name holds other bytes is fingerprinted and found again."""
    source = {"files": [{"name": os.fsdecode(b"urls\xff.txt")}]}
    with OutputFolder(tmp_path) as folder:
        folder.append(run_entry(Manifest.of("id", source, RunConfig(), {})))
        manifest = folder.read_ledger().manifest
    assert manifest is not None
    assert manifest.source == source


def test_clear_deletes_what_the_journal_names(tmp_path: Path) -> None:
    """Shards, report, work in progress and journal go; anything else stays."""
    write_run(tmp_path, shard_entry(shard(0)))
    for name in ("00000.tar", "00001.tar", "notes.txt", "report.json"):
        (tmp_path / name).touch()
    for name in ("spool", "tmp"):
        (tmp_path / ".penstock" / name / "x").mkdir(parents=True)
    with OutputFolder(tmp_path) as folder:
        folder.clear(folder.read_ledger())
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == [".penstock", ".penstock/lock", "00001.tar", "notes.txt"]


def test_folder_without_a_run(tmp_path: Path) -> None:
    """Reading what is not there is a SourceError."""
    for read in (read_ledger, stored_report):
        with pytest.raises(SourceError, match="not the output of a run"):
            read(tmp_path)


@pytest.mark.parametrize("text", [None, "", "[]", "3", '{"rows": 4', "{}"])
def test_report_without_its_file(tmp_path: Path, text: str | None) -> None:
    """Where report.json is missing or damaged, the journal's account is told."""
    write_run(tmp_path, shard_entry(shard(0)))
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    report = stored_report(tmp_path)
    assert (report.rows, report.written, report.failed, report.reasons) == (4, 3, 1, {"http.gone": 1})
    assert not report.finished


def test_stored_report_has_the_journals_account(tmp_path: Path) -> None:
    """The file tells of speed and verdict; how many rows there are is the journal's to say."""
    write_run(tmp_path, shard_entry(shard(0)), finished_entry(4))
    with OutputFolder(tmp_path) as folder:
        folder.write_report(
            Report(rows=1, written=1, seconds=2.0, verdict="CPU", rows_before=9, rows_waiting=7).as_dict()
        )
    assert json.loads((tmp_path / "report.json").read_text())["verdict"] == "CPU"
    report = stored_report(tmp_path)
    assert (report.rows, report.seconds, report.verdict, report.finished) == (4, 2.0, "CPU", True)
    assert (report.rows_before, report.rows_waiting, report.shards) == (4, 0, 1)


def test_stored_report_of_a_stopped_run_keeps_what_waits(tmp_path: Path) -> None:
    """Rows that an earlier run left in the spools count as done before, though no shard holds them."""
    write_run(tmp_path)
    with OutputFolder(tmp_path) as folder:
        folder.write_report(Report(rows_before=5, rows_waiting=8).as_dict())
    report = stored_report(tmp_path)
    assert (report.rows, report.rows_before, report.rows_waiting) == (0, 5, 8)
