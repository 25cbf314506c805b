"""The search of search.py with Ray Tune: the pictures are fetched and decoded once, and every trial reads the same shards.

    python examples/ray_tune.py
    python examples/ray_tune.py list.csv /shared/shards --classes 10

The list has the columns url and label, a number from 0. Without a list, Penstock serves twelve pictures of its own at 600
URLs; its server is gone before the first trial begins. Every fifth row is held out, and the best settings are those that
do best on these. On several machines the shards have to lie where all of them see them.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray import tune
from torch import Tensor, nn

import penstock
from penstock.demo import demo_urls
from penstock.testing.server import ImageServer

SPACE = {"rate": tune.grid_search([1e-3, 1e-2]), "width": tune.grid_search([8, 16])}
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


def trial(settings: dict[str, Any], shards: str, classes: int) -> dict[str, float]:
    """Train with a learning rate and a width; the accuracy on what was held out."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = network(settings["width"], classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings["rate"])
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
    return {"accuracy": sum(right) / len(right)}


def search(shards: str, classes: int) -> None:
    """A trial for each CPU at a time. Prints all of them and the best."""
    with tempfile.TemporaryDirectory() as results:
        tuner = tune.Tuner(
            tune.with_parameters(trial, shards=shards, classes=classes),
            param_space=SPACE,
            tune_config=tune.TuneConfig(metric="accuracy", mode="max"),
            run_config=tune.RunConfig(storage_path=results, verbose=0),
        )
        trials = tuner.fit()
    for index in range(len(trials)):
        print(described(trials[index]))
    print("best:", described(trials.get_best_result()))


def described(one: tune.Result) -> str:
    """Settings and accuracy of a trial."""
    if one.config is None or one.metrics is None:
        return f"failed: {one.error}"
    return f"rate {one.config['rate']:g}, width {one.config['width']}: accuracy {one.metrics['accuracy']:.3f}"


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
        shards = str(Path(given.shards or folder).absolute())  # trials work in folders of their own
        if given.list:
            write_shards(given.list, shards)
        else:
            with ImageServer(count=12, mean_bytes=20_000) as server:
                rows = [{"url": url, "label": index % 12} for index, url in enumerate(demo_urls(server, 600))]
                write_shards(rows, shards, per_host=64, allow_network=("127.0.0.0/8",))
        ray.init(num_cpus=None if "RAY_ADDRESS" in os.environ else 2, include_dashboard=False)
        search(shards, given.classes)


if __name__ == "__main__":
    main()
