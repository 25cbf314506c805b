"""`penstock.ray` and `penstock.dask`: the images of a list inside somebody else's scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import penstock
from clusters import dask_cluster, ray_cluster
from penstock.errors import ConfigError
from penstock.testing.server import ImageServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.leaks_ok("a cluster opens and closes connections and threads as it likes"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning"),  # Ray's own batches
]

OPTIONS: dict[str, Any] = {"size": 32, "lot": 8, "allow_network": ("127.0.0.0/8",), "keep_columns": ("label",)}


@pytest.fixture
def table(image_server: ImageServer, tmp_path: Path) -> Path:
    """Twenty rows, of which the 7th fails, with a number each."""
    urls = image_server.image_urls(20)
    urls[7] = f"{image_server.url}/status/404?i=7"
    path = tmp_path / "urls.parquet"
    pq.write_table(pa.table({"url": urls, "label": list(range(20))}), path)
    return path


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with ray_cluster() as module:
        yield module


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with dask_cluster() as connected:
        yield connected


def expected(table: Path) -> dict[int, np.ndarray]:
    """The images of a stream, by label."""
    with penstock.stream(
        table, size=32, keep_columns=("label",), allow_network=("127.0.0.0/8",), ordered=True
    ) as batches:
        return {
            label: image.copy()
            for batch in batches
            for image, label in zip(batch.images, batch.fields["label"], strict=True)
        }


def test_ray_dataset_is_the_stream(ray: Any, table: Path) -> None:
    """The same pixels, with their columns, as one array a batch; what failed is left out."""
    import penstock.ray

    dataset = penstock.ray.dataset(table, **OPTIONS)
    got: dict[int, Any] = {}
    for batch in dataset.iter_batches(batch_size=6):
        assert batch["image"].shape[1:] == (32, 32, 3)
        assert batch["image"].dtype == np.uint8
        got |= dict(zip(batch["label"].tolist(), batch["image"], strict=True))
    wanted = expected(table)
    assert sorted(got) == sorted(wanted) == [label for label in range(20) if label != 7]
    assert all(np.array_equal(got[label], wanted[label]) for label in wanted)


def test_ray_dataset_gives_torch_batches(ray: Any, table: Path, require_torch: Any) -> None:
    """``iter_torch_batches`` takes it as it is."""
    import penstock.ray

    dataset = penstock.ray.dataset(table, **OPTIONS)
    batches = list(dataset.iter_torch_batches(batch_size=10))
    assert [tuple(batch["image"].shape) for batch in batches] == [(10, 32, 32, 3), (9, 32, 32, 3)]
    assert {batch["image"].dtype for batch in batches} == {require_torch.uint8}


def test_failures_are_kept_if_asked(ray: Any, table: Path) -> None:
    """Then every row of the list is there, with its outcome."""
    import penstock.ray

    rows = penstock.ray.dataset(table, **OPTIONS, failures="keep").take_all()
    assert len(rows) == 20
    [failed] = [row for row in rows if row["outcome"] != "written"]
    assert (failed["label"], failed["reason"]) == (7, "http.not_found")
    assert not failed["image"].any()


def test_lot_in_which_all_rows_fail(ray: Any, image_server: ImageServer) -> None:
    """It gives no rows, and does no harm to the others' columns."""
    import penstock.ray

    urls = [f"{image_server.url}/status/404?i={i}" for i in range(8)] + image_server.image_urls(8)
    dataset = penstock.ray.dataset(urls, size=32, lot=8, allow_network=("127.0.0.0/8",))
    assert [row["index"] for row in dataset.take_all()] == list(range(8, 16))
    (batch,) = dataset.iter_batches(batch_size=100)
    assert batch["index"].dtype == np.int64


def test_dask_bag_is_the_stream(client: Any, table: Path) -> None:
    """A mapping for each image, a partition for each lot."""
    import penstock.dask

    bag = penstock.dask.bag(table, **OPTIONS)
    assert bag.npartitions == 3
    got = {row["label"]: row["image"] for row in client.compute(bag, sync=True)}
    wanted = expected(table)
    assert sorted(got) == sorted(wanted)
    assert all(np.array_equal(got[label], wanted[label]) for label in wanted)


def test_dask_lots_are_arrays(client: Any, table: Path) -> None:
    """Delayed batches of one shape, whose rows are known beforehand."""
    import penstock.dask

    batches = client.gather(client.compute(penstock.dask.lots(table, **OPTIONS, failures="keep")))
    assert [batch["image"].shape for batch in batches] == [(8, 32, 32, 3), (8, 32, 32, 3), (4, 32, 32, 3)]
    assert [label for batch in batches for label in batch["label"]] == list(range(20))


def test_options_that_mean_nothing(client: Any, table: Path) -> None:
    """They are refused by name."""
    import penstock.dask

    with pytest.raises(ConfigError, match="unknown option 'batch_size'"):
        penstock.dask.bag(table, batch_size=3)
    with pytest.raises(ConfigError, match="arrays need one shape"):
        penstock.dask.bag(table, resize="fit")
    with pytest.raises(ConfigError, match="expected drop or keep"):
        penstock.dask.bag(table, failures="ignore")  # type: ignore[arg-type]  # that is the point
