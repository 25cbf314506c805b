"""The spool gives back what it was given, as far as it goes, after anything."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from penstock.errors import AccountError
from penstock.records import Value
from penstock.sink.spool import Spool, SpooledRow, kinds_of

PARTS: list[dict[str, Value]] = [
    {},
    {"jpg": b"\x00" * 30},
    {"image": np.arange(24, dtype=np.uint8).reshape(2, 4, 3)[:, ::2], "txt": b"", "n": np.array(-1.5)},
]


def add_all(spool: Spool, order: list[int]) -> None:
    """Rows of all kinds."""
    for index in order:
        parts = PARTS[index % 3]
        spool.add(index, {"row": index, "text": "größe"}, parts, kinds_of(parts))


def assert_rows(rows: list[SpooledRow], indices: list[int]) -> None:
    """These rows, whole and in order."""
    assert [row.index for row in rows] == indices
    for row in rows:
        assert row.meta == {"row": row.index, "text": "größe"}
        assert list(row.parts) == list(PARTS[row.index % 3])
        for name, value in PARTS[row.index % 3].items():
            np.testing.assert_array_equal(row.parts[name], value)
            assert isinstance(row.parts[name], type(value))


def test_rows_come_back_by_index(tmp_path: Path) -> None:
    """Whatever the order of arrival, and again after closing."""
    order = list(range(30))
    random.Random(0).shuffle(order)
    spool = Spool(tmp_path / "s", "run")
    add_all(spool, order)
    assert_rows(list(spool.rows()), list(range(30)))
    assert [meta["row"] for meta in spool.metas()] == list(range(30))
    spool.close()
    spool.close()
    again = Spool(tmp_path / "s", "run")
    assert_rows(list(again.rows()), list(range(30)))
    assert set(again.kinds) == set(spool.kinds) == {kinds_of(PARTS[1]), kinds_of(PARTS[2])}
    assert again.size == (tmp_path / "s").stat().st_size
    again.close()


def test_every_cut_keeps_whole_rows(tmp_path: Path) -> None:
    """A spool cut at any byte holds the rows before the cut, and takes the others again."""
    spool = Spool(tmp_path / "s", "run")
    add_all(spool, list(range(6)))
    spool.close()
    data = (tmp_path / "s").read_bytes()
    counts = []
    for cut in range(len(data) + 1):
        (tmp_path / "s").write_bytes(data[:cut])
        spool = Spool(tmp_path / "s", "run")
        counts.append(len(spool.indices))
        add_all(spool, list(range(counts[-1], 6)))
        spool.close()
        assert (tmp_path / "s").read_bytes() == data
    assert counts == sorted(counts)
    assert set(counts) == set(range(7))


@pytest.mark.parametrize("tail", [bytes(4096), b"\xff" * 4096, b"garbage"])
def test_rubbish_at_the_end_is_cut_off(tmp_path: Path, tail: bytes) -> None:
    """What a crash of the machine may leave behind the last frame, zeros above all, is no row."""
    spool = Spool(tmp_path / "s", "run")
    add_all(spool, [0, 1, 2])
    spool.close()
    with (tmp_path / "s").open("ab") as file:
        file.write(tail)
    spool = Spool(tmp_path / "s", "run")
    assert_rows(list(spool.rows()), [0, 1, 2])
    spool.close()


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    """Damage inside a row ends the valid beginning there; while the spool is open it is an error."""
    spool = Spool(tmp_path / "s", "run")
    add_all(spool, [1])
    start = spool.size
    add_all(spool, [2])
    data = bytearray((tmp_path / "s").read_bytes())
    for position in range(start, len(data)):
        damaged = data.copy()
        damaged[position] ^= 1
        (tmp_path / "t").write_bytes(damaged)
        other = Spool(tmp_path / "t", "run")
        assert set(other.indices) == {1}
        other.close()
    (tmp_path / "s").write_bytes(bytes(damaged))
    with pytest.raises(OSError, match="is damaged at byte"):
        list(spool.rows())
    spool.close()


def test_another_run_starts_empty(tmp_path: Path) -> None:
    """A spool made with other options is not used."""
    spool = Spool(tmp_path / "s", "run")
    add_all(spool, [1])
    spool.close()
    other = Spool(tmp_path / "s", "other")
    assert not other.indices
    other.close()


def test_a_row_is_added_once(tmp_path: Path) -> None:
    """A second time is an error, and changes nothing."""
    spool = Spool(tmp_path / "s", "run")
    add_all(spool, [1])
    with pytest.raises(AccountError, match="row 1"):
        add_all(spool, [1])
    assert_rows(list(spool.rows()), [1])
    spool.close()


def test_text_that_is_no_unicode_is_replaced(tmp_path: Path) -> None:
    """Lone surrogates, which JSON allows and UTF-8 does not, become question marks."""
    spool = Spool(tmp_path / "s", "run")
    spool.add(0, "a\ud800b", {}, ())
    assert list(spool.metas()) == ["a?b"]
    spool.close()


def test_spool_that_cannot_be_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is reported once; the descriptor is never closed twice, for it may be another's by then."""
    spool = Spool(tmp_path / "s", "run")

    def failing(descriptor: int) -> None:
        really_close(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    really_close = os.close
    with monkeypatch.context() as patch:
        patch.setattr(os, "close", failing)
        with pytest.raises(OSError, match="Input/output"):
            spool.close()
    spool.close()


KILLED = """
import sys
from penstock.sink.spool import Spool, kinds_of
spool = Spool(sys.argv[1], "run")
index = 0
while True:
    parts = {"jpg": index.to_bytes(4, "big") * 2000}
    spool.add(index, None, parts, kinds_of(parts))
    print(index, flush=True)
    index += 1
"""


def test_kill_loses_no_row(tmp_path: Path) -> None:
    """After kill -9 every row is there whose `add` had returned."""
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "s")], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line == "50\n":
                child.send_signal(signal.SIGKILL)
                break
        rest = [line for line in child.stdout.read().split("\n") if line]
    added = int(rest[-1]) if rest else 50
    spool = Spool(tmp_path / "s", "run")
    assert spool.indices >= set(range(added + 1))
    assert all(row.parts["jpg"] == row.index.to_bytes(4, "big") * 2000 for row in spool.rows())
    spool.close()
