"""What the figures mean: the bound of a workload, the evidence for it, and the setting to use. Decides, measures nothing."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from typing import Any

from penstock.comparison.results import Bound, Entry, GilProbe, Judgement, Shares, Trial
from penstock.config import STRATEGIES, RunConfig, flag_of

__all__ = ["judge"]

SOURCE = "YOUR_URLS.txt"
"""Stands for the list where Penstock's own server was measured."""

FULL_CORE = 0.85
"""Cores that a process which only downloads and writes may use before it counts as the bottleneck: it has but one, since
all of its own work holds the GIL."""


def judge(
    ranking: Sequence[Entry], gil: GilProbe | None, *, config: RunConfig, source: str = "", transform: str = ""
) -> Judgement | None:
    """The judgement on measured entries, the quickest first; None if no strategy is among them.

    Args:
        ranking: what could be measured, textbook schemes among it.
        gil: whether the work releases the GIL; None if that could not be found out.
        config: the options that were measured, whatever its strategy.
        source: the list, for the line to paste.
        transform: name of the user's function, if there is one: then the line is Python.
    """
    strategies = [entry for entry in ranking if entry.name in STRATEGIES]
    if not strategies:
        return None
    best = strategies[0]
    bound = bound_of(best.median, gil)
    chosen, why = _recommended(strategies)
    return Judgement(
        bound,
        tuple(_evidence(strategies, bound, gil, config)),
        chosen.name,
        why,
        _python_line(chosen.name, config, source, transform)
        if transform
        else _command_line(chosen.name, config, source),
    )


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
    if bound is Bound.NETWORK and _own_core_is_full(trial):
        return Bound.GIL_HELD
    return bound


def _cpu_bound(gil: GilProbe | None) -> Bound:
    if gil is None:
        return Bound.CPU
    return Bound.GIL_RELEASED if gil.released else Bound.GIL_HELD


def _own_core_is_full(trial: Trial) -> bool:
    """Whether the workers waited for a parent that had no time for them, not for the network."""
    return trial.crew == "processes" and trial.lanes == 1 and trial.own_cpu_seconds / trial.wall >= FULL_CORE


def _evidence(strategies: Sequence[Entry], bound: Bound, gil: GilProbe | None, config: RunConfig) -> list[str]:
    best = strategies[0]
    trial = best.median
    lines = [f"{best.name}: {_time_of(trial.shares)}"]
    if bound is Bound.NETWORK:
        lines += _network_evidence(trial, config)
    elif bound is Bound.GIL_HELD and trial.shares.waiting > trial.shares.decoding:
        used = trial.own_cpu_seconds / trial.wall
        lines.append(
            f"the process that downloads used {used:.0%} of a core, and has but one: give it --lanes 2 or more"
        )
    elif bound is Bound.OUTPUT:
        lines.append(f"{trial.consumer:.0%} of the time went into writing; a faster disk would help, or smaller images")
    if bound is not Bound.NETWORK:
        per_image = 1000 * trial.cpu_seconds / max(1, trial.written)
        lines.append(
            f"{trial.cores:.1f} cores were in use; an image took {per_image:.1f} ms of CPU, all processes together"
        )
    if gil is not None:
        lines.append(_gil_line(gil))
    return lines + _contrasts({entry.name: entry for entry in strategies})


def _time_of(shares: Shares) -> str:
    return (
        f"after the start, the workers spent {shares.decoding:.0%} of their time in the work, {shares.waiting:.0%} waiting "
        f"for downloads, {shares.handover:.0%} on hand-over, {shares.output:.0%} held up by the output"
    )


def _network_evidence(trial: Trial, config: RunConfig) -> list[str]:
    if trial.fetch == "worker" or trial.connections <= 1:
        return []
    limits = f"--connections {config.connections}, --per-host {config.per_host}"
    return [f"rows waited for a free connection ({limits}): raise these if the servers allow it"]


def _gil_line(gil: GilProbe) -> str:
    means = "releases the GIL, or there is none" if gil.released else "holds the GIL"
    return (
        f"the work alone, on bytes in memory: {gil.one:,.0f} images/s by one thread, {gil.all:,.0f} by {gil.threads} "
        f"(×{gil.speedup:.2f}): it {means}"
    )


def _contrasts(entries: dict[str, Entry]) -> list[str]:
    """Pairs of strategies that differ in one thing only."""
    lines = []
    if "threads" in entries and "hybrid" in entries:
        threads, hybrid = entries["threads"], entries["hybrid"]
        lines.append(
            f"the same downloads, decoded by threads {threads.wall:.2f} s, by processes (hybrid) {hybrid.wall:.2f} s"
            + (": no difference above the spread" if threads.ties_with(hybrid) else "")
        )
    if "processes" in entries:
        alone = entries["processes"].median
        lines.append(f"processes: each worker waits for its own downloads, {alone.shares.waiting:.0%} of its time")
    return lines


def _recommended(strategies: Sequence[Entry]) -> tuple[Entry, str]:
    """`auto`, unless another was quicker by more than the spread and more than the start of auto's workers explains."""
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
    behind = auto.wall - best.wall
    if behind <= start + max(auto.assumed_spread, best.assumed_spread):
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


def _given(config: RunConfig) -> dict[str, Any]:
    """The options that differ from their defaults."""
    values = ((spec.name, getattr(config, spec.name), spec.default) for spec in dataclasses.fields(config))
    return {name: value for name, value, default in values if value != default and name != "strategy"}


def _command_line(strategy: str, config: RunConfig, source: str) -> str:
    words = ["penstock", "run", source or SOURCE, "--out", "DIR", "--strategy", strategy]
    for name, value in (_given(config) if source else {}).items():
        words.append(flag_of(name))
        if value is not True:
            words.append(",".join(value) if isinstance(value, tuple) else str(value))
    return shlex.join(words)


def _python_line(strategy: str, config: RunConfig, source: str, transform: str) -> str:
    options = "".join(f", {name}={value!r}" for name, value in _given(config).items()) if source else ""
    listed = repr(source or SOURCE)
    return f'penstock.run({listed}, "DIR", transform={transform}, strategy="{strategy}"{options})'
