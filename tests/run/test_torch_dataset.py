"""`penstock.torch`: under every kind of DataLoader, each row of an epoch once; skipped where PyTorch is not installed."""

from __future__ import annotations

import functools
import json
import logging
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import penstock
from penstock.streaming.batch import Batch
from penstock.testing.leaks import no_leaks
from run import transforms

if TYPE_CHECKING:
    from penstock.torch import TorchBatch, UrlDataset

pytestmark = [
    # DataLoader forks, and other tests may have left threads of libraries in this process: Python 3.12 warns of that.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    # torchdata is not developed as fast as torch.
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),
]

SMALL: dict[str, Any] = {
    "size": 32,
    "batch_size": 8,
    "per_host": 64,
    "workers": 1,
    "allow_network": ("127.0.0.0/8",),
    "timeout": 10,
}
GOOD = {f"{index:09d}" for index in range(40)} - {"000000007", "000000020"}
"""Keys of the rows that give an image: see the fixture `urls`."""

WORKERS = pytest.mark.parametrize("workers", [0, 1, pytest.param(2, marks=pytest.mark.slow)])

MakeDataset = Callable[..., "UrlDataset"]
MakeLoader = Callable[..., Iterable["TorchBatch"]]


@pytest.fixture
def dataset(require_torch: ModuleType, urls: list[str]) -> MakeDataset:
    """A small data set, of the forty URLs by default."""
    from penstock.torch import UrlDataset

    def make(source: Any = None, **options: Any) -> UrlDataset:
        return UrlDataset(urls if source is None else source, **{**SMALL, **options})

    return make


@pytest.fixture
def loader(require_torch: ModuleType) -> MakeLoader:
    """A DataLoader as it is meant to be; workers are forked."""

    def make(dataset: UrlDataset, workers: int = 0, **options: Any) -> Iterable[TorchBatch]:
        context = {"multiprocessing_context": "fork"} if workers else {}
        loader: Iterable[TorchBatch] = require_torch.utils.data.DataLoader(
            dataset, batch_size=None, num_workers=workers, **{**context, **options}
        )
        return loader

    return make


@pytest.fixture
def stateful(require_torch: ModuleType) -> Callable[..., Any]:
    """A StatefulDataLoader; the test is skipped where torchdata is not installed."""
    module = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed: it needs torch")

    def make(dataset: UrlDataset, workers: int, *, persistent: bool = False) -> Any:
        context = "fork" if workers else None
        return module.StatefulDataLoader(
            dataset,
            batch_size=None,
            num_workers=workers,
            multiprocessing_context=context,
            persistent_workers=persistent,
        )

    return make


@contextmanager
def raises(kind: type[Exception], message: str) -> Iterator[None]:
    """As `pytest.raises`, but the loader ends here: in a garbage collection it would wait five seconds for its workers."""
    with pytest.raises(kind, match=message) as caught:
        yield
    traceback.clear_frames(caught.tb)


def keys_of(batches: Iterable[TorchBatch | Batch]) -> list[str]:
    return [key for batch in batches for key in batch.keys]


def epochs_of(batches: Iterable[TorchBatch]) -> set[int]:
    return {batch.epoch for batch in batches}


def plain_batch(require_torch: ModuleType, **parts: Any) -> tuple[Batch, TorchBatch]:
    """Two rows of these parts, as both kinds of batch."""
    from penstock.torch import TorchBatch

    batch = Batch(["000000000", "000000001"], parts, {"label": [3, 4]}, None, (), 0)
    return batch, TorchBatch.of(batch)


@WORKERS
def test_every_row_comes_once_and_the_account_closes(
    dataset: MakeDataset, loader: MakeLoader, require_torch: ModuleType, urls: list[str], workers: int
) -> None:
    """However many workers there are, a pass has every good row once, with its own pixels, and the report has the bad ones."""
    with penstock.stream(urls, **SMALL) as stream:
        pixels = {key: image for batch in stream for key, image in zip(batch.keys, batch.images, strict=True)}
    rows = dataset()
    batches = list(loader(rows, workers))
    assert Counter(keys_of(batches)) == dict.fromkeys(GOOD, 1)
    for batch in batches:
        assert batch.images.shape == (len(batch), 3, 32, 32)
        assert batch.images.is_contiguous(memory_format=require_torch.channels_last)
        assert np.array_equal(batch.parts["image"].numpy(), np.stack([pixels[key] for key in batch.keys]))
    report = rows.report
    assert report is not None
    assert (report.rows, report.written, report.failed, report.finished) == (40, 38, 2, True)
    assert report.reasons == {"http.not_found": 1, "image.truncated": 1}


