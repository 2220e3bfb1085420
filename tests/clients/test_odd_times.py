"""Times of files that nobody would set on purpose: `touch -d @99999999999999`, an archive with damaged dates.

If this fails, one such file keeps the sizes and times of all others from the registry, or a date becomes an error.
"""

from __future__ import annotations

import os

import pytest

from registry import RegistryView
from tests.conftest import PoolMaker
from tests.mounted_pool import wait_until

pytestmark = pytest.mark.mount

FAR_NS = (1 << 40) * 10**9  # in tens of thousands of years
KEPT_NS = (1 << 63) - 1


@pytest.mark.parametrize("opened", [True, False])
def test_times_out_of_range_become_the_nearest_and_hold_nothing_up(make_pool: PoolMaker, opened: bool) -> None:
    pool = make_pool()
    odd, other = pool.mount / "odd", pool.mount / "other"
    with odd.open("wb", buffering=0) as file:
        file.write(b"1" * 1000)
        if opened:
            os.utime(file.fileno(), ns=(FAR_NS, FAR_NS))
    if not opened:
        os.utime(odd, ns=(FAR_NS, FAR_NS))
    other.write_bytes(b"2" * 2000)
    found = odd.stat()
    assert (found.st_atime_ns, found.st_mtime_ns) == (KEPT_NS, KEPT_NS)
    with RegistryView(pool.directory / "registry") as registry:
        for name, size in (("odd", 1000), ("other", 2000)):

            def is_published(name: str = name, size: int = size) -> bool:
                inode = registry.lookup(1, name)
                return inode is not None and inode.size == size

            wait_until(is_published, f"the registry knows the size of {name}", 60)
    os.utime(odd, ns=(-FAR_NS, -FAR_NS))
    assert odd.stat().st_mtime_ns == -KEPT_NS
