"""The backend, tried out in a bucket of its own: permissions, latency, rate, and how consistent it is.

What is found about overwrites, listings and conditions is for people: vPool writes no name twice with different content and
depends on neither. What it does depend on, that an acknowledged put is there and whole, is a problem when it fails.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import trio

from backend import ObjectStore
from vpool.doctor.report import Report, Verdict, quantile
from vpool.errors import Corrupt, Invalid, NotFound, VPoolError
from vpool.sizes import show_size

SMALL_BYTES = 4096
LARGE_BYTES = 4 << 20  # a SCO
SMALL_TRIES = 12
LARGE_AT_ONCE = 8
LARGE_TRIES = 24
FRESH_TRIES = 16
RACES = 3
RACERS = 8
LAG_S_MAX = 15.0
CLEAN_UP_S = 60.0
SLOW_S = 0.25


@asynccontextmanager
async def scratch_bucket(store: ObjectStore, report: Report) -> AsyncIterator[str]:
    """A bucket that goes with the block, whatever ends it; what could not be removed is a problem that names it."""
    bucket = f"vpool-doctor-{os.urandom(4).hex()}"
    with trio.CancelScope(shield=True):  # else nobody knows whether it was made
        await store.create_bucket(bucket)
    try:
        yield bucket
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLEAN_UP_S):
            await _remove(store, bucket, report)


async def _remove(store: ObjectStore, bucket: str, report: Report) -> None:
    """Listings may lag, so the bucket is emptied until it goes."""
    error: VPoolError | None = None
    for pause in (0.0, 0.5, 1.0, 2.0, 4.0, 8.0):
        await trio.sleep(pause)
        try:
            for name in {info.name async for info in store.list(bucket)} | _names():
                await store.delete(bucket, name)
            await store.delete_bucket(bucket)
        except NotFound:
            return
        except VPoolError as refused:
            error = refused
        else:
            return
    report.add("backend", "clean-up", Verdict.PROBLEM, f"bucket {bucket} stays: {error}", "remove it by hand")


def _names() -> set[str]:
    """Every name that an examination uses: a listing that lags may not have them."""
    counted = [("small", SMALL_TRIES), ("large", LARGE_TRIES), ("fresh", FRESH_TRIES), ("race", RACES), ("denied", 3)]
    return {f"{stem}/{number}" for stem, count in counted for number in range(count)} | {"overwritten", "deleted"}


async def examine_store(store: ObjectStore, report: Report) -> None:
    """All of it. A refusal that ends the examination is a problem in the report."""
    report.add("backend", "address", Verdict.NOTE, store.url)
    try:
        await store.check()
        async with scratch_bucket(store, report) as bucket:
            report.add("backend", "permissions", Verdict.GOOD, "lists and makes buckets")
            await _latency(store, bucket, report)
            await _rate(store, bucket, report)
            await _fresh(store, bucket, report)
            await _listing(store, bucket, report)
            await _late_names(store, bucket, report)
            await _overwrite(store, bucket, report)
            await _condition(store, bucket, report)
    except VPoolError as error:
        advice = "the message says what to change; docs/backends.md has the permissions that are needed"
        report.add("backend", "works", Verdict.PROBLEM, str(error), advice)


async def _timed(request: Callable[[], Awaitable[object]]) -> float:
    began = trio.current_time()
    await request()
    return trio.current_time() - began


async def _latency(store: ObjectStore, bucket: str, report: Report) -> None:
    data = os.urandom(SMALL_BYTES)
    puts = [await _timed(partial(store.put, bucket, f"small/{number}", data)) for number in range(SMALL_TRIES)]

    async def get(number: int) -> None:
        if await store.get(bucket, f"small/{number}", start=512, length=1024) != data[512:1536]:
            raise Corrupt("the backend returned other bytes than were put", bucket=bucket, name=f"small/{number}")

    gets = [await _timed(partial(get, number)) for number in range(SMALL_TRIES)]
    for name, took in (("put", puts), ("get", gets)):
        report.figures |= {f"backend_{name}_median_s": quantile(took, 0.5), f"backend_{name}_max_s": max(took)}
    middle = f"put {quantile(puts, 0.5) * 1e3:.1f} ms, get {quantile(gets, 0.5) * 1e3:.1f} ms in the middle"
    found = f"{middle}; at most {max(puts + gets) * 1e3:.0f} ms"
    slow = quantile(gets, 0.5) > SLOW_S
    advice = "every miss of the read cache takes that long: a large read cache matters here" if slow else ""
    report.add("backend", "latency of 4 KiB", Verdict.WARNING if slow else Verdict.GOOD, found, advice)


async def _rate(store: ObjectStore, bucket: str, report: Report) -> None:
    data = os.urandom(LARGE_BYTES)

    async def at_once(work: Callable[[int], Awaitable[None]]) -> float:
        limit = trio.CapacityLimiter(LARGE_AT_ONCE)

        async def one(number: int) -> None:
            async with limit:
                await work(number)

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(LARGE_TRIES):
                nursery.start_soon(one, number)
        return LARGE_TRIES * LARGE_BYTES / (trio.current_time() - began)

    async def put(number: int) -> None:
        await store.put(bucket, f"large/{number}", data)

    async def get(number: int) -> None:
        if await store.get(bucket, f"large/{number}") != data:
            raise Corrupt("the backend returned other bytes than were put", bucket=bucket, name=f"large/{number}")

    alone = LARGE_BYTES / await _timed(lambda: store.put(bucket, "large/0", data))
    written, read = await at_once(put), await at_once(get)
    report.figures |= {
        "backend_put_bytes_per_s": written,
        "backend_get_bytes_per_s": read,
        "backend_put_alone_bytes_per_s": alone,
    }
    together = f"puts {show_size(int(written))}/s, gets {show_size(int(read))}/s, {LARGE_AT_ONCE} at once"
    found = f"{together}; one put alone {show_size(int(alone))}/s"
    report.add("backend", "rate of 4 MiB", Verdict.GOOD, found)


async def _fresh(store: ObjectStore, bucket: str, report: Report) -> None:
    """Whether a new name is there for a get that follows its put at once. vPool asks again where it is not."""
    missed, longest = 0, 0.0
    for number in range(FRESH_TRIES):
        name = f"fresh/{number}"
        await store.put(bucket, name, name.encode())
        lag = await _until_there(store, bucket, name)
        missed += lag > 0
        longest = max(longest, lag)
    report.figures |= {"fresh_missed": float(missed), "fresh_lag_s": longest}
    if longest >= LAG_S_MAX:
        advice = "an acknowledged object must come back; vPool cannot work on this"
        report.add("backend", "read after write", Verdict.PROBLEM, f"not there after {LAG_S_MAX:g} s", advice)
    elif missed:
        found = f"{missed} of {FRESH_TRIES} new objects were not found at once, the longest for {longest:.2f} s"
        report.add("backend", "read after write", Verdict.NOTE, found, "harmless: a 404 is retried, not believed")
    else:
        report.add("backend", "read after write", Verdict.GOOD, f"{FRESH_TRIES} of {FRESH_TRIES} new objects were there at once")


async def _until_there(store: ObjectStore, bucket: str, name: str) -> float:
    began = trio.current_time()
    first = True
    while trio.current_time() - began < LAG_S_MAX:
        try:
            await store.get(bucket, name)
        except NotFound:
            first = False
            await trio.sleep(0.05)
        else:
            return 0.0 if first else trio.current_time() - began
    return LAG_S_MAX


async def _listing(store: ObjectStore, bucket: str, report: Report) -> None:
    """How far listings lag. Only deletion and repair list."""
    wanted = {f"fresh/{number}" for number in range(FRESH_TRIES)}
    began = trio.current_time()
    while True:
        missing = wanted - {info.name async for info in store.list(bucket, "fresh/")}
        lag = trio.current_time() - began
        if not missing or lag > LAG_S_MAX:
            break
        await trio.sleep(0.1)
    report.figures["listing_lag_s"] = lag
    if missing:
        found = f"{len(missing)} of {FRESH_TRIES} objects are not in a listing after {LAG_S_MAX:g} s"
        report.add("backend", "listings", Verdict.NOTE, found, "harmless for data; deleted volumes take longer to go")
    else:
        report.add("backend", "listings", Verdict.GOOD, f"complete after {lag * 1e3:.0f} ms")


async def _late_names(store: ObjectStore, bucket: str, report: Report) -> None:
    """Whether a get that found nothing makes later ones blind (a cache of denials), and whether a delete is seen."""
    longest = 0.0
    for number in range(3):
        name = f"denied/{number}"
        try:
            await store.get(bucket, name)
        except NotFound:
            await store.put(bucket, name, b"here")
            longest = max(longest, await _until_there(store, bucket, name))
    report.figures["denial_lag_s"] = longest
    await store.put(bucket, "deleted", b"x")
    await store.delete(bucket, "deleted")
    try:
        await store.get(bucket, "deleted")
        still = "a deleted object can still be read"
    except NotFound:
        still = "a deleted object is gone"
    remembered = f"a 404 is remembered for {longest:.2f} s" if longest else "a 404 is not remembered"
    report.add("backend", "404", Verdict.NOTE if longest else Verdict.GOOD, f"{remembered}; {still}")


async def _overwrite(store: ObjectStore, bucket: str, report: Report) -> None:
    """What vPool never does: writing a name again with other content."""
    stale = 0
    await store.put(bucket, "overwritten", b"0")
    for number in range(1, 6):
        await store.put(bucket, "overwritten", str(number).encode())
        for _ in range(4):
            stale += await store.get(bucket, "overwritten") != str(number).encode()
    report.figures["overwrite_stale"] = float(stale)
    found = (
        f"{stale} of 20 reads after an overwrite returned an older content" if stale else "20 of 20 reads saw the newest content"
    )
    report.add("backend", "overwrites", Verdict.NOTE, found, "vPool never overwrites, so this does not matter" if stale else "")


async def _condition(store: ObjectStore, bucket: str, report: Report) -> None:
    """How many of several writers win a name with ``If-None-Match: *``."""
    winners: list[int] = []
    unknown: list[Invalid] = []

    async def race(name: str, number: int) -> None:
        try:
            won = await store.put_if_absent(bucket, name, str(number).encode())
            winners[-1] += won
        except Invalid as error:
            unknown.append(error)

    for number in range(RACES):
        winners.append(0)
        async with trio.open_nursery() as nursery:
            for racer in range(RACERS):
                nursery.start_soon(race, f"race/{number}", racer)
    if unknown:
        report.add("backend", "conditional put", Verdict.NOTE, str(unknown[0]), "vPool depends on none")
        return
    again = await store.put_if_absent(bucket, "race/0", b"late")
    report.figures["condition_winners_max"] = float(max(winners))
    if again:
        found = "the condition is ignored: a put on a name that is taken went through"
    elif max(winners) > 1:
        found = f"not a lock: of {RACERS} writers at once {', '.join(map(str, winners))} won"
    else:
        found = f"of {RACERS} writers at once one won, {RACES} times of {RACES}"
    report.add("backend", "conditional put", Verdict.NOTE, found, "vPool depends on none" if again or max(winners) > 1 else "")
