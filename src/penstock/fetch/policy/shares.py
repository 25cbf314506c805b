"""One run, many lanes, and a host that must not see more than so many requests at a time: who may ask how much.

::

    lane: LaneShares ──changes: {host: Need(held, wanted)}──▶ HostSlots: coordinator
                     ◀──limits: {host: requests at a time}──

A lane asks a host only within the limit that it was told; of a host that it was told nothing about, the limit is 0. What a
lane has been told counts as taken until the lane has said something *after* it heard that it has less. So the sum over the
lanes never exceeds the limit, whatever is lost on the way. Decides and does no I/O; time is passed in. Not thread-safe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["HostSlots", "LaneShares", "Need"]

LEASE = 2.0
"""Seconds for which a lane keeps the single slot that others wait for."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a lane has, and would like, of one host."""

    held: int
    """Requests under way."""
    wanted: int
    """The same and those that wait, as many as the host may get at a time."""


_NOTHING = Need(0, 0)


class LaneShares:
    """A lane's side.

    Args:
        per_host: requests at a time at one host, of all lanes together.
    """

    def __init__(self, per_host: int) -> None:
        self._per_host = per_host
        self._limits: dict[str, int] = {}
        self._needs: dict[str, Need] = {}
        """Of the hosts in use."""
        self._said: dict[str, Need] = {}
        self._changed: set[str] = set()

    def limit(self, host: str) -> int:
        """Requests at a time."""
        return self._limits.get(host, 0)

    def note(self, host: str, active: int, queued: int) -> bool:
        """So many requests are under way, and so many could start. Whether it is worth saying at once: a slot is lacking."""
        need = Need(active, min(active + queued, self._per_host))
        if need == _NOTHING:
            self._needs.pop(host, None)
        else:
            self._needs[host] = need
        self._changed.add(host)
        said = self._said.get(host, _NOTHING)
        return need.wanted > max(said.wanted, self.limit(host))

    def changes(self) -> dict[str, Need]:
        """What is not as it was said last. A host that is in use no more loses its limit with this, and is forgotten."""
        changes = {}
        for host in self._changed:
            need = self._needs.get(host, _NOTHING)
            if need == self._said.get(host, _NOTHING):
                continue
            changes[host] = need
            if need == _NOTHING:
                del self._said[host]
                self._limits.pop(host, None)
            else:
                self._said[host] = need
        self._changed.clear()
        return changes

    def heard(self, limits: Mapping[str, int]) -> list[str]:
        """Take the coordinator's answer; the hosts that may get more now."""
        raised = [host for host, limit in limits.items() if limit > self.limit(host)]
        self._limits |= limits
        return raised

    def forget(self) -> None:
        """Contact was lost: what was told counts no more, and everything has to be said again."""
        self._limits.clear()
        self._said.clear()
        self._changed |= self._needs.keys()


@dataclass(slots=True)
class _Claim:
    """What one lane has of one host."""

    need: Need = _NOTHING
    told: int = 0
    """Its limit, as it was told last."""
    charged: int = 0
    """What it may be using, as far as anybody can know."""
    since: float = 0.0
    """When it got its first slot, or, without one, when it lost the last one or began to wait."""


@dataclass(slots=True)
class _Host:
    claims: dict[str, _Claim] = field(default_factory=dict)
    """By lane."""
    charged: int = 0
    """The sum."""
    targets: dict[str, int] = field(default_factory=dict)
    """What each lane should have; empty when it has to be computed anew."""
    until: float = 0.0
    """Until when these hold: then a slot goes round."""


@dataclass(slots=True)
class _Lane:
    hosts: set[str] = field(default_factory=set)
    """In which it has a claim."""
    pending: set[str] = field(default_factory=set)
    """Those whose limit it may have to be told anew."""
    lowered: set[str] = field(default_factory=set)
    """Those whose lowered limit it was told last time; with its next word it has heard of it."""


