"""`penstock.torch`: a list of URLs as a data set of PyTorch.

::

    from torch.utils.data import DataLoader
    from penstock.torch import UrlDataset

    dataset = UrlDataset("urls.parquet", size=224, batch_size=64, shuffle=10_000)
    for epoch in range(3):
        for batch in DataLoader(dataset, batch_size=None, num_workers=2, pin_memory=True):
            train(batch.to("cuda", non_blocking=True).as_float())

Each item is a whole batch, hence ``batch_size=None``: batches are made where the images are, and not of single tensors that
were sent through a pipe. Where the work is done depends on `num_workers`::

    num_workers=0    training process ◀── batches ── the stream's process ── its workers      as `penstock.stream`
    num_workers=k    training process ◀── tensors ── k workers of the DataLoader, each a stream in threads of its own

With 0 the tensors are the memory that the images were written into. The k workers of a DataLoader copy each batch once more,
into shared memory of PyTorch's; what they spare the training process is little, since the stream stands in another process
anyway. So 0 is a good number, and others are for programs that have one.

Rows are split by rank and worker: worker w of k on rank r of n has part ``r * k + w`` of ``n * k``.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import get_spawning_popen
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from penstock.config import StreamConfig, available_cores
from penstock.crew.script import stop_if_in_worker
from penstock.errors import ConfigError, MissingExtraError, StateRefusedError
from penstock.image.work import ImageTransform, Initializer, Steps, Transform
from penstock.records import Outcome, PartOutcome
from penstock.report.report import Report
from penstock.streaming.batch import Batch
from penstock.streaming.board import Board, merged
from penstock.streaming.planning import Plan, make_plan
from penstock.streaming.stream import Stream

try:
    import torch
    from torch.utils.data import IterableDataset, get_worker_info
    from torch.utils.data._utils.collate import default_collate_fn_map
except ImportError as error:
    raise MissingExtraError("penstock.torch needs PyTorch: pip install torch") from error

__all__ = ["TorchBatch", "UrlDataset"]

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - where PyTorch puts the tensors of its workers; we only ask how much room there is
"""In containers 64 MB, unless they are given more."""

MARGIN = 2
"""Times the memory that all workers together need next which must be free. The rest is for whoever else writes there."""

LEAST_MEMORY = 2**24
"""Bytes: the least that the option `memory` takes."""

_logger = logging.getLogger("penstock")


@dataclass(frozen=True, slots=True, eq=False)
class TorchBatch:
    """A `penstock.Batch` with tensors for its arrays."""

    keys: list[str]
    """Of each row: its position in the list, with nine digits; as the keys in shards."""
    parts: Mapping[str, Any]
    """Everything that the rows turned into, by name: a tensor with N as its first axis, or a list of N values.

    An array whose dtype PyTorch does not have stays an array.
    """
    fields: Mapping[str, list[Any]]
    """The kept columns, each a list of N values: ``torch.tensor(batch.fields["label"])``."""
    captions: list[str | None] | None
    """Of the caption column, if one was asked for."""
    outcomes: tuple[Outcome, ...]
    """Rows that fell out since the last batch, with their reasons. What falls out behind the last batch of an epoch is in
    `UrlDataset.report` only."""
    epoch: int
    """Counted from 0."""
    part_outcomes: list[Mapping[str, PartOutcome]] = field(default_factory=list)
    """As of `penstock.Batch`."""

    @classmethod
    def of(cls, batch: Batch) -> TorchBatch:
        """The batch with tensors that share the memory of its arrays."""
        parts = {name: _mapped(part, np.ndarray, _tensor) for name, part in batch.parts.items()}
        return cls(batch.keys, parts, batch.fields, batch.captions, batch.outcomes, batch.epoch, batch.part_outcomes)

    @property
    def images(self) -> torch.Tensor:
        """``(N, 3, S, S)`` uint8, RGB, in memory format ``channels_last``: a view of what `penstock.Batch` has.

        With a transform: the first tensor among the parts; only ``(N, H, W, 3)`` uint8 gets its channels moved.

        Raises:
            AttributeError: the rows have no part that is a tensor for all of them.
        """
        part = self._first()
        return _channels_first(part) if _is_pictures(part) else part

    def as_float(
        self, mean: float | Sequence[float] | None = None, std: float | Sequence[float] | None = None
    ) -> torch.Tensor:
        """The images as float32: in [0, 1], or normalised as ``(x / 255 - mean) / std``; computed on the tensor's device.

        >>> batch.as_float(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))  # doctest: +SKIP

        Args:
            mean: of all channels or of each, on the scale of 0 to 1; 0 if only `std` is given.
            std: as `mean`; 1 if only `mean` is given.

        Returns:
            A tensor of its own, of the shape and memory format of `images`: ``(N, 3, S, S)`` for images. The values are those
            of `penstock.Batch.as_float`.

        Raises:
            TypeError: the images are not uint8: a transform has made them, and their scale is its own.
        """
        part = self._first()
        if part.dtype != torch.uint8:
            raise TypeError(
                f"as_float() is for uint8 images, and these are {part.dtype}: the transform has scaled them"
            )
        floats = part.to(torch.float32)
        if mean is None and std is None:
            floats.div_(255)
        else:
            number = functools.partial(torch.as_tensor, dtype=torch.float32, device=part.device)
            deviation = number(1.0 if std is None else std)
            floats.mul_(1 / (255 * deviation)).sub_(number(0.0 if mean is None else mean) / deviation)
        return _channels_first(floats) if _is_pictures(part) else floats

    def to(self, device: torch.device | str | int, *, non_blocking: bool = False) -> TorchBatch:
        """The same batch with its tensors on another device; everything else stays where it is.

        Args:
            device: such as ``"cuda"``.
            non_blocking: do not wait for the copy, which needs pinned memory to have an effect.
        """
        return self._each(torch.Tensor, lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> TorchBatch:
        """The same batch with its tensors in page-locked memory; ``DataLoader(pin_memory=True)`` calls this."""
        return self._each(torch.Tensor, torch.Tensor.pin_memory)

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}: {_shown(part)}" for name, part in self.parts.items())
        return f"<TorchBatch of {len(self)} in epoch {self.epoch}: {shown}>"

    def __reduce__(self) -> tuple[Callable[..., TorchBatch], tuple[Any, ...]]:
        """From a worker of a DataLoader, tensors travel in shared memory; without room there, as bytes through the pipe.

        PyTorch does not ask whether there is room: the batch is lost and the loop waits for ever, or the worker dies of SIGBUS.
        """
        worker = get_worker_info()
        if worker is None or _has_room(worker.num_workers * _bytes_in(list(self.parts.values()))):
            return TorchBatch, _values_of(self)
        return _out_of_pipe, _values_of(self._each(torch.Tensor, torch.Tensor.numpy))

    def _first(self) -> torch.Tensor:
        for part in self.parts.values():
            if isinstance(part, torch.Tensor):
                return part
        raise AttributeError(f"these rows have no images: their parts are {', '.join(self.parts)}")

    def _each(self, kind: type[Any], function: Callable[[Any], Any]) -> TorchBatch:
        """The same batch with another thing for each of a kind among its parts."""
        return dataclasses.replace(
            self, parts={name: _mapped(part, kind, function) for name, part in self.parts.items()}
        )


class UrlDataset(IterableDataset[TorchBatch]):
    """Batches of images straight from a list of URLs, or from a folder that `penstock.run` has written.

    Each pass over it is an epoch, with an order of its own if there is a shuffle; it counts them by itself, in workers that
    are started anew for each pass as in persistent ones. `set_epoch` says otherwise.

    Example::

        dataset = UrlDataset("urls.parquet", size=224, batch_size=64, shuffle=10_000, keep_columns=("label",))
        for batch in DataLoader(dataset, batch_size=None):
            loss = criterion(model(batch.as_float()), torch.tensor(batch.fields["label"]))

    To stop and go on in the middle of an epoch, take a ``StatefulDataLoader`` of torchdata: with any number of workers, a
    resumed epoch delivers each row that is left once. Its `snapshot_every_n_steps` has to stay 1 unless `ordered` is set:
    beyond that it repeats batches and drops them, which presumes that they come in the same order again.

    An error in a worker of a DataLoader comes out of the loop with the same type, but for `RowFailedError`, which PyTorch
    turns into a RuntimeError of the same text.

    Args:
        source: a list or a folder, as `penstock.stream` takes it. For workers of a DataLoader it must be one that can be read
            more than once.
        transform: as there.
        transform_image: as there.
        initializer: as there.
        even: every rank gets the same number of batches, whatever fails, so that none waits for the others for ever; rows come
            again where there are too few. Without ranks it means nothing. With False, `drop_last` alone decides.
        rank: of this process, if there are several that train together; default: that of `torch.distributed`, else the
            environment's ``RANK`` (torchrun sets it), else 0.
        world_size: how many there are; likewise.
        config: all the options at once; or give them one by one:
        **options: fields of `StreamConfig` but `epochs`. Of `connections`, `per_host`, `workers` and `memory`, the workers of a
            DataLoader have equal shares, so that together they keep to them; each rank has all of it.

    Raises:
        ConfigError: an option cannot be used.
        SourceError: the list cannot be read.
        MissingExtraError: an optional package is needed.

    *Cancellation*: leaving the loop, an exception in it, Ctrl-C and garbage collection end every thread and process; those in
    workers of a DataLoader end with it.
    """

    def __init__(
        self,
        source: Any,
        *,
        transform: Transform | None = None,
        transform_image: ImageTransform | None = None,
        initializer: Initializer | None = None,
        even: bool = True,
        rank: int | None = None,
        world_size: int | None = None,
        config: StreamConfig | None = None,
        **options: Any,
    ) -> None:
        stop_if_in_worker()
        if "epochs" in options or (config is not None and config.epochs != 1):
            raise ConfigError("epochs: a UrlDataset has none of its own: each pass over it is one")
        self._source = source
        self._steps = Steps(transform, transform_image, initializer)
        self._even = even
        self._ranks = _given_ranks(rank, world_size)
        self._ranks_at_spawn = (0, 1)
        self._given = config
        self._options = options
        self._board = Board()
        self._passes = 0
        self._loaded: _Pass | None = None
        """What a state has made the next pass."""
        self._running: _Pass | None = None
        """That began last, in this process."""
        self._planned: tuple[tuple[int, ...], Plan] | None = None
        self.config = self._plan().config

    def __iter__(self) -> Iterator[TorchBatch]:
        """One epoch: this rank's and this worker's part of it."""
        if get_worker_info() is None:
            return self._batches(None)
        self._running = self._next_pass()  # now, since the state of a worker may be asked for before its first batch
        return self._batches(self._running)

    @property
    def report(self) -> Report | None:
        """What has become of the rows of the pass that began last; None before the first.

        Of workers of a DataLoader, the sum of what they have handed over so far, some of which may still wait for the loop.
        """
        if reports := self._board.reports():
            return merged(reports)
        return None if self._running is None else self._running.stream.report

    def set_epoch(self, epoch: int) -> None:
        """The next pass is this epoch (counted from 0), as with a DistributedSampler; call it between two passes.

        If a state was loaded that lies in this epoch, the next pass is still the rest of it.
        """
        self._board.set_next(epoch)
        if self._loaded is not None and self._loaded.epoch != epoch:
            self._loaded = None

    def state_dict(self) -> dict[str, Any]:
        """How far the pass has come, as JSON types; may be asked at any moment. StatefulDataLoader calls it in each worker.

        After a pass it is the start of the next one.
        """
        current = self._loaded or self._running
        alone = get_worker_info() is None  # else the other workers may not be at the end of their parts
        if current is None or (current.exhausted and alone):
            current = self._fresh_pass(self._board.next)
        return {**current.stream.state_dict(), "pass": current.epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next pass is what was left of that one: maybe nothing, if it was at its end but for the end itself.

        Only for passes in this process. Workers of a DataLoader get their states from a StatefulDataLoader.

        Raises:
            StateRefusedError: the state is of another list, other options or another number of workers or ranks.
        """
        loaded = self._fresh_pass(_epoch_of(state))
        loaded.stream.load_state_dict(state)
        loaded.over = state["epoch"] > loaded.epoch
        self._loaded = loaded

    def __getstate__(self) -> dict[str, Any]:
        if self._loaded is not None:
            raise _misplaced_state()
        copied = {**self.__dict__, "_running": None, "_planned": None}
        if get_spawning_popen() is not None:
            self._steps.check_picklable(', or give the DataLoader multiprocessing_context="fork"')
            copied["_ranks_at_spawn"] = self._rank_and_world()
        return copied

    def _batches(self, begun: _Pass | None) -> Iterator[TorchBatch]:
        current = self._running = begun or self._next_pass()
        if not current.over:
            with current.stream as batches:
                for batch in map(TorchBatch.of, batches):
                    self._post(current)
                    yield batch
                    del batch  # its memory is free again while the next one is waited for
        self._post(current)
        current.exhausted = True

    def _post(self, current: _Pass) -> None:
        worker = get_worker_info()
        if worker is not None:
            self._board.post(worker.id, current.epoch, current.stream.report)

    def _next_pass(self) -> _Pass:
        """The one that a state was loaded for, or a new one; the other workers get to know its epoch."""
        loaded = self._loaded
        if loaded is not None and loaded.process != os.getpid():
            raise _misplaced_state()
        self._loaded = None
        self._passes += 1
        worker = get_worker_info()
        # What the workers of one iterator over a DataLoader share is their seed without their own number.
        crowd = {} if worker is None else {"crowd": worker.seed - worker.id, "worker": worker.id}
        epoch = self._board.begin(self._passes, **crowd, epoch=None if loaded is None else loaded.epoch)
        return loaded or self._fresh_pass(epoch)

    def _fresh_pass(self, epoch: int) -> _Pass:
        return _Pass(Stream(self._plan().until_epoch(epoch), epoch), epoch, os.getpid())

    def _plan(self) -> Plan:
        """What this process is to do."""
        worker = get_worker_info()
        share = (0, 1) if worker is None else (worker.id, worker.num_workers)
        ranks = self._rank_and_world()
        key = (os.getpid(), *share, *ranks)
        if self._planned is None or self._planned[0] != key:
            self._planned = key, self._new_plan(*share, *ranks)
        return self._planned[1]

    def _new_plan(self, share: int, shares: int, rank: int, world: int) -> Plan:
        plan = make_plan(
            self._source,
            self._steps,
            split=(rank * shares + share, world * shares),
            even=self._even and world > 1,
            config=self._given,
            options={**self._options, **self._limits(shares)},
        )
        if get_worker_info() is not None and not plan.source.rereadable:
            raise ConfigError(
                f"{plan.source.description} can be read only once, and each worker of a DataLoader would read it by itself; "
                "pass a file or a list, or give num_workers=0"
            )
        return plan

    def _limits(self, shares: int) -> dict[str, int]:
        """One share of what the streams of this rank may take together."""
        names = ("workers", "connections", "per_host", "memory")
        given = {name: self._options[name] for name in names if name in self._options}
        asked = dataclasses.replace(self._given or StreamConfig(), **given)
        return {
            "workers": max(1, (asked.workers or available_cores() // _ranks_here()) // shares),
            "connections": max(1, asked.connections // shares),
            "per_host": max(1, asked.per_host // shares),
            "memory": max(LEAST_MEMORY, asked.memory // shares),
        }

    def _rank_and_world(self) -> tuple[int, int]:
        if self._ranks is not None:
            return self._ranks
        # Asked again and again: a data set may be made before the processes know of each other, and spawned workers never do.
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
            return _number_in("RANK"), _number_in("WORLD_SIZE")
        return self._ranks_at_spawn


@dataclass(slots=True, eq=False)
class _Pass:
    """One way through the list."""

    stream: Stream
    epoch: int
    process: int
    """That made it."""
    over: bool = False
    """Nothing was left of its epoch when it began."""
    exhausted: bool = False


def _misplaced_state() -> StateRefusedError:
    return StateRefusedError(
        "a state was loaded in the training process, and workers of a DataLoader make the passes: "
        "load it into a StatefulDataLoader (torchdata), or give num_workers=0"
    )


def _given_ranks(rank: int | None, world_size: int | None) -> tuple[int, int] | None:
    if rank is None and world_size is None:
        return None
    if rank is None or world_size is None or not 0 <= rank < world_size:
        raise ConfigError(
            f"rank={rank!r}, world_size={world_size!r}: expected both or neither, and a rank from 0 on below it"
        )
    return rank, world_size


def _epoch_of(state: Any) -> int:
    epoch = state.get("pass") if isinstance(state, Mapping) else None
    if not isinstance(epoch, int):
        raise StateRefusedError("a UrlDataset goes on from what its state_dict() has given, and this is something else")
    return epoch


def _number_in(variable: str) -> int:
    try:
        return int(os.environ[variable])
    except ValueError:
        raise ConfigError(f"the environment's {variable} is {os.environ[variable]!r}, and no number") from None


def _ranks_here() -> int:
    """Processes on this machine that train together, as far as torchrun tells."""
    return max(1, _number_in("LOCAL_WORLD_SIZE")) if "LOCAL_WORLD_SIZE" in os.environ else 1


def _has_room(size: int) -> bool:
    """Whether as many bytes can go into shared memory from every rank at once."""
    return MARGIN * _ranks_here() * size <= _free_bytes()


def _free_bytes() -> float:
    try:
        there = os.statvfs(SHARED_MEMORY)
    except OSError:  # macOS, where it has another form, and no such bounds
        return math.inf
    return there.f_bavail * there.f_frsize


def _values_of(batch: TorchBatch) -> tuple[Any, ...]:
    return tuple(getattr(batch, spec.name) for spec in dataclasses.fields(batch))


def _out_of_pipe(*values: Any) -> TorchBatch:
    """A batch that a worker could not put into shared memory."""
    _warn_once()
    return TorchBatch(*values)._each(np.ndarray, _tensor)  # noqa: SLF001 - a part of the class that pickle wants outside


@functools.cache
def _warn_once() -> None:
    _logger.warning(
        "batches come through pipes, which is slower: %s has only %.1f MB of room; give the container more (--shm-size), "
        "or the DataLoader fewer workers: with num_workers=0 it needs none",
        SHARED_MEMORY,
        _free_bytes() / 1e6,
    )


def _bytes_in(value: Any) -> int:
    """Of the tensors that it is or has in its lists."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    return sum(map(_bytes_in, value)) if isinstance(value, list) else 0


def _mapped(value: Any, kind: type[Any], function: Callable[[Any], Any]) -> Any:
    """The value with another thing for each of a kind that it is or has in its lists."""
    if isinstance(value, kind):
        return function(value)
    return [_mapped(each, kind, function) for each in value] if isinstance(value, list) else value


def _tensor(array: npt.NDArray[Any]) -> torch.Tensor | npt.NDArray[Any]:
    """A tensor in the array's memory; the array itself if PyTorch has no such dtype."""
    try:
        return torch.from_numpy(np.require(array, requirements=["C", "W"]))
    except (TypeError, ValueError):
        return array


def _is_pictures(part: torch.Tensor) -> bool:
    return part.ndim == 4 and part.shape[-1] == 3 and part.dtype == torch.uint8


def _channels_first(part: torch.Tensor) -> torch.Tensor:
    return part.permute(0, 3, 1, 2)


def _shown(part: Any) -> str:
    return "list" if isinstance(part, list) else f"{part.dtype} {tuple(part.shape)}"


def _refuse_to_collate(_batches: Any, **_options: Any) -> NoReturn:
    raise ConfigError("each item of a UrlDataset is a whole batch already: DataLoader(dataset, batch_size=None)")


default_collate_fn_map[TorchBatch] = _refuse_to_collate
