"""Lanes as tasks of a Ray cluster."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Collection
from typing import Any

from penstock.engines.caller import UnansweredError
from penstock.engines.driver import Ending
from penstock.engines.entry import make_entry, outcome_of
from penstock.engines.hub import PATIENCE, Hub, News, Reply, Word
from penstock.engines.messages import Broken, Lost
from penstock.engines.task import Task, pickled_task, serve_task
from penstock.errors import ConfigError, MissingExtraError, WorkerError

try:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError as error:
    raise MissingExtraError("--engine ray needs another package: pip install 'penstock[ray]'") from error

__all__ = ["RayCluster", "serve"]

DRIVER_PATIENCE = 30.0
"""Seconds that the driver waits for the hub's answer."""

HUB_PATIENCE = 120.0
"""Seconds that the hub may take to start."""

_STALE = 5.0
"""Seconds after which the number of the cluster's cores is asked for again."""


class _HubActor:
    """The hub where lanes can reach it. Ray runs one call at a time."""

    def __init__(self, per_host: int) -> None:
        self._hub = Hub(per_host, time.monotonic())

    def exchange(self, word: Word) -> Reply:
        return self._hub.exchange(word, time.monotonic())

    def leave(self, lane: str) -> None:
        self._hub.left(lane)

    def drain(self, ended: Collection[str]) -> News:
        return self._hub.drain(ended, time.monotonic())

    def stop(self) -> None:
        self._hub.stop()


class _Line:
    """By the actor's handle."""

    def __init__(self, hub: Any) -> None:
        self._hub = hub

    def exchange(self, word: Word) -> Reply:
        try:
            reply: Reply = ray.get(self._hub.exchange.remote(word), timeout=PATIENCE)
        except ray.exceptions.GetTimeoutError as error:
            raise UnansweredError(str(error)) from error
        except ray.exceptions.RayError as error:
            raise ConnectionError(str(error)) from error
        return reply

    def leave(self, lane: str) -> None:
        self._hub.leave.remote(lane)


def serve(pickled: bytes, hub: Any) -> bytes:
    """On the worker: see `penstock.engines.entry`."""
    return serve_task(pickled, _Line(hub))


class RayCluster:
    """A `penstock.engines.driver.Cluster`: the one that this process is connected to, or that it connects to or starts.

    Args:
        address: as `ray.init` takes it: ``auto`` for a cluster that must exist, ``ray://…``, ``host:port``; None joins the
            cluster of ``RAY_ADDRESS``, or starts one here.
        cores: that each task has.
        per_host: requests at a time at one host, of all tasks together.

    Raises:
        ConfigError: there is no cluster at the address.
        WorkerError: it does not start the hub.
    """

    def __init__(self, address: str | None, *, cores: int, per_host: int) -> None:
        self._opened = not ray.is_initialized()
        if self._opened:
            _connect(address)
        self._cores = cores
        self._lots: dict[Any, str] = {}
        affinity = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        self._hub: Any = ray.remote(_HubActor).options(num_cpus=0, scheduling_strategy=affinity).remote(per_host)
        self._wait_for_hub()
        self._entry = ray.remote(make_entry(__name__))
        self._session = uuid.uuid4().hex[:8]
        self._slots = 0
        self._asked = -_STALE

    def _wait_for_hub(self) -> None:
        """A lane would not wait so long: the hub is a process that starts, and that Ray gives a low priority."""
        try:
            ray.get(self._hub.drain.remote([]), timeout=HUB_PATIENCE)
        except ray.exceptions.RayError as error:
            self.close()
            raise WorkerError(
                f"the run's coordinator did not start in the Ray cluster within {HUB_PATIENCE:.0f} s ({error}); "
                "it is an actor without CPUs, on the node of the driver where that can be"
            ) from error

    def slots(self) -> int:
        """Tasks for which the cluster has cores."""
        now = time.monotonic()
        if now - self._asked >= _STALE:
            self._slots, self._asked = int(_resources().get("CPU", 0)) // self._cores, now
        return self._slots

    def submit(self, task: Task) -> None:
        """Have some worker run it, once: what becomes of it when the worker dies is the driver's decision."""
        entry = self._entry.options(
            name=f"penstock-{self._session}-{task.first:05d}",
            num_cpus=self._cores,
            max_retries=0,
            scheduling_strategy="SPREAD",
        )
        self._lots[entry.remote(pickled_task(task, ray.cloudpickle.dumps), self._hub)] = task.lot

    def ended(self, timeout: float) -> list[tuple[str, Ending]]:
        """See `Cluster.ended`."""
        if not self._lots:
            return []
        references = list(self._lots)
        ready, _ = ray.wait(references, num_returns=1, timeout=timeout)
        if ready:
            ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
        return [(self._lots.pop(reference), _ending(reference)) for reference in ready]

    def drain(self, ended: Collection[str]) -> News:
        """See `Cluster.drain`."""
        try:
            news: News = ray.get(self._hub.drain.remote(list(ended)), timeout=DRIVER_PATIENCE)
        except ray.exceptions.RayError as error:
            raise WorkerError(
                f"the run's coordinator in the Ray cluster is gone ({error}); run again: it goes on"
            ) from error
        return news

    def stop(self) -> None:
        """See `Cluster.stop`."""
        self._hub.stop.remote()

    def close(self) -> None:
        """Cancel what still runs; end the cluster if it was started here."""
        for reference in self._lots:
            ray.cancel(reference, force=True)
        self._lots.clear()
        if self._opened:
            ray.shutdown()
        else:
            ray.kill(self._hub)


def _resources() -> dict[str, float]:
    resources: dict[str, float] = ray.cluster_resources()
    return resources


def _connect(address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of ours does not phone home
    local: dict[str, Any] = {} if address or "RAY_ADDRESS" in os.environ else {"include_dashboard": False}
    try:
        ray.init(address=address, logging_level=logging.WARNING, **local)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"--address {address}: no Ray cluster there ({str(error).strip().splitlines()[0]})"
        ) from error


def _ending(reference: Any) -> Ending:
    """How a task ended that Ray calls ready."""
    try:
        return outcome_of(ray.get(reference))
    except ray.exceptions.RayTaskError as error:
        return Broken(WorkerError(f"a Ray task failed before it began: {error.cause!r}"))
    except ray.exceptions.RayError as error:
        return Lost(str(error).strip().splitlines()[0])
