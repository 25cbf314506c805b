"""Data-parallel gradients on a Dask cluster: each worker fetches lots of its own, and only gradients travel.

    python examples/dask_gradients.py
    python examples/dask_gradients.py list.csv --classes 10

The list has the columns url and label, a number from 0. Without a list, Penstock serves twelve pictures of its own at 240
URLs, two of which are broken. The images are fetched once and stay in the workers' memory; each step asks every lot for the
sum of its gradients. Then the same gradient is computed here, in one process over all images, and the two are compared.
"""

import argparse
from typing import Any

import numpy as np
import numpy.typing as npt
from dask.delayed import delayed
from distributed import Client

import penstock.dask
from penstock.demo import demo_urls
from penstock.testing.server import ImageServer

SIZE = 16
STEPS = 5
RATE = 0.1

Array = npt.NDArray[np.float64]


def gradient(weights: Array, batch: dict[str, Any]) -> tuple[Array, float, int]:
    """The sums of gradients and losses of a softmax regression over a batch, and the number of its images."""
    images = np.asarray(batch["image"], dtype=np.float64).reshape(len(batch["image"]), -1) / 255
    labels = np.array([int(label) for label in batch["label"]])
    scores = images @ weights
    scores -= scores.max(axis=1, keepdims=True)
    chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    loss = -np.log(chances[np.arange(len(labels)), labels]).sum()
    chances[np.arange(len(labels)), labels] -= 1
    return images.T @ chances, float(loss), len(labels)


def averaged(parts: list[tuple[Array, float, int]]) -> tuple[Array, float]:
    """The mean gradient and loss over all images."""
    count = sum(number for _, _, number in parts)
    total: Array = np.sum([part for part, _, _ in parts], axis=0)
    return total / count, sum(loss for _, loss, _ in parts) / count


def train(client: Client, source: Any, classes: int, **options: Any) -> None:
    """A few steps of gradient descent on the cluster; after each, compare with one process."""
    options |= {"size": SIZE, "keep_columns": ("label",)}
    lots = client.persist(penstock.dask.lots(source, lot=32, **options))
    with penstock.stream(source, batch_size=64, workers=1, **options) as batches:
        here = [{"image": batch.images.copy(), "label": list(batch.fields["label"])} for batch in batches]
    weights: Array = np.zeros((3 * SIZE * SIZE, classes))
    for step in range(STEPS):
        slope, loss = averaged(client.gather(client.compute([delayed(gradient)(weights, lot) for lot in lots])))
        alone, _ = averaged([gradient(weights, batch) for batch in here])
        difference = float(np.abs(slope - alone).max())
        print(f"step {step}: mean loss {loss:.4f} over {len(lots)} lots; one process differs by {difference:.1e}")
        weights -= RATE * slope


def main() -> None:
    """Train on a cluster of this machine; give `Client` an address for another one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("list", nargs="?", help="with the columns url and label")
    parser.add_argument("--classes", type=int, default=12)
    given = parser.parse_args()
    with Client(n_workers=2, threads_per_worker=1, dashboard_address=":0") as client:
        if given.list:
            train(client, given.list, given.classes)
            return
        with ImageServer(count=12, mean_bytes=20_000) as server:
            rows = [{"url": url, "label": index % 12} for index, url in enumerate(demo_urls(server, 240))]
            train(client, rows, given.classes, per_host=64, allow_network=("127.0.0.0/8",))


if __name__ == "__main__":
    main()
