"""A small network trained from URLs alone, with no dataset on disk.

    python examples/train_cnn.py
    python examples/train_cnn.py list.csv --classes 10

The list has the columns url and label, a number from 0. Without a list, Penstock serves twelve pictures of its own at 600
URLs, two of which are broken, and the network learns which picture it sees.
"""

import argparse
import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

import penstock
from penstock.demo import demo_urls
from penstock.testing.server import ImageServer

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def network(classes: int) -> nn.Module:
    """Three convolutions and a linear layer, for images of any size."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, classes),
    )


def train(source: Any, classes: int, **options: Any) -> penstock.Report:
    """Two epochs; prints the mean loss of each."""
    torch.manual_seed(0)
    model = network(classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses: dict[int, list[float]] = {}
    with penstock.stream(
        source, size=64, batch_size=32, keep_columns=("label",), shuffle=1000, epochs=2, **options
    ) as batches:
        for batch in batches:
            images = torch.from_numpy(batch.as_float(MEAN, STD)).permute(0, 3, 1, 2)
            labels = torch.tensor([int(label) for label in batch.fields["label"]])
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.setdefault(batch.epoch, []).append(loss.item())
    for epoch, values in losses.items():
        print(f"epoch {epoch}: mean loss {sum(values) / len(values):.4f} over {len(values)} batches")
    return batches.report


@contextlib.contextmanager
def pictures_of_our_own() -> Iterator[list[dict[str, Any]]]:
    """A server of twelve pictures, each at fifty URLs, and a list of them; the number of the picture is its label."""
    with ImageServer(count=12, mean_bytes=20_000) as server:
        yield [{"url": url, "label": index % 12} for index, url in enumerate(demo_urls(server, 600))]


def main() -> None:
    """Train, and tell what became of the rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("list", nargs="?", help="with the columns url and label")
    parser.add_argument("--classes", type=int, default=12)
    given = parser.parse_args()
    if given.list:
        report = train(given.list, given.classes)
    else:
        with pictures_of_our_own() as rows:
            report = train(rows, given.classes, per_host=64, allow_network=("127.0.0.0/8",))
    print(f"{report.written} images, {report.failed} failures {dict(report.reasons)}")


if __name__ == "__main__":
    main()
