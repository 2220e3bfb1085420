"""What the Fetcher asks the backend for, over a real engine: few requests, and none whose failure is not its reader's."""

from __future__ import annotations

import random
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from backend import ObjectStore, open_store
from tests.parts import MIB, Parts, running
from vpool.errors import Corrupt, Denied, Internal, NotFound, Unavailable, VPoolError

CLUSTERS = 16 * MIB // 4096
SCO_BYTES = 4 * MIB

Get = Callable[[], Awaitable[bytes]]
Answer = Callable[[Get, str, int, int | None], Awaitable[bytes]]


def cluster(number: int) -> bytes:
    return random.Random(number).randbytes(4096)


async def written(tmp_path: Path, store: ObjectStore, order: list[int]) -> None:
    """A volume whose clusters were written one by one in an order, and no cache of it."""
    async with running(tmp_path, store) as parts:
        inode = await parts.volume()
        for number in order:
            await parts.router.write(inode, number * 4096, cluster(number))
    shutil.rmtree(tmp_path / "cache")


def inode_of(parts: Parts) -> int:
    return parts.registry.view.lookup(1, "disk.raw").number  # type: ignore[union-attr]


async def assert_content(parts: Parts, count: int = CLUSTERS) -> None:
    for at in range(0, count, 256):
        data = await parts.router.read(inode_of(parts), at * 4096, MIB)
        for number in range(at, at + 256):
            assert data[(number - at) * 4096 :][:4096] == cluster(number), f"cluster {number}"


def seen(monkeypatch: pytest.MonkeyPatch, store: ObjectStore, answer: Answer) -> None:
    """Have every ``get`` of a SCO answered by ``answer(get, name, start, length)``."""
    get = store.get

    async def instead(bucket: str, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        async def inner() -> bytes:
            return await get(bucket, name, start=start, length=length)

        return await answer(inner, name, start, length) if "sco/" in name else await inner()

    monkeypatch.setattr(store, "get", instead)


async def test_what_lies_scattered_over_few_scos_is_fetched_as_those(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A volume written at random and read from end to end: a request for every cluster would take hours on a real disk."""
    store = await open_store(f"dir:{tmp_path}/backend")
    order = list(range(CLUSTERS))
    random.Random(1).shuffle(order)
    await written(tmp_path, store, order)
    fetched: list[str] = []

    async def count(get: Get, name: str, start: int, length: int | None) -> bytes:
        fetched.append(name)
        return await get()

    seen(monkeypatch, store, count)
    async with running(tmp_path, store) as parts:
        await assert_content(parts)
    assert len(fetched) <= CLUSTERS * 4096 // SCO_BYTES + 3  # the last is small, and was read for its TLog, too


async def test_a_sco_that_came_damaged_is_asked_for_by_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a line garbles once is no reason to refuse a read, and is never data, also when it was to serve many misses."""
    store = await open_store(f"dir:{tmp_path}/backend")
    order = list(range(256))
    random.Random(1).shuffle(order)
    await written(tmp_path, store, order)
    ranges: list[int] = []

    async def garble(get: Get, name: str, start: int, length: int | None) -> bytes:
        data = await get()
        if length == SCO_BYTES:
            return bytes(4096 * 4) + data[4096 * 4 :]
        ranges.append(start // 4096)
        return data

    seen(monkeypatch, store, garble)
    async with running(tmp_path, store) as parts:
        await assert_content(parts, 256)
    assert sorted(ranges) == [0, 1, 2, 3]


@pytest.mark.parametrize("error", [Corrupt, Denied, Internal, NotFound, Unavailable])
async def test_read_ahead_that_fails_is_nobodys_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[VPoolError]
) -> None:
    """Whatever the store says of what nobody has asked for yet: the daemon goes on, and the reader asks again by itself."""
    store = await open_store(f"dir:{tmp_path}/backend")
    await written(tmp_path, store, list(range(CLUSTERS)))
    refused: set[str] = set()

    async def refuse_ahead(get: Get, name: str, start: int, length: int | None) -> bytes:
        if length == SCO_BYTES and not name.endswith("1") and name not in refused:  # the first is asked for by the reader
            refused.add(name)
            raise error("refused in the background")
        return await get()

    seen(monkeypatch, store, refuse_ahead)
    async with running(tmp_path, store) as parts:
        await assert_content(parts)
        await parts.router.write(inode_of(parts), 0, cluster(0))
        await parts.in_backend(inode_of(parts))
    assert len(refused) >= 3
