"""What lanes report while they work."""

from __future__ import annotations

from penstock.engines.work import Progress
from penstock.records import MAX_TRACEBACKS, Kind, Outcome, Reason, Request, Row, Settled, Trace

ROW = Row(0, (Request("image", "http://example.test/a.jpg"),))


def progress_with(*traces: Trace | None) -> Progress:
    """Of rows that failed with these."""
    progress = Progress()
    for trace in traces:
        progress.add(Settled(Outcome(ROW, Kind.FAILED, Reason.TRANSFORM_ERROR, trace=trace)))
    return progress


def test_one_traceback_of_each_kind_is_kept() -> None:
    """The first one; rows that bring none are counted all the same."""
    progress = progress_with(Trace("a", "first"), None, Trace("a", "second"), Trace("b", "third"))
    assert progress.failed == 4
    assert progress.tracebacks == {"a": "first", "b": "third"}


def test_tracebacks_of_lanes_are_put_together() -> None:
    """Each kind once, whichever lane saw it."""
    both = progress_with(Trace("a", "x"), Trace("b", "y")).plus(progress_with(Trace("c", "z"), Trace("b", "w")))
    assert sorted(both.tracebacks) == ["a", "b", "c"]


def test_tracebacks_are_bounded() -> None:
    """In a lane, and of all of them together."""
    lanes = [
        progress_with(*(Trace(f"{lane} {n}", "") for n in range(MAX_TRACEBACKS + 5))) for lane in ("one", "another")
    ]
    assert len(lanes[0].tracebacks) == MAX_TRACEBACKS
    assert list(lanes[0].plus(lanes[1]).tracebacks) == list(lanes[0].tracebacks)
