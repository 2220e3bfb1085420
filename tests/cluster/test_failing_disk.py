"""The disk below DIR/cache gives I/O errors under a daemon that runs: halts with a remedy, never other bytes than were written.

If this fails: a dying disk corrupts a volume, takes the daemon or other volumes with it, or nobody can get away from it.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.test_cache_replace import CONFLICT, INVALID, MIB, SETTINGS, content, vpool, write
from tests.failing_disk import FailingDisk
from tests.mounted_pool import MountedPool, wait_until

pytestmark = pytest.mark.mount

PIECES = 24  # MiB


def write_until_refused(path: Path, byte: int) -> int:
    """The disk takes nothing any more: sooner or later a flush or a write says so. Returns how many MiB were flushed."""
    fd = os.open(path, os.O_RDWR)
    flushed = 0
    try:
        while flushed < PIECES:
            os.pwrite(fd, bytes([byte]) * MIB, flushed * MIB)
            os.fsync(fd)
            flushed += 1
    except OSError as error:
        assert error.errno == errno.EIO  # noqa: PT017 (which of them fails is the disk's affair)
        return flushed
    finally:
        os.close(fd)
    raise AssertionError("the disk fails, and nobody has noticed")


def test_a_disk_that_refuses_writes_is_replaced(tmp_path: Path) -> None:
    with (
        FailingDisk(tmp_path / "disk", 512 * MIB) as disk,
        MountedPool(tmp_path / "pool", tmp_path / "mount", environment=SETTINGS) as pool,
    ):
        vpool(pool, "cache", "replace", str(disk.path / "cache"))
        volume = pool.make_volume("disk.raw", 128 * MIB)
        write(volume, 1)
        vpool(pool, "cache", "evacuate")
        disk.fail("write")
        write_until_refused(volume, 2)
        assert readable(volume) <= {1, 2}
        status = vpool(pool, "status")
        assert "halted" in str(status)
        refused = vpool(pool, "cache", "replace", str(tmp_path / "new"), code=CONFLICT)
        assert "nothing has changed" in str(refused["message"])
        assert readable(volume) <= {1, 2}
        lost = vpool(pool, "cache", "replace", str(tmp_path / "new"), "--accept-loss")["lost"]
        assert isinstance(lost, list)
        assert [each["path"] for each in lost] == ["disk.raw"]
        wait_until(lambda: can_read(volume), "the volume is looked at anew", 30)
        assert content(volume) == {1}
        write(volume, 3)
        assert content(volume) == {3}
        pool.kill()
        pool.start()
        assert content(volume) == {3}


def readable(path: Path) -> set[int]:
    """What can be read. The kernel may forget at any time what the disk did not take: an error then, never other bytes."""
    found: set[int] = set()
    fd = os.open(path, os.O_RDONLY)
    try:
        for number in range(PIECES):
            try:
                found |= set(os.pread(fd, MIB, number * MIB))
            except OSError as error:
                assert error.errno == errno.EIO  # noqa: PT017 (which of them cannot be read is the kernel's affair)
    finally:
        os.close(fd)
    return found


def can_read(path: Path) -> bool:
    try:
        content(path, 1)
    except OSError:
        return False
    return True


def test_what_was_flushed_is_read_off_a_disk_that_refuses_writes(tmp_path: Path) -> None:
    """The remedy of docs/operations.md: the cache is copied, and the copy taken instead."""
    with (
        FailingDisk(tmp_path / "disk", 512 * MIB) as disk,
        MountedPool(tmp_path / "pool", tmp_path / "mount", environment=SETTINGS) as pool,
    ):
        vpool(pool, "cache", "replace", str(disk.path / "cache"))
        volume = pool.make_volume("disk.raw", 128 * MIB)
        write(volume, 1)
        disk.fail("write")
        flushed = write_until_refused(volume, 2)
        pool.kill()
        shutil.copytree(disk.path / "cache", tmp_path / "copy")
        (pool.directory / "cache").unlink()
        (pool.directory / "cache").symlink_to(tmp_path / "copy")
        pool.start()
        data = volume.read_bytes()
        assert data[: flushed * MIB] == b"\2" * (flushed * MIB)
        assert set(data[flushed * MIB : PIECES * MIB]) <= {1, 2}
        write(volume, 3)
        assert content(volume) == {3}


def test_a_node_does_not_start_on_a_disk_that_is_not_mounted(tmp_path: Path) -> None:
    with MountedPool(tmp_path / "pool", tmp_path / "mount", environment=SETTINGS) as pool:
        volume = pool.make_volume("disk.raw", 128 * MIB)
        vpool(pool, "cache", "replace", str(tmp_path / "other"))
        write(volume, 1)
        pool.kill()
        (tmp_path / "other").rename(tmp_path / "away")
        for there in (False, True):  # nothing there, or the bare mount point
            if there:
                (tmp_path / "other").mkdir()
            command = [sys.executable, "-m", "vpool", "up", str(pool.directory), str(pool.mount)]
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **SETTINGS}
            )
            assert done.returncode == INVALID
            assert "mount its disk" in done.stderr
        (tmp_path / "other").rmdir()
        (tmp_path / "away").rename(tmp_path / "other")
        pool.start()
        assert content(volume) == {1}
