"""Lanes as tasks of a Dask cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import queue
import time
import uuid
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from penstock.config import available_cores
from penstock.engines.caller import UnansweredError
from penstock.engines.driver import Ending
from penstock.engines.entry import make_entry, outcome_of
from penstock.engines.hub import PATIENCE, Hub, News, Reply, Word
from penstock.engines.messages import Broken, Lost
from penstock.engines.task import Task, pickled_task, serve_task
from penstock.errors import ConfigError, MissingExtraError, WorkerError

try:
    import cloudpickle
    import dask
    import distributed
    from distributed.scheduler import KilledWorker
    from distributed.utils import sync
except ImportError as error:
    raise MissingExtraError("--engine dask needs other packages: pip install 'penstock[dask]'") from error

__all__ = ["DaskCluster", "serve"]

DRIVER_PATIENCE = 30.0
"""Seconds that the driver waits for the hub's answer."""


class _HubPlugin(distributed.SchedulerPlugin):
    """The hub inside the scheduler, which every worker can reach; asked by messages of the scheduler's own protocol."""

    def __init__(self, name: str, per_host: int) -> None:
        self.name = name
        self._per_host = per_host

    async def start(self, scheduler: Any) -> None:
        self._hub = Hub(self._per_host, time.monotonic())
        self._scheduler = scheduler
        scheduler.handlers[self.name] = self._answer

    async def _answer(self, what: str, given: bytes) -> bytes:
        loaded, now = pickle.loads(given), time.monotonic()  # noqa: S301 - by our own driver and workers
        calls: dict[str, Callable[[], Any]] = {
            "exchange": lambda: self._hub.exchange(loaded, now),
            "leave": lambda: self._hub.left(loaded),
            "drain": lambda: self._hub.drain(loaded, now),
            "stop": self._hub.stop,
            "close": self._close,
        }
        return pickle.dumps(calls[what]())

    def _close(self) -> None:
        del self._scheduler.handlers[self.name]


class _Line:
    """By the worker's connection to its scheduler."""

    def __init__(self, name: str, worker: Any) -> None:
        self._name = name
        self._worker = worker

    def exchange(self, word: Word) -> Reply:
        reply: Reply = self._ask("exchange", word)
        return reply

    def leave(self, lane: str) -> None:
        with contextlib.suppress(ConnectionError):
            self._ask("leave", lane)

    def _ask(self, what: str, given: Any) -> Any:
        asking = getattr(self._worker.scheduler, self._name)
        try:
            answer = sync(
                self._worker.loop, partial(asking, what=what, given=pickle.dumps(given)), callback_timeout=PATIENCE
            )
        except TimeoutError as error:
            raise UnansweredError(f"no answer within {PATIENCE:.0f} s") from error
        except Exception as error:  # a dozen kinds, of tornado, asyncio and distributed
            raise ConnectionError(repr(error)) from error
        return pickle.loads(answer)  # noqa: S301 - by our own plugin


def serve(pickled: bytes, name: str) -> bytes:
    """On the worker: see `penstock.engines.entry`."""
    return serve_task(pickled, _Line(name, distributed.get_worker()))


