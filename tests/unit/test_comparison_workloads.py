"""The workloads that Penstock brings along."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
import zlib

import pytest

from penstock.comparison.workloads import WORKLOADS, Workload, python_checksum, rows_for
from penstock.config import RunConfig
from penstock.image.work import TransformWork
from penstock.records import Fetched, Request, Result, Row, Sample
from penstock.testing.server import ImageServer

ROW = Row(7, (Request("image", "http://example.com/7"),))

WITH_TRANSFORM = pytest.mark.parametrize(
    "workload", [w for w in WORKLOADS.values() if w.transform], ids=lambda w: w.name
)
EACH = pytest.mark.parametrize("workload", WORKLOADS.values(), ids=lambda w: w.name)


def work_off(workload: Workload, data: bytes) -> Result:
    assert workload.transform is not None
    return TransformWork(workload.transform)(ROW, (Fetched("image", data, 200, 1, 0.1),))


@EACH
def test_options_and_server_take_what_a_workload_gives_them(workload: Workload) -> None:
    """No name is misspelt, no value out of its range."""
    config = RunConfig(**workload.options)
    inspect.signature(ImageServer).bind(**workload.server)
    assert config.per_host <= config.connections


@EACH
def test_workload_can_be_sent_to_a_process(workload: Workload) -> None:
    """It comes out as it went in, the transform being found by its name."""
    assert pickle.loads(pickle.dumps(workload)) == workload


@WITH_TRANSFORM
@pytest.mark.parametrize("data", [b"", b"\xff\xd8 some bytes"], ids=["empty", "some"])
def test_transform_makes_a_small_sample(workload: Workload, data: bytes) -> None:
    """A few bytes, whatever came: what is measured is not the writing."""
    value = work_off(workload, data).value
    assert isinstance(value, Sample)
    assert value.nbytes <= 64


def test_python_checksum_is_adler32_of_the_repeated_download() -> None:
    """The loop does what it says; the library agrees."""
    data = bytes(range(250))
    assert python_checksum(data, ROW)["adler32"] == zlib.adler32(data * 400).to_bytes(4, "big")


@pytest.mark.parametrize(
    ("name", "workers", "rows"),
    [("images", 1, 300), ("images", 2, 300), ("images", 3, 450), ("images", 16, 2400), ("io", 1, 200), ("io", 16, 200)],
)
def test_more_workers_need_more_rows_where_they_compute(name: str, workers: int, rows: int) -> None:
    """The count is for two workers, grows with them where they are what is measured, and never shrinks."""
    assert rows_for(WORKLOADS[name], workers) == rows


def test_workers_import_little() -> None:
    """A worker that unpickles a transform loads neither the fetchers nor the sinks."""
    code = "import sys, penstock.comparison.workloads; print(sorted({'aiohttp', 'pyarrow', 'rich'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
