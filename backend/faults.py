"""A store that fails on purpose, for tests: seeded, so that a run can be had again. It watches that no name gets two contents.

Time is the clock of the trio loop unless another is handed in; with trio's ``MockClock`` all delays are virtual.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, fields
from random import Random
from typing import Protocol

import trio
from typing_extensions import override

from backend.single_bucket import listing
from backend.store import ObjectInfo, ObjectStore
from vpool.errors import Internal, NotFound, Unavailable


class Clock(Protocol):
    """Time for the faults."""

    def now_s(self) -> float:
        """Seconds since any fixed moment."""

    async def sleep(self, seconds: float) -> None:
        """Let the time pass; always a checkpoint."""


class TrioClock:
    """The clock of the trio loop, real or mocked."""

    def now_s(self) -> float:
        """Seconds of the loop's clock."""
        return trio.current_time()

    async def sleep(self, seconds: float) -> None:
        """Sleep by the loop's clock."""
        await trio.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Faults:
    """How often (probability per request) and how long (seconds) things go wrong. The default is: never."""

    delay_s_max: float = 0.0  # each request waits a random time up to this
    unavailable: float = 0.0  # the request is not carried out (5xx)
    reset: float = 0.0  # the connection breaks; a change is carried out or not, by chance
    lost_reply: float = 0.0  # a change is carried out, the caller is told Unavailable
    late_put: float = 0.0  # the caller is told Unavailable, the put lands up to late_s_max later
    late_s_max: float = 5.0
    short_body: float = 0.0  # a get is told Unavailable after its bytes have come
    damaged_body: float = 0.0  # a get returns a flipped bit or too little: breaks the interface's promise, for tests of checksums
    invisible_s_max: float = 0.0  # a new object answers 404 for a random time up to this
    stale_list_s_max: float = 0.0  # listings show a put or a delete up to this much later

    def __post_init__(self) -> None:
        """Refuse what is no probability or no time."""
        for each in fields(self):
            value = getattr(self, each.name)
            if value < 0 or (not each.name.endswith("_s_max") and value > 1):
                raise ValueError(f"{each.name}={value} is not possible")


MILD = Faults(
    delay_s_max=0.002,
    unavailable=0.05,
    reset=0.03,
    lost_reply=0.03,
    short_body=0.03,
    invisible_s_max=0.05,
    stale_list_s_max=0.05,
)


@dataclass(frozen=True, slots=True)
class Violation:
    """A name that was put with two contents: the one thing vPool must never do."""

    bucket: str
    name: str
    first_sha256: str
    second_sha256: str
    at_s: float


@dataclass(slots=True)
class InjectedCounts:
    """How often each fault has really happened; a test that none did proves nothing."""

    by_kind: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str) -> None:
        """One more."""
        self.by_kind[kind] = self.by_kind.get(kind, 0) + 1


@dataclass(frozen=True, slots=True)
class _Late:
    due_s: float
    bucket: str
    name: str
    data: bytes


