"""The FUSE front end over a router in memory, through a real mount.

If this fails, what a program asks of the mount does not reach the router, or its error not the program.
"""

from __future__ import annotations

import errno
import mmap
import os
import socket
import stat
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
import trio

import fuse
from tests.memory_router import MemoryRouter
from vpool.errors import Corrupt, Halted, NoSpace, Unavailable

pytestmark = pytest.mark.mount

VPOOL = "0" * 32
T = TypeVar("T")


@asynccontextmanager
async def mounted(router: MemoryRouter, where: Path, *, sync_on_close: bool = False) -> AsyncIterator[fuse.Mount]:
    where.mkdir(exist_ok=True)
    async with trio.open_nursery() as nursery:
        serve = partial(fuse.serve, router, where, vpool_id=VPOOL, entry_timeout_s=0, attributes_timeout_s=0)
        mount = await nursery.start(partial(serve, sync_on_close=sync_on_close))
        try:
            yield mount
        finally:
            with trio.CancelScope(shield=True):
                await mount.stop(limit_s=5)
            nursery.cancel_scope.cancel()
    assert fuse.mount_on(str(where)) is None


async def on_thread(function: Callable[..., T], *args: object) -> T:
    """File operations wait for this very loop, so they run elsewhere; a test that hangs is cut off."""
    with trio.fail_after(20):
        return await trio.to_thread.run_sync(partial(function, *args), abandon_on_cancel=True)


def refused(function: Callable[[], object]) -> int:
    with pytest.raises(OSError) as caught:  # noqa: PT011
        function()
    assert caught.value.errno is not None
    return caught.value.errno


async def test_files_directories_links_and_renames(tmp_path: Path) -> None:
    router, top = MemoryRouter(), tmp_path / "m"

    def work() -> None:
        (top / "dir").mkdir(mode=0o750)
        assert stat.S_IMODE((top / "dir").stat().st_mode) == 0o750
        (top / "dir/a").write_bytes(b"content" * 1000)
        (top / "dir/a").chmod(0o640)
        os.utime(top / "dir/a", ns=(5, 1_500_000_000_123_456_789))
        found = (top / "dir/a").stat()
        assert (found.st_size, stat.S_IMODE(found.st_mode), found.st_mtime_ns) == (7000, 0o640, 1_500_000_000_123_456_789)
        os.link(top / "dir/a", top / "b")
        assert (top / "b").stat().st_ino == found.st_ino
        assert (top / "b").stat().st_nlink == 2
        (top / "s").symlink_to("dir/a")
        assert (top / "s").read_bytes() == b"content" * 1000
        (top / "b").rename(top / "dir/a")
        assert sorted(os.listdir(top)) == ["b", "dir", "s"]  # rename over a link of the same file does nothing
        (top / "c").write_bytes(b"new")
        (top / "c").replace(top / "dir/a")
        assert (top / "s").read_bytes() == b"new"
        assert refused((top / "dir").rmdir) == errno.ENOTEMPTY
        assert refused(lambda: os.unlink(top / "dir")) == errno.EISDIR
        assert refused(lambda: (top / "none").read_bytes()) == errno.ENOENT
        assert refused(lambda: (top / "dir").mkdir()) == errno.EEXIST

    async with mounted(router, top):
        await on_thread(work)


async def test_names_that_are_not_text_survive(tmp_path: Path) -> None:
    router, top = MemoryRouter(), tmp_path / "m"
    name = b"\xff\xfe broken \xc3\xa4"

    def work() -> list[bytes]:
        with open(os.fsencode(top) + b"/" + name, "wb") as file:
            file.write(b"x")
        return os.listdir(os.fsencode(top))

    async with mounted(router, top):
        assert await on_thread(work) == [name]


async def test_large_directories_are_listed_once_each(tmp_path: Path) -> None:
    router, top = MemoryRouter(), tmp_path / "m"
    for number in range(1000):
        await router.create(1, f"file-{number}", mode=0o600, uid=0, gid=0)
    async with mounted(router, top):
        assert sorted(await on_thread(os.listdir, top)) == sorted(f"file-{number}" for number in range(1000))
        listed = await on_thread(partial(subprocess.run, ["ls", "-a", str(top)], capture_output=True, check=True))
        assert len(listed.stdout.splitlines()) == 1002  # with . and ..


