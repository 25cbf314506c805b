"""Clusters on this machine, for tests: several worker processes each, and nothing left of them afterwards."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

__all__ = ["dask_cluster", "ray_cluster"]

WORKERS = 3
"""One more than this machine may have cores, so that lanes really are several."""


@contextlib.contextmanager
def ray_cluster(workers: int = WORKERS) -> Iterator[Any]:
    """The ray module, connected to a cluster of its own; the test is skipped where Ray is not installed."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray = pytest.importorskip("ray", reason="ray is not installed: the extra `ray` has it")
    tests = str(Path(__file__).parent)
    paths = os.pathsep.join([tests, *(path for path in sys.path if path)])
    ray.init(
        num_cpus=workers,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        logging_level=logging.ERROR,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
    )
    try:
        yield ray
    finally:
        ray.shutdown()


@contextlib.contextmanager
def dask_cluster(workers: int = WORKERS) -> Iterator[Any]:
    """A client of a cluster of its own; the test is skipped where Dask is not installed."""
    distributed = pytest.importorskip("distributed", reason="distributed is not installed: the extra `dask` has it")
    with (
        distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client
