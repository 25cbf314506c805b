"""Rows whose URL stands in an earlier row, too (``--dedup``)."""

from __future__ import annotations

import array
import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from penstock.errors import ItemError
from penstock.fetch.policy.urls import Target, UrlRules, check_url
from penstock.records import Row

__all__ = ["find_duplicates"]


def find_duplicates(rows: Iterable[Row], rules: UrlRules) -> npt.NDArray[np.int64]:
    """Positions of the rows that ask for nothing but what an earlier row asks for, too; ascending.

    Fragments, default ports, the case of hosts and dot segments make no difference between URLs (RFC 3986, 6.2.2).
    Rows that cannot be fetched anyway are no duplicates: they fail with a reason of their own. A row of several parts is
    a duplicate if it asks for the same URLs as an earlier one, all of them, each for the same part.

    Of each row 8 bytes are kept, and 24 while they are sorted. That many bytes of a hash (BLAKE2b) can be equal by chance:
    among a million rows once in 40 million lists, among 10⁹ once in 40 lists.

    Args:
        rows: the whole list, from its beginning.
        rules: what the options say about URLs.
    """
    hashes = np.frombuffer(array.array("Q", (_hash(row, rules) for row in rows)), np.uint64)
    order = np.argsort(hashes, kind="stable")
    in_order = hashes[order]
    return np.sort(order[1:][in_order[1:] == in_order[:-1]])


def _hash(row: Row, rules: UrlRules) -> int:
    urls = [_canonical_url(request.url, rules) for request in row.requests]
    asked = f" {row.index}"  # like no other
    if any(urls):
        asked = " ".join(
            f"{request.part}={url or request.url}" if len(urls) > 1 else str(url)
            for request, url in zip(row.requests, urls, strict=True)
        )
    return int.from_bytes(hashlib.blake2b(asked.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def _canonical_url(url: str | None, rules: UrlRules) -> str | None:
    """The one spelling of a URL; None if it cannot be fetched."""
    try:
        return _canonical(check_url(url, rules))
    except ItemError:
        return None


def _canonical(target: Target) -> str:
    path, mark, query = target.path.partition("?")
    if target.stored or "/." not in path:
        return target.url
    kept: list[str] = []
    for segment in path.split("/")[1:]:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    end = "/" if kept and path.endswith(("/.", "/..")) else ""
    return f"{target.origin}/{'/'.join(kept)}{end}{mark}{query}"