class HostSlots:
    """The coordinator's side.

    While there are slots for all, each lane gets an equal share, and what it does not want goes to the others. With more
    lanes than slots, the slots go round.

    Args:
        per_host: requests at a time at one host.
    """

    def __init__(self, per_host: int) -> None:
        self._per_host = per_host
        self._hosts: dict[str, _Host] = {}
        self._lanes: dict[str, _Lane] = {}

    def __len__(self) -> int:
        """Hosts of which a lane holds or wants something."""
        return len(self._hosts)

    def exchange(self, lane: str, needs: Mapping[str, Need], now: float, *, anew: bool = False) -> dict[str, int]:
        """Take a lane's word and give it the limits that have changed for it.

        A lane speaks again only when it has heard the answer, or has forgotten everything (`LaneShares.forget`).

        Args:
            lane: its name.
            needs: those that have changed since it spoke last.
            now: seconds.
            anew: it has forgotten what it was told; `needs` are all that it has.
        """
        if anew:
            self.drop(lane)
        known = self._lanes.setdefault(lane, _Lane())
        for host in known.lowered:
            self._charge(host, lane)
        known.lowered.clear()
        for host, need in needs.items():
            self._learn(host, lane, need, now)
        limits = {}
        for host in tuple(known.pending):
            limit = self._limit(host, lane, now)
            if limit is not None:
                limits[host] = limit
        known.pending = {host for host in known.pending if self._is_hungry(host, lane)}
        return limits

    def drop(self, lane: str) -> None:
        """A lane has ended, and what it held is free; one that nobody knows is no error."""
        known = self._lanes.pop(lane, None)
        for host in known.hosts if known else ():
            self._forget(host, lane)

    def _learn(self, name: str, lane: str, need: Need, now: float) -> None:
        known = self._lanes[lane]
        if need == _NOTHING:
            if name in known.hosts:
                self._forget(name, lane)
            known.hosts.discard(name)
            known.pending.discard(name)
            return
        host = self._hosts.setdefault(name, _Host())
        claim = host.claims.get(lane)
        if claim is None:
            claim = host.claims[lane] = _Claim(since=now)
            known.hosts.add(name)
            host.targets = {}
        if claim.need.wanted != need.wanted:
            host.targets = {}
        claim.need = need
        self._charge(name, lane)
        known.pending.add(name)

    def _charge(self, name: str, lane: str) -> None:
        """The lane has heard its limit: it uses no more than that, and what is under way."""
        host = self._hosts.get(name)
        claim = host.claims.get(lane) if host else None
        if host and claim:
            charged = max(claim.told, claim.need.held)
            host.charged += charged - claim.charged
            claim.charged = charged

    def _forget(self, name: str, lane: str) -> None:
        host = self._hosts[name]
        host.charged -= host.claims.pop(lane).charged
        host.targets = {}
        if host.claims:
            self._look_again(name, host)
        else:
            del self._hosts[name]

    def _limit(self, name: str, lane: str, now: float) -> int | None:
        """The lane's limit, if it has changed."""
        host = self._hosts[name]
        if not host.targets or now >= host.until:
            self._share_out(host, now)
            self._look_again(name, host)
        claim = host.claims[lane]
        limit = min(host.targets[lane], max(0, self._per_host - (host.charged - claim.charged)))
        if limit == claim.told:
            return None
        if limit < claim.told:
            self._lanes[lane].lowered.add(name)
        else:
            charged = max(claim.charged, limit)
            host.charged += charged - claim.charged
            claim.charged = charged
        if not claim.told or not limit:
            claim.since = now
        claim.told = limit
        return limit

    def _is_hungry(self, name: str, lane: str) -> bool:
        """Whether the lane may get more without anything new about itself."""
        claim = self._hosts[name].claims[lane]
        return claim.need.wanted > claim.told or self._hosts[name].targets.get(lane) != claim.told

    def _look_again(self, name: str, host: _Host) -> None:
        """Have the lanes told whose limit is not what it should be."""
        for lane, claim in host.claims.items():
            if host.targets.get(lane) != claim.told:
                self._lanes[lane].pending.add(name)

    def _share_out(self, host: _Host, now: float) -> None:
        if len(host.claims) > self._per_host:
            self._take_turns(host, now)
        else:
            host.targets = _fair_shares(
                {lane: claim.need.wanted for lane, claim in host.claims.items()}, self._per_host
            )
            host.until = float("inf")

    def _take_turns(self, host: _Host, now: float) -> None:
        """One slot for each of as many lanes as there are: those whose lease runs, then those that have waited longest."""

        def turn(lane: str) -> tuple[bool, float]:
            claim = host.claims[lane]
            leased = claim.told > 0 and now - claim.since < LEASE
            return not leased, now if claim.told and not leased else claim.since

        order = sorted(host.claims, key=turn)
        host.targets = {lane: int(place < self._per_host) for place, lane in enumerate(order)}
        host.until = now + LEASE / 4  # often enough for leases that end one by one


def _fair_shares(wanted: Mapping[str, int], slots: int) -> dict[str, int]:
    """Equal shares of at least one; what somebody does not want goes to the others, and what nobody wants round.

    >>> _fair_shares({"a": 1, "b": 8, "c": 8}, 8)
    {'a': 1, 'b': 4, 'c': 3}
    >>> _fair_shares({"a": 1, "b": 1}, 8)
    {'a': 4, 'b': 4}
    """
    shares = dict.fromkeys(wanted, 0)
    for bounded in (True, False):
        while slots > 0:
            takers = [lane for lane in wanted if not bounded or shares[lane] < wanted[lane]]
            if not takers:
                break
            each = max(1, slots // len(takers))
            for lane in takers[:slots]:
                given = min(each, wanted[lane] - shares[lane]) if bounded else each
                shares[lane] += min(given, slots)
                slots -= min(given, slots)
    return shares