class FaultyStore(ObjectStore):
    """``inner`` with faults. Sits above a store's own retries, so a fault is what a caller sees when those have given up.

    Attributes:
        faults: may be changed at any time.
        outage: while true every request is refused at once and nothing is carried out.
        violations: names put with different contents, whether or not the put was carried out.
        injected: faults by kind.

    Concurrency: all records are changed without an await between test and change.
    """

    def __init__(
        self,
        inner: ObjectStore,
        faults: Faults,
        *,
        seed: int,
        clock: Clock | None = None,
        raise_on_violation: bool = False,
    ) -> None:
        """Wrap ``inner``, which this store closes.

        Args:
            inner: any store.
            faults: what goes wrong.
            seed: of all chance; print it where a test fails.
            clock: the trio loop's where it is None.
            raise_on_violation: raise Internal at once instead of only recording.
        """
        self.url = f"faulty({seed}):{inner.url}"
        self.counters = inner.counters
        self.faults = faults
        self.outage = False
        self.violations: list[Violation] = []
        self.injected = InjectedCounts()
        self._inner = inner
        self._random = Random(seed)  # noqa: S311 (must be had again)
        self._clock = clock or TrioClock()
        self._raise_on_violation = raise_on_violation
        self._contents: dict[tuple[str, str], str] = {}  # sha256 of every name ever put
        self._visible_at_s: dict[tuple[str, str], float] = {}
        self._listed_at_s: dict[tuple[str, str], float] = {}  # puts that listings do not show yet
        self._unlisted: dict[tuple[str, str], tuple[float, ObjectInfo]] = {}  # deletes that listings do not show yet
        self._late: list[_Late] = []

    @override
    async def check(self) -> None:
        await self._before("check")
        await self._inner.check()

    @override
    async def create_bucket(self, bucket: str) -> None:
        async with self._change("create_bucket"):
            await self._inner.create_bucket(bucket)

    @override
    async def delete_bucket(self, bucket: str) -> None:
        async with self._change("delete_bucket"):
            await self._inner.delete_bucket(bucket)

    @override
    async def list_buckets(self) -> AsyncIterator[str]:
        await self._before("list_buckets")
        async for bucket in self._inner.list_buckets():
            yield bucket

    @override
    async def put(self, bucket: str, name: str, data: bytes) -> None:
        is_new = self._watch(bucket, name, data)
        if self._hits(self.faults.late_put) and not self.outage:
            self._late.append(_Late(self._clock.now_s() + self._up_to(self.faults.late_s_max), bucket, name, bytes(data)))
            raise self._injected("late_put")
        async with self._change("put"):
            await self._inner.put(bucket, name, data)
            if is_new:
                now_s = self._clock.now_s()
                self._visible_at_s[bucket, name] = now_s + self._up_to(self.faults.invisible_s_max)
                self._listed_at_s[bucket, name] = now_s + self._up_to(self.faults.stale_list_s_max)

    @override
    async def get(self, bucket: str, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        await self._before("get")
        self._see(bucket, name)
        data = await self._inner.get(bucket, name, start=start, length=length)
        if self._hits(self.faults.reset):
            raise self._injected("reset")
        if self._hits(self.faults.short_body):
            raise self._injected("short_body")
        if data and self._hits(self.faults.damaged_body):
            self.injected.add("damaged_body")
            at = self._random.randrange(len(data))
            return (
                data[:at] if self._hits(0.5) else data[:at] + bytes([data[at] ^ 1 << self._random.randrange(8)]) + data[at + 1 :]
            )
        return data

    @override
    async def size(self, bucket: str, name: str) -> int:
        await self._before("size")
        self._see(bucket, name)
        return await self._inner.size(bucket, name)

    @override
    async def delete(self, bucket: str, name: str) -> None:
        async with self._change("delete"):
            stale_s = self._up_to(self.faults.stale_list_s_max)
            info = await self._info(bucket, name) if stale_s else None
            await self._inner.delete(bucket, name)
            if info is not None:
                self._unlisted[bucket, name] = (self._clock.now_s() + stale_s, info)

    @override
    async def list(self, bucket: str, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        await self._before("list")
        now_s = self._clock.now_s()
        gone = sorted(
            (info.name, info)
            for (in_bucket, _), (until_s, info) in self._unlisted.items()
            if in_bucket == bucket and until_s > now_s and info.name.startswith(prefix)
        )
        async with listing(self._inner, bucket, prefix) as objects:
            async for info in objects:
                while gone and gone[0][0] <= info.name:
                    name, stale = gone.pop(0)
                    if name != info.name:
                        self.injected.add("stale_list")
                        yield stale
                if self._listed_at_s.get((bucket, info.name), 0.0) > now_s:
                    self.injected.add("stale_list")
                else:
                    yield info
        for _, stale in gone:
            self.injected.add("stale_list")
            yield stale

    @override
    async def aclose(self) -> None:
        self._late.clear()
        await self._inner.aclose()

    async def land_late_puts(self) -> None:
        """Carry out the late puts that are due; each request does it first by itself."""
        now_s = self._clock.now_s()
        due = [late for late in self._late if late.due_s <= now_s]
        self._late = [late for late in self._late if late.due_s > now_s]
        for late in due:
            with suppress(NotFound):  # its bucket is gone
                await self._inner.put(late.bucket, late.name, late.data)

    async def _before(self, operation: str) -> None:
        """What may happen before a request is carried out."""
        await self._clock.sleep(self._up_to(self.faults.delay_s_max))
        if self.outage:
            raise self._injected("outage")
        await self.land_late_puts()
        if self._hits(self.faults.unavailable):
            raise self._injected("unavailable", operation=operation)

    @asynccontextmanager
    async def _change(self, operation: str) -> AsyncIterator[None]:
        """What may happen around a request that changes something."""
        await self._before(operation)
        reset = self._hits(self.faults.reset)
        if reset and self._hits(0.5):
            raise self._injected("reset", operation=operation)
        yield
        if reset:
            raise self._injected("reset", operation=operation)
        if self._hits(self.faults.lost_reply):
            raise self._injected("lost_reply", operation=operation)

    def _watch(self, bucket: str, name: str, data: bytes) -> bool:
        """Note the content of a name; true if it has not been put before."""
        digest = hashlib.sha256(data).hexdigest()
        first = self._contents.setdefault((bucket, name), digest)
        is_new = (bucket, name) not in self._visible_at_s
        if first != digest:
            violation = Violation(bucket, name, first, digest, self._clock.now_s())
            self.violations.append(violation)
            if self._raise_on_violation:
                raise Internal("a name was put with two contents", bucket=bucket, name=name, first=first[:12], second=digest[:12])
        return is_new

    def _see(self, bucket: str, name: str) -> None:
        """Raise NotFound while a new object is not visible yet."""
        if self._visible_at_s.get((bucket, name), 0.0) > self._clock.now_s():
            self.injected.add("invisible")
            raise NotFound("no such object (injected)", bucket=bucket, name=name)

    async def _info(self, bucket: str, name: str) -> ObjectInfo | None:
        try:
            return ObjectInfo(name, await self._inner.size(bucket, name))
        except NotFound:
            return None

    def _hits(self, probability: float) -> bool:
        return probability > 0 and self._random.random() < probability

    def _up_to(self, seconds_max: float) -> float:
        return self._random.random() * seconds_max if seconds_max else 0.0

    def _injected(self, kind: str, **details: object) -> Unavailable:
        self.injected.add(kind)
        return Unavailable(f"injected: {kind}", **details)
