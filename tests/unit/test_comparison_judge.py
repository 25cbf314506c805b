"""What figures are taken to mean."""

from __future__ import annotations

import dataclasses
import shlex

import pytest

from comparison.results import entry, failed
from penstock.comparison.judge import bound_of, judge
from penstock.comparison.results import Bound, Entry, GilProbe, Judgement, Shares
from penstock.config import RunConfig

HELD = GilProbe(2, 100.0, 97.0, 1.98)
RELEASED = GilProbe(2, 100.0, 193.0, 1.98)


def judged(*entries: object, gil: GilProbe | None = RELEASED, **options: object) -> Judgement:
    """The judgement, which there is."""
    defaults: dict[str, object] = {"config": RunConfig(), "given": {}}
    judgement = judge(entries, gil, **{**defaults, **options})  # type: ignore[arg-type]  # a test's shorthand
    assert judgement is not None
    return judgement


@pytest.mark.parametrize(
    ("shares", "gil", "bound"),
    [
        ({"decoding": 0.9}, RELEASED, Bound.GIL_RELEASED),
        ({"decoding": 0.9}, HELD, Bound.GIL_HELD),
        ({"decoding": 0.9}, None, Bound.CPU),
        ({"decoding": 0.1}, RELEASED, Bound.NETWORK),
        ({"handover": 0.6, "decoding": 0.3}, RELEASED, Bound.HANDOVER),
        ({"output": 0.6, "decoding": 0.3}, RELEASED, Bound.OUTPUT),
    ],
)
def test_bound_is_what_most_of_the_time_went_into(shares: dict[str, float], gil: GilProbe | None, bound: Bound) -> None:
    """The largest share names the bound, and the probe tells the two kinds of CPU apart."""
    trial = dataclasses.replace(entry("auto").median, shares=Shares(**{"waiting": 1 - sum(shares.values()), **shares}))
    assert bound_of(trial, gil) is bound


def test_workers_that_wait_for_a_full_parent_do_not_wait_for_the_network() -> None:
    """A downloading process without a free moment is what to relieve, by lanes, if there are workers for them."""
    trial = dataclasses.replace(
        entry("asyncio", 2.0, decoding=0.1).median, own_cpu_seconds=1.9, crew="processes", fetch="asyncio"
    )
    assert bound_of(trial, RELEASED) is Bound.LANE
    assert bound_of(dataclasses.replace(trial, own_cpu_seconds=0.4), RELEASED) is Bound.NETWORK
    assert bound_of(dataclasses.replace(trial, workers=1), RELEASED) is Bound.NETWORK
    judgement = judged(Entry("asyncio", (trial,)))
    assert judgement.command.endswith("--strategy asyncio --lanes 2")
    assert not any("GIL" in line for line in judgement.evidence)


def test_auto_is_recommended_where_nothing_beats_it() -> None:
    """A difference within the spread is none."""
    judgement = judged(entry("threads", 1.9, 2.0, 2.1), entry("auto", 1.95, 2.05, 2.15))
    assert judgement.strategy == "auto"
    assert "cannot be told apart from the quickest, threads" in judgement.why


def test_auto_is_recommended_where_only_its_start_is_slower() -> None:
    """What a long list does not feel is no reason."""
    judgement = judged(entry("threads", 1.5, 1.5, 1.5, start=0.1), entry("auto", 1.8, 1.8, 1.8, start=0.5))
    assert judgement.strategy == "auto"
    assert "0.40 s later" in judgement.why


def test_another_is_recommended_where_it_wins() -> None:
    """Beyond the spread and the start, the measurement decides."""
    judgement = judged(entry("threads", 1.5, 1.6, start=0.1), entry("auto", 3.0, 3.1, start=0.3))
    assert (judgement.strategy, "quicker than auto" in judgement.why) == ("threads", True)


def test_without_auto_the_quickest_is_recommended() -> None:
    """Only what was measured can be recommended."""
    judgement = judged(entry("hybrid", 1.5, 1.7), entry("threads", 1.6, 1.8))
    assert (judgement.strategy, "threads cannot be told apart" in judgement.why) == ("hybrid", True)


def test_textbook_is_never_recommended() -> None:
    """The schemes as textbooks print them are shown, not advised."""
    assert judged(entry("textbook threads", 1.0), entry("auto", 2.0)).strategy == "auto"
    assert judge([entry("textbook threads", 1.0)], RELEASED, config=RunConfig(), given={}) is None


def test_line_to_paste_has_the_options_and_is_quoted() -> None:
    """What was given is on the line; a name with blanks stays one word."""
    given = {"size": 64, "exact": True, "keep_columns": ("a", "b c")}
    words = shlex.split(judged(entry("auto"), given=given, source="my list.txt").command)
    assert words[:7] == ["penstock", "run", "my list.txt", "--out", "DIR", "--strategy", "auto"]
    assert words[7:] == ["--size", "64", "--exact", "--keep-columns", "a,b c"]
    assert " YOUR_URLS.txt " in judged(entry("auto")).command


def test_line_for_a_transform_is_python() -> None:
    """A function cannot be given on the command line."""
    line = judged(entry("auto"), given={"size": 64}, source="u.txt", transform="shrink").command
    assert line == "penstock.run('u.txt', 'DIR', transform=shrink, strategy='auto', size=64)"


def test_as_many_images_are_compared() -> None:
    """A strategy that lost rows is not quicker for it."""
    quick, whole = entry("auto", 1.0, 1.0, rows=20), entry("hybrid", 2.0, 2.0, rows=100)
    assert quick.behind(whole) == pytest.approx(0.6)
    assert judged(whole, quick).strategy == "hybrid"


def test_evidence_has_the_figures() -> None:
    """The shares, the cores, the probe, and the contrasts between strategies are in it."""
    evidence = "\n".join(
        judged(
            entry("hybrid", 1.0, 1.0, decoding=0.9, handover=0.04),
            entry("threads", 2.0, 2.0),
            entry("processes", 3.0, 3.0, decoding=0.2),
            gil=HELD,
        ).evidence
    )
    for part in (
        "90% of their time in the work",
        "4% on hand-over",
        "×0.97",
        "threads 2.00 s",
        "(hybrid) 1.00 s",
        "80% of",
    ):
        assert part in evidence


@pytest.mark.parametrize(("fetching", "named"), [(60.0, True), (4.5, False)])
def test_limits_that_keep_rows_back_are_named(fetching: float, named: bool) -> None:
    """Where rows wait for their turn, the limits are the thing to change; where they do not, they are not."""
    starved = entry("auto", 2.0, decoding=0.1)
    trial = dataclasses.replace(starved.median, in_flight=4.0, fetching=fetching, fetch="asyncio")
    evidence = "\n".join(judged(dataclasses.replace(starved, trials=(trial,))).evidence)
    assert "4.0 downloads were under way" in evidence
    assert ("56 rows waited for their turn (--per-host 8, --connections 256)" in evidence) is named


def test_failed_entries_do_not_tie() -> None:
    """A scheme that could not be measured is not ranked."""
    assert not failed("hybrid").measured
