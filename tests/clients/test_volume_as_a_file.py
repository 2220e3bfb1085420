"""What a program sees of a volume that it takes for a file: opened with O_TRUNC, appended to, mapped, cut, linked, counted by df.

If this fails, a backup tool shrinks a disk, or a program that treats an image like any file gets what no file system gives.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import PoolMaker
from tests.mounted_pool import MountedPool, wait_until

pytestmark = pytest.mark.mount

MIB = 1 << 20
SIZE = 64 * MIB
FRESH = {"VPOOL_FUSE__ENTRY_TIMEOUT_S": "0", "VPOOL_FUSE__ATTRIBUTES_TIMEOUT_S": "0"}
CONTENT = os.urandom(MIB)


def refused(action: Callable[[], object]) -> str:
    """The errno with which it is refused."""
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


def truncated_by_open(disk: Path) -> None:
    os.close(os.open(disk, os.O_WRONLY | os.O_TRUNC))


def truncated_by_dd(disk: Path) -> None:
    subprocess.run(["dd", "if=/dev/null", f"of={disk}"], check=True, capture_output=True, timeout=60)


def truncated_by_create(disk: Path) -> None:
    os.close(os.open(disk, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600))


def truncated_by_the_shell(disk: Path) -> None:
    subprocess.run(["sh", "-c", ': > "$1"', "sh", disk], check=True, timeout=60)


@pytest.mark.parametrize("truncate", [truncated_by_open, truncated_by_create, truncated_by_the_shell, truncated_by_dd])
def test_an_opening_that_truncates_never_shrinks_a_volume(pool: MountedPool, truncate: Callable[[Path], None]) -> None:
    """It becomes zeros, as backup tools that skip zeros expect; over a kill, too."""
    disk = pool.make_volume("disk.raw", SIZE)
    with disk.open("r+b", buffering=0) as file:
        file.write(CONTENT)
    truncate(disk)
    for _ in range(2):
        assert disk.stat().st_size == SIZE
        assert disk.read_bytes().count(0) == SIZE
        pool.kill()
        pool.start()


def test_a_volume_is_cut_and_grown_where_that_is_said(pool: MountedPool) -> None:
    disk = pool.make_volume("disk.raw", SIZE)
    with disk.open("r+b", buffering=0) as file:
        file.write(CONTENT)
        os.truncate(disk, MIB // 2)
        assert os.fstat(file.fileno()).st_size == MIB // 2
        os.ftruncate(file.fileno(), SIZE * 2)
        assert file.seek(0, os.SEEK_END) == SIZE * 2
    assert disk.read_bytes() == CONTENT[: MIB // 2] + bytes(SIZE * 2 - MIB // 2)


def test_appends_and_writes_behind_the_end_make_a_volume_grow(pool: MountedPool) -> None:
    disk = pool.make_volume("disk.raw", MIB)
    one, two = (os.open(disk, os.O_WRONLY | os.O_APPEND) for _ in range(2))
    for number in range(20):
        assert os.write((one, two)[number % 2], b"%07d\n" % number) == 8
    os.close(one)
    os.close(two)
    with disk.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"end", 2 * MIB)
    lines = b"".join(b"%07d\n" % number for number in range(20))
    assert disk.read_bytes() == bytes(MIB) + lines + bytes(MIB - len(lines)) + b"end"


def test_a_volume_is_mapped_privately_and_refuses_shared_memory(pool: MountedPool) -> None:
    """A mapping that is shared would be a cache of the kernel, which volumes must not have."""
    disk = pool.make_volume("disk.raw", MIB)
    with disk.open("r+b", buffering=0) as file:
        file.write(CONTENT)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as private:
            assert private[:] == CONTENT
            private[0:5] = b"mine!"
        assert refused(lambda: mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_WRITE)) == "ENODEV"
        assert os.pread(file.fileno(), 5, 0) == CONTENT[:5]


def test_a_volume_in_use_outlives_its_names(pool: MountedPool) -> None:
    disk = pool.make_volume("disk.raw", MIB)
    os.link(disk, pool.mount / "second-name")
    os.rename(disk, pool.mount / "no-longer-named-like-a-disk")
    assert (pool.mount / "second-name").stat().st_nlink == 2
    with (pool.mount / "second-name").open("r+b", buffering=0) as file:
        for name in ("second-name", "no-longer-named-like-a-disk"):
            os.unlink(pool.mount / name)
        file.write(CONTENT)
        os.fsync(file.fileno())
        assert os.fstat(file.fileno()).st_nlink == 0
        assert os.pread(file.fileno(), MIB, 0) == CONTENT
        truncate = os.open(f"/proc/self/fd/{file.fileno()}", os.O_WRONLY | os.O_TRUNC)  # it stays a volume whatever it is called
        os.close(truncate)
        assert os.fstat(file.fileno()).st_size == MIB


def test_df_and_du_count_what_is_there(make_pool: PoolMaker) -> None:
    pool = make_pool(environment=FRESH)

    def held() -> int:
        numbers = os.statvfs(pool.mount)
        return (numbers.f_blocks - numbers.f_bfree) * numbers.f_frsize

    def counted(expected: int) -> None:
        wait_until(lambda: held() == expected, f"df counts {expected} bytes; at first it says {held()}", 30)

    before = os.statvfs(pool.mount)
    assert before.f_namemax == 255
    disk = pool.make_volume("disk.raw", 1 << 40)  # more than this host has
    counted(0)
    assert os.statvfs(pool.mount).f_ffree == before.f_ffree - 1
    with disk.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), CONTENT, 1 << 39)
    counted(MIB)
    assert (disk.stat().st_blocks * 512, disk.stat().st_size) == (MIB, 1 << 40)
    assert shutil.disk_usage(pool.mount).free >= 1 << 40, "free is what volumes may still take: the backend has no known limit"
    disk.unlink()
    counted(0)
    wait_until(lambda: os.statvfs(pool.mount).f_ffree == before.f_ffree, "its inode is free again", 30)


def test_everything_about_a_name_survives_a_kill(pool: MountedPool) -> None:
    """Links, kinds, device numbers, permissions, owners, extended attributes, times to the nanosecond."""
    top = pool.mount
    moment = (1_000_000_000_123_456_789, 1_234_567_890_987_654_321)
    (top / "file").write_bytes(b"content")
    os.link(top / "file", top / "hard-link")
    (top / "symlink").symlink_to("file")
    os.mkfifo(top / "fifo", 0o640)
    os.mknod(top / "socket", stat.S_IFSOCK | 0o600)
    os.mknod(top / "device", stat.S_IFBLK | 0o660, os.makedev(259, 70_000))
    (top / "directory").mkdir()
    os.chmod(top / "directory", 0o3775)
    os.chmod(top / "file", 0o6751)
    os.chown(top / "fifo", 12345, 54321)
    os.setxattr(top / "file", "user.note", b"\0binary\xff")
    os.setxattr(top / "directory", "trusted.note", b"")
    names = ["file", "hard-link", "symlink", "fifo", "socket", "device", "directory"]
    for name in names:
        os.utime(top / name, ns=moment, follow_symlinks=False)

    def seen(name: str) -> tuple[object, ...]:
        found = os.lstat(top / name)
        return (
            *(found.st_mode, found.st_nlink, found.st_uid, found.st_gid, found.st_rdev, found.st_size, found.st_ino),
            *(found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns),
            {key: os.getxattr(top / name, key, follow_symlinks=False) for key in os.listxattr(top / name, follow_symlinks=False)},
        )

    before = {name: seen(name) for name in names}
    assert {(found[7], found[8]) for found in before.values()} == {moment}
    pool.kill()
    pool.start()
    assert {name: seen(name) for name in names} == before
    assert (os.readlink(top / "symlink"), (top / "hard-link").read_bytes()) == ("file", b"content")
