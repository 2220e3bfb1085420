"""The shells of forwarding without sockets: links that are cut, a lease that runs out, an owner that dies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from objectrouter.forwarder import AskRegistry
from objectrouter.operation import Attributes
from objectrouter.remote_object import RemoteObject
from objectrouter.remote_region import RemoteRegion
from objectrouter.serving import Serving
from objectrouter.wire import Message, Ping, decode, encode
from registry import NodeRecord, ObjectKind, ObjectRecord, ObjectState
from volumedriver import LogNotes
from vpool.errors import Halted, Moved, Unavailable

OBJECT = "0" * 32


@dataclass
class Log:
    """What survives the owner's death: bytes, and how many writes there were."""

    data: bytearray = field(default_factory=bytearray)
    lsn: int = 0
    epoch: int = 0
    first_lsn: int = 1

    def open(self) -> None:
        self.epoch += 1
        self.first_lsn = self.lsn + 1


class Objects:
    """An owner's router."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.flushes = 0
        self.go_on = trio.Event()
        self.go_on.set()
        self.broken: Halted | None = None

    async def read(self, inode: int, offset: int, length: int, *, gated: bool) -> bytes:
        return bytes(self.log.data[offset : offset + length])

    async def write(self, inode: int, offset: int, data: bytes, *, gated: bool) -> int:
        await self.go_on.wait()
        self.log.data[offset : offset + len(data)] = data
        self.log.lsn += 1
        return len(data)

    async def zero(self, inode: int, offset: int, length: int, *, gated: bool) -> None:
        await self.write(inode, offset, bytes(length), gated=gated)

    async def cut(self, inode: int, size: int, *, gated: bool) -> None:
        del self.log.data[size:]
        self.log.lsn += 1

    async def flush(self, inode: int, *, gated: bool) -> None:
        if self.broken is not None:
            raise self.broken
        self.flushes += 1

    async def owned_attributes(self, inode: int) -> Attributes:
        return Attributes(len(self.log.data), 1, 1, None)

    def seen(self, object_id: str) -> Attributes | None:
        return None

    def begun(self, object_id: str) -> tuple[int, int]:
        return self.log.epoch, self.log.first_lsn

    def written(self, object_id: str) -> int:
        return self.log.lsn


class Registry:
    """The asker's, and what both see of it."""

    node, incarnation = "asker", 1
    owner = "owner"

    def __init__(self, log: Log) -> None:
        self._log = log
        self.view = self

    def object(self, object_id: str) -> ObjectRecord:
        return ObjectRecord(
            OBJECT, ObjectKind.VOLUME, ObjectState.LIVE, self.owner, self._log.epoch, None, None, 0, 7, 0, "", ""
        )  # fmt: skip

    def nodes(self) -> list[NodeRecord]:
        return [NodeRecord("asker", 1, "", 0, False), NodeRecord("owner", self._log.epoch, "", 0, False)]

    async def barrier(self) -> None:
        await trio.lowlevel.checkpoint()


class Wire:
    """One end of a link without a socket."""

    def __init__(self, world: World, node: str) -> None:
        self.world, self.node = world, node
        self.closed = trio.Event()

    def send(self, message: Message) -> None:
        if not self.closed.is_set() and not isinstance(message, Ping):
            self.world.queue.send_nowait((self, decode(encode(message))))


class World:
    """An asker and an owner. The owner may be killed and started again; its log stays."""

    def __init__(self, directory: Path, nursery: trio.Nursery) -> None:
        self.log, self.directory, self.nursery = Log(), directory, nursery
        self.registry = Registry(self.log)
        self.lease = True
        self.queue, self._arriving = trio.open_memory_channel[tuple[Wire, Message]](10_000)
        self.up = trio.Event()
        self.serving: Serving | None = None
        links = cast(Any, self)
        self.remote = RemoteObject(OBJECT, cast(Any, self.registry), links, nursery, trio.current_time, wait_s=60)
        nursery.start_soon(self._deliver)
        nursery.start_soon(self._tick)

    async def to(self, node: str) -> Wire:
        await self.up.wait()
        return self.to_owner

    def start(self) -> None:
        self.log.open()
        self.objects = Objects(self.log)
        self.serving = Serving(
            cast(Any, self.registry), "owner", self.objects, LogNotes(self.directory), lambda log_id, now: self.lease,
            trio.current_time, self.nursery,
        )  # fmt: skip
        self.connect()

    def connect(self) -> None:
        assert self.serving is not None
        self.to_owner, self.to_asker = Wire(self, "owner"), Wire(self, "asker")
        self.serving._links["asker"] = cast(Any, self.to_asker)
        self.up.set()

    def cut(self) -> None:
        self.up = trio.Event()
        self.to_owner.closed.set()
        self.to_asker.closed.set()
        self.remote.lost(cast(Any, self.to_owner))

    def kill(self) -> None:
        self.objects.go_on = trio.Event()  # what it was doing is never done
        self.cut()
        self.serving = None

    async def _deliver(self) -> None:
        async for end, message in self._arriving:
            if end is self.to_owner and self.serving is not None and not end.closed.is_set():
                self.serving.received(cast(Any, self.to_asker), message)
            elif end is self.to_asker and not end.closed.is_set():
                self.remote.received(cast(Any, self.to_owner), cast(Any, message))

    async def _tick(self) -> None:
        while True:
            await trio.sleep(0.1)
            self.remote.tick()
            if self.serving is not None:
                self.serving.tick()


