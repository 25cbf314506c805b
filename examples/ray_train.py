"""The network of train_cnn.py under Ray Train: tasks of Ray Data fetch and decode, the training's workers share the images.

    python examples/ray_train.py
    python examples/ray_train.py list.parquet --classes 10

The list has the columns url and label, a number from 0. Without a list, Penstock serves twelve pictures of its own at 600
URLs, two of which are broken. RAY_ADDRESS names a cluster to train on; without it, Ray starts one here, with two CPUs for
the training's two workers and two for the images.
"""

import argparse
import os
import tempfile
from typing import Any

import ray.train
import ray.train.torch
import torch
from torch import nn

import penstock.ray
from penstock.demo import demo_urls
from penstock.testing.server import ImageServer

EPOCHS = 2
MEAN, STD = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))


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


def worker(settings: dict[str, Any]) -> None:
    """One of the training's workers; each gets equal numbers of images, whatever fails."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = ray.train.torch.prepare_model(network(settings["classes"]))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    images_of_mine = ray.train.get_dataset_shard("train")
    history = []
    for _ in range(EPOCHS):
        losses = []
        for batch in images_of_mine.iter_torch_batches(batch_size=16, local_shuffle_buffer_size=256, drop_last=True):
            images = ((batch["image"] / 255 - MEAN) / STD).permute(0, 3, 1, 2)
            loss = nn.functional.cross_entropy(model(images), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        history.append((sum(losses) / len(losses), len(losses)))
        with tempfile.TemporaryDirectory() as folder:
            if first := ray.train.get_context().get_world_rank() == 0:
                torch.save(model.state_dict(), f"{folder}/model.pt")
            checkpoint = ray.train.Checkpoint.from_directory(folder) if first else None
            ray.train.report({"history": history}, checkpoint=checkpoint)


def train(source: Any, classes: int, **options: Any) -> None:
    """Two workers, and as many tasks for the images; prints what the first of the workers has seen."""
    images = penstock.ray.dataset(source, size=64, keep_columns=("label",), lot=64, concurrency=2, **options)
    with tempfile.TemporaryDirectory() as results:
        trainer = ray.train.torch.TorchTrainer(
            worker,
            train_loop_config={"classes": classes},
            datasets={"train": images},
            scaling_config=ray.train.ScalingConfig(num_workers=2),
            torch_config=ray.train.torch.TorchConfig(backend="gloo"),
            run_config=ray.train.RunConfig(storage_path=results),
        )
        metrics = trainer.fit().metrics or {}
    for epoch, (loss, batches) in enumerate(metrics["history"]):
        print(f"epoch {epoch}: mean loss {loss:.4f} over {batches} batches of the first worker")


def main() -> None:
    """Train on URLs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("list", nargs="?", help="with the columns url and label")
    parser.add_argument("--classes", type=int, default=12)
    given = parser.parse_args()
    ray.init(num_cpus=None if "RAY_ADDRESS" in os.environ else 4, include_dashboard=False)
    if given.list:
        train(given.list, given.classes)
        return
    with ImageServer(count=12, mean_bytes=20_000) as server:
        rows = [{"url": url, "label": index % 12} for index, url in enumerate(demo_urls(server, 600))]
        train(rows, given.classes, per_host=64, allow_network=("127.0.0.0/8",))


if __name__ == "__main__":
    main()
