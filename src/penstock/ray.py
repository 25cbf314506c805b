"""`penstock.ray`: a list of URLs as a `ray.data.Dataset` of images.

::

    import penstock.ray

    dataset = penstock.ray.dataset("urls.parquet", size=224, keep_columns=("label",))
    for batch in dataset.iter_torch_batches(batch_size=64):
        train(batch["image"], batch["label"])             # (64, 224, 224, 3) uint8

To write shards on a Ray cluster, see `penstock.run` with ``engine="ray"``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.errors import MissingExtraError
from penstock.image.work import ImageTransform, Initializer, Steps
from penstock.lots import Failures, Images, Lot, open_lots

try:
    import ray
    import ray.data
except ImportError as error:
    raise MissingExtraError("penstock.ray needs another package: pip install 'penstock[ray]'") from error

__all__ = ["dataset"]

BLOCK_BYTES = 32 * 2**20
"""Bytes of pixels that go into the object store at a time: a few blocks for each core are always on their way."""


def dataset(
    source: Any,
    *,
    lot: int = 512,
    num_cpus: int = 1,
    concurrency: int | None = None,
    failures: Failures = "drop",
    transform_image: ImageTransform | None = None,
    initializer: Initializer | None = None,
    **options: Any,
) -> ray.data.Dataset:
    """The images of a list, fetched and decoded by tasks of Ray Data as they are consumed.

    >>> dataset = penstock.ray.dataset("urls.parquet", size=128)  # doctest: +SKIP
    >>> next(iter(dataset.iter_batches(batch_size=32)))["image"].shape  # doctest: +SKIP
    (32, 128, 128, 3)

    Each row has ``image`` ((size, size, 3) uint8, RGB), ``index`` (its position in the list), ``caption`` with
    ``caption_column``, and the columns of ``keep_columns``: as long as those are numbers, `iter_torch_batches` takes the
    dataset as it is (texts are no tensors; leave them out with `select_columns`). Parquet files are read by the tasks themselves, so they have to lie where all nodes see them; any
    other list goes into Ray's object store, URLs and all.

    Args:
        source: as of `penstock.stream`.
        lot: rows of the list for each task.
        num_cpus: cores of each task, which decodes with as many threads.
        concurrency: tasks at a time; by default as many as the cluster has cores for.
        failures: ``drop`` leaves rows without an image out; ``keep`` gives them zeros, and every row the columns
            ``url``, ``outcome`` (written, failed, skipped) and ``reason`` (empty for a written row).
        transform_image: as of `penstock.stream`; it has to keep the shape.
        initializer: called once in each task, before its first row.
        **options: fields of `StreamConfig` that say what is fetched, how patiently and what becomes of an image.
            ``per_host`` is divided by the number of tasks, but each has at least one request at a time.

    Raises:
        ConfigError: an option cannot be used.
        SourceError: the list cannot be read.
        MissingExtraError: on import, if Ray is not installed.
    """
    if not ray.is_initialized():
        ray.init()
    tasks = concurrency or max(1, int(ray.cluster_resources().get("CPU", 1)) // num_cpus)
    steps = Steps(None, transform_image, initializer)
    lots, images = open_lots(
        source, lot=lot, tasks=tasks, cores=num_cpus, failures=failures, steps=steps, options=options
    )
    items = ray.data.from_items([{"lot": one} for one in lots], override_num_blocks=len(lots))
    task: Any = _images  # Ray's annotation knows no further arguments
    return items.map_batches(
        task,
        batch_size=1,
        num_cpus=num_cpus,
        concurrency=concurrency,
        fn_kwargs={"images": images},
        zero_copy_batch=True,
    )


def _images(batch: dict[str, npt.NDArray[Any]], images: Images) -> Iterator[dict[str, Any]]:
    """In a task of Ray Data: the lots of its batch, in pieces of some megabytes."""
    size = max(1, BLOCK_BYTES // (3 * images.config.size**2))
    for one in batch["lot"]:
        assert isinstance(one, Lot)
        rows = images.rows(one)
        for start in range(0, len(rows), size):
            columns = images.columns(rows[start : start + size])
            yield {
                name: column if isinstance(column, np.ndarray) else _column(column) for name, column in columns.items()
            }


def _column(values: list[Any]) -> npt.NDArray[Any]:
    """As Ray Data takes it: numbers and texts as they are, anything else as objects."""
    plain = np.array(values) if values and all(isinstance(value, type(values[0])) for value in values) else None
    if plain is not None and plain.ndim == 1 and plain.dtype.kind in "biufU":
        return plain
    column = np.empty(len(values), object)
    column[:] = values
    return column
