"""What the figures mean: the bound of a workload, the evidence for it, and the setting to use. Decides, measures nothing."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.comparison.results import Bound, Entry, GilProbe, Judgement, Shares, Trial
from penstock.config import STRATEGIES, RunConfig, flag_of

__all__ = ["bound_of", "judge"]

SOURCE = "YOUR_URLS.txt"
"""Stands for the list where what was measured cannot be typed: Penstock's own server, a Python object."""

FULL_CORE = 0.85
"""Cores that a process which only downloads and writes may use before it counts as the bottleneck: it has but one, since
all of its own work holds the GIL."""


def judge(
    ranking: Sequence[Entry],
    gil: GilProbe | None,
    *,
    config: RunConfig,
    given: Mapping[str, Any],
    source: str = "",
    transform: str = "",
) -> Judgement | None:
    """The judgement on measured entries, the quickest first; None if no strategy is among them.

    Args:
        ranking: what could be measured, textbook schemes among it.
        gil: whether the work releases the GIL; None if that could not be found out.
        config: the options that were measured, whatever its strategy.
        given: those of them that belong on the line to paste.
        source: the list as one would type it; empty if it cannot be typed.
        transform: the user's function as one would type it, if there is one: then the line is Python.
    """
    strategies = [entry for entry in ranking if entry.name in STRATEGIES]
    if not strategies:
        return None
    bound = bound_of(strategies[0].median, gil)
    chosen, why = _recommended(strategies)
    options = {"strategy": chosen.name, **given}
    if bound is Bound.LANE:
        options["lanes"] = 2
    line = _python_line(options, source, transform) if transform else _command_line(options, source)
    return Judgement(bound, tuple(_evidence(strategies, bound, gil, config)), chosen.name, why, line)


def bound_of(trial: Trial, gil: GilProbe | None) -> Bound:
    """What the workers' time went into above all, once they had started."""
    shares = trial.shares
    candidates = {
        _cpu_bound(gil): shares.decoding,
        Bound.NETWORK: shares.waiting,
        Bound.HANDOVER: shares.handover,
        Bound.OUTPUT: shares.output,
    }
    bound = max(candidates, key=lambda candidate: candidates[candidate])
    return Bound.LANE if bound is Bound.NETWORK and _lane_is_full(trial) else bound


def _cpu_bound(gil: GilProbe | None) -> Bound:
    if gil is None:
        return Bound.CPU
    return Bound.GIL_RELEASED if gil.released else Bound.GIL_HELD


def _lane_is_full(trial: Trial) -> bool:
    """Whether the workers waited for a parent that had no time for them, not for the network; more lanes would help."""
    full = trial.own_cpu_seconds / trial.wall >= FULL_CORE
    return full and trial.crew == "processes" and trial.lanes == 1 and trial.workers > 1


def _evidence(strategies: Sequence[Entry], bound: Bound, gil: GilProbe | None, config: RunConfig) -> list[str]:
    best = strategies[0]
    trial = best.median
    lines = [f"{best.name}: {_time_of(trial.shares)}"]
    if bound is Bound.NETWORK:
        lines += _network_evidence(trial, config)
    elif bound is Bound.LANE:
        used = trial.own_cpu_seconds / trial.wall
        lines.append(f"the process that downloads used {used:.0%} of a core, and has but one: take --lanes 2 or more")
    elif bound is Bound.OUTPUT:
        lines.append(f"{trial.consumer:.0%} of the time went into writing; a faster disk would help, or smaller images")
    if bound is not Bound.NETWORK:
        per_image = 1000 * trial.cpu_seconds / trial.written
        lines.append(
            f"{trial.cores:.1f} cores were in use; an image took {per_image:.1f} ms of CPU, the start included"
        )
    if gil is not None and bound in (Bound.GIL_HELD, Bound.GIL_RELEASED):
        lines.append(_gil_line(gil))
    return lines + _contrasts({entry.name: entry for entry in strategies})