class DaskCluster:
    """A `penstock.engines.driver.Cluster`: one that is given, or a `LocalCluster` of its own.

    A task counts as one thread of its worker, and uses one core.

    Args:
        where: a client, a cluster, the scheduler's address, its ``.json`` file; None takes the client of the task that
            this is, or what Dask's configuration names, or starts a cluster here.
        per_host: requests at a time at one host, of all tasks together.

    Raises:
        ConfigError: there is no scheduler there.
    """

    def __init__(self, where: Any, *, per_host: int) -> None:
        self._closing = contextlib.ExitStack()
        self._name = f"penstock_{uuid.uuid4().hex[:8]}"
        self._futures: dict[str, Any] = {}
        self._ready: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._client: Any = _connect(where, self._closing)
        try:
            self._client.register_plugin(_HubPlugin(self._name, per_host), name=self._name)
        except Exception as error:
            self._closing.close()
            raise WorkerError(f"the Dask scheduler cannot load penstock ({error}); install it there, too") from error
        self._entry = make_entry(__name__)

    def slots(self) -> int:
        """Threads of all workers."""
        return sum(self._client.nthreads().values())

    def submit(self, task: Task) -> None:
        """Have some worker run it."""
        future = self._client.submit(
            self._entry,
            pickled_task(task, cloudpickle.dumps),
            self._name,
            key=f"penstock-lane-{self._name}-{task.first:05d}-{task.lot}",
            pure=False,
            priority=-task.first,
        )
        self._futures[task.lot] = future
        future.add_done_callback(lambda _, lot=task.lot: self._ready.put(lot))

    def ended(self, timeout: float) -> list[tuple[str, Ending]]:
        """See `Cluster.ended`."""
        ready: list[str] = []
        with contextlib.suppress(queue.Empty):
            ready.append(self._ready.get(timeout=timeout))
            while True:
                ready.append(self._ready.get_nowait())
        return [(lot, self._ending(self._futures.pop(lot))) for lot in ready if lot in self._futures]

    def _ending(self, future: Any) -> Ending:
        try:
            return outcome_of(future.result(timeout=DRIVER_PATIENCE))
        except KilledWorker as error:
            return Lost(f"Dask gave up the task after the deaths of {error.allowed_failures + 1} workers")
        except (distributed.CancelledError, TimeoutError) as error:
            return Lost(f"the task was lost: {error!r}")
        except Exception as error:  # noqa: BLE001 - of the worker's
            return Broken(WorkerError(f"a Dask task failed before it began: {error!r}"))
        finally:
            future.release()  # or its result would be made again when its worker dies

    def drain(self, ended: Collection[str]) -> News:
        """See `Cluster.drain`."""
        try:
            news: News = self._ask("drain", list(ended))
        except Exception as error:
            raise WorkerError(f"the Dask scheduler does not answer ({error!r}); run again: it goes on") from error
        return news

    def _ask(self, what: str, given: Any = None) -> Any:
        asking = getattr(self._client.scheduler, self._name)
        answer = sync(
            self._client.loop, partial(asking, what=what, given=pickle.dumps(given)), callback_timeout=DRIVER_PATIENCE
        )
        return pickle.loads(answer)  # noqa: S301 - by our own plugin

    def stop(self) -> None:
        """See `Cluster.stop`."""
        self._ask("stop")

    def close(self) -> None:
        """Cancel what still runs, and close what was opened here."""
        with self._closing:
            with contextlib.suppress(Exception):  # the scheduler may be gone, which has been said
                self._client.cancel(list(self._futures.values()), force=True)
                self._ask("close")
                self._client.unregister_scheduler_plugin(self._name)
            self._futures.clear()


def _connect(where: Any, closing: contextlib.ExitStack) -> Any:
    """A client; what is opened for it goes onto the stack."""
    if isinstance(where, distributed.Client):
        return where
    if where is None:
        with contextlib.suppress(ValueError):  # not inside a task
            return _of_task(closing)
        if not dask.config.get("scheduler-address", None):
            where = closing.enter_context(
                distributed.LocalCluster(
                    n_workers=available_cores(),
                    threads_per_worker=1,
                    processes=True,
                    dashboard_address=":0",
                    silence_logs=logging.ERROR,
                )
            )
    options: dict[str, Any] = {"address": where}
    if isinstance(where, (str, os.PathLike)) and os.fspath(where).endswith(".json"):
        if not os.path.exists(where):  # noqa: PTH110 - the client would wait for it without end
            raise ConfigError(f"--address {os.fspath(where)}: there is no such file")
        options = {"scheduler_file": os.fspath(where)}
    try:
        return closing.enter_context(distributed.Client(**options, set_as_default=False))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"--address {where}: no Dask scheduler there ({error})") from error


def _of_task(closing: contextlib.ExitStack) -> Any:
    """The client of the task that this is.

    Raises:
        ValueError: it is none.
    """
    distributed.get_worker()
    client = distributed.get_client()
    distributed.secede()  # the thread only waits from now on: the worker may run something else
    closing.callback(distributed.rejoin)
    return client
