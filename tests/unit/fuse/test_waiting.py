"""Requests that wait: writes at a hard limit, reads of what is not here, must not hold up those that could be served.

The router of these tests never answers writes (and, where said, reads) of files named ``busy…`` until it is told to.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

import fuse
from tests.memory_router import MemoryRouter
from tests.unit.fuse.test_mount import VPOOL, on_thread, refused

pytestmark = pytest.mark.mount

MIB = 1 << 20
READ_S = 20.0  # for all clients together, on a busy machine; without the limits they wait for ever
FIO = ["fio", "--direct=1", "--bs=4k", f"--size={MIB}", "--randrepeat=0", "--thread", "--fallocate=none", "--output-format=terse"]


class Waiting(MemoryRouter):
    """A router some of whose requests wait until ``go``."""

    def __init__(self) -> None:
        super().__init__()
        self.go = trio.Event()
        self.waiting = 0
        self.stuck: set[int] = set()
        self.stuck_reads: set[int] = set()

    async def make(self, name: str, *, stuck: bool = True) -> None:
        made = await self.create(1, name, mode=0o600, uid=os.geteuid(), gid=os.getegid(), size=MIB)
        if stuck:
            self.stuck.add(made.number)

    async def write(self, inode: int, offset: int, data: bytes) -> int:
        if inode in self.stuck:
            await self._wait()
        return await super().write(inode, offset, data)

    async def read(self, inode: int, offset: int, length: int) -> bytes:
        if inode in self.stuck_reads:
            await self._wait()
        return await super().read(inode, offset, length)

    async def until_waiting(self, count: int) -> None:
        with trio.fail_after(20):
            while self.waiting < count:
                await trio.sleep(0.01)

    async def _wait(self) -> None:
        self.waiting += 1
        try:
            await self.go.wait()
        finally:
            self.waiting -= 1


@asynccontextmanager
async def mounted(router: Waiting, where: Path, limits: fuse.Limits) -> AsyncIterator[None]:
    where.mkdir()
    async with trio.open_nursery() as nursery:
        mount = await nursery.start(partial(fuse.serve, router, where, vpool_id=VPOOL, limits=limits))
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):
                router.go.set()
                await mount.stop(limit_s=5)
            nursery.cancel_scope.cancel()


@contextmanager
def clients(router: Waiting, *commands: list[str]) -> Iterator[None]:
    """Processes that use the mount; ended with the block, once their requests can be answered."""
    processes = [subprocess.Popen(each, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for each in commands]
    try:
        yield
    finally:
        router.go.set()
        for process in processes:
            process.kill()


def write_once(path: Path) -> list[str]:
    return ["dd", "if=/dev/zero", f"of={path}", "bs=4k", "count=1", "conv=notrunc"]


async def read_in_time(top: Path, *engines: str) -> None:
    """Reads of the quiet file by each kind of client, and a look at the names, within their time."""

    def look() -> None:
        with (top / "quiet.raw").open("rb", buffering=0) as file:
            assert len(os.pread(file.fileno(), 4096, 8192)) == 4096
        assert "quiet.raw" in os.listdir(top)
        for engine in engines:
            name = [f"--filename={top}/quiet.raw", "--name=reads", "--rw=randread", "--number_ios=64", "--iodepth=16"]
            subprocess.run([*FIO, *name, f"--ioengine={engine}"], check=True, capture_output=True, timeout=READ_S)

    with trio.fail_after(READ_S):
        await trio.to_thread.run_sync(look, abandon_on_cancel=True)


async def test_asynchronous_writes_that_wait_do_not_hold_up_reads(tmp_path: Path) -> None:
    """The kernel hands out 12 asynchronous requests unless it is told otherwise."""
    router, top = Waiting(), tmp_path / "m"
    stalled = [
        *FIO,
        "--name=writes",
        f"--filename={top}/busy.raw",
        "--rw=randwrite",
        "--iodepth=40",
        "--time_based",
        "--runtime=60",
    ]
    async with mounted(router, top, fuse.Limits()):
        await router.make("busy.raw")
        await router.make("quiet.raw", stuck=False)
        with clients(router, [*stalled, "--ioengine=libaio"]):
            await router.until_waiting(40)
            await read_in_time(top, "psync", "libaio", "io_uring")
            assert router.waiting == 40


async def test_when_all_that_may_write_wait_reads_are_served(tmp_path: Path) -> None:
    """Handles open for writing and asynchronous requests are admitted so that they cannot take all places."""
    router, top, handles, background = Waiting(), tmp_path / "m", 10, 12
    stalled = [*FIO, "--name=writes", f"--filename={top}/busy-0.raw", "--rw=randwrite", "--iodepth=40", "--ioengine=libaio"]
    limits = fuse.Limits(requests_max=handles + background + 4, background_max=background, open_for_writing_max=handles)
    async with mounted(router, top, limits):
        for number in range(handles):
            await router.make(f"busy-{number}.raw")
        await router.make("quiet.raw", stuck=False)
        others = [write_once(top / f"busy-{number}.raw") for number in range(1, handles)]
        with contextlib.ExitStack() as running:
            # One after the other: fio opens its file more than once, and the kernel tells of a close later.
            running.enter_context(clients(router, [*stalled, "--time_based", "--runtime=60"]))
            await router.until_waiting(background)
            running.enter_context(clients(router, *others))
            await router.until_waiting(handles - 1 + background)
            said = running.enter_context(capture_logs())
            await read_in_time(top, "psync")
            assert await on_thread(refused, partial(os.open, top / "quiet.raw", os.O_RDWR)) == errno.ENFILE
            assert await on_thread(refused, partial(os.truncate, top / "quiet.raw", 0)) == errno.ENFILE
            assert await on_thread(refused, partial(os.open, top / "new", os.O_WRONLY | os.O_CREAT)) == errno.ENFILE
            assert not (await on_thread((top / "new").exists))
            await on_thread((top / "quiet.raw").read_bytes)
        assert [each["event"] for each in said].count("too_many_open_for_writing") == 1


async def test_a_place_to_write_is_given_back(tmp_path: Path) -> None:
    router, top = Waiting(), tmp_path / "m"

    def work() -> None:
        for _ in range(3):
            first = os.open(top / "a.raw", os.O_RDWR | os.O_CREAT)
            second = os.open(top / "a.raw", os.O_WRONLY | os.O_TRUNC)
            assert refused(partial(os.open, top / "a.raw", os.O_WRONLY)) == errno.ENFILE
            os.ftruncate(first, 100)  # needs no place of its own
            os.close(second)
            os.truncate(top / "a.raw", 50)
            assert refused(partial(os.open, top / "none", os.O_WRONLY)) == errno.ENOENT
            os.close(first)

    async with mounted(router, top, fuse.Limits(open_for_writing_max=2)):
        await on_thread(work)


async def test_reads_that_wait_are_many_and_hold_up_nobody(tmp_path: Path) -> None:
    """A guest has up to a queue full of reads under way for a backend that is away."""
    router, top, readers = Waiting(), tmp_path / "m", 400
    reading = [*FIO, "--name=reads", f"--filename={top}/busy.raw", "--rw=randread", "--ioengine=psync", f"--numjobs={readers}"]
    async with mounted(router, top, fuse.Limits()):
        await router.make("busy.raw")
        router.stuck_reads = set(router.stuck)
        await router.make("quiet.raw", stuck=False)
        with clients(router, [*reading, "--time_based", "--runtime=60"]):
            await router.until_waiting(readers)
            await read_in_time(top, "psync", "libaio")


@pytest.mark.parametrize(
    ("work", "limit"),
    [("--rw=randread", "fuse.requests_max"), ("--rw=randwrite", "fuse.background_max")],
    ids=["reads", "writes"],
)
async def test_what_runs_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: str, limit: str) -> None:
    """Reads for a backend that is away can take all places, asynchronous writes what the kernel hands out: somebody must know."""
    monkeypatch.setattr("fuse.places.LOOK_S", 0.02)
    router, top = Waiting(), tmp_path / "m"
    limits = fuse.Limits(requests_max=20, background_max=12, open_for_writing_max=4)
    load = [*FIO, "--name=load", f"--filename={top}/busy.raw", work, "--time_based", "--runtime=60"]
    how = ["--ioengine=psync", "--numjobs=30"] if limit == "fuse.requests_max" else ["--ioengine=libaio", "--iodepth=20"]

    def said_of_it() -> list[str]:
        return [each["event"] for each in said if each.get("setting") == limit]

    with capture_logs() as said:
        async with mounted(router, top, limits):
            await router.make("busy.raw")
            router.stuck_reads = set(router.stuck)
            with clients(router, [*load, *how]), trio.fail_after(20):
                while said_of_it() != ["fuse_limit_near"]:
                    await trio.sleep(0.01)
            with trio.fail_after(20):
                while said_of_it() != ["fuse_limit_near", "fuse_limit_eased"]:
                    await trio.sleep(0.01)
