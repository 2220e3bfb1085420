"""The background verification on real engines and a directory store: it finds, mends, notes and lets go on."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from backend import ObjectStore, open_store
from objectrouter import ROOT_INODE
from tests.parts import MIB, SMALL, Parts, running
from volumedriver import LostRange, NeededObject, Patrol, PatrolSettings
from volumedriver.patrol_record import LOST_MAX, At, PatrolRecord
from vpool.errors import Corrupt

SETTINGS = PatrolSettings(days=None, bytes_per_s_max=1 << 40, patience_s=0.1)
DRIVER = replace(SMALL, lost_object_s=30.0, tlogs_per_checkpoint=2)
SIZE = 24 * MIB


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ObjectStore]:
    opened = await open_store(f"dir:{tmp_path / 'store'}")
    yield opened
    await opened.aclose()


@asynccontextmanager
async def patrolling(parts: Parts, path: Path, settings: PatrolSettings = SETTINGS) -> AsyncIterator[Patrol]:
    async with Patrol.start(parts.volumes.patrol_ground(), path / "verify.json", settings) as patrol:
        yield patrol


async def whole_pass(patrol: Patrol) -> None:
    """Ask for one and wait for its end."""
    number = patrol.status().number
    patrol.ask()
    with trio.fail_after(60):
        while patrol.status().number == number or patrol.status().running:
            await trio.sleep(0.01)


async def filled(parts: Parts, name: str = "disk.raw") -> tuple[int, bytes]:
    """A volume with content that is in the backend."""
    inode = await parts.volume(name, SIZE)
    data = os.urandom(SIZE)
    for offset in range(0, SIZE, MIB):
        await parts.router.write(inode, offset, data[offset : offset + MIB])
    await parts.in_backend(inode)
    return inode, data


def scos(tmp_path: Path, parts: Parts, inode: int) -> list[Path]:
    return sorted((tmp_path / "store" / f"vpool-{parts.object_of(inode)}" / "sco").glob("*/*"))


def flip(path: Path, at: int = 5000) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


async def test_a_whole_pool_is_compared_and_nothing_is_found(tmp_path: Path, store: ObjectStore) -> None:
    """Open ones by their map, closed ones by their TLogs, the log of files too."""
    async with running(tmp_path, store, settings=DRIVER) as parts:
        await filled(parts, "closed.raw")
    shutil.rmtree(tmp_path / "cache")  # else it would be opened for what is in its log
    async with running(tmp_path, store, settings=DRIVER) as parts:
        inode, _ = await filled(parts, "open.raw")
        file = (await parts.router.create(ROOT_INODE, "file", mode=0o600, uid=0, gid=0)).number
        await parts.router.write(file, 0, os.urandom(3 * MIB))
        await parts.volumes.drain(parts.files.log_id)
        async with patrolling(parts, tmp_path) as patrol:
            await whole_pass(patrol)
            status = patrol.status()
            assert (status.objects, status.objects_done, status.number, status.running) == (3, 3, 1, False)
            assert status.pass_bytes > 2 * SIZE + 3 * MIB
            assert (status.damaged_objects, status.lost_ranges, status.needed_objects) == (0, 0, 0)
            assert parts.volumes.opened(parts.object_of(inode)) is not None
            assert sum(parts.volumes.opened(record.id) is not None for record in parts.registry.view.objects_with_log()) == 2


async def test_what_is_damaged_in_the_backend_is_written_again_from_here(tmp_path: Path, store: ObjectStore) -> None:
    """Under a new name, by the log; afterwards the damaged object is not needed any more."""
    async with running(tmp_path, store, settings=DRIVER) as parts:
        inode, data = await filled(parts)
        before = scos(tmp_path, parts, inode)
        damaged = {path: path.read_bytes() for path in before[:2]}
        flip(before[0])
        before[1].unlink()
        async with patrolling(parts, tmp_path) as patrol:
            await whole_pass(patrol)
            status = patrol.status()
            assert status.damaged_objects == 2
            assert status.rewritten_clusters >= 1 + 1024
            assert status.lost_ranges == 0
            await parts.in_backend(inode)
            await whole_pass(patrol)
            assert patrol.status().damaged_objects == 2, "nothing refers to what is damaged any more"
        assert before[0].read_bytes() != damaged[before[0]], "no name was written again"
        assert not before[1].exists()
    shutil.rmtree(tmp_path / "cache")
    async with running(tmp_path, store, settings=DRIVER) as parts:
        assert await parts.router.read(inode, 0, SIZE) == data


async def test_what_nobody_has_is_lost_until_it_is_overwritten_or_accepted(tmp_path: Path, store: ObjectStore) -> None:
    async with running(tmp_path, store, settings=DRIVER) as parts:
        inode, data = await filled(parts)
    shutil.rmtree(tmp_path / "cache")
    async with running(tmp_path, store, settings=DRIVER, read_cache_bytes=0) as parts:
        paths = scos(tmp_path, parts, inode)
        flip(paths[0], 3 * 4096 + 7)
        gone = paths[2].read_bytes()
        paths[2].unlink()
        async with patrolling(parts, tmp_path) as patrol:
            await whole_pass(patrol)
            lost = await patrol.lost()
            assert sum(one.length for one in lost) == 4096 + len(gone) // 4096 * 4096
            assert {one.reason for one in lost} == {"the object is damaged", "the object is missing"}
            missing = next(one for one in lost if one.reason == "the object is missing")
            damaged = next(one for one in lost if one.reason == "the object is damaged")
            assert data[damaged.offset : damaged.offset + 4096] != gone
            with trio.fail_after(10), pytest.raises(Corrupt):
                await parts.router.read(inode, missing.offset, 4096)
            with trio.fail_after(10), pytest.raises(Corrupt):
                await parts.router.read(inode, damaged.offset, 4096)

        async with patrolling(parts, tmp_path) as patrol:
            assert await patrol.lost() == lost, "remembered"
            new = os.urandom(8192)
            await parts.router.write(inode, missing.offset, new)
            assert sum(one.length for one in await patrol.lost()) == sum(one.length for one in lost) - 8192
            object_id = parts.object_of(inode)
            assert await patrol.accept(object_id, 0, SIZE) == sum(one.length for one in lost) - 8192
            assert await patrol.lost() == []
            await whole_pass(patrol)
            assert patrol.status().lost_ranges == 0
        expected = bytearray(data)
        for one in lost:
            expected[one.offset : one.offset + one.length] = bytes(one.length)
        expected[missing.offset : missing.offset + 8192] = new
        assert await parts.router.read(inode, 0, SIZE) == bytes(expected)


async def test_an_object_that_comes_back_is_not_lost_any_more(tmp_path: Path, store: ObjectStore) -> None:
    """And accepting a loss touches nothing that can be read again."""
    async with running(tmp_path, store, settings=DRIVER) as parts:
        inode, data = await filled(parts)
    shutil.rmtree(tmp_path / "cache")
    async with running(tmp_path, store, settings=DRIVER, read_cache_bytes=0) as parts:
        await parts.volumes.attach(parts.object_of(inode))
        paths = scos(tmp_path, parts, inode)
        kept = {path: path.read_bytes() for path in paths[1:3]}
        for path in kept:
            path.unlink()
        async with patrolling(parts, tmp_path) as patrol:
            await whole_pass(patrol)
            assert patrol.status().lost_ranges == 2 or patrol.status().lost_bytes == 2 * 4 * MIB
            paths[1].write_bytes(kept[paths[1]])
            paths[2].write_bytes(kept[paths[2]])
            assert await patrol.accept(parts.object_of(inode), 0, SIZE // 2) == 0
            await whole_pass(patrol)
            assert patrol.status().lost_ranges == 0
        assert await parts.router.read(inode, 0, SIZE) == data


async def test_what_a_restart_needs_is_looked_at_too(tmp_path: Path, store: ObjectStore) -> None:
    async with running(tmp_path, store, settings=DRIVER) as parts:
        inode, _ = await filled(parts)
        record = parts.registry.view.object(parts.object_of(inode))
        assert record is not None
        assert record.head is not None
        assert record.head.checkpoint is not None
        bucket = tmp_path / "store" / f"vpool-{record.id}"
        flip(next((bucket / "map").glob("*/*")), 100)
        async with patrolling(parts, tmp_path) as patrol:
            await whole_pass(patrol)
            [needed] = patrol.record.needed
            assert needed.name.startswith("map/")
            assert patrol.status().lost_ranges == 0


async def test_a_pass_goes_on_where_it_stood(tmp_path: Path, store: ObjectStore) -> None:
    """Else a node that restarts often would never come round."""
    async with running(tmp_path, store, settings=DRIVER) as parts:
        for number in range(2):
            await filled(parts, f"disk-{number}.raw")
        hasty = replace(SETTINGS, bytes_per_s_max=24 * MIB)
        reached: list[At] = []
        for lives in range(1, 30):
            async with patrolling(parts, tmp_path, hasty) as patrol:
                if lives == 1:
                    patrol.ask()
                with trio.move_on_after(0.5):
                    while not patrol.record.ended_ns:
                        await trio.sleep(0.01)
                if patrol.record.at is not None:
                    reached.append(patrol.record.at)
            if patrol.record.ended_ns:
                break
        where = [(at.object, at.position, at.sco) for at in reached]
        assert where == sorted(where)
        assert len(set(where)) > 2
        assert patrol.record.number == 1
        assert patrol.record.last_bytes < 2 * SIZE + lives * 10 * MIB, "only what was under way is read twice"


def test_the_record_comes_back_and_no_damage_passes(tmp_path: Path) -> None:
    record = PatrolRecord(3, 5, 0, 7, 9, At("a" * 32, 4096, 7))
    record.add_lost(LostRange("a" * 32, 4096, 8192, 17, "bucket", "sco/1/2", "why", 11))
    record.add_needed(NeededObject("b" * 32, "bucket", "map/1/2", "why", 12))
    record.save(tmp_path / "verify.json")
    assert PatrolRecord.load(tmp_path / "verify.json") == record
    golden = Path(__file__).parents[2] / "golden" / "verify-1.json"
    assert golden.read_bytes() == record.encode()
    data = record.encode()
    for at in range(len(data) - 1):
        with pytest.raises(Corrupt):
            PatrolRecord.decode(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    assert PatrolRecord.load(tmp_path / "absent") == PatrolRecord()


def test_ranges_are_joined_cut_and_bounded() -> None:
    record = PatrolRecord()
    one = LostRange("a" * 32, 0, 4096, 1, "b", "n", "why", 1)
    assert record.add_lost(one)
    assert record.add_lost(replace(one, offset=4096, length=8192))
    assert not record.add_lost(replace(one, offset=8192))
    assert [(lost.offset, lost.length) for lost in record.lost] == [(0, 12288)]
    record.remove_lost("a" * 32, 4096, 4096)
    assert [(lost.offset, lost.length) for lost in record.lost] == [(0, 4096), (8192, 4096)]
    record.remove_lost("b" * 32, 0, 1 << 40)
    assert len(record.lost) == 2
    record.lost = [replace(one, offset=number << 20) for number in range(LOST_MAX)]
    assert not record.add_lost(replace(one, offset=1 << 50))