@pytest.mark.slow
def test_spawned_workers_agree_on_the_epoch(dataset: MakeDataset, loader: MakeLoader) -> None:
    """What forked workers do, those that get the data set through a pickle do as well."""
    batches = loader(dataset(shuffle=16), 2, multiprocessing_context="spawn", persistent_workers=True)
    for epoch in range(2):
        taken = list(batches)
        assert epochs_of(taken) == {epoch}
        assert Counter(keys_of(taken)) == dict.fromkeys(GOOD, 1)


@pytest.mark.parametrize(
    ("workers", "persistent"),
    [
        pytest.param(0, False, marks=pytest.mark.slow),
        (1, False),
        *(pytest.param(2, persistent, marks=pytest.mark.slow) for persistent in (False, True)),
    ],
)
def test_each_pass_is_an_epoch_of_its_own(
    dataset: MakeDataset, loader: MakeLoader, require_torch: ModuleType, workers: int, persistent: bool
) -> None:
    """Passes count up by themselves, `set_epoch` says otherwise, and a pass that was left early counts as well."""
    rows = dataset(shuffle=16)
    batches = loader(rows, workers, persistent_workers=persistent)
    assert rows.state_dict()["pass"] == 0  # to ask is not to begin
    for epoch in range(2):
        require_torch.manual_seed(0)  # so that new workers look like those of the last pass
        assert epochs_of(batches) == {epoch}
    rows.set_epoch(7)
    assert next(iter(batches)).epoch == 7
    assert epochs_of(batches) == {8}


def test_the_order_is_that_of_the_stream(dataset: MakeDataset, loader: MakeLoader, urls: list[str]) -> None:
    """Two passes over a data set have the order of two epochs of a stream, and they differ from each other."""
    batches = loader(dataset(shuffle=16, seed=3, ordered=True))
    passes = [keys_of(batches) for _ in range(2)]
    with penstock.stream(urls, **SMALL, shuffle=16, seed=3, ordered=True, epochs=2) as stream:
        assert keys_of(stream) == passes[0] + passes[1]
    assert passes[0] != passes[1]


def test_two_iterators_are_two_epochs(dataset: MakeDataset) -> None:
    """Iterators that are gone through by turns do not take each other's rows."""
    rows = dataset()
    one, other = iter(rows), iter(rows)
    batches = list(zip(one, other, strict=True))
    assert [epochs_of(side) for side in zip(*batches, strict=True)] == [{0}, {1}]
    assert [set(keys_of(side)) for side in zip(*batches, strict=True)] == [GOOD, GOOD]


def test_tensors_that_are_held_stay_as_they_are(dataset: MakeDataset, loader: MakeLoader) -> None:
    """Without workers a tensor is the memory that the images were written into, and nobody writes there again."""
    held = []
    batches = loader(dataset(batch_size=4))
    for _ in range(2):
        held += [(batch.images, batch.images.clone()) for batch in batches]
    assert all(bool((image == before).all()) for image, before in held)
    assert len({image.data_ptr() for image, _ in held}) == len(held)


@WORKERS
def test_leaving_the_loop_leaves_nothing(dataset: MakeDataset, loader: MakeLoader, workers: int) -> None:
    """A loop that is left after its first batch ends every thread and process."""
    with no_leaks():
        for batch in loader(dataset(batch_size=4), workers):
            assert len(batch) == 4
            break
        del batch


