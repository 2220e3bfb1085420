"""One node from start to stop, with the clients that people use: if this fails, the first hour with vPool does."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.running import vpool
from tests.conftest import PoolMaker
from tests.mounted_pool import MountedPool, mounts_at, wait_until
from vpool.errors import Conflict, NotFound
from vpool.exitcodes import EXIT_CODES, INTERRUPTED

pytestmark = pytest.mark.mount
MIB = 1 << 20


def run(*command: str | Path) -> str:
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True, timeout=120).stdout


@contextlib.contextmanager
def left_open(path: Path) -> Iterator[int]:
    """A new file that is still open when its daemon goes; its close fails then."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        yield descriptor
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def test_files_and_directories_survive_a_restart(pool: MountedPool) -> None:
    top = pool.mount
    (top / "iso/deep").mkdir(parents=True)
    run("cp", "-a", Path(__file__).parent, top / "iso/deep/")
    (top / "iso/deep").rename(top / "flat")
    shutil.rmtree(top / "iso")
    assert pool.stop() == 0
    assert mounts_at(top) == 0
    pool.start()
    run("diff", "-r", "--exclude=__pycache__", Path(__file__).parent, top / "flat" / Path(__file__).parent.name)
    assert os.listdir(top) == ["flat"]


def test_an_editors_way_to_save(pool: MountedPool) -> None:
    """Write beside, sync, rename over, keep a backup by a link."""
    text = pool.mount / "notes.txt"
    text.write_text("first\n")
    for number in range(5):
        os.link(text, pool.mount / "notes.txt~")
        beside = pool.mount / ".notes.swp"
        with beside.open("w") as file:
            file.write(f"version {number}\n")
            os.fsync(file.fileno())
        beside.replace(text)
        os.unlink(pool.mount / "notes.txt~")
    with text.open("a") as file:
        file.write("appended\n")
    assert text.read_text() == "version 4\nappended\n"
    assert os.listdir(pool.mount) == ["notes.txt"]


def test_a_file_lives_until_its_last_handle(pool: MountedPool) -> None:
    path = pool.mount / "temporary"
    with path.open("w+b") as file:
        file.write(b"still here")
        file.flush()
        path.unlink()
        file.seek(0)
        assert file.read() == b"still here"
        assert os.fstat(file.fileno()).st_nlink == 0
    assert os.listdir(pool.mount) == []


def test_qemu_img(pool: MountedPool, tmp_path: Path) -> None:
    source = tmp_path / "source.img"
    source.write_bytes(os.urandom(3 * MIB) + bytes(5 * MIB) + os.urandom(MIB))
    disk, image = pool.mount / "disk.raw", pool.mount / "disk.qcow2"
    run("qemu-img", "create", "-f", "raw", disk, "1G")
    assert disk.stat().st_size == 1 << 30
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", source, pool.mount / "copy.raw")
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, pool.mount / "copy.raw")
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-t", "none", source, image)
    run("qemu-img", "check", image)
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", source, image)
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, disk)  # onto a disk that is there
    assert disk.stat().st_size == 1 << 30
    listed = json.loads(vpool("volume", "list", "--dir", pool.directory, "--json").out)
    assert {volume["path"] for volume in listed["volumes"]} == {"disk.raw", "copy.raw"}


def test_volumes_by_command(pool: MountedPool) -> None:
    in_pool = ("--dir", pool.directory, "--json")
    made = vpool("volume", "create", "web.raw", "64M", *in_pool)
    assert made.code == 0
    assert json.loads(made.out)["size"] == 64 * MIB
    wait_until(lambda: (pool.mount / "web.raw").exists(), "the volume is in the mount", 5)
    with (pool.mount / "web.raw").open("r+b", buffering=0) as disk:
        disk.write(os.urandom(MIB))
        shown = json.loads(vpool("volume", "show", "web.raw", *in_pool).out)
        assert (shown["handles"], shown["state"]) == (1, "serving")
        refused = vpool("volume", "delete", "web.raw", *in_pool)
        assert refused.code == EXIT_CODES[Conflict]
        assert "is open (1 handles)" in refused.err
    wait_until(lambda: json.loads(vpool("volume", "show", "web.raw", *in_pool).out)["handles"] == 0, "handle given back", 5)
    assert vpool("volume", "delete", "web.raw", *in_pool).code == 0
    assert vpool("volume", "show", "web.raw", *in_pool).code == EXIT_CODES[NotFound]
    bucket = pool.directory / "backend" / f"vpool-{shown['object']}"
    wait_until(lambda: not bucket.exists(), "its bucket goes", 30)


