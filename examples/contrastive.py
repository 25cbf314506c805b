"""Images and their texts into one space, as CLIP does it, from a list of pairs of URLs.

    python examples/contrastive.py
    python examples/contrastive.py pairs.parquet

The list has the columns image_url and text_url. Without one, Penstock serves 64 pictures of its own at 640 URLs, two of which
are broken, and a text of two words for each picture.
"""

import argparse
import contextlib
import zlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

import penstock
from penstock.demo import demo_urls
from penstock.testing.server import ImageServer

PARTS = {"jpg": penstock.Image("image_url", size=64), "txt": penstock.Text("text_url")}
WORDS = 2**12
"""Rows of the table of words; a word has the row of its checksum."""

HOW = ("red", "green", "old", "small", "wet", "bright", "distant", "quiet")
WHAT = ("boat", "tree", "house", "street", "bridge", "field", "harbour", "window")


def image_encoder(width: int) -> nn.Module:
    """Images of any size to vectors."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, width),
    )


class Model(nn.Module):
    """Two encoders and a temperature."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.image = image_encoder(width)
        self.word = nn.EmbeddingBag(WORDS, width, mode="sum")
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, images: Tensor, texts: list[str]) -> Tensor:
        """How near each image is to each text: (N, N)."""
        bags = [[zlib.crc32(word.encode()) % WORDS for word in text.lower().split()] or [0] for text in texts]
        starts = torch.tensor([0, *map(len, bags)]).cumsum(0)[:-1]
        words = self.word(torch.tensor([word for bag in bags for word in bag]), starts)
        vectors = nn.functional.normalize(self.image(images)), nn.functional.normalize(words)
        return self.scale.exp() * vectors[0] @ vectors[1].T


def contrast(nearness: Tensor, texts: list[str]) -> Tensor:
    """InfoNCE in both directions; an image goes with each text that is the same as its own."""
    same = torch.tensor([[one == other for other in texts] for one in texts], dtype=torch.float32)
    wanted = same / same.sum(dim=1)
    entropy = nn.functional.cross_entropy
    return (entropy(nearness, wanted) + entropy(nearness.T, wanted)) / 2


def train(source: Any, epochs: int, **options: Any) -> penstock.Report:
    """Train, and print of each epoch the mean loss, and how many images were nearest to their own text."""
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses: dict[int, list[float]] = {}
    found: dict[int, list[bool]] = {}
    with penstock.stream(source, parts=PARTS, batch_size=32, shuffle=1000, epochs=epochs, **options) as batches:
        for batch in batches:
            images = torch.from_numpy(batch.as_float(0.5, 0.25)).permute(0, 3, 1, 2)
            texts = list(batch.parts["txt"])
            nearness = model(images, texts)
            loss = contrast(nearness, texts)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.setdefault(batch.epoch, []).append(loss.item())
            nearest = nearness.argmax(dim=1).tolist()
            found.setdefault(batch.epoch, []).extend(texts[n] == own for n, own in zip(nearest, texts, strict=True))
    for epoch, values in losses.items():
        share = sum(found[epoch]) / len(found[epoch])
        print(f"epoch {epoch}: mean loss {sum(values) / len(values):.4f}, {share:.0%} nearest to their own text")
    return batches.report


@contextlib.contextmanager
def pairs_of_our_own() -> Iterator[list[dict[str, str]]]:
    """A server of 64 pictures, each at ten URLs, and as many texts; a list of pairs."""
    texts = [f"a {how} {what}" for how in HOW for what in WHAT]
    with ImageServer(count=len(texts), mean_bytes=8_000) as server:
        urls = demo_urls(server, 10 * len(texts))
        yield [
            {
                "image_url": url,
                "text_url": f"{server.url}/text/{texts[index % len(texts)].replace(' ', '%20')}?i={index}",
            }
            for index, url in enumerate(urls)
        ]


def main() -> None:
    """Train, and tell what became of the rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("list", nargs="?", help="with the columns image_url and text_url")
    parser.add_argument("--epochs", type=int, default=4)
    given = parser.parse_args()
    if given.list:
        report = train(given.list, given.epochs)
    else:
        with pairs_of_our_own() as rows:
            report = train(rows, given.epochs, per_host=64, allow_network=("127.0.0.0/8",))
    print(f"{report.written} pairs, {report.failed} failures {dict(report.reasons)}")


if __name__ == "__main__":
    main()