async def test_special_files_are_kept_and_the_kernel_serves_them(tmp_path: Path) -> None:
    router, top = MemoryRouter(), tmp_path / "m"

    def work() -> None:
        os.mkfifo(top / "fifo", 0o640)
        os.mknod(top / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        os.mknod(top / "disk", 0o600 | stat.S_IFBLK, os.makedev(259, 1 << 19))
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(top / "socket"))
        server.close()
        kinds = {path.name: stat.S_IFMT(path.lstat().st_mode) for path in top.iterdir()}
        assert kinds == {"fifo": stat.S_IFIFO, "null": stat.S_IFCHR, "disk": stat.S_IFBLK, "socket": stat.S_IFSOCK}
        assert (top / "disk").stat().st_rdev == os.makedev(259, 1 << 19)
        reader = os.open(top / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        writer = os.open(top / "fifo", os.O_WRONLY)
        os.write(writer, b"through")
        assert os.read(reader, 100) == b"through"
        os.close(reader)
        os.close(writer)
        assert refused(lambda: os.open(top / "null", os.O_RDWR)) == errno.EACCES  # the mount opens no devices

    async with mounted(router, top):
        await on_thread(work)


async def test_opening_with_truncation_empties_both_but_a_volume_keeps_its_size(tmp_path: Path) -> None:
    router, top = MemoryRouter(), tmp_path / "m"

    def work() -> None:
        for name in ("disk.raw", "file"):
            (top / name).write_bytes(b"d" * 8192)
        descriptor = os.open(top / "disk.raw", os.O_RDWR | os.O_TRUNC)
        assert os.fstat(descriptor).st_size == 8192
        assert os.pread(descriptor, 8192, 0) == bytes(8192)
        os.close(descriptor)
        (top / "file").write_bytes(b"")
        assert (top / "file").stat().st_size == 0
        os.truncate(top / "disk.raw", 4096)
        assert (top / "disk.raw").stat().st_size == 4096

    async with mounted(router, top):
        await on_thread(work)


async def test_large_requests_come_whole(tmp_path: Path) -> None:
    router, top = MemoryRouter(), tmp_path / "m"
    data = mmap.mmap(-1, 4 << 20)  # on a page's boundary, as hypervisors have their buffers
    data.write(os.urandom(4 << 20))

    def work() -> bytes:
        with (top / "disk.raw").open("wb", buffering=0) as file:
            file.write(data)
        with (top / "disk.raw").open("rb", buffering=0) as file:
            return os.pread(file.fileno(), len(data), 0)

    async with mounted(router, top):
        assert await on_thread(work) == data[:]
    assert {length for _, _, length in router.writes} == {1 << 20}


@pytest.mark.parametrize("sync_on_close", [False, True])
async def test_syncs_reach_the_router_and_closes_where_the_setting_says_so(tmp_path: Path, sync_on_close: bool) -> None:
    router, top = MemoryRouter(), tmp_path / "m"

    def work() -> None:
        with (top / "disk.raw").open("wb", buffering=0) as file:
            file.write(b"x")
            os.fsync(file.fileno())
            assert (len(router.flushes), len(router.closes)) == (1, 0)
        assert (len(router.flushes), len(router.closes)) == (1, sync_on_close)

    async with mounted(router, top, sync_on_close=sync_on_close):
        await on_thread(work)


@pytest.mark.parametrize(
    ("method", "error", "code"),
    [
        ("read", Corrupt("bad"), errno.EIO),
        ("write", NoSpace("full"), errno.ENOSPC),
        ("write", Halted("broken"), errno.EIO),
        ("flush", Unavailable("away"), errno.ETIMEDOUT),
        ("read", RuntimeError("a defect"), errno.EIO),
        ("open", ValueError("a defect"), errno.EIO),
        ("lookup", KeyError("a defect"), errno.EIO),
    ],
)
async def test_errors_become_errnos_and_the_mount_goes_on(tmp_path: Path, method: str, error: Exception, code: int) -> None:
    router, top = MemoryRouter(), tmp_path / "m"

    def work() -> int:
        def request() -> None:
            descriptor = os.open(top / "disk.raw", os.O_RDWR)
            try:
                os.pread(descriptor, 10, 0)
                os.pwrite(descriptor, b"x", 0)
                os.fsync(descriptor)
            finally:
                router.failures.clear()
                os.close(descriptor)

        (top / "disk.raw").write_bytes(b"content")
        router.failures[method] = error
        found = refused(request)
        router.failures.clear()
        request()
        return found

    async with mounted(router, top):
        assert await on_thread(work) == code


async def test_handles_are_counted(tmp_path: Path) -> None:
    router, top = MemoryRouter(), tmp_path / "m"

    def work() -> tuple[int, int]:
        first, second = (top / "f").open("wb"), (top / "f").open("rb")
        number = os.fstat(first.fileno()).st_ino
        both = router.handles(number)
        first.close()
        second.close()
        return number, both

    async with mounted(router, top):
        number, both = await on_thread(work)
        assert both == 2
        with trio.fail_after(5):  # the kernel releases after close has returned
            while router.handles(number):
                await trio.sleep(0.01)


async def test_extended_attributes(tmp_path: Path) -> None:
    router, top = MemoryRouter(), tmp_path / "m"

    def work() -> None:
        file = top / "f"
        file.touch()
        os.setxattr(file, "user.x", b"\0y" * 30_000)
        assert os.getxattr(file, "user.x") == b"\0y" * 30_000
        assert refused(lambda: os.setxattr(file, "user.x", b"", os.XATTR_CREATE)) == errno.EEXIST
        assert refused(lambda: os.setxattr(file, "user.y", b"", os.XATTR_REPLACE)) == errno.ENODATA
        os.setxattr(file, "user.x", b"z", os.XATTR_REPLACE)
        os.setxattr(file, "trusted.t", b"")
        os.setxattr(file, "security.s", b"1")
        assert sorted(os.listxattr(file)) == ["security.s", "trusted.t", "user.x"]
        os.removexattr(file, "user.x")
        assert refused(lambda: os.removexattr(file, "user.x")) == errno.ENODATA
        assert refused(lambda: os.getxattr(file, "user.x")) == errno.ENODATA
        assert refused(lambda: os.setxattr(file, "os2.x", b"y")) == errno.ENOTSUP

    async with mounted(router, top):
        await on_thread(work)


async def test_a_mount_in_use_is_undone_too(tmp_path: Path) -> None:
    router, top = MemoryRouter(), tmp_path / "m"
    async with mounted(router, top) as mount:
        file = await on_thread((top / "f").open, "wb")
        await mount.stop(limit_s=5)
        assert fuse.mount_on(str(top)) is None
        assert await on_thread(refused, partial(os.fstat, file.fileno())) == errno.ENOTCONN


async def test_cancelling_undoes_the_mount(tmp_path: Path) -> None:
    router, top = MemoryRouter(), tmp_path / "m"
    top.mkdir()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(fuse.serve, router, top, vpool_id=VPOOL))
        assert fuse.mount_on(str(top)) is not None
        nursery.cancel_scope.cancel()
    assert fuse.mount_on(str(top)) is None


async def test_serving_ends_when_somebody_unmounts(tmp_path: Path) -> None:
    router, top = MemoryRouter(), tmp_path / "m"
    top.mkdir()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(fuse.serve, router, top, vpool_id=VPOOL))
            await trio.run_process(["umount", str(top)])


async def test_requests_that_hang_do_not_keep_a_mount(tmp_path: Path) -> None:
    router, top = MemoryRouter(), tmp_path / "m"

    async def hang(inode: int, offset: int, length: int) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    router.read = hang  # type: ignore[method-assign]
    async with mounted(router, top) as mount:
        await on_thread((top / "disk.raw").touch)
        reader = await trio.to_thread.run_sync(
            partial(subprocess.Popen, ["dd", f"if={top}/disk.raw", "of=/dev/null"], stderr=subprocess.DEVNULL)
        )
        with trio.fail_after(5):
            while not router.handles(2):
                await trio.sleep(0.01)
        await mount.stop(limit_s=0.2)
    assert await trio.to_thread.run_sync(reader.wait, 10) != 0