def _time_of(shares: Shares) -> str:
    return (
        f"after the start, the workers spent {shares.decoding:.0%} of their time in the work, {shares.waiting:.0%} waiting "
        f"for downloads, {shares.handover:.0%} on hand-over, {shares.output:.0%} held up by the output"
    )


def _network_evidence(trial: Trial, config: RunConfig) -> list[str]:
    """How many downloads were under way, and whether a limit of ours kept others back."""
    if trial.fetch == "worker":
        return []
    line = f"{trial.in_flight:.1f} downloads were under way on average"
    waited = trial.fetching - trial.in_flight
    if waited < max(1, trial.in_flight / 2):
        return [line]
    limits = f"--per-host {config.per_host}, --connections {config.connections}"
    return [f"{line}, and {waited:.0f} rows waited for their turn ({limits}): raise these if the servers allow it"]


def _gil_line(gil: GilProbe) -> str:
    means = "releases the GIL, or there is none" if gil.released else "holds the GIL"
    return (
        f"the work alone, on bytes in memory: {gil.one:,.0f} images/s by one thread, {gil.all:,.0f} by {gil.threads} "
        f"(×{gil.speedup:.2f}; native code that releases the GIL: ×{gil.reference:.2f}): it {means}"
    )


def _contrasts(entries: dict[str, Entry]) -> list[str]:
    """Pairs of strategies that differ in one thing only."""
    lines = []
    if "threads" in entries and "hybrid" in entries:
        threads, hybrid = entries["threads"], entries["hybrid"]
        lines.append(
            f"the same downloads, decoded by threads {threads.wall:.2f} s, by processes (hybrid) {hybrid.wall:.2f} s"
            + (": no difference above their spreads" if threads.ties_with(hybrid) else "")
        )
    if "processes" in entries:
        alone = entries["processes"].median
        lines.append(f"processes: each worker waits for its own downloads, {alone.shares.waiting:.0%} of its time")
    return lines


def _recommended(strategies: Sequence[Entry]) -> tuple[Entry, str]:
    """`auto`, unless another was quicker by more than the spreads and more than the start of auto's workers explains."""
    best = strategies[0]
    auto = next((entry for entry in strategies if entry.name == "auto"), None)
    if auto is None:
        tied = [entry.name for entry in strategies[1:] if entry.ties_with(best)]
        return best, "the quickest of those measured" + (
            f"; {_listed(tied)} cannot be told apart from it" if tied else ""
        )
    means = _meaning(auto.median)
    if auto is best:
        return auto, f"the quickest; {means}"
    if auto.ties_with(best):
        return auto, f"it cannot be told apart from the quickest, {best.name}; {means}"
    start = (auto.first_image or 0.0) - (best.first_image or 0.0)
    behind = auto.behind(best)
    if behind <= start + auto.uncertainty + best.uncertainty:
        return auto, (
            f"{best.name} was quicker by {behind:.2f} s because auto's first image came {start:.2f} s later, which a "
            f"longer list does not feel; {means}"
        )
    return best, f"the quickest, and quicker than auto by {behind:.2f} s of {auto.wall:.2f} s"


def _meaning(trial: Trial) -> str:
    download = {"asyncio": "an event loop downloads", "threads": "threads download"}.get(
        trial.fetch, "workers download"
    )
    lanes = f", {trial.lanes} lanes" if trial.lanes > 1 else ""
    crash = ", so that a crash costs one image" if trial.crew == "processes" else ""
    return f"here it means: {download}, {trial.workers} {trial.crew} decode{lanes}{crash}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _command_line(options: Mapping[str, Any], source: str) -> str:
    words = ["penstock", "run", source or SOURCE, "--out", "DIR"]
    for name, value in options.items():
        words.append(flag_of(name))
        if value is not True:
            words.append(",".join(value) if isinstance(value, tuple) else str(value))
    return shlex.join(words)


def _python_line(options: Mapping[str, Any], source: str, transform: str) -> str:
    listed = "".join(f", {name}={value!r}" for name, value in options.items())
    return f"penstock.run({source or SOURCE!r}, 'DIR', transform={transform}{listed})"