def test_status_tells_what_is_not_in_the_backend_yet(make_pool: PoolMaker) -> None:
    pool = make_pool(environment={"VPOOL_VOLUMES__TLOG_AGE_S": "3600"})
    with (pool.mount / "disk.raw").open("wb") as disk:
        disk.write(os.urandom(MIB))
    report = json.loads(vpool("status", "--json").out)  # the only daemon of this test is found by itself
    assert report["dirty_bytes"] >= MIB
    assert report["backend"]["reachable"] is True
    assert report["cache"]["log_bytes_used"] > 0
    assert report["daemon"]["pid"] == pool.pid
    for command in (["status"], ["volume", "list"], ["volume", "show", "disk.raw"]):
        assert vpool(*command).code == 0


def test_the_management_socket_is_its_owners(pool: MountedPool) -> None:
    assert (pool.directory / "admin.sock").stat().st_mode & 0o777 == 0o600


def test_a_killed_daemons_mount_is_cleaned_up_and_its_writes_are_there(pool: MountedPool) -> None:
    data = os.urandom(3 * MIB)
    with left_open(pool.mount / "disk.raw") as disk:
        os.write(disk, data)
        (pool.mount / "file").write_bytes(data)
        pool.kill()
        with pytest.raises(OSError, match="not connected") as caught:
            os.stat(pool.mount)
        assert caught.value.errno == errno.ENOTCONN
        assert mounts_at(pool.mount) == 1
        pool.start()
    assert mounts_at(pool.mount) == 1
    assert (pool.mount / "disk.raw").read_bytes() == data
    assert (pool.mount / "file").read_bytes() == data


def test_the_cache_may_be_deleted_between_runs(pool: MountedPool) -> None:
    data = os.urandom(9 * MIB)
    (pool.mount / "disk.raw").write_bytes(data)
    (pool.mount / "file").write_bytes(data[:100_000])
    assert pool.stop() == 0
    shutil.rmtree(pool.directory / "cache")
    pool.start()
    assert (pool.mount / "disk.raw").read_bytes() == data
    assert (pool.mount / "file").read_bytes() == data[:100_000]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_stop_it_cleanly_with_files_open(pool: MountedPool, number: signal.Signals) -> None:
    data = os.urandom(MIB)
    with left_open(pool.mount / "disk.raw") as disk:
        os.write(disk, data)
        assert pool._process is not None
        os.kill(pool.pid, number)
        assert pool._process.wait(60) == 0
        pool._process = None
        assert mounts_at(pool.mount) == 0
    assert not (pool.directory / "admin.sock").exists()
    pool.start()
    assert (pool.mount / "disk.raw").read_bytes() == data


def test_a_second_signal_ends_it_at_once(make_pool: PoolMaker) -> None:
    """The first stop waits for a backend that has gone; what was acknowledged is in the cache."""
    pool = make_pool(
        environment={"VPOOL_VOLUMES__STOP_S": "300", "VPOOL_VOLUMES__TLOG_AGE_S": "3600"},
        expected={"stop_cut_short", "backend_unreachable", "upload_failed", "retrying", "stalled", "backend_stalled"},
    )
    data = os.urandom(MIB)
    (pool.mount / "disk.raw").write_bytes(data)
    backend = pool.directory / "backend"
    backend.rename(pool.directory / "backend.away")
    assert pool._process is not None
    os.kill(pool.pid, signal.SIGTERM)
    wait_until(lambda: '"daemon_stopping"' in pool.tail_of_log(), "it has begun to stop", 10)
    wait_until(lambda: mounts_at(pool.mount) == 0, "it has unmounted", 10)
    began = time.monotonic()
    os.kill(pool.pid, signal.SIGTERM)
    assert pool._process.wait(10) == INTERRUPTED
    assert time.monotonic() - began < 5
    pool._process = None
    pool.directory.joinpath("backend.away").rename(backend)
    pool.start()
    assert (pool.mount / "disk.raw").read_bytes() == data


def test_unmounting_by_hand_stops_it(pool: MountedPool) -> None:
    run("umount", pool.mount)
    assert pool._process is not None
    assert pool._process.wait(60) == 0
    pool._process = None


def test_the_registry_process_ends_with_a_killed_daemon(pool: MountedPool) -> None:
    children = run("pgrep", "--parent", str(pool.pid)).split()
    assert children
    pool.kill()
    wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children), "its processes end with it", 10)
    pool.start()


def test_the_demonstration_ends_by_itself(tmp_path: Path) -> None:
    for _ in range(2):  # and again on what the first has left
        done = subprocess.run(
            [sys.executable, "-m", "vpool.demo", tmp_path / "run"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "read it back: the same" in done.stdout
        assert "volume.json" in done.stdout
    assert mounts_at(tmp_path / "run/mount") == 0
