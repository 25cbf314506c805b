"""What travels to a cluster: tasks, staged lists, the entry; and which shards go into which task."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import RunConfig
from penstock.engines.clusters import Dask, Ray
from penstock.engines.entry import make_entry, outcome_of
from penstock.engines.lots import MOST, Lot, Lots
from penstock.engines.messages import Broken
from penstock.engines.task import Task, lane_setup, pickled_task, run_task, serve_task
from penstock.errors import ConfigError
from penstock.image.work import NO_STEPS, Steps
from penstock.records import Reason, Request, Row
from penstock.sink.private import private_folder
from penstock.source import open_list
from penstock.source.staged import GROUP, stage


def task(tmp_path: Path, **fields: Any) -> Task:
    """A task as a driver has it, of a list with a table of kept columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "list-of-images.parquet"
    pq.write_table(pa.table({"url": ["http://a/1"], "caption": ["x"], "label": [1]}), path)
    config = RunConfig(size=224, resize="crop", caption_column="caption", keep_columns=("label",), quality=90)
    source = open_list(path, config)
    assert source.spec is not None
    made: dict[str, Any] = {
        "lot": "0123456789abcdef",
        "first": 123_456,
        "stop": 123_520,
        "source": source.spec,
        "config": config,
        "steps": NO_STEPS,
        "folder": tmp_path / "out",
        "run_id": "0" * 32,
        "cores": 1,
        "kept_schema": source.kept_schema,
        "parts": ("jpg",),
    }
    return Task(**made | fields)


def test_a_task_is_small(tmp_path: Path) -> None:
    """Under a kilobyte, whatever the length of the list: it says where the rows are."""
    pickled = pickled_task(task(tmp_path), pickle.dumps)
    assert len(pickled) < 1024 + 2 * len(str(tmp_path))
    assert pickle.loads(pickled) == task(tmp_path)


def test_a_transform_that_cannot_travel(tmp_path: Path) -> None:
    handle: Any = (tmp_path / "open").open("w")
    with handle, pytest.raises(ConfigError, match="cannot be sent to the workers"):
        pickled_task(task(tmp_path, steps=Steps(handle.write, None, None)), pickle.dumps)


def test_a_transform_that_a_worker_cannot_load(tmp_path: Path) -> None:
    """The answer names the machine and the module."""
    module = tmp_path / "only_here.py"
    module.write_text("def transform(data, row):\n    return {}\n")
    code = "import sys, pickle, only_here; sys.stdout.buffer.write(pickle.dumps(only_here.transform))"
    pickled = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True).stdout
    answer = pickle.loads(serve_task(pickled, NoLine()))
    assert isinstance(answer, Broken)
    assert os.uname().nodename in str(answer.error)
    assert "No module named 'only_here'" in str(answer.error)


def test_spools_of_a_killed_lane_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They lie on the worker's own disk, where no run's sweep comes; those of living lanes stay."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = (
        "import os, signal, tempfile, sys; from penstock.sink.private import private_folder\n"
        "tempfile.tempdir = sys.argv[1]\n"
        "with private_folder() as spools:\n"
        "    (spools / '00000.spool').write_bytes(b'x')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert ran.returncode == -signal.SIGKILL
    (left,) = tmp_path.glob("penstock-*/00000.spool")
    with private_folder() as mine, private_folder() as another:
        assert not left.parent.exists()
        assert mine.is_dir()
        assert another.is_dir()
    assert list(tmp_path.iterdir()) == []


class NoLine:
    """A coordinator that is gone."""

    def exchange(self, word: Any) -> Any:
        raise ConnectionError("no route to host")

    def leave(self, lane: str) -> None:
        pass


def test_a_folder_that_the_worker_does_not_see(tmp_path: Path) -> None:
    answer = run_task(task(tmp_path), NoLine())
    assert isinstance(answer, Broken)
    assert "--out has to lie on storage that all nodes share" in str(answer.error)


