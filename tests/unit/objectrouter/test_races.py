"""Requests and background tasks that cross one another: none may end the router, and nothing may stay behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from backend import open_store
from objectrouter import ROOT_INODE
from registry import AdvanceHeads, ObjectRecord, ObjectState, Settle
from tests.parts import MIB, Parts, running
from vpool.errors import Corrupt, NotFound


async def _file(parts: Parts, name: str = "file") -> int:
    return (await parts.router.create(ROOT_INODE, name, mode=0o600, uid=0, gid=0)).number


async def _until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not holds():
            await trio.sleep(0.02)


def _orphans(parts: Parts) -> list[ObjectRecord]:
    view = parts.registry.view
    return view.orphans() + view.orphan_files(parts.files.log_id)


async def test_a_name_that_goes_while_its_idle_handle_is_given_back(tmp_path: Path) -> None:
    store = await open_store(f"dir:{tmp_path}/backend")
    async with running(tmp_path, store) as parts:
        router = parts.router
        inode = await _file(parts)
        await router.open(inode)
        await router.write(inode, 0, b"x")
        await router.release(inode)
        active = router._active[inode]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(router._settler.settle, [active])
            nursery.start_soon(router.unlink, ROOT_INODE, "file")
        await _until(lambda: not _orphans(parts))
        assert inode not in router._active
        assert not parts.registry.view.inodes_held("node-1")


async def test_a_name_that_goes_while_its_object_is_opened(tmp_path: Path) -> None:
    store = await open_store(f"dir:{tmp_path}/backend")
    async with running(tmp_path, store) as parts:
        router = parts.router
        inode = await parts.volume("f.raw")
        await router.read(inode, 0, 1)  # open here, without a handle
        lock = router._locks[inode]
        async with trio.open_nursery() as nursery:
            await lock.acquire()

            async def open_it() -> None:
                with pytest.raises(NotFound):
                    await router.open(inode)

            nursery.start_soon(open_it)
            await wait_all_tasks_blocked()
            await router.unlink(ROOT_INODE, "f.raw")
            lock.release()
        await _until(lambda: not _orphans(parts))
        assert inode not in router._active


async def test_an_orphan_volume_that_the_reaper_has_closed_is_no_trouble_to_the_sweep(tmp_path: Path) -> None:
    store = await open_store(f"dir:{tmp_path}/backend")
    async with running(tmp_path, store) as parts:
        inode = await parts.volume()
        await parts.router.write(inode, 0, b"x" * 4096)
        await parts.volumes.detach(parts.object_of(inode), drain=False)
        await parts.router._settler.settle([parts.router._active[inode]])


async def test_locks_are_kept_only_for_what_is_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("objectrouter.settler.SETTLE_S", 0.05)
    monkeypatch.setattr("objectrouter.router.ACTIVE_MAX", 10)
    store = await open_store(f"dir:{tmp_path}/backend")
    async with running(tmp_path, store) as parts:
        for number in range(50):
            inode = await _file(parts, f"f{number}")
            await parts.router.open(inode)
            await parts.router.write(inode, 0, b"x")
            await parts.router.release(inode)
        await _until(lambda: len(parts.router._active) <= 10 and len(parts.router._locks) <= 10)
        assert await parts.router.read(inode, 0, 1) == b"x"


async def test_an_open_file_without_a_name_costs_no_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("filedriver.driver.REAP_PAUSE_S", 0.02)
    store = await open_store(f"dir:{tmp_path}/backend")
    async with running(tmp_path, store) as parts:
        inode = await _file(parts)
        await parts.router.open(inode)
        await parts.router.write(inode, 0, b"still there")
        await parts.router.unlink(ROOT_INODE, "file")
        asked: list[object] = []
        looked: list[list[ObjectRecord]] = []
        submit, remove = parts.registry.submit, parts.files._remove

        async def noted(command: object) -> object:
            asked.append(command)
            return await submit(command)  # type: ignore[call-overload]

        async def counted(records: list[ObjectRecord]) -> None:
            await remove(records)
            looked.append(records)

        monkeypatch.setattr(parts.registry, "submit", noted)
        monkeypatch.setattr(parts.files, "_remove", counted)
        await _until(lambda: len(looked) >= 5)
        assert not [command for command in asked if not isinstance(command, AdvanceHeads | Settle)]
        assert await parts.router.read(inode, 0, 100) == b"still there"
        await parts.router.release(inode)
        await _until(lambda: not _orphans(parts))


async def test_a_file_that_cannot_be_erased_does_not_end_the_reaper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("filedriver.driver.REAP_PAUSE_S", 0.05)
    store = await open_store(f"dir:{tmp_path}/backend")
    async with running(tmp_path, store) as parts:
        broken, other = await _file(parts, "broken"), await _file(parts, "other")
        record = parts.registry.view.object(parts.object_of(broken))
        assert record is not None
        region = parts.files.region

        async def damaged(asked: object, mtime_ns: int) -> object:
            if getattr(asked, "id", "") == record.id:
                raise Corrupt("the meta cluster of the object cannot be read")
            return await region(asked, mtime_ns)  # type: ignore[arg-type]

        monkeypatch.setattr(parts.files, "region", damaged)
        await parts.router.unlink(ROOT_INODE, "broken")
        await parts.router.unlink(ROOT_INODE, "other")
        await _until(lambda: parts.registry.view.inode(other) is None)
        left = parts.registry.view.object(record.id)
        assert left is not None
        assert left.state is ObjectState.ORPHAN


async def test_a_change_time_does_not_go_back(tmp_path: Path) -> None:
    store = await open_store(f"dir:{tmp_path}/backend")
    async with running(tmp_path, store) as parts:
        inode = await _file(parts)
        await parts.router.write(inode, 0, b"x")
        changed = await parts.router.set_attributes(inode, mode=0o640)
        await parts.router.flush(inode)
        assert (await parts.router.attributes(inode)).ctime_ns >= changed.ctime_ns


async def test_statistics_follow_what_is_made_written_and_removed(tmp_path: Path) -> None:
    store = await open_store(f"dir:{tmp_path}/backend")
    async with running(tmp_path, store) as parts:
        before = parts.router.statistics()
        inode = await _file(parts)
        await parts.router.write(inode, 0, bytes(3 * MIB))
        await _until(lambda: (found := parts.router.statistics()).total_bytes - found.free_bytes == 3 * MIB)
        found = parts.router.statistics()
        assert (found.inodes, found.inodes_free) == (before.inodes, before.inodes_free - 1)
        await parts.router.unlink(ROOT_INODE, "file")
        await _until(lambda: parts.router.statistics() == before)


async def test_what_is_opened_to_be_read_costs_no_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree of small files is read without waiting for the registry's disk; and an open file still outlives its name."""
    store = await open_store(f"dir:{tmp_path}/backend")
    async with running(tmp_path, store) as parts:
        inode = await _file(parts)
        await parts.router.write(inode, 0, b"content")
        await parts.router._settler.settle([parts.router._active[inode]])
        assert not parts.registry.view.handles(inode)
        await parts.router.open(inode)
        assert not parts.registry.view.handles(inode)
        await parts.router.unlink(ROOT_INODE, "file")
        await parts.router.open(inode)  # again, by /proc/self/fd
        parts.files.orphaned()
        await trio.sleep(0.3)
        assert await parts.router.read(inode, 0, 100) == b"content"
        await parts.router.write(inode, 0, b"CON")
        await parts.router.release(inode)
        await parts.router.release(inode)
        await _until(lambda: not _orphans(parts))
        assert (await parts.router.attributes(inode)).nlink == 0, "a process may still look at what it has open"


async def test_addresses_of_removed_files_are_given_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("objectrouter.settler.SETTLE_S", 0.02)
    store = await open_store(f"dir:{tmp_path}/backend")
    async with running(tmp_path, store) as parts:
        for number in range(50):
            inode = await _file(parts, f"f{number}")
            await parts.router.write(inode, 0, bytes([number]) * 5000)
            assert await parts.router.read(inode, 0, 10_000) == bytes([number]) * 5000
            record = parts.registry.view.object(parts.object_of(inode))
            assert record is not None
            assert record.address <= 2
            await parts.router.unlink(ROOT_INODE, f"f{number}")
            await _until(lambda: not _orphans(parts))
