"""stress-ng's file stressors on the mount, each verifying what it does; the daemon must neither err nor be left with a mess.

If this fails: some program will meet an errno that no other file system gives, or a race that one process at a time never shows.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.conftest import PoolMaker
from tests.mounted_pool import MountedPool

pytestmark = pytest.mark.mount

OK, NOT_IMPLEMENTED = 0, 4
STRESSORS = {
    "access": (), "acl": (), "chdir": (), "chmod": (), "chown": (), "close": (), "copy-file": (), "dentry": ("--dentries", "256"),
    "dir": ("--dir-dirs", "128"), "dirdeep": ("--dirdeep-dirs", "1", "--dirdeep-inodes", "256"),
    "dirmany": (),
    "fallocate": ("--fallocate-bytes", "8M"), "fcntl": (), "fiemap": ("--fiemap-bytes", "8M"), "file-ioctl": (), "filename": (),
    "flock": (), "fpunch": (), "fstat": (), "getdent": (), "hdd": ("--hdd-bytes", "16M"),
    "io": (), "iomix": ("--iomix-bytes", "8M"), "link": (), "locka": (), "lockf": (), "lockofd": (), "mknod": (), "open": (),
    "readahead": ("--readahead-bytes", "8M"), "rename": (), "seek": ("--seek-size", "8M"), "sendfile": ("--sendfile-size", "64K"),
    "symlink": (), "sync-file": ("--sync-file-bytes", "8M"), "touch": (), "unlink": (), "utime": (), "verity": (), "xattr": (),
}  # fmt: skip
BEYOND_US = {"acl", "fiemap", "file-ioctl", "verity"}  # what a file system may not have; stress-ng passes over them


SHORT = {
    "copy-file", "dentry", "dir", "fallocate", "fcntl", "flock", "fstat", "getdent", "hdd", "iomix", "link", "rename", "seek",
    "symlink", "touch", "utime", "xattr",
}  # fmt: skip


def known() -> set[str]:
    """Stressors that this stress-ng has."""
    listed = subprocess.run(["stress-ng", "--stressors"], capture_output=True, text=True, timeout=60, check=True)
    return set(listed.stdout.split())


def stress(directory: Path, stressor: str, seconds: int) -> subprocess.CompletedProcess[str]:
    directory.mkdir(exist_ok=True)
    command = ["stress-ng", f"--{stressor}", "2", "--timeout", f"{seconds}s", "--temp-path", str(directory), "--verify"]
    return subprocess.run(
        [*command, "--oomable", "--no-rand-seed", *STRESSORS[stressor]],
        cwd="/", capture_output=True, text=True, timeout=120 + 4 * seconds, check=False,
    )  # fmt: skip


def stressed(pool: MountedPool, stressors: Iterable[str], seconds: int) -> None:
    failed = []
    for stressor in sorted(stressors):
        directory = pool.mount / f"stress-{stressor}"
        ran = stress(directory, stressor, seconds)
        print(f"{stressor}: {ran.returncode}")
        if ran.returncode != OK and not (ran.returncode == NOT_IMPLEMENTED and stressor in BEYOND_US):
            failed.append(f"{stressor} ended with {ran.returncode}:\n{ran.stdout}\n{ran.stderr}")
        left = os.listdir(directory)
        if left:
            failed.append(f"{stressor} has left {left[:5]}")
    assert not failed, "\n\n".join(failed)
    assert pool.stop() == 0


def test_stressors_find_nothing(make_pool: PoolMaker) -> None:
    assert known() >= SHORT
    stressed(make_pool(), SHORT, 1)


@pytest.mark.long
def test_stressors_find_nothing_for_long(make_pool: PoolMaker) -> None:
    stressed(make_pool(), STRESSORS.keys() & known(), 10)
