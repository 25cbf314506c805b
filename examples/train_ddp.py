"""The network of train_cnn.py on several ranks: each fetches its own share of the URLs.

    torchrun --standalone --nproc-per-node 2 examples/train_ddp.py
    torchrun --standalone --nproc-per-node 2 examples/train_ddp.py list.csv --classes 10

The list has the columns url and label, a number from 0, and is the same on all ranks. Without a list, rank 0 serves twelve
pictures of its own at 600 URLs, two of which are broken. All ranks get equal numbers of batches, whatever fails.
"""

import argparse
import contextlib
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader

from penstock.demo import demo_urls
from penstock.testing.server import ImageServer
from penstock.torch import UrlDataset

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


def train(source: Any, classes: int, **options: Any) -> None:
    """Two epochs; rank 0 prints the mean loss of each over all ranks."""
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(network(classes))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    dataset = UrlDataset(source, size=64, batch_size=16, keep_columns=("label",), shuffle=1000, **options)
    for epoch in range(2):
        losses = []
        for batch in DataLoader(dataset, batch_size=None):
            labels = torch.tensor([int(label) for label in batch.fields["label"]])
            loss = nn.functional.cross_entropy(model(batch.as_float(MEAN, STD)), labels)
            optimizer.zero_grad()
            loss.backward()  # the ranks exchange gradients here: one without a batch would keep the others waiting
            optimizer.step()
            losses.append(loss.item())
        total = torch.tensor([sum(losses), len(losses)])
        dist.all_reduce(total)
        if dist.get_rank() == 0:
            print(f"epoch {epoch}: mean loss {total[0] / total[1]:.4f} over {total[1]:.0f} batches of all ranks")


def rows_of_our_own(stack: contextlib.ExitStack) -> list[dict[str, Any]]:
    """Rank 0 starts a server of twelve pictures, each at fifty URLs, and tells the others its list."""
    rows: list[Any] = [None]
    if dist.get_rank() == 0:
        server = stack.enter_context(ImageServer(count=12, mean_bytes=20_000))
        rows = [[{"url": url, "label": index % 12} for index, url in enumerate(demo_urls(server, 600))]]
    dist.broadcast_object_list(rows)
    return list(rows[0])


def main() -> None:
    """Train as one of the ranks."""
    parser = argparse.ArgumentParser()
    parser.add_argument("list", nargs="?", help="with the columns url and label")
    parser.add_argument("--classes", type=int, default=12)
    given = parser.parse_args()
    if not dist.is_torchelastic_launched():
        raise SystemExit(f"start me with: torchrun --standalone --nproc-per-node 2 {__file__}")
    dist.init_process_group("gloo")
    try:
        with contextlib.ExitStack() as stack:
            if given.list:
                train(given.list, given.classes)
            else:
                train(rows_of_our_own(stack), given.classes, per_host=64, allow_network=("127.0.0.0/8",))
            dist.barrier()  # nobody asks rank 0's server any more
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
