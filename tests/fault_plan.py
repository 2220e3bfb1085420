"""What the fault proxy does to a request, and what it remembers: pure, no sockets, time and dice are handed in."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True, slots=True)
class Faults:
    """How often (0 to 1 of all requests) and how badly a store fails; the default is a store that does not."""

    delayed: float = 0.0  # the request is held up to ``delay_s`` before it goes on; it does so even when its client is gone
    delay_s: float = 0.2
    unavailable: float = 0.0  # 503, not done
    unavailable_but_done: float = 0.0  # 503, done all the same
    reset_before: float = 0.0  # the connection breaks and nothing was done
    reset_after: float = 0.0  # the reply is lost
    short_body: float = 0.0  # of GETs: the connection breaks within the body
    invisible: float = 0.0  # of PUTs: GET and HEAD answer 404 for up to ``invisible_s`` after it
    invisible_s: float = 1.0
    stale_listing: float = 0.0  # of listings: the answer is that of an earlier one


ROUGH = Faults(
    delayed=0.3,
    delay_s=0.4,
    unavailable=0.05,
    unavailable_but_done=0.03,
    reset_before=0.04,
    reset_after=0.06,
    short_body=0.05,
    invisible=0.4,
    invisible_s=1.5,
    stale_listing=0.5,
)


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of one request."""

    delay_s: float = 0.0
    refused: bool = False
    reset_before: bool = False
    reset_after: bool = False
    failed_after: bool = False
    short_body: bool = False


def fate(faults: Faults, dice: random.Random) -> Fate:
    """Throw the dice for a request."""
    delay_s = dice.uniform(0, faults.delay_s) if dice.random() < faults.delayed else 0.0
    which, short = dice.random(), dice.random() < faults.short_body
    for name, share in (
        ("refused", faults.unavailable),
        ("failed_after", faults.unavailable_but_done),
        ("reset_before", faults.reset_before),
        ("reset_after", faults.reset_after),
    ):
        if which < share:
            return Fate(delay_s, short_body=short, **{name: True})
        which -= share
    return Fate(delay_s, short_body=short)


def object_name(target: str) -> str | None:
    """Name of the object that a request is about, by Swift's paths or S3's; None for accounts, buckets and tokens."""
    split = urlsplit(target)
    parts = unquote(split.path).lstrip("/").split("/", 3 if split.path.startswith("/v1/") else 1)
    if parts[0] in ("auth", "healthcheck", "info"):
        return None
    bucket_and_key = parts[2:] if parts[0] == "v1" else parts
    if len(bucket_and_key) < 2 or not bucket_and_key[1]:
        return None
    part = f"?{split.query}" if "partNumber=" in split.query else ""
    return "/".join(bucket_and_key) + part


@dataclass(slots=True)
class Ledger:
    """Every object that was ever sent to the store, for as long as the test runs: no name may come again with other content."""

    violations: list[str] = field(default_factory=list)
    repeats: int = 0
    _content: dict[str, tuple[str, int]] = field(default_factory=dict)
    _visible_from: dict[str, float] = field(default_factory=dict)

    def sent(self, name: str, body: bytes) -> None:
        """Note that a PUT goes to the store; whatever becomes of it, a replica may have it from now on."""
        content = hashlib.md5(body, usedforsecurity=False).hexdigest(), len(body)
        before = self._content.setdefault(name, content)
        if before != content:
            self.violations.append(
                f"{name} was put with {before[1]} bytes, MD5 {before[0]}, and again with {content[1]}, MD5 {content[0]}"
            )
        elif before is not content:
            self.repeats += 1

    def stored(self, name: str, visible_from_s: float) -> None:
        """Note that a PUT has succeeded; the first one of a name says when the object is seen."""
        self._visible_from.setdefault(name, visible_from_s)

    def hidden(self, name: str, now_s: float) -> bool:
        """Whether an object is stored and not seen yet."""
        return self._visible_from.get(name, 0.0) > now_s

    def __len__(self) -> int:
        return len(self._content)

    def count(self, part: str) -> int:
        """How many names contain ``part``."""
        return sum(part in name for name in self._content)


@dataclass(slots=True)
class Listings:
    """Earlier answers to listings, to be given again."""

    _last: dict[str, bytes] = field(default_factory=dict)

    def answer(self, target: str, fresh: bytes, *, stale: bool) -> bytes:
        """What to answer now; a stale one is older than ``fresh`` by one or more listings."""
        if stale and target in self._last:
            return self._last[target]
        self._last[target] = fresh
        return fresh


Counts = Counter[str]