def test_a_folder_with_another_run(tmp_path: Path) -> None:
    (tmp_path / "out/.penstock").mkdir(parents=True)
    (tmp_path / "out/.penstock/journal.jsonl").write_text('{"run":{"run_id":"another"}}\n')
    answer = run_task(task(tmp_path), NoLine())
    assert isinstance(answer, Broken)
    assert "holds another run here" in str(answer.error)


def test_a_coordinator_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "out/.penstock").mkdir(parents=True)
    (tmp_path / "out/.penstock/journal.jsonl").write_text('{"run":{"run_id":"%s"}}\n' % ("0" * 32))
    answer = run_task(task(tmp_path), NoLine())
    assert isinstance(answer, Broken)
    assert "coordinator does not answer: no route to host" in str(answer.error)


def test_a_lane_of_a_cluster_starts_no_processes() -> None:
    setup = lane_setup(RunConfig(strategy="processes"), cores=4)
    assert (setup.crew, setup.workers, setup.lanes) == ("threads", 4, 1)
    assert setup.fetch == "threads"
    assert lane_setup(RunConfig(), cores=1, isolated=True).crew == "processes"


ENTRY = """
import pickle, sys
{hide}
answer = pickle.loads(sys.stdin.buffer.read())(b"task", None)
print(answer[0], answer[1])
"""


def answer_of(entry: bytes, hide: str) -> str:
    ran = subprocess.run([sys.executable, "-c", ENTRY.format(hide=hide)], input=entry, capture_output=True, check=True)
    return ran.stdout.decode()


def test_a_node_without_the_package() -> None:
    """The entry needs nothing of ours to be loaded, so it can say what is missing."""
    cloudpickle = pytest.importorskip("cloudpickle")
    entry = cloudpickle.dumps(make_entry("penstock.engines.nowhere"))
    without = answer_of(entry, "sys.modules['penstock'] = None")
    assert without.startswith("unfit ")
    assert "has no penstock; install penstock==" in without
    assert sys.executable in without
    other = answer_of(entry, "import types; sys.modules['penstock'] = types.SimpleNamespace(__version__='0.0.1')")
    assert "has penstock 0.0.1, and here is" in other


def test_outcomes() -> None:
    unfit = outcome_of(("unfit", "node7 has no penstock"))
    assert isinstance(unfit, Broken)
    assert str(unfit.error) == "node7 has no penstock"
    broken = outcome_of(("done", pickle.dumps(Broken(ConfigError("x")))))
    assert isinstance(broken, Broken)
    assert isinstance(broken.error, ConfigError)


def test_dask_takes_no_workers_option() -> None:
    pytest.importorskip("distributed")
    with pytest.raises(ConfigError, match="give the workers more threads"):
        Dask().check(RunConfig(engine="dask", workers=4))


@pytest.mark.parametrize(("choice", "package"), [(Ray(), "ray"), (Dask(), "distributed")])
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
def test_lanes_are_for_one_machine(choice: Any, package: str) -> None:
    pytest.importorskip(package)
    with pytest.raises(ConfigError, match="a cluster has a lane for each task"):
        choice.check(RunConfig(engine=choice.name, lanes=2))


