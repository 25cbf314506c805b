"""What a batch can stack, and how two samples' arrays are told apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from penstock.errors import ConfigError
from penstock.records import Landed, Sample, Value
from penstock.streaming.layout import Layout, Stack, differing, stacks_of

WAVE, LABEL = Stack("wave", "<f8", (2, 3)), Stack("label", "<i4", ())


def test_arrays_are_stacked_wherever_they_lie() -> None:
    """Here or in the batch already; bytes are not, nor parts of which there may be any number."""
    parts: dict[str, Value | Landed] = {
        "wave": np.zeros((2, 3)),
        "head": b"x",
        "label": Landed("<i4", ()),
        "views": np.zeros(4),
    }
    assert stacks_of(Sample(parts), ("views",)) == (WAVE, LABEL)


@pytest.mark.parametrize("values", [["ab", "c"], [b"ab"], [True], [1 + 2j], np.array(["2026-01-02"], "M8[s]")])
def test_what_is_so_many_bytes_comes_back_from_a_slab(values: Any) -> None:
    """Text, dates and numbers of any kind, as they were."""
    array = np.array(values)
    layout = Layout(stacks_of(Sample({"part": array}), ()), batch_size=1)
    slab = np.zeros(layout.size, np.uint8)
    slab[: array.nbytes] = array.view(np.uint8)
    assert layout.arrays(slab, 1)["part"].tolist() == [array.tolist()]


@pytest.mark.parametrize(
    ("dtype", "shown"), [([("x", "<f4"), ("y", "<i2")], r"\[\('x', '<f4'\), \('y', '<i2'\)\]"), ("O", "object")]
)
def test_what_is_more_than_bytes_is_refused(dtype: Any, shown: str) -> None:
    """Fields would be lost, and pointers mean nothing elsewhere; the message names part and dtype."""
    sample = Sample({"wave": np.zeros((2, 3)), "box": np.zeros(2, dtype)})
    with pytest.raises(ConfigError, match=rf"^part 'box' has the dtype {shown}: a batch stacks plain numbers; "):
        stacks_of(sample, ())
    assert stacks_of(sample, ("box",)) == (WAVE,)


def test_only_what_differs_is_told() -> None:
    """By shape and dtype; and an array that one of them lacks."""
    wider = Stack("wave", "<f8", (2, 4))
    assert differing((LABEL, WAVE), (LABEL, wider)) == ("'wave' as float64 (2, 3)", "'wave' as float64 (2, 4)")
    assert differing((LABEL, WAVE), (LABEL,)) == ("'wave' as float64 (2, 3)", "no such array")


def test_another_order_is_told_as_such() -> None:
    """The same arrays one way round and the other."""
    assert differing((WAVE, LABEL), (LABEL, WAVE)) == (
        "'wave', 'label' in this order",
        "'label', 'wave' in this order",
    )
