"""``vpool verify`` on a real daemon: a loss is found, told by path, refused to readers, and accepted."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PoolMaker
from tests.mounted_pool import MountedPool, wait_until

pytestmark = pytest.mark.mount

MIB = 1 << 20
EXPECTED = {"content_lost", "content_mended", "loss_accepted", "object_lost", "backend_range_damaged", "fuse_request_refused"}


def vpool(pool: MountedPool, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "vpool", *arguments, "--dir", str(pool.directory), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def whole_pass(pool: MountedPool) -> dict[str, Any]:
    """Ask for one and wait for its end."""
    number = vpool(pool, "verify", "start")["number"]

    def ended() -> bool:
        status = vpool(pool, "verify", "status")
        return bool(not status["running"] and (status["number"] > number or status["ended_ns"]))

    wait_until(ended, "the pass ends", 90)
    return vpool(pool, "verify", "status")


def test_a_loss_is_found_told_and_accepted(make_pool: PoolMaker, tmp_path: Path) -> None:
    pool = make_pool(
        backend=f"dir:{tmp_path / 'store'}",
        environment={"VPOOL_VERIFY__DAYS": "0", "VPOOL_VOLUMES__LOST_OBJECT_S": "1", "VPOOL_CACHE__READ_CACHE_BYTES": "0"},
        expected=EXPECTED,
    )
    contents = {"disk.raw": os.urandom(12 * MIB), "deep/large file": os.urandom(9 * MIB), "deep/small file": os.urandom(9000)}
    pool.make_volume("disk.raw", 12 * MIB)
    (pool.mount / "deep").mkdir()
    for name, data in contents.items():
        path = pool.mount / name
        with path.open("r+b" if path.exists() else "xb") as file:
            file.write(data)
            os.fsync(file.fileno())
    assert pool.stop() == 0
    shutil.rmtree(pool.directory / "cache")
    pool.start()
    status = whole_pass(pool)
    assert (status["lost_ranges"], status["damaged_objects"], status["needed_objects"]) == (0, 0, 0)
    assert status["pass_bytes"] >= sum(map(len, contents.values()))

    for scos in ((tmp_path / "store").glob("vpool-*[0-9a-f]/sco/*"), (tmp_path / "store").glob("vpool-*-files/*/sco/*")):
        [epoch] = [path for path in scos if any(path.iterdir())]
        for sco in sorted(epoch.iterdir())[1:]:
            sco.unlink()
    assert whole_pass(pool)["lost_ranges"] >= 2
    lost = vpool(pool, "verify", "lost")["lost"]
    assert {one["path"] for one in lost} <= set(contents)
    assert {one["kind"] for one in lost} == {"volume", "file", "size"}, (
        "the small file, with the record of its size, is lost, too"
    )

    by_path = {name: [one for one in lost if one["path"] == name] for name in contents}
    pool.stop()
    pool.start()
    assert vpool(pool, "verify", "lost")["lost"] == lost, "remembered over a restart"
    for name, ranges in by_path.items():
        expected = bytearray(contents[name])
        for one in ranges:
            with pytest.raises(OSError, match=os.strerror(errno.EIO)), (pool.mount / name).open("rb", buffering=0) as file:
                os.pread(file.fileno(), 4096, one["offset"])
            if one["kind"] != "size":
                expected[one["offset"] : one["offset"] + one["length"]] = bytes(one["length"])
        if ranges:
            assert vpool(pool, "verify", "accept", name)["zeroed_bytes"] == sum(one["length"] for one in ranges)
        assert (pool.mount / name).read_bytes() == bytes(expected[: len(contents[name])])
    assert vpool(pool, "verify", "lost")["lost"] == []
    assert whole_pass(pool)["lost_ranges"] == 0


def test_bad_input_is_refused(pool: MountedPool) -> None:
    (pool.mount / "directory").mkdir()
    for code, path in ((3, "absent"), (2, "directory")):
        done = subprocess.run(
            [sys.executable, "-m", "vpool", "verify", "accept", path, "--dir", str(pool.directory)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert path in done.stderr
