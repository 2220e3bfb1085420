"""The Volume Driver over a real engine and registry, and a store that fails on purpose."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from backend import open_store
from backend.faults import Faults, FaultyStore
from registry import HeadAdvance, NewEpoch, ObjectRecord
from tests.parts import MIB, SMALL, Parts, running
from vpool.errors import NotFound, Unavailable

EVENTUAL = Faults(
    delay_s_max=0.01,
    unavailable=0.05,
    reset=0.05,
    lost_reply=0.05,
    late_put=0.02,
    late_s_max=0.5,
    short_body=0.05,
    damaged_body=0.02,
    invisible_s_max=0.3,
    stale_list_s_max=1.0,
)


async def faulty(tmp_path: Path, faults: Faults = EVENTUAL, seed: int = 1) -> FaultyStore:
    return FaultyStore(await open_store(f"dir:{tmp_path}/backend"), faults, seed=seed)


def block(number: int, generation: int) -> bytes:
    return random.Random(number * 1_000_003 + generation).randbytes(4096)


async def write_blocks(parts: Parts, inode: int, numbers: range, generation: int) -> None:
    for number in numbers:
        await parts.router.write(inode, number * 4096, block(number, generation))


async def assert_blocks(parts: Parts, inode: int, numbers: range, generation: int) -> None:
    for number in numbers:
        assert await parts.router.read(inode, number * 4096, 4096) == block(number, generation), f"block {number}"


async def test_a_volume_comes_back_from_the_backend_alone(tmp_path: Path) -> None:
    """Promise 5, with eventual consistency (promise 8): restart on an empty disk, more than one checkpoint later."""
    store = await faulty(tmp_path)
    async with running(tmp_path, store) as parts:
        inode = await parts.volume()
        for generation in range(4):
            await write_blocks(parts, inode, range(0, 6000, 1 + generation), generation)
            await parts.in_backend(inode)
        head = parts.registry.view.object(parts.object_of(inode)).head  # type: ignore[union-attr]
        assert head is not None
        assert head.checkpoint is not None
    for _ in range(2):
        shutil.rmtree(tmp_path / "cache")
        async with running(tmp_path, store) as parts:
            for number in range(0, 6000, 41):
                generation = max(g for g in range(4) if number % (1 + g) == 0)
                assert await parts.router.read(inode, number * 4096, 4096) == block(number, generation)
            await write_blocks(parts, inode, range(0, 6000, 420), 0)  # the next epoch writes too
            await write_blocks(parts, inode, range(0, 6000, 420), 3)
    assert store.violations == []
    assert sum(store.injected.by_kind.values()) > 10, "the weather was too good to prove anything"


async def test_a_restart_keeps_what_the_backend_does_not_have(tmp_path: Path) -> None:
    """The tail survives in the local log, under the next epoch's names, with the backend away all the time."""
    store = await faulty(tmp_path, Faults())
    settings = replace(SMALL, stop_s=0.1)
    async with running(tmp_path, store, settings=settings) as parts:
        inode = await parts.volume()
        await write_blocks(parts, inode, range(100), 0)
        await parts.in_backend(inode)
        store.outage = True
        await write_blocks(parts, inode, range(50, 3000), 1)
        await parts.router.flush(inode)
    async with running(tmp_path, store, settings=settings) as parts:
        await assert_blocks(parts, inode, range(50), 0)
        await assert_blocks(parts, inode, range(50, 3000), 1)
        store.outage = False
        await parts.in_backend(inode)
    shutil.rmtree(tmp_path / "cache")
    async with running(tmp_path, store, settings=settings) as parts:
        await assert_blocks(parts, inode, range(50), 0)
        await assert_blocks(parts, inode, range(50, 3000), 1)
    assert store.violations == []


