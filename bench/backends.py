"""Rows about the way to the backend: PUTs per GiB, the rate beyond the cache's limit, cold sequential reads."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import trio

from backend import ObjectStore
from backend.opening import open_store
from bench.fio import Load, fio
from bench.measure import Row, Target, alternate
from bench.mounts import GIB, MIB, Effort, pool

SIDE_BY_SIDE = 16  # as the setting volumes.fetches and volumes.uploads
SCO_BYTES = 4 * MIB


def objects_in(store: Path) -> list[Path]:
    """Files that are objects in a directory store."""
    return [
        path
        for path in store.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(store).parts)
    ]


def streaming(work: Path, effort: Effort) -> list[Row]:
    """PUTs per GiB, and cold sequential reads of what was written."""
    size = min(GIB, effort.sequential_bytes)
    load = Load("read", MIB, depth=4, size=size)
    with pool(work) as running:
        volume = running.make_volume("bench.raw", size)
        fio(volume, Load("write", MIB, depth=4, size=size))
        running.stop()
        objects = objects_in(running.directory / "backend")
        puts = len(objects) * GIB / size
        rows = [Row("puts", "PUTs per GiB written sequentially", "PUTs", [puts], Target(at_most=290), details={"bytes": size})]

        def cold() -> float:
            shutil.rmtree(running.directory / "cache")
            running.start()
            try:
                return fio(volume, load).bytes_per_second
            finally:
                running.stop()

        bucket = next(path.parents[2] for path in objects if path.parts[-3] == "sco")
        names = sorted(
            str(path.relative_to(bucket)) for path in objects if path.parts[-3] == "sco" and path.is_relative_to(bucket)
        )
        runs, reference = alternate(
            min(3, effort.rounds), cold, lambda: trio.run(get_rate, f"dir:{running.directory / 'backend'}", bucket.name, names)
        )
    details = {"bytes": size, "objects": len(names), "side_by_side": SIDE_BY_SIDE}
    name = "the store's client alone, GETs side by side"
    rows.append(Row("cold_read", "cold sequential read from the backend", "B/s", runs, Target(0.8), name, reference, details))
    return rows


def beyond_the_cache(work: Path, effort: Effort) -> list[Row]:
    """Sequential writes of several times the cache's hard limit go at the backend's rate."""
    hard = 256 * MIB if effort.sequential_bytes >= GIB else 64 * MIB
    size = 8 * hard
    limits = {"VPOOL_VOLUMES__SOFT_BYTES": str(hard // 2), "VPOOL_VOLUMES__HARD_BYTES": str(hard)}

    def on_volume() -> float:
        with pool(work, limits) as running:
            return fio(running.make_volume("bench.raw", size), Load("write", MIB, depth=4, size=size)).bytes_per_second

    def client() -> float:
        store = work / "store"
        try:
            return trio.run(put_rate, f"dir:{store}", size // SCO_BYTES)
        finally:
            shutil.rmtree(store)

    runs, reference = alternate(min(3, effort.rounds), on_volume, client)
    details = {"bytes": size, "hard_limit_bytes": hard, "side_by_side": SIDE_BY_SIDE}
    name = "the store's client alone, PUTs side by side"
    what = "sequential write beyond the cache's limit"
    return [Row("beyond_cache", what, "B/s", runs, Target(0.8), name, reference, details)]


async def get_rate(url: str, bucket: str, names: list[str]) -> float:
    """Bytes per second of getting objects whole."""
    store = await open_store(url)
    try:
        began, total = time.monotonic(), 0
        queue = iter(names)

        async def getter() -> None:
            nonlocal total
            for name in queue:
                total += len(await store.get(bucket, name))

        await _side_by_side(getter)
        return total / (time.monotonic() - began)
    finally:
        await store.aclose()


async def put_rate(url: str, count: int) -> float:
    """Bytes per second of putting SCO-sized objects."""
    Path(url.removeprefix("dir:")).mkdir()
    store: ObjectStore = await open_store(url)
    try:
        await store.create_bucket("bench")
        data = bytes(range(256)) * (SCO_BYTES // 256)
        began = time.monotonic()
        queue = iter(range(count))

        async def putter() -> None:
            for number in queue:
                await store.put("bench", f"sco/{number:016x}", data)

        await _side_by_side(putter)
        return count * SCO_BYTES / (time.monotonic() - began)
    finally:
        await store.aclose()


async def _side_by_side(worker: object) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(SIDE_BY_SIDE):
            nursery.start_soon(worker)  # type: ignore[arg-type]
