"""``vpool cache evacuate|replace``: a disk below DIR/cache goes away under a running node, or before it starts.

If this fails: an operator who replaces a disk loses data, interrupts guests, or is refused for no reason.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.mounted_pool import MountedPool, wait_until
from tests.small_disk import SmallDisk

pytestmark = pytest.mark.mount

MIB = 1 << 20
SETTINGS = {
    "VPOOL_CACHE__SIZE_BYTES": "256MiB",
    "VPOOL_CACHE__READ_CACHE_BYTES": "32MiB",
    "VPOOL_CACHE__MAP_CACHE_BYTES": "8MiB",
    "VPOOL_VOLUMES__SOFT_BYTES": "64MiB",
    "VPOOL_VOLUMES__HARD_BYTES": "96MiB",
    "VPOOL_VOLUMES__TLOG_AGE_S": "3600",
    "VPOOL_VOLUMES__STOP_S": "1",
}
COMMAND_S = 120.0
LEFT_IN_CACHE, CONFLICT, INVALID = 14, 5, 2


def vpool(pool: MountedPool, *arguments: str, code: int = 0) -> dict[str, object]:
    """A command of the CLI; what it prints with --json, or its refusal."""
    command = [sys.executable, "-m", "vpool", *arguments, "--dir", str(pool.directory), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, check=False, env={**os.environ, **SETTINGS})
    assert done.returncode == code, done.stdout + done.stderr + pool.tail_of_log()
    answer = json.loads(done.stdout or done.stderr)
    assert isinstance(answer, dict)
    return answer


def write(path: Path, byte: int, count: int = 24) -> None:
    with path.open("r+b", buffering=0) as file:
        for _ in range(count):
            file.write(bytes([byte]) * MIB)
        os.fsync(file.fileno())


def content(path: Path, count: int = 24) -> set[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        return set(b"".join(os.pread(fd, MIB, number * MIB) for number in range(count)))
    finally:
        os.close(fd)


class Client(threading.Thread):
    """Writes and reads one cluster without a pause; keeps its handle open."""

    def __init__(self, path: Path) -> None:
        super().__init__(name="client", daemon=True)
        self.rounds = 0
        self.error: Exception | None = None
        self.stop = threading.Event()
        self._path = path

    def run(self) -> None:
        try:
            fd = os.open(self._path, os.O_RDWR)
            while not self.stop.is_set():
                block = self.rounds.to_bytes(8, "little") * 512
                os.pwrite(fd, block, 100 * MIB)
                os.fsync(fd)
                assert os.pread(fd, 4096, 100 * MIB) == block
                self.rounds += 1
            os.close(fd)
        except (OSError, AssertionError) as error:
            self.error = error


def test_the_cache_moves_to_another_disk_under_running_clients(tmp_path: Path) -> None:
    with (
        SmallDisk(tmp_path / "other", 400 * MIB) as other,
        MountedPool(tmp_path / "pool", tmp_path / "mount", environment=SETTINGS) as pool,
    ):
        volume = pool.make_volume("disk.raw", 128 * MIB)
        write(volume, 1)
        (pool.mount / "file").write_bytes(b"some bytes")
        client = Client(volume)
        client.start()
        wait_until(lambda: client.rounds > 3, "the client works", 30)
        for new in (str(other.path / "cache"), None, str(tmp_path / "third")):
            report = vpool(pool, "cache", "replace", *([new] if new else []))
            assert report["lost"] == []
            assert report["path"] == (new or str(other.path / "cache"))
            rounds = client.rounds
            wait_until(lambda: client.error is not None or client.rounds > rounds + 3, "the client goes on", 30)  # noqa: B023
            assert client.error is None
            assert content(volume) == {1}
            assert (pool.mount / "file").read_bytes() == b"some bytes"
        shutil.rmtree(other.path / "cache")
        shutil.rmtree(pool.directory / "cache.replaced-1")
        client.stop.set()
        client.join(30)
        assert (pool.directory / "cache").readlink() == tmp_path / "third"
        last = (client.rounds - 1).to_bytes(8, "little") * 512
        pool.kill()
        pool.start()
        assert content(volume) == {1}
        with volume.open("rb") as file:
            file.seek(100 * MIB)
            assert file.read(4096) == last


def test_an_evacuated_cache_may_go(tmp_path: Path) -> None:
    with MountedPool(tmp_path / "pool", tmp_path / "mount", environment=SETTINGS) as pool:
        volume = pool.make_volume("disk.raw", 128 * MIB)
        write(volume, 1)
        report = vpool(pool, "cache", "evacuate")
        assert (report["running"], report["bytes_left"], report["left"]) == (False, 0, [])
        pool.kill()
        shutil.rmtree(pool.directory / "cache")
        pool.start()
        assert content(volume) == {1}


def test_bad_directories_are_refused(tmp_path: Path) -> None:
    with MountedPool(tmp_path / "pool", tmp_path / "mount", environment=SETTINGS) as pool:
        volume = pool.make_volume("disk.raw", 128 * MIB)
        write(volume, 1)
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "file").touch()
        for bad in (tmp_path / "full", tmp_path / "no" / "where", pool.directory / "cache" / "in", pool.directory / "cache"):
            vpool(pool, "cache", "replace", str(bad), code=INVALID)
        with SmallDisk(tmp_path / "small", 16 * MIB):
            assert "free" in str(vpool(pool, "cache", "replace", str(tmp_path / "small"), code=8)["message"])
        assert not (tmp_path / "no").exists()
        assert content(volume) == {1}
        write(volume, 2)


def test_without_a_daemon_nothing_is_lost_unless_somebody_says_so(tmp_path: Path) -> None:
    with MountedPool(tmp_path / "pool", tmp_path / "mount", environment=SETTINGS) as pool:
        volume = pool.make_volume("disk.raw", 128 * MIB)
        write(volume, 1)
        vpool(pool, "cache", "evacuate")
        write(volume, 2)
        pool.kill()
        refused = vpool(pool, "cache", "replace", code=CONFLICT)
        assert "the backend has not got everything" in str(refused["message"])
        pool.start()
        assert content(volume) == {2}
        vpool(pool, "cache", "evacuate")
        pool.kill()
        vpool(pool, "cache", "replace", str(tmp_path / "new"))
        pool.start()
        assert content(volume) == {2}
        write(volume, 3)
        pool.kill()
        lost = vpool(pool, "cache", "replace", "--accept-loss")["lost"]
        assert isinstance(lost, list)
        assert len(lost) == 1
        pool.start()
        assert content(volume) == {2}