def test_floats_are_those_of_the_numpy_batch(require_torch: ModuleType) -> None:
    """`as_float` has the values of `Batch.as_float` bit for bit, and the shape and memory format of `images`."""
    images = np.random.default_rng(5).integers(0, 256, (2, 8, 8, 3), np.uint8)
    batch, tensors = plain_batch(require_torch, image=images)
    for options in (
        {},
        {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
        {"mean": 0.5},
        {"std": (0.2, 0.3, 0.4)},
    ):
        floats = tensors.as_float(**options)
        assert floats.dtype == require_torch.float32
        assert floats.is_contiguous(memory_format=require_torch.channels_last)
        assert np.array_equal(floats.permute(0, 2, 3, 1).numpy(), batch.as_float(**options))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_users_functions_do_their_work(
    require_torch: ModuleType, dataset: MakeDataset, loader: MakeLoader, tmp_path: Path, workers: int
) -> None:
    """One of the bytes; one of the pixels, in workers that were set up; their arrays are tensors."""
    files = dataset(transform=transforms.length_head_and_name)
    rows = [
        (length, head)
        for batch in loader(files, workers)
        for length, head in zip(batch.parts["length"], batch.parts["bin"], strict=True)
    ]
    assert len(rows) == len(GOOD) + 1  # one of the two was an image that ends too early, which nobody has looked at
    assert all(isinstance(length, require_torch.Tensor) and length > len(head) == 4 for length, head in rows)
    pixels = dataset(
        initializer=functools.partial(transforms.set_up, tmp_path), transform_image=transforms.scaled_as_set_up
    )
    batches = list(loader(pixels, workers))
    assert set(keys_of(batches)) == GOOD
    assert max(int(batch.images.max()) for batch in batches) <= 127
    assert list(tmp_path.iterdir())


def test_arrays_of_transforms_become_tensors_as_they_are(require_torch: ModuleType) -> None:
    """Only pictures have their channels moved; lists of arrays are lists of tensors; strange dtypes stay arrays."""
    floats, text = np.ones((2, 5, 5, 3), np.float32), np.array(["a", "b"])
    _, batch = plain_batch(require_torch, x=floats, many=[[floats[0, ::-1]], []], raw=[b"1", b"2"], text=text)
    assert batch.images.shape == (2, 5, 5, 3)
    assert isinstance(batch.parts["many"][0][0], require_torch.Tensor)
    assert batch.parts["raw"] == [b"1", b"2"]
    assert batch.parts["text"] is text
    with pytest.raises(TypeError, match=r"torch\.float32: the transform has scaled them"):
        batch.as_float()
    with pytest.raises(AttributeError, match="no images: their parts are raw"):
        _ = plain_batch(require_torch, raw=[b"1", b"2"])[1].images


def test_every_tensor_moves(require_torch: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """`to` and `pin_memory` reach every tensor of a batch, and DataLoader finds `pin_memory`."""
    from torch.utils.data._utils.pin_memory import pin_memory

    images = np.zeros((2, 4, 4, 3), np.uint8)
    _, batch = plain_batch(require_torch, image=images, many=[[images[0]], []])
    moved = batch.to("meta", non_blocking=True)
    assert [moved.parts["image"].device.type, moved.parts["many"][0][0].device.type] == ["meta", "meta"]
    assert moved.fields == {"label": [3, 4]}
    pinned: list[tuple[int, ...]] = []

    def pin(tensor: Any) -> Any:
        pinned.append(tuple(tensor.shape))
        return tensor

    monkeypatch.setattr(require_torch.Tensor, "pin_memory", pin)
    assert keys_of([pin_memory(batch)]) == batch.keys
    assert pinned == [(2, 4, 4, 3), (4, 4, 3)]


def test_a_loader_that_would_collate_is_told_so(dataset: MakeDataset, require_torch: ModuleType) -> None:
    """Without batch_size=None, the error says what to write."""
    with raises(penstock.ConfigError, r"DataLoader\(dataset, batch_size=None\)"):
        next(iter(require_torch.utils.data.DataLoader(dataset())))


@pytest.mark.parametrize("room", [True, False])
def test_without_room_in_shared_memory_batches_take_the_pipe(
    dataset: MakeDataset,
    loader: MakeLoader,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    room: bool,
) -> None:
    """Where /dev/shm has no room for the batches of all workers, none of them goes there, and one line says so."""
    import penstock.torch

    penstock.torch._warn_once.cache_clear()
    needed = penstock.torch.MARGIN * 8 * 32 * 32 * 3
    monkeypatch.setattr(penstock.torch, "_free_bytes", lambda: needed if room else needed - 1)
    with caplog.at_level(logging.WARNING, "penstock"):
        batches = list(loader(dataset(drop_last=True), 1))
    assert len(keys_of(batches)) == 32
    assert {batch.images.is_shared() for batch in batches} == {room}
    assert ["--shm-size" in record.message for record in caplog.records] == ([] if room else [True])


TINY = """
import sys
from torch.utils.data import DataLoader
from penstock.torch import UrlDataset
rows = UrlDataset(sys.argv[1], size=256, batch_size=8, workers=1, per_host=64, allow_network=("127.0.0.0/8",))
print(sum(len(batch) for batch in DataLoader(rows, batch_size=None, num_workers=1, multiprocessing_context="fork")))
"""


@pytest.mark.slow
def test_a_tiny_shared_memory_kills_nobody(require_torch: ModuleType, urls: list[str], tmp_path: Path) -> None:
    """With a /dev/shm smaller than a batch, where PyTorch by itself dies of SIGBUS, every row arrives."""
    (tmp_path / "urls.txt").write_text("\n".join(urls))
    mounted = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = "mount -t tmpfs -o size=1M tmpfs /dev/shm"
    if subprocess.run([*mounted, mount], capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody mount a /dev/shm of his own")
    command = [*mounted, f'{mount} && exec "$@"', "sh", sys.executable, "-c", TINY, str(tmp_path / "urls.txt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "38", done.stderr
    assert done.stderr.count("/dev/shm has only") == 1


def test_ranks_have_rows_of_their_own(dataset: MakeDataset, urls: list[str]) -> None:
    """Without `even`, the ranks' rows are disjoint, and together they are all."""
    ranks = [keys_of(dataset(even=False, rank=rank, world_size=3)) for rank in range(3)]
    assert Counter(key for keys in ranks for key in keys) == dict.fromkeys(GOOD, 1)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_even_ranks_get_equal_numbers_of_batches(
    dataset: MakeDataset, loader: MakeLoader, urls: list[str], workers: int
) -> None:
    """Though one rank has fewer rows and all the failures, both get as many full batches, and no row is left out."""
    options = {"batch_size": 3, "world_size": 2}
    source = [url for url in urls if "404" not in url] + [urls[7]] * 2  # the ranks have 20 and 21 rows
    ranks = [list(loader(dataset(source, rank=rank, **options), workers)) for rank in range(2)]
    assert [len(batches) for batches in ranks] == [8 if workers else 7] * 2
    assert len(set(keys_of(ranks[0]) + keys_of(ranks[1]))) == 38


def test_one_rank_gets_no_row_twice(dataset: MakeDataset, loader: MakeLoader) -> None:
    """Without other ranks, `even` makes no row come again to fill the last batch."""
    assert Counter(keys_of(loader(dataset(even=True)))) == dict.fromkeys(GOOD, 1)


def test_the_rank_is_found_in_the_environment(dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torchrun sets decides; what is no number is named; and an argument goes before it."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert set(keys_of(dataset(even=False))) == {key for key in GOOD if int(key) % 4 == 1}
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(penstock.ConfigError, match="RANK is 'one', and no number"):
        dataset()
    assert set(keys_of(dataset(rank=0, world_size=1))) == GOOD


RANK = """
import os, sys, torch
from torch.utils.data import DataLoader
from penstock.torch import UrlDataset

def train(source, folder, workers, context):
    rows = UrlDataset(source, size=32, batch_size=3, per_host=64, allow_network=("127.0.0.0/8",))
    torch.distributed.init_process_group("gloo")
    rank = os.environ.pop("RANK")  # torch.distributed is to be asked
    count = torch.zeros(1)
    for batch in DataLoader(rows, batch_size=None, num_workers=int(workers), multiprocessing_context=context or None):
        alone = torch.ones(1)
        torch.distributed.all_reduce(alone)  # hangs if the other rank has no batch left
        count += alone
        with open(f"{folder}/{rank}", "a") as keys:
            keys.writelines(f"{key}\\n" for key in batch.keys)
    torch.distributed.destroy_process_group()
    with open(f"{folder}/{rank}.count", "w") as counted:  # two ranks that print at once may share a line
        counted.write(str(int(count)))

if __name__ == "__main__":
    train(*sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "context"), [(0, ""), (1, "fork"), (1, "spawn")])
def test_torchrun_splits_by_rank(
    require_torch: ModuleType, urls: list[str], tmp_path: Path, workers: int, context: str
) -> None:
    """Under torchrun each rank has its own rows, and as many batches as the other, so that no all-reduce waits for ever."""
    (tmp_path / "urls.txt").write_text("\n".join(urls))
    (tmp_path / "train.py").write_text(RANK)
    (tmp_path / "keys").mkdir()
    launcher = [
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
    ]
    script = [*(str(tmp_path / name) for name in ("train.py", "urls.txt", "keys")), str(workers), context]
    done = subprocess.run([sys.executable, "-m", *launcher, *script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    counts = [(tmp_path / "keys" / f"{rank}.count").read_text() for rank in range(2)]
    assert counts == ["14", "14"]  # twice the seven batches that 20 rows by 3 need
    ranks = [set((tmp_path / "keys" / str(rank)).read_text().split()) for rank in range(2)]
    assert ranks == [{key for key in GOOD if int(key) % 2 == rank} for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 3, 5])
@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (1, False), (2, True)])
def test_a_stopped_loader_goes_on_where_it_was(
    dataset: MakeDataset, stateful: Callable[..., Any], stop: int, workers: int, persistent: bool
) -> None:
    """Stopped in the second epoch and resumed, a StatefulDataLoader delivers what was left of it, and then the third."""
    first = stateful(dataset(shuffle=16), workers, persistent=persistent)
    assert set(keys_of(first)) == GOOD
    before = list(islice(first, stop))
    state = first.state_dict()
    del first
    resumed = stateful(dataset(shuffle=16), workers, persistent=persistent)
    resumed.load_state_dict(state)
    after = list(resumed)
    assert epochs_of(before + after) == {1}
    assert Counter(keys_of(before + after)) == dict.fromkeys(GOOD, 1)
    assert epochs_of(resumed) == {2}


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_a_loader_that_stopped_between_epochs_begins_the_next(
    dataset: MakeDataset, stateful: Callable[..., Any], workers: int, persistent: bool
) -> None:
    """A state that was taken after the first epoch leads to the whole second one."""
    first = stateful(dataset(), workers, persistent=persistent)
    assert set(keys_of(first)) == GOOD
    state = first.state_dict()
    del first
    resumed = stateful(dataset(), workers, persistent=persistent)
    resumed.load_state_dict(state)
    batches = list(resumed)
    assert epochs_of(batches) == {1}
    assert Counter(keys_of(batches)) == dict.fromkeys(GOOD, 1)


@pytest.mark.slow
def test_a_state_without_torchdata(dataset: MakeDataset, loader: MakeLoader) -> None:
    """In the training process itself, the data set's own state does: in the middle, at the end, and before the start."""
    first, resumed = dataset(), dataset()
    batches = iter(loader(first))
    before = [next(batches), next(batches)]
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    resumed.set_epoch(0)  # as loops with a DistributedSampler do
    assert Counter(keys_of([*before, *loader(resumed)])) == dict.fromkeys(GOOD, 1)
    again = dataset()
    again.load_state_dict(resumed.state_dict())
    assert again.state_dict() == resumed.state_dict()
    assert epochs_of(loader(again)) == {1}
    assert epochs_of(loader(resumed)) == {1}


def test_a_state_that_would_get_lost_is_refused(dataset: MakeDataset, loader: MakeLoader) -> None:
    """A state of other options, of something else, or for workers that it does not reach."""
    state = dataset(shuffle=4).state_dict()
    with pytest.raises(penstock.StateRefusedError, match="shuffle was 4 there and is 0 now"):
        dataset().load_state_dict(state)
    with pytest.raises(penstock.StateRefusedError, match="this is something else"):
        dataset().load_state_dict({"epoch": 1})
    rows = dataset()
    rows.load_state_dict(dataset().state_dict())
    with raises(penstock.StateRefusedError, "load it into a StatefulDataLoader"):
        list(loader(rows, 1))
    with raises(penstock.StateRefusedError, "load it into a StatefulDataLoader"):
        list(loader(rows, 1, multiprocessing_context="spawn"))


@WORKERS
def test_written_shards_are_read_back(
    dataset: MakeDataset,
    loader: MakeLoader,
    run: Callable[..., penstock.Report],
    urls: list[str],
    tmp_path: Path,
    workers: int,
) -> None:
    """A folder that `penstock.run` has written is a source as well, in the size that it has."""
    run(urls)
    from penstock.torch import UrlDataset

    batches = list(loader(UrlDataset(tmp_path / "out", batch_size=8, workers=1), workers))
    assert Counter(keys_of(batches)) == dict.fromkeys(GOOD, 1)
    assert {tuple(batch.images.shape[1:]) for batch in batches} == {(3, 32, 32)}


def test_a_source_that_can_be_read_once(dataset: MakeDataset, loader: MakeLoader, urls: list[str]) -> None:
    """Workers would each read a generator's rows, and a second pass finds none: both are refused."""
    with raises(penstock.ConfigError, "each worker of a DataLoader would read it by itself"):
        list(loader(dataset(url for url in urls), 1))
    rows = dataset(url for url in urls)
    assert set(keys_of(loader(rows))) == GOOD
    with raises(penstock.SourceError, "can be read only once"):
        list(loader(rows))


@pytest.mark.slow
def test_workers_share_the_limits(dataset: MakeDataset, loader: MakeLoader) -> None:
    """The workers of a loader have together what the data set was given."""
    rows = dataset(connections=10, workers=4)
    list(loader(rows, 2))
    assert rows.report is not None
    assert (rows.report.connections, rows.report.workers) == (10, 4)


def test_a_share_of_every_limit(dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cores by ranks of this machine and by workers; what was asked for by workers alone; and never less than can be."""
    monkeypatch.setattr("penstock.torch.available_cores", lambda: 12)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    limits = {"workers": None, "connections": 100, "per_host": 8, "memory": 2**30}
    assert dataset(**limits)._limits(3) == {"workers": 2, "connections": 33, "per_host": 2, "memory": 2**30 // 3}
    assert dataset(**limits | {"workers": 9})._limits(3)["workers"] == 3
    least = {"workers": 1, "connections": 1, "per_host": 1, "memory": 2**24}
    assert dataset(**limits)._limits(1000) == least


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_come_out_of_the_loop(dataset: MakeDataset, loader: MakeLoader, urls: list[str], workers: int) -> None:
    """A list without a good row ends in a NoImagesError, in whichever epoch, and from a worker as well."""
    rows = dataset([urls[7]] * 5)
    rows.set_epoch(3)
    with raises(penstock.NoImagesError, "none of the 5 rows gave an image"):
        list(loader(rows, workers))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 2}, "each pass over it is one"),
        ({"config": penstock.StreamConfig(epochs=None)}, "each pass over it is one"),
        ({"rank": 1}, "expected both or neither"),
        ({"rank": 2, "world_size": 2}, "a rank from 0 on below it"),
        ({"sise": 32}, "did you mean size"),
    ],
)
def test_wrong_options_are_found_at_once(dataset: MakeDataset, options: dict[str, Any], message: str) -> None:
    """What cannot be right is said where the data set is made."""
    with pytest.raises(penstock.ConfigError, match=message):
        dataset(**options)


def test_a_lambda_for_spawned_workers_is_named(dataset: MakeDataset, loader: MakeLoader) -> None:
    """What cannot be sent to a worker is named, with the way out."""
    rows = dataset(strategy="threads", transform_image=lambda image, _row: image)
    with raises(penstock.ConfigError, "lambda.*or give the DataLoader multiprocessing_context"):
        list(loader(rows, 1, multiprocessing_context="spawn"))


def test_streams_need_no_torch() -> None:
    """Without PyTorch, `penstock.stream` is there, and `penstock.torch` says what to install."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import penstock; penstock.stream\n"
        "try:\n    import penstock.torch\nexcept penstock.MissingExtraError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "penstock.torch needs PyTorch: pip install torch"
