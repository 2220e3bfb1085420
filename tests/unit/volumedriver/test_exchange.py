"""The cache directory is exchanged beneath volumes that are in use; a local map that has failed is had anew.

If this fails: a guest sees an error because an operator replaced a disk, or loses what it was told to be written.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from backend import open_store
from backend.faults import Faults, FaultyStore
from engine import crc32c
from tests.parts import MIB, SMALL, Parts, running
from vpool.errors import Conflict, Halted, NoSpace, VPoolError

BLOCKS = 256
SEND_S = 20.0


def block(number: int, version: int) -> bytes:
    return (number.to_bytes(4, "little") + version.to_bytes(4, "little")) * 512


def exchanged(cache: Path) -> Callable[[bool], None]:
    def change(_: bool) -> None:
        cache.rename(cache.with_name("old"))
        cache.mkdir()

    return change


def files_open_below(directory: Path) -> list[str]:
    targets = [os.readlink(each.path) for each in os.scandir("/proc/self/fd") if os.path.islink(each.path)]
    return [target for target in targets if target.startswith(str(directory))]


async def write_all(parts: Parts, inode: int, version: int) -> None:
    for number in range(BLOCKS):
        await parts.router.write(inode, number * 4096, block(number, version))


async def versions(parts: Parts, inode: int) -> set[int]:
    found = set()
    for number in range(BLOCKS):
        data = await parts.router.read(inode, number * 4096, 4096)
        version = int.from_bytes(data[4:8], "little")
        assert data == block(number, version)
        found.add(version)
    return found


async def refreshed(parts: Parts, inode: int) -> None:
    """Waits until the region is that of the volume that is open now."""
    while True:
        try:
            await parts.router.read(inode, 0, 4096)
        except Halted:
            await trio.sleep(0.01)
        else:
            return


async def test_clients_notice_nothing_but_a_pause(tmp_path: Path) -> None:
    store = await open_store(f"dir:{tmp_path}/backend")
    written: dict[int, int] = {}
    async with running(tmp_path, store) as parts:
        inode = await parts.volume()
        await write_all(parts, inode, 1)
        stop = False

        async def write() -> None:
            version = 2
            while not stop:
                for number in range(0, BLOCKS, 7):
                    await parts.router.write(inode, number * 4096, block(number, version))
                    written[number] = version
                await parts.router.flush(inode)
                version += 1
                await trio.lowlevel.checkpoint()

        async def read() -> None:
            while not stop:
                for number in range(0, BLOCKS, 5):
                    before = written.get(number, 1)
                    data = await parts.router.read(inode, number * 4096, 4096)
                    assert int.from_bytes(data[4:8], "little") >= before
                    await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as clients:
            clients.start_soon(write)
            clients.start_soon(read)
            for number in range(3):
                was = dict(written)
                with trio.fail_after(60):
                    while written == was:
                        await trio.sleep(0.01)
                change = exchanged(parts.cache)
                assert await parts.volumes.replace_cache(change, send_s=SEND_S, accept_loss=False) == []
                assert parts.volumes.epoch(parts.object_of(inode)) == 2 + number
                old = parts.cache.with_name("old")
                with trio.fail_after(10):
                    while files_open_below(old):
                        await trio.sleep(0.01)
                old.rename(parts.cache.with_name(f"old-{number}"))
            stop = True
        for number in range(BLOCKS):
            data = await parts.router.read(inode, number * 4096, 4096)
            assert data == block(number, written.get(number, 1))
    async with running(tmp_path, store) as parts:
        for number in range(BLOCKS):
            data = await parts.router.read(inode, number * 4096, 4096)
            assert data == block(number, written.get(number, 1))
    await store.aclose()


async def test_nothing_changes_while_the_backend_is_away(tmp_path: Path) -> None:
    store = FaultyStore(await open_store(f"dir:{tmp_path}/backend"), Faults(), seed=1)
    async with running(tmp_path, store, settings=replace(SMALL, stop_s=20)) as parts:
        inode = await parts.volume()
        await write_all(parts, inode, 1)
        await parts.in_backend(inode)
        store.outage = True
        await write_all(parts, inode, 2)
        with pytest.raises(Conflict, match="nowhere but in the cache"):
            await parts.volumes.replace_cache(exchanged(parts.cache), send_s=0.2, accept_loss=False)
        assert not parts.cache.with_name("old").exists()
        assert await versions(parts, inode) == {2}
        await parts.router.write(inode, 0, block(0, 3))
        store.outage = False
        await parts.volumes.replace_cache(exchanged(parts.cache), send_s=SEND_S, accept_loss=False)
        assert await versions(parts, inode) == {2, 3}


async def test_an_accepted_loss_goes_back_to_what_the_backend_has(tmp_path: Path) -> None:
    store = FaultyStore(await open_store(f"dir:{tmp_path}/backend"), Faults(), seed=1)
    async with running(tmp_path, store, settings=replace(SMALL, stop_s=20)) as parts:
        inode = await parts.volume()
        await write_all(parts, inode, 1)
        await parts.in_backend(inode)
        store.outage = True
        await write_all(parts, inode, 2)
        lost = await parts.volumes.replace_cache(exchanged(parts.cache), send_s=0.2, accept_loss=True)
        assert [each.object for each in lost] == [parts.object_of(inode)]
        store.outage = False
        with pytest.raises(Halted, match="given up"):
            await parts.router.write(inode, 0, block(0, 3))
        with pytest.raises(Halted, match="given up"):
            await parts.router.read(inode, 0, 4096)
        parts.router.refresh([each.object for each in lost])
        with trio.fail_after(10):
            while parts.volumes.opened(parts.object_of(inode)) is None:
                await trio.sleep(0.01)
            await refreshed(parts, inode)
        assert await versions(parts, inode) == {1}
        await parts.router.write(inode, 0, block(0, 3))
        assert await versions(parts, inode) == {1, 3}


async def test_a_directory_that_cannot_be_changed_stays(tmp_path: Path) -> None:
    store = await open_store(f"dir:{tmp_path}/backend")
    async with running(tmp_path, store) as parts:
        inode = await parts.volume()
        await write_all(parts, inode, 1)

        def change(_: bool) -> None:
            raise NoSpace("no")

        with pytest.raises(NoSpace):
            await parts.volumes.replace_cache(change, send_s=SEND_S, accept_loss=False)
        assert await versions(parts, inode) == {1}
        await write_all(parts, inode, 2)
        assert await versions(parts, inode) == {2}
    await store.aclose()


async def test_an_evacuation_tells_what_is_left(tmp_path: Path) -> None:
    store = FaultyStore(await open_store(f"dir:{tmp_path}/backend"), Faults(), seed=1)
    async with running(tmp_path, store, settings=replace(SMALL, stop_s=20, tlog_age_s=3600)) as parts:
        inode = await parts.volume()
        await write_all(parts, inode, 1)
        assert parts.volumes.evacuation() is None
        store.outage = True
        began = parts.volumes.evacuate()
        assert began.running
        assert began.bytes_at_start >= MIB
        with trio.fail_after(30):
            while not any("on its way" not in each.reason for each in parts.volumes.evacuate().left):
                await trio.sleep(0.01)
        store.outage = False
        with trio.fail_after(30):
            while (ended := parts.volumes.evacuation()) is None or ended.running:
                await trio.sleep(0.01)
        assert (ended.bytes_left, ended.waiting, ended.left, ended.unopened) == (0, 0, (), ())


async def test_a_damaged_local_map_is_had_from_the_backend(tmp_path: Path) -> None:
    store = await open_store(f"dir:{tmp_path}/backend")
    async with running(tmp_path, store) as parts:
        inode = await parts.volume()
        await write_all(parts, inode, 1)
        await parts.in_backend(inode)
    data = tmp_path / "cache" / "map" / "map.tree"
    content = data.read_bytes()
    wanted = crc32c(block(100, 1)).to_bytes(4, "little")
    assert wanted in content
    data.write_bytes(content.replace(wanted, bytes(each ^ 0x55 for each in wanted)))
    async with running(tmp_path, store) as parts:
        assert await versions(parts, inode) == {1}
        assert parts.engine.stats().map_failure is None
        await write_all(parts, inode, 2)
    async with running(tmp_path, store) as parts:
        assert await versions(parts, inode) == {2}
    await store.aclose()


async def test_a_local_map_that_cannot_be_opened_is_set_aside(tmp_path: Path) -> None:
    store = await open_store(f"dir:{tmp_path}/backend")
    async with running(tmp_path, store) as parts:
        inode = await parts.volume()
        await write_all(parts, inode, 1)
    data = tmp_path / "cache" / "map" / "map.tree"
    data.write_bytes(b"\xaa" * data.stat().st_size)
    async with running(tmp_path, store) as parts:
        assert "local map" in (parts.engine.stats().map_set_aside or "")
        assert await versions(parts, inode) == {1}
    async with running(tmp_path, store) as parts:
        assert parts.engine.stats().map_set_aside is None
        assert await versions(parts, inode) == {1}
    await store.aclose()


async def test_what_a_closed_log_has_is_not_forgotten(tmp_path: Path) -> None:
    store = FaultyStore(await open_store(f"dir:{tmp_path}/backend"), Faults(), seed=1)
    async with running(tmp_path, store, settings=replace(SMALL, stop_s=20)) as parts:
        inode = await parts.volume()
        await write_all(parts, inode, 1)
        await parts.in_backend(inode)
        store.outage = True
        await write_all(parts, inode, 2)
        await parts.volumes.detach(parts.object_of(inode), drain=False)
        with pytest.raises(Conflict, match="nowhere but in the cache"):
            await parts.volumes.replace_cache(exchanged(parts.cache), send_s=0.2, accept_loss=False)
        assert not parts.cache.with_name("old").exists()
        store.outage = False


async def test_a_directory_that_nobody_could_take_again_is_not_empty(tmp_path: Path) -> None:
    store = FaultyStore(await open_store(f"dir:{tmp_path}/backend"), Faults(), seed=1)
    async with running(tmp_path, store, settings=replace(SMALL, stop_s=20)) as parts:
        inode = await parts.volume()
        await write_all(parts, inode, 1)
        await parts.in_backend(inode)
        away = parts.cache.with_name("away")

        def fail(_: bool) -> None:
            parts.cache.rename(away)
            parts.cache.write_text("a file")
            raise NoSpace("no")

        with pytest.raises(VPoolError):
            await parts.volumes.replace_cache(fail, send_s=SEND_S, accept_loss=False)
        assert parts.engine.path is None
        with pytest.raises(Conflict, match="is not known"):
            await parts.volumes.replace_cache(lambda _: None, send_s=1, accept_loss=False)
        parts.cache.unlink()
        away.rename(parts.cache)
        with trio.fail_after(30):
            assert await versions(parts, inode) == {1}
        await write_all(parts, inode, 2)


async def test_who_sends_for_somebody_else_does_not_halt_the_next_log(tmp_path: Path) -> None:
    store = FaultyStore(await open_store(f"dir:{tmp_path}/backend"), Faults(), seed=1)
    async with running(tmp_path, store, settings=replace(SMALL, stop_s=20)) as parts:
        inode = await parts.volume()
        await write_all(parts, inode, 1)
        await parts.in_backend(inode)
        store.outage = True
        await write_all(parts, inode, 2)
        assert parts.volumes.evacuate().running  # its tasks are not the stream's own
        with trio.fail_after(30):
            while not any("outage" in each.reason for each in parts.volumes.evacuate().left):
                await trio.sleep(0.01)
        with pytest.raises(NoSpace):
            await parts.volumes.replace_cache(refusing, send_s=0.1, accept_loss=True)  # opened again, in the same directory
        store.outage = False
        with trio.fail_after(30):
            while (ended := parts.volumes.evacuation()) is None or ended.running:
                await trio.sleep(0.01)
        assert parts.volumes.opened(parts.object_of(inode)).halted is None  # type: ignore[union-attr]
        await write_all(parts, inode, 3)
        await parts.in_backend(inode)
        assert await versions(parts, inode) == {3}


def refusing(_: bool) -> None:
    raise NoSpace("no")


async def test_what_was_held_back_goes_on_in_its_order(tmp_path: Path) -> None:
    store = await open_store(f"dir:{tmp_path}/backend")
    async with running(tmp_path, store) as parts:
        inode = await parts.volume()
        await parts.router.write(inode, 0, block(0, 0))
        volume = parts.volumes.opened(parts.object_of(inode))
        assert volume is not None
        for _ in range(20):
            volume.hold()
            async with trio.open_nursery() as nursery:
                for version in range(10):
                    nursery.start_soon(volume.write, 0, block(0, version))
                    await trio.testing.wait_all_tasks_blocked()
                volume.go_on(volume.native)
                nursery.start_soon(volume.write, 0, block(0, 10))
            assert await volume.read(0, 4096) == block(0, 10)
    await store.aclose()


async def test_sizes_change_while_the_cache_is_replaced(tmp_path: Path) -> None:
    store = await open_store(f"dir:{tmp_path}/backend")
    async with running(tmp_path, store) as parts:
        inode = await parts.volume(size=MIB)
        sizes, stop = 0, False

        async def resize() -> None:
            nonlocal sizes
            while not stop:
                sizes += 1
                await parts.router.set_attributes(inode, size=(1 + sizes % 7) * MIB)

        async with trio.open_nursery() as clients:
            clients.start_soon(resize)
            for number in range(4):
                await parts.volumes.replace_cache(exchanged(parts.cache), send_s=SEND_S, accept_loss=False)
                parts.cache.with_name("old").rename(parts.cache.with_name(f"old-{number}"))
            stop = True
        assert (await parts.router.volume_region(inode)).size == (1 + sizes % 7) * MIB
    await store.aclose()