async def test_a_backend_that_is_away_stalls_writers_at_the_limit_and_gives_no_error(tmp_path: Path) -> None:
    """Promise 10: no error, reads go on, the state is visible, and all is caught up afterwards."""
    store = await faulty(tmp_path, Faults())
    async with running(tmp_path, store) as parts:
        inode = await parts.volume(size=256 * MIB)
        await write_blocks(parts, inode, range(64), 0)
        store.outage = True
        stalled = trio.Event()

        async def write_all() -> None:
            for at in range(0, 96 * MIB, MIB):
                await parts.router.write(inode, at, bytes([at // MIB]) * MIB)

        async def watch() -> None:
            while True:
                status = parts.volumes.statuses()
                if any(each.waiting_writers and each.stalled for each in status):
                    stalled.set()
                    return
                await trio.sleep(0.02)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_all)
            nursery.start_soon(watch)
            with trio.fail_after(60):
                await stalled.wait()
            assert await parts.router.read(inode, MIB, 4096) == b"\1" * 4096
            dirty = max(each.dirty_bytes for each in parts.volumes.statuses())
            assert dirty <= SMALL.hard_bytes + 2 * MIB
            store.outage = False
        await parts.in_backend(inode)
        assert await parts.router.read(inode, 95 * MIB, 4096) == bytes([95]) * 4096


async def test_a_stall_becomes_an_error_only_where_the_setting_says_so(tmp_path: Path) -> None:
    store = await faulty(tmp_path, Faults())
    settings = replace(SMALL, stall_s=1.0, stop_s=0.1)
    async with running(tmp_path, store, settings=settings) as parts:
        inode = await parts.volume(size=256 * MIB)
        store.outage = True

        async def write_all() -> None:
            for at in range(0, 96 * MIB, MIB):
                await parts.router.write(inode, at, bytes(MIB))

        with pytest.raises(Unavailable):
            await write_all()


async def test_a_deleted_volume_leaves_nothing_behind(tmp_path: Path) -> None:
    """The bucket goes, but only after the registry has condemned it."""
    store = await faulty(tmp_path, Faults(stale_list_s_max=0.2, unavailable=0.1))
    async with running(tmp_path, store) as parts:
        inode = await parts.volume()
        await write_blocks(parts, inode, range(2000), 0)
        await parts.in_backend(inode)
        object_id = parts.object_of(inode)
        await parts.router.unlink(1, "disk.raw")
        with trio.fail_after(60):
            while parts.registry.view.object(object_id) is not None:
                await trio.sleep(0.05)
        with pytest.raises(NotFound):
            await parts.router.read(inode, 0, 4096)
        assert bytes.fromhex(object_id) not in parts.engine.volumes()
    buckets = [bucket async for bucket in (await open_store(f"dir:{tmp_path}/backend")).list_buckets()]
    assert f"vpool-{object_id}" not in buckets


async def test_an_unlinked_volume_lives_as_long_as_it_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await faulty(tmp_path, Faults())
    async with running(tmp_path, store) as parts:
        reaper_was_there = trio.Event()
        condemn = parts.volumes._condemn

        async def look(record: ObjectRecord) -> None:
            await condemn(record)
            reaper_was_there.set()

        monkeypatch.setattr(parts.volumes, "_condemn", look)
        inode = await parts.volume()
        await parts.router.open(inode)
        await write_blocks(parts, inode, range(10), 0)
        await parts.router.unlink(1, "disk.raw")
        parts.volumes.orphaned()
        with trio.fail_after(20):
            await reaper_was_there.wait()
        await assert_blocks(parts, inode, range(10), 0)
        object_id = parts.object_of(inode)
        await parts.router.release(inode)
        with trio.fail_after(60):
            while parts.registry.view.object(object_id) is not None:
                await trio.sleep(0.05)


async def test_partial_and_large_requests_over_a_cold_volume(tmp_path: Path) -> None:
    """512-byte writes need old content from the backend; requests above 4 MiB are split; holes are zeros."""
    store = await faulty(tmp_path)
    model = bytearray(16 * MIB)
    chance = random.Random(7)
    async with running(tmp_path, store) as parts:
        inode = await parts.volume(size=len(model))
        model[MIB : 8 * MIB] = chance.randbytes(7 * MIB)
        await parts.router.write(inode, MIB, bytes(model[MIB : 8 * MIB]))
        await parts.in_backend(inode)
    shutil.rmtree(tmp_path / "cache")
    async with running(tmp_path, store) as parts:
        for _ in range(150):
            at, length = chance.randrange(0, len(model) // 512) * 512, chance.choice([512, 1024, 4096, 5120, 300])
            length = min(length, len(model) - at)
            if chance.random() < 0.2:
                model[at : at + length] = bytes(length)
                await parts.router.zero(inode, at, length)
            else:
                data = chance.randbytes(length)
                model[at : at + length] = data
                await parts.router.write(inode, at, data)
        assert await parts.router.read(inode, 0, len(model)) == model


async def test_sequential_readers_fetch_whole_scos_and_few_requests(tmp_path: Path) -> None:
    store = await faulty(tmp_path, Faults())
    async with running(tmp_path, store) as parts:
        inode = await parts.volume(size=64 * MIB)
        for at in range(0, 32 * MIB, MIB):
            await parts.router.write(inode, at, at.to_bytes(8, "little") * (MIB // 8))
    shutil.rmtree(tmp_path / "cache")
    async with running(tmp_path, store) as parts:
        before = store.counters.operations["get"].requests
        for at in range(0, 32 * MIB, 128 * 1024):
            base = at // MIB * MIB
            assert await parts.router.read(inode, at, 128 * 1024) == base.to_bytes(8, "little") * (128 * 1024 // 8)
        assert store.counters.operations["get"].requests - before < 8 * 3 + 30


async def test_a_writer_that_is_faster_than_the_backend_does_not_put_checkpoints_off(tmp_path: Path) -> None:
    """A backlog of more than a TLog all the time: without a checkpoint a restart would read every TLog there has ever been."""
    store = await faulty(tmp_path, Faults())
    async with running(tmp_path, store) as parts:
        inode = await parts.volume(size=256 * MIB)
        store.outage = True

        async def write_on() -> None:
            for number in range(10_000):
                await parts.router.write(inode, number % 256 * MIB, bytes([number % 256]) * MIB)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_on)
            while not any(each.waiting_writers for each in parts.volumes.statuses()):
                await trio.sleep(0.02)
            store.outage = False
            with trio.fail_after(60):
                while True:
                    await trio.sleep(0.01)
                    head = parts.registry.view.object(parts.object_of(inode)).head  # type: ignore[union-attr]
                    if head is not None and head.tlog.number >= 12 * SMALL.tlogs_per_checkpoint:
                        break
            nursery.cancel_scope.cancel()
        assert head.tlog.number - head.checkpoint_tlog <= 6 * SMALL.tlogs_per_checkpoint


async def test_a_tail_is_sent_after_a_restart_although_nobody_opens_the_volume(tmp_path: Path) -> None:
    """Promises 5 and 10: what the backend lacks is on its way again, and does not keep the cache full for all others."""
    store = await faulty(tmp_path, Faults())
    settings = replace(SMALL, stop_s=0.1)
    async with running(tmp_path, store, settings=settings, segments_max=8) as parts:
        first, second = await parts.volume("a.raw"), await parts.volume("b.raw")
        store.outage = True

        async def fill() -> None:
            for at in range(0, 40 * MIB, MIB):
                await parts.router.write(first, at, b"\1" * MIB)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fill)
            with trio.fail_after(20):
                while not any(each.waiting_writers for each in parts.volumes.statuses()):
                    await trio.sleep(0.02)
            nursery.cancel_scope.cancel()
    store.outage = False
    async with running(tmp_path, store, settings=settings, segments_max=8) as parts:
        with trio.fail_after(30):
            for at in range(0, 40 * MIB, MIB):
                await parts.router.write(second, at, b"\2" * MIB)
        assert parts.volumes.opened(parts.object_of(first)) is not None
        await parts.in_backend(first)


@pytest.mark.parametrize("offset", [1, 512, 4095, 4096, 5 * MIB + 7])
async def test_a_request_of_any_length_may_begin_anywhere(tmp_path: Path, offset: int) -> None:
    """The engine's longest request is counted in clusters that it touches: one more than its bytes fill, if it is not aligned."""
    store = await faulty(tmp_path, Faults())
    async with running(tmp_path, store) as parts:
        inode = await parts.volume()
        for length in (4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 9 * MIB):
            data = random.Random(length).randbytes(length)
            await parts.router.write(inode, offset, data)
            assert await parts.router.read(inode, offset, length) == data
        assert await parts.router.read(inode, 0, offset) == bytes(offset)


async def test_a_head_that_is_committed_while_its_volume_is_opened_anew_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base of an epoch is the head when it is taken: an advance of the epoch before may still have been under way."""
    store = await faulty(tmp_path, Faults())
    async with running(tmp_path, store) as parts:
        inode = await parts.volume()
        object_id = parts.object_of(inode)
        proposed, let_go, committed = trio.Event(), trio.Event(), trio.Event()
        advance, submit = parts.volumes._heads.advance, parts.registry.submit

        async def commit_late(head: HeadAdvance) -> None:
            await let_go.wait()
            await advance(head)
            committed.set()

        async def late_advance(head: HeadAdvance) -> None:
            way.start_soon(commit_late, head)  # on its way, whoever waits for it
            proposed.set()
            await committed.wait()

        async def late_submit(command: Any) -> Any:
            if isinstance(command, NewEpoch):
                let_go.set()
                await committed.wait()
            return await submit(command)

        async with trio.open_nursery() as way:
            monkeypatch.setattr(parts.volumes._heads, "advance", late_advance)
            await write_blocks(parts, inode, range(10), 1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(parts.volumes.drain, object_id)
                with trio.fail_after(20):
                    await proposed.wait()
                nursery.cancel_scope.cancel()
            await parts.volumes.detach(object_id, drain=False)
            monkeypatch.setattr(parts.volumes._heads, "advance", advance)
            monkeypatch.setattr(parts.registry, "submit", late_submit)
            with trio.fail_after(20):
                volume = await parts.volumes.attach(object_id)
                await volume.write(0, block(0, 2))
                await parts.in_backend(inode)
                while parts.volumes.statuses()[0].dirty_bytes and volume.halted is None:
                    await trio.sleep(0.02)
        assert volume.halted is None
        assert await volume.read(0, 4096) == block(0, 2)
        assert await volume.read(4096, 4096) == block(1, 1)
