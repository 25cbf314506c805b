"""Augmentations of other libraries, in the workers: albumentations, and torchvision's transforms.

    python examples/augmentations.py urls.txt out albumentations
    python examples/augmentations.py urls.txt out torchvision

Each takes two functions. The first sets a worker up: it imports the library, which takes a second or two, and makes what all
the images of this worker go through. The second is called with each image: uint8, (height, width, 3), RGB.
"""

import argparse
import os
import random
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

import penstock

SIZE = 224

worker = threading.local()  # a worker may be a thread: what is set up here belongs to it alone


def set_up_albumentations() -> None:
    """Make this worker's pipeline, with a seed of its own."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or each worker asks the network for a newer version
    import albumentations

    steps = [
        albumentations.RandomResizedCrop(size=(SIZE, SIZE), scale=(0.5, 1.0)),
        albumentations.HorizontalFlip(),
        albumentations.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.0),
    ]
    worker.augment = albumentations.Compose(steps, seed=random.getrandbits(32))


def augment_with_albumentations(image: npt.NDArray[np.uint8], _row: penstock.Row) -> Any:
    """Another picture of the same thing."""
    return worker.augment(image=image)["image"]


def set_up_torchvision() -> None:
    """Make this worker's pipeline. Torch begins with the same seed in every process: all workers would draw the same."""
    import torch
    from torchvision.transforms import v2

    torch.seed()
    torch.set_num_threads(1)  # there is a worker for each core already
    steps = [
        v2.ToImage(),
        v2.RandomResizedCrop(SIZE, scale=(0.5, 1.0)),
        v2.RandomHorizontalFlip(),
        v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
    ]
    worker.augment = v2.Compose(steps)


def augment_with_torchvision(image: npt.NDArray[np.uint8], _row: penstock.Row) -> Any:
    """Another picture of the same thing: from torch's order of axes back to that of images."""
    return worker.augment(image).permute(1, 2, 0).numpy()


LIBRARIES = {
    "albumentations": (set_up_albumentations, augment_with_albumentations),
    "torchvision": (set_up_torchvision, augment_with_torchvision),
}


def main() -> None:
    """Write shards of augmented pictures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("source", help="a list of image URLs")
    parser.add_argument("out", help="the output folder")
    parser.add_argument("library", choices=LIBRARIES)
    given = parser.parse_args()
    set_up, augment = LIBRARIES[given.library]
    report = penstock.run(given.source, given.out, size=256, initializer=set_up, transform_image=augment)
    print(f"{report.written} written, {report.failed} failed {dict(report.reasons)}")


if __name__ == "__main__":
    main()