@asynccontextmanager
async def world(directory: Path) -> AsyncIterator[tuple[World, RemoteRegion]]:
    async with trio.open_nursery() as nursery:
        made = World(directory, nursery)
        made.start()
        with trio.fail_after(30):
            yield made, RemoteRegion(made.remote, await made.remote.attach())
        nursery.cancel_scope.cancel()


async def settled() -> None:
    await trio.testing.wait_all_tasks_blocked(0.02)


def test_what_is_asked_is_done_by_the_owner(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as (made, region):
            await region.write(0, b"abcdef")
            assert (region.size, bytes(made.log.data)) == (6, b"abcdef")
            assert await region.read(2, 10) == b"cdef"
            await region.truncate(3)
            assert (region.size, await region.read(0, 10)) == (3, b"abc")
            assert region.unsynced
            await region.flush()
            assert (region.unsynced, made.objects.flushes) == (False, 1)

    trio.run(main)


def test_an_error_of_the_owner_is_raised_where_it_was_asked(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as (made, region):
            await region.write(0, b"a")
            made.objects.broken = Halted("the disk is dead", tries=3)
            with pytest.raises(Halted, match="the disk is dead"):
                await region.flush()
            assert region.unsynced

    trio.run(main)


def test_nothing_is_answered_without_the_lease(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as (made, region):
            made.lease = False
            with trio.move_on_after(0.5) as waited:
                await region.write(0, b"abc")
            assert waited.cancelled_caught
            assert bytes(made.log.data) == b"abc", "it is the reply that needs the lease"
            made.lease = True
            assert await region.read(0, 3) == b"abc"

    trio.run(main)


def test_a_request_over_a_cut_is_done_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as (made, region):
            made.lease = False  # the answer does not come
            async with trio.open_nursery() as nursery:
                nursery.start_soon(region.write, 0, b"abc")
                await settled()
                made.cut()
                made.lease = True
                made.log.data[0:3] = b"new"  # somebody else writes after it
                made.connect()
            assert bytes(made.log.data) == b"new"
            assert made.log.lsn == 1

    trio.run(main)


def test_a_write_on_its_way_to_an_owner_that_dies_is_lost_and_the_next_is_done(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as (made, region):
            await region.write(0, b"abc")
            made.objects.go_on = trio.Event()
            outcome: list[Exception] = []

            async def write() -> None:
                try:
                    await region.write(0, b"xyz")
                except Unavailable as error:
                    outcome.append(error)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(write)
                await settled()
                made.kill()
                nursery.start_soon(region.write, 3, b"later")  # waits, and has not been sent
                await settled()
                made.start()
            assert [error.details.get("reason") for error in cast(list[Unavailable], outcome)] == ["lost"]
            assert bytes(made.log.data) == b"abclater"
            await region.flush()

    trio.run(main)


def test_who_waits_for_an_owner_is_served_whatever_the_registry_says_meanwhile(tmp_path: Path) -> None:
    """The registry shows the new epoch before there is a link: what has been waiting until then waits on, and is done."""

    async def main() -> None:
        async with world(tmp_path) as (made, region):
            made.kill()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(region.write, 0, b"abc")
                await settled()
                made.log.open()
                made.remote._run([AskRegistry()])
                await settled()
                made.start()
            assert bytes(made.log.data) == b"abc"

    trio.run(main)


def test_who_opens_what_comes_here_meanwhile_is_told_so(tmp_path: Path) -> None:
    """The dead owner's object is taken over by the very node where it is just being opened: it must not wait for itself."""

    async def main() -> None:
        async with world(tmp_path) as (made, _):
            made.kill()
            refused: list[Moved] = []

            async def open_it() -> None:
                try:
                    await made.remote.attach()
                except Moved as error:
                    refused.append(error)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(open_it)
                await settled()
                assert not refused
                made.registry.owner = "asker"
            assert len(refused) == 1

    trio.run(main)


def test_a_flush_of_what_has_not_survived_fails_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as (made, region):
            await region.write(0, b"abc")
            made.kill()
            made.log.lsn = 0  # a power cut
            made.log.data.clear()
            made.start()
            with pytest.raises(Unavailable, match="may not have survived"):
                await region.flush()
            await region.flush()

    trio.run(main)


def test_answers_survive_a_stop_in_order(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as (made, region):
            made.lease = False
            async with trio.open_nursery() as nursery:
                nursery.start_soon(region.write, 0, b"abc")
                await settled()
                assert made.serving is not None
                await made.serving.stop()
                made.kill()
                made.lease = True
                made.start()
            assert made.log.lsn == 1, "answered from what was kept"

    trio.run(main)
