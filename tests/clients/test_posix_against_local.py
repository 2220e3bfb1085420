"""Every case of ``tests.clients.posix`` on the mount and on the local disk: results and errnos must be the same.

If this fails, a program sees the mount behave as no Linux file system does.
"""

from __future__ import annotations

import importlib
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.posix.names import WHITEOUT, renameat2
from tests.clients.posix.observing import CASES, IN_MEMORY, outcome
from tests.mounted_pool import MountedPool

for name in ("names", "contents", "attributes", "directories"):
    importlib.import_module(f"tests.clients.posix.{name}")

pytestmark = [pytest.mark.mount, pytest.mark.skipif(os.geteuid() != 0, reason="owners and other users need root")]


SMALL_CACHE = {
    "VPOOL_CACHE__SIZE_BYTES": "1GiB",
    "VPOOL_VOLUMES__SOFT_BYTES": "256MiB",
    "VPOOL_VOLUMES__HARD_BYTES": "512MiB",
}


def let_others_in(directory: Path) -> None:
    """Pytest keeps other users out, but some cases are others."""
    for path in (directory, *directory.parents):
        if path.stat().st_uid == os.geteuid() and path.stat().st_mode & 0o005 != 0o005:
            path.chmod(0o755)


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One daemon for all cases: each has a directory of its own."""
    top = tmp_path_factory.mktemp("posix")
    with MountedPool(top / "pool", top / "mount", environment=SMALL_CACHE) as pool:
        let_others_in(pool.mount)
        yield pool.mount


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory on tmpfs."""
    directory = Path(tempfile.mkdtemp(prefix="vpool-posix-", dir="/dev/shm"))
    yield directory
    shutil.rmtree(directory)


@pytest.mark.parametrize("name", CASES)
def test_as_on_the_local_disk(name: str, mount: Path, tmp_path: Path, memory: Path) -> None:
    let_others_in(tmp_path)
    reference = (memory if name in IN_MEMORY else tmp_path) / name
    reference.mkdir()
    (mount / name).mkdir()
    expected = CASES[name](reference)
    assert CASES[name](mount / name) == expected


def test_what_is_refused_where_a_local_disk_may_do_it(mount: Path) -> None:
    (mount / "w").write_bytes(b"x")
    assert outcome(renameat2, mount / "w", mount / "whiteout", WHITEOUT) == "EINVAL"
    assert outcome(os.setxattr, mount / "w", "system.posix_acl_access", struct.pack("<I", 2)) == "ENOTSUP"
    assert outcome(os.open, mount, os.O_TMPFILE | os.O_RDWR) == "ENOTSUP"
    assert sorted(set(os.listdir(mount)) - set(CASES)) == ["w"]