@pytest.mark.parametrize(("choice", "package"), [(Ray(), "ray"), (Dask(), "dask")])
def test_a_missing_package_names_its_pip_line(choice: Any, package: str) -> None:
    code = (
        f"import sys; sys.modules['{'ray' if package == 'ray' else 'distributed'}'] = None\n"
        "from penstock.cli import main\n"
        f"sys.exit(main(['run', '/dev/null', '--out', 'nowhere', '--engine', '{package}']))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert f"pip install 'penstock[{package}]'" in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1


# --- Which shards ----------------------------------------------------------------------------------------------------


@given(st.integers(0, 500), st.sets(st.integers(0, 499)), st.integers(0, 40))
def test_lots_deal_every_shard_once(count: int, committed: set[int], slots: int) -> None:
    lots = Lots(range(count), committed)
    dealt = [list(range(lot.first, lot.stop)) for lot in iter(lambda: lots.next(slots), None)]
    assert [shard for shards in dealt for shard in shards] == [
        shard for shard in range(count) if shard not in committed
    ]
    assert all(1 <= len(shards) <= MOST for shards in dealt)


@pytest.mark.parametrize(
    ("shards", "shard_size", "slots", "sizes"),
    [
        (32, 125, 2, [8, 8, 8, 4, 2, 1, 1]),
        (32, 125, 100, [1] * 32),
        (6, 125, 2, [3, 2, 1]),
        (8, 10_000, 2, [2, 1, 1, 1, 1, 1, 1]),
        (1000, 1, 2, [64] * 14 + [52, 26, 13, 7, 3, 2, 1]),
    ],
)
def test_lots_of_small_shards_are_not_small(shards: int, shard_size: int, slots: int, sizes: list[int]) -> None:
    """A lane's start is not paid for a handful of rows, unless others would have nothing to do meanwhile."""
    lots = Lots(range(shards), (), shard_size)
    assert [len(lot) for lot in iter(lambda: lots.next(slots), None)] == sizes


@given(st.lists(st.integers(0, 63), unique=True, min_size=1).map(sorted), st.integers(0, 5))
def test_what_is_given_back_comes_next_in_halves(missing: list[int], deaths: int) -> None:
    lots = Lots(range(64, 70), ())
    lots.give_back(Lot(0, 64, deaths), missing)
    dealt: list[int] = []
    while len(dealt) < len(missing):
        lot = lots.next(1)
        assert lot is not None
        assert lot.deaths == deaths + 1
        assert len(lot) <= max(1, (len(missing) + 1) // 2)
        dealt += range(lot.first, lot.stop)
    assert sorted(dealt) == missing


# --- Staged lists ----------------------------------------------------------------------------------------------------

TEXTS = st.text(max_size=20) | st.just("\ud800 lone \x00")
REQUESTS = st.builds(
    Request,
    st.sampled_from(["image", "mask"]),
    TEXTS,
    st.none() | st.sampled_from(list(Reason)),
    st.booleans(),
    st.booleans(),
)
ROWS = st.builds(
    Row,
    st.integers(0, 2**40),
    st.lists(REQUESTS, max_size=3).map(tuple),
    st.none() | TEXTS,
    st.dictionaries(TEXTS, st.none() | st.integers() | TEXTS | st.lists(st.integers()), max_size=3),
)


@given(st.lists(st.tuples(ROWS, st.none() | st.just("http.gone")), max_size=12), st.data())
def test_a_staged_list_is_the_list(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], data: st.DataObject
) -> None:
    spec = stage(iter(rows), tmp_path_factory.mktemp("staged") / "list.parquet", first_shard=7)
    opened = pickle.loads(pickle.dumps(spec)).open()
    assert (opened.count, opened.first_shard) == (len(rows), 7)
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(0, len(rows) + 2))
    assert list(opened.rows(start, stop)) == rows[start:stop]


def test_a_staged_list_over_many_row_groups(tmp_path: Path) -> None:
    count = 2 * GROUP + 5
    rows = [(Row(index, (Request("image", f"http://a/{index}"),)), None) for index in range(count)]
    opened = stage(iter(rows), tmp_path / "list.parquet").open()
    for start, stop in ((0, 3), (GROUP - 1, GROUP + 1), (2 * GROUP, count), (0, count), (5, 5)):
        assert list(opened.rows(start, stop)) == rows[start:stop]


def test_a_staging_that_is_interrupted_leaves_no_list(tmp_path: Path) -> None:
    def rows() -> Any:
        yield Row(0, (Request("image", "http://a"),)), None
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage(rows(), tmp_path / "list.parquet")
    assert not (tmp_path / "list.parquet").exists()
