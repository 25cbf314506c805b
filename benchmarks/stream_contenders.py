"""One loader, measured in a process of its own: how quick it is, or what it costs a training step beside it.

    python stream_contenders.py speed "DataLoader, threads" --list urls.txt --corpus DIR --workers 2
    python stream_contenders.py step "DataLoader, threads" --list urls.txt --corpus DIR --workers 1

It prints one line of JSON. `bench_stream` runs them all in turn, and measures their memory from outside.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from loaders.job import BATCH, SIZE, Job, Loader
from measure import tree_cpu

MATRIX = 512
"""Side of the step's matrices: a step is a run of products of a few milliseconds, as a training step is one of operations."""

PRODUCTS = 17
"""In one step: about 50 ms on the core that it was tried on."""

STEPS_ALONE = 20
"""Before the loader starts, and again after it has stopped: so a machine that grows slower does it in both figures."""

STEPS_A_BATCH = 4
"""So few that the loader is the slower of the two, and works through all of them; a run tells the time spent waiting for it."""

STEP_BATCHES = 16
"""Batches between which steps are timed; more are to come, so that the loader has work until the last of them."""

Step = Callable[[], None]
Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Contender:
    """Where a loader is, and how it is set."""

    family: str
    """Who is compared: of each family the quickest."""
    module: str
    function: str
    workers_a_core: int = 1
    whole_batches: bool = False
    """A worker makes a batch by itself, so that as many come at about the same time as there are workers."""
    share: int = 1
    """It gets one row in so many: it is that slow, and its rate does not depend on their number."""

    def at_once(self, cores: int) -> int:
        """Batches that are begun before the first is done."""
        return cores * self.workers_a_core if self.whole_batches else 1


CONTENDERS = {
    "floor": Contender("floor", "floor", "bare_decode", whole_batches=True),
    "penstock.stream": Contender("penstock", "penstock_stream", "batches"),
    "SPDL, threads": Contender("SPDL", "spdl_pipeline", "threads", whole_batches=True),
    "SPDL, in a subprocess": Contender("SPDL", "spdl_pipeline", "subprocess", whole_batches=True),
    "SPDL, processes": Contender("SPDL", "spdl_pipeline", "processes", whole_batches=True),
    "DataLoader, threads": Contender("threads", "torch_dataloader", "threaded", whole_batches=True),
    "DataLoader, threads, 2 workers a core": Contender(
        "threads", "torch_dataloader", "threaded", workers_a_core=2, whole_batches=True
    ),
    "DataLoader, naive": Contender("naive", "torch_dataloader", "naive", whole_batches=True, share=4),
    "DataLoader, naive, 8 workers a core": Contender(
        "naive", "torch_dataloader", "naive", workers_a_core=8, whole_batches=True
    ),
}


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a loader stood when a batch had come."""

    clock: float
    images: int
    cpu: float
    """Seconds of the whole process tree."""


def speed(open_batches: Loader, job: Job, at_once: int) -> Figures:
    """Seconds to the first batch, and what came in the steady state.

    That is from the first batch of every worker, if they make whole ones, to the last but as many: at both ends the others
    are on their way by the same measure.
    """
    begin, end = at_once, len(job.urls) // BATCH - at_once
    marks: dict[int, Mark] = {}
    images = 0
    called = time.monotonic()
    with open_batches(job) as batches:
        for number, batch in enumerate(batches, 1):
            assert batch.shape[1:] == (SIZE, SIZE, 3)
            assert batch.dtype == np.uint8
            images += len(batch)
            if number in {1, begin, end}:
                marks[number] = Mark(time.monotonic(), images, tree_cpu(os.getpid()))
    return {
        "images": images,
        "first_batch": marks[1].clock - called,
        "steady_images": marks[end].images - marks[begin].images,
        "steady_wall": marks[end].clock - marks[begin].clock,
        "steady_cpu": marks[end].cpu - marks[begin].cpu,
    }


def step(open_batches: Loader, job: Job) -> Figures:
    """Median seconds of a step alone and beside the loader; the share of the time that was spent waiting for batches."""
    work = training_step()
    alone = [timed(work) for _ in range(STEPS_ALONE)]
    beside: list[float] = []
    images = 0
    with open_batches(job) as batches:
        next(batches)
        clock = time.perf_counter()
        for batch in itertools.islice(batches, STEP_BATCHES):
            images += len(batch)
            beside += [timed(work) for _ in range(STEPS_A_BATCH)]
        seconds = time.perf_counter() - clock
    alone += [timed(work) for _ in range(STEPS_ALONE)]
    assert images == STEP_BATCHES * BATCH
    return {
        "alone": statistics.median(alone),
        "beside": statistics.median(beside),
        "waiting": 1 - sum(beside) / seconds,
        "rate": images / seconds,
    }


def training_step() -> Step:
    """A fixed amount of work on one core, if the BLAS is told to have one thread."""
    chance = np.random.default_rng(0)
    left, right = (chance.random((MATRIX, MATRIX), np.float32) for _ in range(2))
    out = np.empty_like(left)

    def work() -> None:
        for _ in range(PRODUCTS):
            np.matmul(left, right, out=out)

    return work


def timed(work: Step) -> float:
    clock = time.perf_counter()
    work()
    return time.perf_counter() - clock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "step"))
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("--list", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--workers", type=int, required=True, help="decoders")
    parser.add_argument("--begun", type=float, default=time.monotonic(), help="monotonic time of the process's start")
    options = parser.parse_args()
    contender = CONTENDERS[options.name]
    job = Job(options.list, options.corpus, options.workers * contender.workers_a_core)
    open_batches = cast("Loader", getattr(importlib.import_module(f"loaders.{contender.module}"), contender.function))
    before_call = time.monotonic() - options.begun
    if options.what == "speed":
        figures = speed(open_batches, job, contender.at_once(options.workers))
    else:
        figures = step(open_batches, job)
    print(json.dumps(figures | {"before_call": before_call}))


if __name__ == "__main__":
    main()
