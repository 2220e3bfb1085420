"""Requests and background tasks that cross one another: none may end the router, and nothing may stay behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from backend import open_store
from objectrouter import ROOT_INODE
from registry import Condemn, ObjectRecord, ObjectState
from tests.parts import MIB, Parts, running
from vpool.errors import Corrupt, NotFound


async def _file(parts: Parts, name: str = "file") -> int:
    return (await parts.router.create(ROOT_INODE, name, mode=0o600, uid=0, gid=0)).number


async def _until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not holds():
            await trio.sleep(0.02)


async def test_a_name_that_goes_while_its_idle_handle_is_given_back(tmp_path: Path) -> None:
    store = await open_store(f"dir:{tmp_path}/backend")
    async with running(tmp_path, store) as parts:
        router = parts.router
        inode = await _file(parts)
        await router.open(inode)
        await router.release(inode)
        active = router._active[inode]
        async with trio.open_nursery() as nursery, router._locks[inode]:
            nursery.start_soon(router._unregister, inode, active)  # as the sweep does
            await wait_all_tasks_blocked()
            await router.unlink(ROOT_INODE, "file")
        await _until(lambda: not parts.registry.view.orphans())
        assert inode not in router._active


async def test_a_name_that_goes_while_its_object_is_opened(tmp_path: Path) -> None:
    store = await open_store(f"dir:{tmp_path}/backend")
    async with running(tmp_path, store) as parts:
        router = parts.router
        inode = await _file(parts)
        await router.write(inode, 0, b"x")  # open here, without a handle
        lock = router._locks[inode]
        async with trio.open_nursery() as nursery:
            await lock.acquire()

            async def open_it() -> None:
                with pytest.raises(NotFound):
                    await router.open(inode)

            nursery.start_soon(open_it)
            await wait_all_tasks_blocked()
            await router.unlink(ROOT_INODE, "file")
            lock.release()
        await _until(lambda: not parts.registry.view.orphans())
        assert inode not in router._active


async def test_an_orphan_volume_that_the_reaper_has_closed_is_no_trouble_to_the_sweep(tmp_path: Path) -> None:
    store = await open_store(f"dir:{tmp_path}/backend")
    async with running(tmp_path, store) as parts:
        inode = await parts.volume()
        await parts.router.write(inode, 0, b"x" * 4096)
        await parts.volumes.detach(parts.object_of(inode), drain=False)
        await parts.router._publish(inode)


async def test_locks_are_kept_only_for_what_is_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("objectrouter.router.SWEEP_S", 0.05)
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
        looked: list[ObjectRecord] = []
        submit, remove = parts.registry.submit, parts.files._remove

        async def noted(command: object) -> object:
            asked.append(command)
            return await submit(command)  # type: ignore[call-overload]

        async def counted(record: ObjectRecord) -> None:
            await remove(record)
            looked.append(record)

        monkeypatch.setattr(parts.registry, "submit", noted)
        monkeypatch.setattr(parts.files, "_remove", counted)
        await _until(lambda: len(looked) >= 5)
        assert not [command for command in asked if isinstance(command, Condemn)]
        assert await parts.router.read(inode, 0, 100) == b"still there"
        await parts.router.release(inode)
        await _until(lambda: not parts.registry.view.orphans())


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
        assert left.state is ObjectState.CONDEMNED


async def test_a_change_time_does_not_go_back(tmp_path: Path) -> None:
    store = await open_store(f"dir:{tmp_path}/backend")
    async with running(tmp_path, store) as parts:
        inode = await _file(parts)
        await parts.router.write(inode, 0, b"x")
        changed = await parts.router.set_attributes(inode, mode=0o640)
        await parts.router.flush(inode)
        assert (await parts.router.attributes(inode)).ctime_ns >= changed.ctime_ns


async def test_statistics_are_told_at_once_and_counted_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("objectrouter.router.COUNT_PAUSE_S", 0.01)
    store = await open_store(f"dir:{tmp_path}/backend")
    async with running(tmp_path, store) as parts:
        await parts.volume(size=3 * MIB)
        await _until(lambda: (found := parts.router.statistics()).total_bytes - found.free_bytes == 3 * MIB)
        await parts.volume("other.raw", size=2 * MIB)
        await _until(lambda: (found := parts.router.statistics()).total_bytes - found.free_bytes == 5 * MIB)
