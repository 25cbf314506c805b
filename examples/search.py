"""A search for hyper-parameters: the pictures are fetched and decoded once, and every training reads the same shards.

    python examples/search.py
    python examples/search.py list.csv shards --classes 10

The list has the columns url and label, a number from 0. Without a list, Penstock serves twelve pictures of its own at 600
URLs; its server is gone before the first training begins. Every fifth row is held out, and the best settings are those
that do best on these.
"""

import argparse
import itertools
import multiprocessing
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import penstock
from penstock.demo import demo_urls
from penstock.testing.server import ImageServer

RATES = (1e-3, 1e-2)
WIDTHS = (8, 16)
EPOCHS = 2


def network(width: int, classes: int) -> nn.Module:
    """Two convolutions and a linear layer, for images of any size."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(2 * width * 4 * 4, classes),
    )


def labelled(batches: penstock.Stream, *, held_out: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels of the rows that are held out, or of the others."""
    for batch in batches:
        chosen = np.array([(int(key) % 5 == 0) is held_out for key in batch.keys])
        labels = np.array([int(label) for label in batch.fields["label"]])
        if chosen.any():
            yield torch.from_numpy(batch.as_float()[chosen]).permute(0, 3, 1, 2), torch.from_numpy(labels[chosen])


def trial(shards: str, classes: int, settings: tuple[float, int]) -> float:
    """Train with a learning rate and a width; the accuracy on what was held out."""
    rate, width = settings
    torch.set_num_threads(1)  # there is a process for each core already
    torch.manual_seed(0)
    model = network(width, classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    with penstock.stream(shards, batch_size=32, shuffle=1000, ordered=True, epochs=EPOCHS, workers=1) as batches:
        for images, labels in labelled(batches, held_out=False):
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    right = []
    with penstock.stream(shards, batch_size=32, workers=1) as batches, torch.no_grad():
        for images, labels in labelled(batches, held_out=True):
            right += (model(images).argmax(dim=1) == labels).tolist()
    return sum(right) / len(right)


def search(shards: str, classes: int) -> None:
    """All the trials, two at a time; each sees the same rows in the same order. Prints all of them and the best."""
    every = list(itertools.product(RATES, WIDTHS))
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as processes:
        accuracies = list(processes.map(partial(trial, shards, classes), every))
    for (rate, width), accuracy in zip(every, accuracies, strict=True):
        print(f"rate {rate:g}, width {width}: accuracy {accuracy:.3f}")
    accuracy, (rate, width) = max(zip(accuracies, every, strict=True))
    print(f"best: rate {rate:g}, width {width}, with accuracy {accuracy:.3f}")


def write_shards(source: Any, shards: str, **options: Any) -> None:
    """Fetch and decode once; a second call with the same list finds the shards finished."""
    report = penstock.run(source, shards, format="arrays", size=64, keep_columns=("label",), **options)
    print(f"{report.written} images in {shards}, {report.failed} failures {dict(report.reasons)}")


def main() -> None:
    """Write shards if there are none yet, and search."""
    parser = argparse.ArgumentParser()
    parser.add_argument("list", nargs="?", help="with the columns url and label")
    parser.add_argument("shards", nargs="?", help="folder for the shards")
    parser.add_argument("--classes", type=int, default=12)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shards = given.shards or folder
        if given.list:
            write_shards(given.list, shards)
        else:
            with ImageServer(count=12, mean_bytes=20_000) as server:
                rows = [{"url": url, "label": index % 12} for index, url in enumerate(demo_urls(server, 600))]
                write_shards(rows, shards, per_host=64, allow_network=("127.0.0.0/8",))
        search(shards, given.classes)


if __name__ == "__main__":
    main()
