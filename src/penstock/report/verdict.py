"""Which stage held the others up, in one line."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Shares", "verdict"]

BUSY = 0.8
"""Share from which a stage counts as full; below it there was slack, so that something else was waited for."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Where the time of a run went: 0 to 1 each."""

    crew_busy: float
    """Of the decoders' time."""
    crew_waiting: float
    """Of the time, in which downloads stood waiting for a decoder."""
    consumer: float
    """Of the hub's time, in the sink."""
    source: float
    """Of the hub's time, waiting for the list."""
    connections: float
    """Of the connections, in use or waiting for their host's turn, on average; may pass 1."""


OUTPUT = "output: {share:.0%} of the time went into writing; a faster disk would help"
"""What to say where the consumer is the sink of a run."""


def verdict(shares: Shares, *, workers: int, connections: int, per_host: int, consumer: str = OUTPUT) -> str:
    """The stage that was the bottleneck, the figure that shows it, and what would help.

    Args:
        shares: where the time went.
        workers: decoders.
        connections: of the options.
        per_host: of the options.
        consumer: what to say where the consumer was it, with a field for its `share`.
    """
    if shares.crew_busy >= BUSY or shares.crew_waiting >= 0.5:
        return (
            f"CPU: the {workers} decoders were busy {shares.crew_busy:.0%} of the time, and downloads waited for them "
            f"{shares.crew_waiting:.0%} of it; more cores would help, more connections would not"
        )
    if shares.consumer >= 0.5:
        return consumer.format(share=shares.consumer)
    if shares.source >= 0.5:
        return f"source: {shares.source:.0%} of the time went into reading the list"
    if shares.connections > 1:
        return (
            f"network, by limit: rows waited for a free connection (--connections {connections}, --per-host {per_host}) "
            f"while the decoders were busy {shares.crew_busy:.0%} of the time; raise the limit if the servers allow it"
        )
    return f"network: the decoders were busy {shares.crew_busy:.0%} of the time and waited for downloads otherwise"
