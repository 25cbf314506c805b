"""Transforms of a user, in a module that worker processes can import."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.records import Row


def length_head_and_name(data: bytes, row: Row) -> dict[str, bytes | npt.NDArray[Any]]:
    """One array and some bytes."""
    return {"length": np.array([len(data)]), "bin": data[:4], "name": str(row.url).encode()}


def kill_on_the_seventh(data: bytes, row: Row) -> dict[str, bytes]:
    """Native code that takes its process along."""
    if row.index == 7:
        os._exit(3)
    return {"bin": data[:4]}


def only_in_a_worker_process(data: bytes, row: Row) -> dict[str, bytes]:
    """Something that minds threads."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("not in a thread")
    return {"bin": data[:4]}


def hang_on_the_third(data: bytes, row: Row) -> dict[str, bytes]:
    """An endless wait."""
    if row.index == 2:
        threading.Event().wait()
    return {"bin": data[:4]}


Pixels = npt.NDArray[Any]


def upside_down(image: Pixels, row: Row) -> Pixels:
    """A view of the pixels, with strides that go backwards."""
    return image[::-1]


def invert_in_place(image: Pixels, row: Row) -> Pixels:
    """What it got, changed."""
    np.subtract(255, image, out=image)
    return image


def scaled_with_label(image: Pixels, row: Row) -> dict[str, Pixels]:
    """An array that is no image any more, and a kept column."""
    return {"image": image.astype(np.float32) / 255, "label": np.array(row.fields["label"])}


def raise_two_kinds(image: Pixels, row: Row) -> Pixels:
    """Two of three rows fail, for two reasons, and no two of them with the same message."""
    if row.index % 3 == 1:
        raise ValueError(f"row {row.index}")
    if row.index % 3 == 2:
        return image.reshape(row.index, -1, -1)
    return image


def half_or_float(image: Pixels, row: Row) -> Pixels:
    """An image of another size, or none any more."""
    return image[::2] if len(image) == 32 else channels_first(image, row)


def channels_first(image: Pixels, row: Row) -> Pixels:
    """What a model wants."""
    return image.transpose(2, 0, 1).astype(np.float32) / 255


def turned_with_note(image: Pixels, row: Row) -> dict[str, Any]:
    """An image of another size, an array that stands before it in the alphabet, and some bytes."""
    return {"image": image[:20, ::-1], "angle": np.array(row.index, np.int16), "note": b"%d" % row.index}


def only_bytes(image: Pixels, row: Row) -> dict[str, bytes]:
    """No image, and bytes by the name that one would be stored under."""
    return {"jpg": b"%d" % row.index}


def image_and_depth(image: Pixels, row: Row) -> dict[str, Pixels]:
    """An image, and a second array."""
    return {"image": image[:20], "depth": image[:2, :2, 0].astype(np.float32)}


_here = threading.local()


def set_up(folder: Path) -> None:
    """Leave a mark for this worker, and fail if it has one."""
    (folder / f"{os.getpid()}-{threading.get_ident()}").touch(exist_ok=False)
    _here.scale = 2


def scaled_as_set_up(image: Pixels, row: Row) -> dict[str, Pixels]:
    """What only a worker that was set up can do."""
    return {"image": image // _here.scale, "worker": np.array([os.getpid(), threading.get_ident()])}


def fail_to_set_up() -> None:
    """No model."""
    raise FileNotFoundError("model.bin")
