"""What is measured beside Penstock: the floor, and the three schemes as textbooks print them.

Each is a program of its own: ``python contenders.py NAME --list urls.txt --corpus DIR --workers 2``; it prints one line of
JSON with what it did. The driver (`bench_main`) measures its wall time, CPU time and memory from outside.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import requests
from PIL import Image

from penstock.config import ImageConfig
from penstock.image.decode import decode
from penstock.image.encode import encode
from penstock.image.resize import apply, plan

SIZE = 128
THREADS = 5
"""Of the textbook's downloader: ``max_workers=5``, as in the example of `concurrent.futures`' documentation."""

MANY_THREADS = 16
"""For those who have noticed that downloads wait: the same program with more threads."""

Floats = npt.NDArray[np.floating]


def floor_share(arguments: tuple[list[bytes], int]) -> tuple[float, float, int]:
    """Decode, resize and encode `count` pictures of the corpus: (CPU seconds, wall seconds, images)."""
    pictures, count = arguments
    config = ImageConfig(size=SIZE)
    cpu, wall = time.process_time(), time.perf_counter()
    for index in range(count):
        decoded = decode(pictures[index % len(pictures)], config)
        geometry = plan(decoded.width, decoded.height, SIZE, config.resize).reduced(decoded.scale)
        image = apply(decoded.image, geometry, exact=False, transpose=decoded.transpose)
        encode(image, config.encode, config.quality)
    return time.process_time() - cpu, time.perf_counter() - wall, count


def floor(urls: list[str], corpus: list[bytes], workers: int) -> dict[str, float]:
    """Bytes in memory, one process a core, nothing but decode, resize and encode."""
    share = len(urls) // workers
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        parts = pool.map(floor_share, [(corpus[start::workers], share) for start in range(workers)], chunksize=1)
    return {
        "images": sum(images for _, _, images in parts),
        "inner_cpu": sum(cpu for cpu, _, _ in parts),
        "inner_wall": max(wall for _, wall, _ in parts),
    }


def download(url: str) -> bytes:
    response = requests.get(url, timeout=30)
    response.raise_for_status()
    content: bytes = response.content
    return content


def preprocess(image: Image.Image) -> Floats:
    small = image.convert("RGB").resize((SIZE, SIZE))
    return np.asarray(small, dtype=np.float32) / 255


def download_and_preprocess(url: str) -> Floats:
    return preprocess(Image.open(io.BytesIO(download(url))))


def preprocess_pixels(pixels: npt.NDArray[np.uint8]) -> Floats:
    return preprocess(Image.fromarray(pixels))


def download_and_decode(url: str) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(download(url))).convert("RGB"))


def textbook_threads(urls: list[str], corpus: list[bytes], workers: int) -> dict[str, float]:
    """Threads do everything."""
    return threads_do_everything(urls, THREADS)


def textbook_more_threads(urls: list[str], corpus: list[bytes], workers: int) -> dict[str, float]:
    """Threads do everything, and there are more of them."""
    return threads_do_everything(urls, MANY_THREADS)


def threads_do_everything(urls: list[str], threads: int) -> dict[str, float]:
    with ThreadPoolExecutor(threads) as pool:
        return {"images": sum(1 for _ in pool.map(download_and_preprocess, urls))}


def textbook_processes(urls: list[str], corpus: list[bytes], workers: int) -> dict[str, float]:
    """Processes do everything, one picture at a time each."""
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return {"images": sum(1 for _ in pool.map(download_and_preprocess, urls))}


def textbook_hybrid(urls: list[str], corpus: list[bytes], workers: int) -> dict[str, float]:
    """Threads download and decode, a pool of processes resizes what they pickle to it; the deadlock is mended."""
    with (
        ThreadPoolExecutor(THREADS) as threads,
        ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as processes,
    ):

        def hand_over(url: str) -> Future[Floats]:
            return processes.submit(preprocess_pixels, download_and_decode(url))

        return {"images": sum(1 for future in threads.map(hand_over, urls) if future.result() is not None)}


CONTENDERS = {
    "floor": floor,
    "textbook threads": textbook_threads,
    "textbook processes": textbook_processes,
    "textbook hybrid": textbook_hybrid,
    "threads, 16 of them": textbook_more_threads,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("--list", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--workers", type=int, required=True)
    arguments = parser.parse_args()
    corpus = [path.read_bytes() for path in sorted(arguments.corpus.iterdir())]
    print(json.dumps(CONTENDERS[arguments.name](arguments.list.read_text().split(), corpus, arguments.workers)))


if __name__ == "__main__":
    main()
