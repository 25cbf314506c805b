"""`penstock.stream`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from loaders.job import BATCH, CONNECTIONS, SIZE, Job, Pixels
from penstock import stream  # from the package: so its modules are there before the call, as those of the others are


@contextmanager
def batches(job: Job) -> Iterator[Iterator[Pixels]]:
    with stream(
        job.listing,
        size=SIZE,
        batch_size=BATCH,
        workers=job.workers,
        connections=CONNECTIONS,
        per_host=CONNECTIONS,
        allow_network=("127.0.0.0/8",),
    ) as opened:
        yield (batch.images for batch in opened)
