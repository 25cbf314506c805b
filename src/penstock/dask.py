"""`penstock.dask`: a list of URLs as a Dask bag of images, or as delayed batches.

::

    import penstock.dask

    bag = penstock.dask.bag("urls.parquet", size=128)
    brightness = bag.map(lambda row: row["image"].mean()).mean().compute()

    for batch in dask.compute(*penstock.dask.lots("urls.parquet", size=128)):
        batch["image"]                                     # (N, 128, 128, 3) uint8

To write shards on a Dask cluster, see `penstock.run` with ``engine="dask"``.
"""

from __future__ import annotations

from typing import Any

from penstock.config import available_cores
from penstock.errors import MissingExtraError
from penstock.image.work import ImageTransform, Initializer, Steps
from penstock.lots import Failures, Images, Lot, open_lots

try:
    import dask.bag
    from dask.delayed import Delayed, delayed
except ImportError as error:
    raise MissingExtraError("penstock.dask needs other packages: pip install 'penstock[dask]'") from error

__all__ = ["bag", "lots"]


def bag(
    source: Any,
    *,
    lot: int = 512,
    tasks: int | None = None,
    failures: Failures = "drop",
    transform_image: ImageTransform | None = None,
    initializer: Initializer | None = None,
    **options: Any,
) -> dask.bag.Bag:
    """A bag with a mapping for each image; nothing is fetched before it is computed.

    A mapping has ``image`` ((size, size, 3) uint8, RGB), ``index`` (the row's position in the list), ``caption`` with
    ``caption_column``, and the columns of ``keep_columns``. Each partition is one lot of rows, and one task, which decodes with one thread.

    Args:
        source: as of `penstock.stream`. Parquet files are read by the tasks themselves, so they have to lie where all
            workers see them; the rows of any other list travel with the graph.
        lot: rows of the list for each partition.
        tasks: how many run at a time: each has its part of ``per_host``, but at least one request at a time. By default as many
            as the current client's cluster has threads, or, without a client, as this machine has cores.
        failures: ``drop`` leaves rows without an image out; ``keep`` gives them zeros, and every row ``url``,
            ``outcome`` and ``reason``.
        transform_image: as of `penstock.stream`; it has to keep the shape.
        initializer: called once in each task, before its first row.
        **options: fields of `StreamConfig` that say what is fetched, how patiently and what becomes of an image.

    Raises:
        ConfigError: an option cannot be used.
        SourceError: the list cannot be read.
        MissingExtraError: on import, if Dask is not installed.
    """
    steps = Steps(None, transform_image, initializer)
    dealt, images = _open(source, lot, tasks, failures=failures, steps=steps, options=options)
    made: dask.bag.Bag = dask.bag.from_delayed([delayed(images.rows)(one) for one in dealt])
    return made


def lots(
    source: Any,
    *,
    lot: int = 512,
    tasks: int | None = None,
    failures: Failures = "drop",
    transform_image: ImageTransform | None = None,
    initializer: Initializer | None = None,
    **options: Any,
) -> list[Delayed]:
    """A delayed batch for each lot of rows: a mapping with ``image`` (N, size, size, 3) uint8 and lists for the other columns.

    The rows of each batch are known beforehand; with ``failures="drop"`` their number is not. Arguments and errors are those
    of `bag`.
    """
    steps = Steps(None, transform_image, initializer)
    dealt, images = _open(source, lot, tasks, failures=failures, steps=steps, options=options)
    return [delayed(images.columns)(delayed(images.rows)(one)) for one in dealt]


def _open(source: Any, lot: int, tasks: int | None, **rest: Any) -> tuple[list[Lot], Images]:
    return open_lots(source, lot=lot, tasks=tasks or _threads(), cores=1, **rest)


def _threads() -> int:
    """Tasks that run at a time wherever a graph is computed by default."""
    try:
        import distributed  # noqa: PLC0415 - a bag may be computed without it

        threads: dict[str, int] = distributed.default_client().nthreads()
    except (ImportError, ValueError):  # there is no client
        return available_cores()
    return max(1, sum(threads.values()))
