"""What hosts and answers say about the use of their images: robots.txt and the headers that reserve rights.

No I/O, and no exception whatever a server writes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from protego import Protego

from penstock.errors import ItemError
from penstock.records import Reason

__all__ = ["AGENT", "ALLOW_ALL", "ROBOTS_BYTES", "RobotsRules", "Values", "reservation"]

AGENT = "penstock"
"""Our product token: what robots.txt and X-Robots-Tag call us."""

ROBOTS_BYTES = 512 * 1024
"""Of a robots.txt, that much is read; RFC 9309 asks for 500 KiB at least."""

MAX_RULES = 10_000
"""Rules for us; 512 KiB hold 50,000, which take 15 MB and 0.2 s to parse."""

MAX_PATTERNS = 1_000
"""Those of them with ``*`` or ``$``: each costs a long URL up to 30 µs, on the thread that runs everything. Whoever writes
more of either than anybody can read is taken to forbid everything."""

_PARSERS = 512
"""Parsers kept: as many origins as are asked at the same time, more or less. A rule takes 300 to 800 bytes in a parser, and 30
as text, which is what is kept of the others."""

Values = Callable[[str], Sequence[str]]
"""All values of a header field, by its name."""

RESERVING = ("noai", "noimageai", "noindex", "noimageindex", "none", "noml")
"""Directives of X-Robots-Tag that keep an image from us."""

VALUED = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
"""Directives of X-Robots-Tag that take a colon and a value, and so look like the name of a robot."""

_PREFIX = re.compile(r"\s*([a-z0-9_./+*-]+)\s*:", re.ASCII)
_MEMBER = re.compile(r"\s*([a-z0-9_.*-]+)\s*=\s*\"?([a-z0-9]*)", re.ASCII)
_AGENT_LINE = re.compile(r"user[ -]?agent\b\s*:?\s*(\*(?![\w-])|[a-z_-]*)", re.ASCII | re.IGNORECASE)
# Misspelt as well, as far as protego understands it.
_RULE = re.compile(
    r"(?:dis{1,2}al{1,2}ow|diasllow|disallaw|allow|crawl[ -]delay|request[ -]rate)\b", re.ASCII | re.IGNORECASE
)
_FORBIDS = re.compile(r"d\w*\b[\s:]*[^\s:]", re.ASCII | re.IGNORECASE)


def reservation(values: Values) -> ItemError | None:
    """The opt-out that an answer's headers state, as the failure that it makes of the row.

    >>> headers = {"X-Robots-Tag": ["otherbot: noindex", "noarchive, NoAI"]}
    >>> reservation(lambda name: headers.get(name, ())).detail
    'X-Robots-Tag: noai'
    """
    for value in values("X-Robots-Tag"):
        directive = _reserving(value.lower())
        if directive:
            return ItemError(Reason.OPTOUT_HEADER, f"X-Robots-Tag: {directive}")
    if any(value.strip() == "1" for value in values("tdm-reservation")):
        return ItemError(Reason.OPTOUT_TDM, "tdm-reservation: 1")
    # A dictionary of structured fields, read leniently: of a name that comes twice, the last counts.
    usage = {member[1]: member[2] for value in values("Content-Usage") for member in _members(value)}
    if usage.get("train-ai") == "n":
        return ItemError(Reason.OPTOUT_HEADER, "Content-Usage: train-ai=n")
    return None


def _reserving(value: str) -> str | None:
    """The directive for us that reserves, if there is one.

    A robot's name holds for what follows it in the same value: ``onebot: noai, noindex, otherbot: none``.
    """
    ours = True
    for item in value.split(","):
        prefix = _PREFIX.match(item)
        if prefix and prefix[1] in VALUED:
            continue  # "max-image-preview: none" keeps nothing from us
        if prefix:
            ours = prefix[1].partition("/")[0] in (AGENT, "*")
        words = item[prefix.end() :] if prefix else item
        found = next((word for word in words.split() if word in RESERVING), None)
        if ours and found:
            return found
    return None


def _members(value: str) -> Iterable[re.Match[str]]:
    return filter(None, map(_MEMBER.match, value.lower().split(",")))


@dataclass(frozen=True, slots=True)
class RobotsRules:
    r"""What a robots.txt says to us, by RFC 9309.

    >>> rules = RobotsRules.parse(b"User-agent: *\nDisallow: /private\nAllow: /private/*.jpg$\nCrawl-delay: 2")
    >>> rules.allows("https://example.com/private/x"), rules.allows("https://example.com/private/x.jpg"), rules.delay
    (False, True, 2.0)
    """

    delay: float = 0.0
    """Seconds between two requests that the host asks for; finite, and 0 if it does not ask."""
    text: str = ""
    """The rules for us as a robots.txt of their own; empty if nothing is forbidden."""

    @classmethod
    def parse(cls, data: bytes) -> RobotsRules:
        """The rules of a robots.txt, whatever the bytes are; `ALLOW_ALL` itself, which takes no room, if there are none.

        Args:
            data: The file, or its first `ROBOTS_BYTES`.
        """
        lines = data[:ROBOTS_BYTES].decode("utf-8-sig", errors="replace").splitlines()
        if len(data) >= ROBOTS_BYTES:
            del lines[-1:]  # cut off: half a path would be a rule for more than was meant
        rules = _rules_for_us(lines)
        if len(rules) > MAX_RULES or sum("*" in rule or "$" in rule for rule in rules) > MAX_PATTERNS:
            rules = ["Disallow: /"]
        text = "\n".join([f"User-agent: {AGENT}", *rules])
        found = cls(_delay(_parser(text)), text if any(map(_FORBIDS.match, rules)) else "")
        return ALLOW_ALL if found == ALLOW_ALL else found

    def allows(self, url: str) -> bool:
        """Whether a URL of this origin, as `Target.url` gives it, may be fetched."""
        return not self.text or _parser(self.text).can_fetch(url, AGENT)


ALLOW_ALL = RobotsRules()
"""Of a host that has no robots.txt, or one with nothing to say to us."""


def _rules_for_us(lines: Iterable[str]) -> list[str]:
    """The rules of all groups that name us; where none does, of those for everybody.

    Protego would sort the groups too, but it gives each agent of a group its own copy of each rule, so that 50 KiB of a
    hostile file take seconds and 500 KiB all memory; and it looks for the agent's name in ours, not ours in the agent's.
    """
    groups: dict[str, list[str]] = {"*": []}
    current: set[str] = set()
    begun = False  # the rules of the group, which end the list of its agents; other records do not count
    for text in lines:
        line = text.partition("#")[0].strip()
        if agent := _AGENT_LINE.match(line):
            if begun:
                current, begun = set(), False
            name = agent[1].lower()
            if name in (AGENT, "*"):
                current.add(name)
                groups.setdefault(name, [])
        elif _RULE.match(line):
            begun = True
            for name in current:
                groups[name].append(line)
    return groups.get(AGENT, groups["*"])


@functools.lru_cache(_PARSERS)
def _parser(text: str) -> Protego:
    return Protego.parse(text)


def _delay(parser: Protego) -> float:
    delay = parser.crawl_delay(AGENT) or 0.0
    rate = parser.request_rate(AGENT)
    if rate is None:
        return delay
    seconds = min(rate.seconds, 86_400)  # a number of 400 digits could not be divided
    return max(delay, seconds / rate.requests)
