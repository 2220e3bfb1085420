"""Promises 10 and 12: however many writes wait for a store that is away, reads of what is here are served, in bounded memory.

A waiting write keeps one of the mount's places for requests, and an asynchronous one also one of those that the kernel gives out.
If this fails, the stalled disks of a host stop the disks that could go on.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.outage import Reader, ask_status
from tests.cluster.test_outage import MIB, SETTINGS
from tests.crash.history import UNIT_BYTES, History
from tests.crash.rounds import chosen_seed, log_lines
from tests.crash.stamp import Signature, stamped
from tests.fault_proxy import FaultProxy, Outage
from tests.mounted_pool import MountedPool, wait_until
from tests.swift_server import SwiftServer

pytestmark = [pytest.mark.mount, pytest.mark.swift]

QUIET = range(4 << 11)  # 4 MiB that are read
VOLUME_BYTES = 256 * MIB
READ_S = 2.0  # a single read; without the limits it waits for the store
READS = 64
PLACE_KIB = 40  # what a waiting request may cost besides its data
ENDS_S = 60.0
SLACK_KIB = 64 << 10  # of volumes that are written to: pages of their maps, checksums
BLOCK_KIB = 64
ENGINES = ("libaio", "io_uring")


@dataclass(frozen=True, slots=True)
class Crowd:
    """Who writes until he has to wait."""

    sync: int  # volumes with a writer of their own, one request at a time
    volumes: int  # volumes with asynchronous writers, for each of ENGINES
    depth: int  # requests under way on each of those

    @property
    def waiting(self) -> int:
        """At least: the kernel may split what is not aligned."""
        return self.sync + len(ENGINES) * self.volumes * self.depth


FIO = ["fio", "--direct=1", "--fallocate=none", "--thread", "--randrepeat=0"]


@contextmanager
def fio(*options: str) -> Iterator[subprocess.Popen[str]]:
    """A load that goes on until the block is left; it must then have met no error."""
    process = subprocess.Popen([*FIO, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.terminate()
        said, _ = process.communicate(timeout=ENDS_S)
    assert "error" not in said, said[-500:]


def loads(mount: Path, crowd: Crowd) -> Iterator[list[str]]:
    """The options of fio for each part of a crowd; ``name-0.raw`` to ``name-n.raw`` are written to."""
    all_alike = ["--rw=randwrite", f"--bs={BLOCK_KIB}k", f"--size={VOLUME_BYTES}", "--time_based", "--runtime=1000"]
    for name, jobs, depth in [("psync", crowd.sync, 1), *((engine, crowd.volumes, crowd.depth) for engine in ENGINES)]:
        files = [f"--directory={mount}", f"--filename_format={name}-$jobnum.raw", f"--numjobs={jobs}"]
        yield [*all_alike, f"--name={name}", f"--ioengine={name}", f"--iodepth={depth}", *files]


def waiting(pool: MountedPool) -> int:
    objects = ask_status(pool)["objects"]
    assert isinstance(objects, list)
    return sum(each["waiting_writers"] for each in objects)


def misses(pool: MountedPool) -> int:
    objects = ask_status(pool)["objects"]
    assert isinstance(objects, list)
    return sum(each["misses"] for each in objects)


def slowest_read_s(disk: Path, engine: str) -> float:
    """Of asynchronous reads of the quiet volume."""
    what = [f"--filename={disk}", "--name=reads", "--rw=randread", "--bs=4k", f"--size={len(QUIET) * UNIT_BYTES}"]
    command = [*FIO, *what, f"--ioengine={engine}", "--iodepth=16", f"--number_ios={READS}", "--output-format=json"]
    done = subprocess.run(command, check=True, capture_output=True, timeout=ENDS_S)
    slowest_ns: int = json.loads(done.stdout)["jobs"][0]["read"]["lat_ns"]["max"]
    return slowest_ns / 1e9


def fill(disk: Path, history: History, seed: int) -> None:
    """Data that cannot leave this host while the store is away."""
    with disk.open("r+b", buffering=0) as file:
        for first in range(QUIET.start, QUIET.stop, 512):
            write = history.issue(first, 512)
            assert write is not None
            file.seek(first * UNIT_BYTES)
            file.write(stamped(Signature(seed, 0, 0), write.sequence, first, 512))
            history.acknowledge(write)


def stall(
    tmp_path: Path, swift: SwiftServer, crowd: Crowd, *, within_s: float, environment: dict[str, str] | None = None
) -> None:
    """Let a crowd write until all of it waits, and see that others can read; then let it go on."""
    history, seed = History(), chosen_seed()
    hard = {"VPOOL_VOLUMES__SOFT_BYTES": str(16 * MIB), "VPOOL_VOLUMES__HARD_BYTES": str(16 * MIB)}
    with (
        FaultProxy.running(f"http://{swift.host}", seed=seed) as proxy,
        MountedPool(
            tmp_path / "pool",
            tmp_path / "mount",
            backend=f"swift:{proxy.url}/auth/v1.0?prefix=many-{seed}-",
            environment={**SETTINGS, **hard, **(environment or {}), **swift.environ},
        ) as pool,
        ExitStack() as clients,
    ):
        clients.callback(lambda: setattr(proxy, "outage", Outage.NONE))
        quiet = pool.make_volume("quiet.raw", VOLUME_BYTES)
        for name, count in [("psync", crowd.sync), *((engine, crowd.volumes) for engine in ENGINES)]:
            for number in range(count):
                pool.make_volume(f"{name}-{number}.raw", VOLUME_BYTES)
        proxy.outage = Outage.RESET
        fill(quiet, history, seed)
        before_kib = pool.memory_kib()
        for options in loads(pool.mount, crowd):
            clients.enter_context(fio(*options))
        clients.callback(lambda: setattr(proxy, "outage", Outage.NONE))  # so that they can end
        wait_until(lambda: waiting(pool) >= crowd.waiting, f"all {crowd.waiting} writes wait", within_s)
        kib = pool.memory_kib() - before_kib
        with Reader(quiet, history, QUIET, seed) as reader:
            slowest = {each: slowest_read_s(quiet, each) for each in ENGINES}
            wait_until(lambda: reader.reads > READS, "synchronous reads are served", READ_S + READS * 0.05)
            os.listdir(pool.mount)
        print(f"{crowd.waiting} writes wait, RssAnon + {kib >> 10} MiB; slowest reads {reader.slowest_s:.3f} s, {slowest}")
        assert not reader.errors
        assert waiting(pool) >= crowd.waiting, "the store was not away"
        assert kib < crowd.waiting * (PLACE_KIB + 2 * BLOCK_KIB) + SLACK_KIB
        assert max(reader.slowest_s, *slowest.values()) < READ_S
        proxy.outage = Outage.NONE
        wait_until(lambda: waiting(pool) < crowd.waiting, "writers go on", 2 * ENDS_S)
        clients.close()
        bad = [line for line in log_lines(pool) if line.get("level") in ("error", "critical")]
        assert not bad, f"unexpected lines in the daemon's log: {bad[:3]}"


def test_waiting_writers_do_not_hold_up_readers(tmp_path: Path, swift_server: SwiftServer) -> None:
    """More asynchronous writes than the 12 that a kernel hands out by itself."""
    stall(tmp_path, swift_server, Crowd(sync=6, volumes=1, depth=20), within_s=30)


def test_reads_that_miss_do_not_hold_up_those_that_hit(tmp_path: Path, swift_server: SwiftServer) -> None:
    """Each thread of a client may wait for the store; asynchronous ones share what the kernel gives out with reads that hit."""
    history, seed = History(), chosen_seed()
    sync, depth = 300, 60
    with (
        FaultProxy.running(f"http://{swift_server.host}", seed=seed) as proxy,
        MountedPool(
            tmp_path / "pool",
            tmp_path / "mount",
            backend=f"swift:{proxy.url}/auth/v1.0?prefix=miss-{seed}-",
            environment={**SETTINGS, **swift_server.environ},
        ) as pool,
        ExitStack() as clients,
    ):
        clients.callback(lambda: setattr(proxy, "outage", Outage.NONE))
        quiet, cold = pool.make_volume("quiet.raw", VOLUME_BYTES), pool.make_volume("cold.raw", VOLUME_BYTES)
        with cold.open("r+b", buffering=0) as file:
            for _ in range(32):
                file.write(os.urandom(MIB))
        wait_until(lambda: ask_status(pool)["dirty_bytes"] == 0, "all is in the store", ENDS_S)
        assert pool.stop() == 0
        shutil.rmtree(pool.directory / "cache")
        pool.start()
        fill(quiet, history, seed)
        with cold.open("rb", buffering=0) as file:
            assert file.read(4096)
        proxy.outage = Outage.RESET
        missed, before_kib = misses(pool), pool.memory_kib()
        load = ["--rw=randread", "--bs=4k", f"--filename={cold}", f"--size={32 * MIB}", "--time_based", "--runtime=1000"]
        clients.enter_context(fio(*load, "--name=sync", "--ioengine=psync", f"--numjobs={sync}"))
        clients.enter_context(fio(*load, "--name=async", "--ioengine=libaio", f"--iodepth={depth}"))
        clients.callback(lambda: setattr(proxy, "outage", Outage.NONE))
        wait_until(lambda: misses(pool) - missed >= sync + depth, "all readers wait", 30)
        kib = pool.memory_kib() - before_kib
        with Reader(quiet, history, QUIET, seed) as reader:
            slowest = {each: slowest_read_s(quiet, each) for each in ENGINES}
            wait_until(lambda: reader.reads > READS, "synchronous reads are served", READ_S + READS * 0.05)
        print(f"{sync + depth} reads wait, RssAnon + {kib >> 10} MiB; slowest reads {reader.slowest_s:.3f} s, {slowest}")
        assert not reader.errors
        assert kib < (sync + depth) * PLACE_KIB + SLACK_KIB
        assert max(reader.slowest_s, *slowest.values()) < READ_S


@pytest.mark.long
def test_waiting_writers_of_many_volumes_do_not_hold_up_readers(tmp_path: Path, swift_server: SwiftServer) -> None:
    """As many disks as a large host has, and each waits."""
    large = {"VPOOL_CACHE__SIZE_BYTES": "768MiB"}
    stall(tmp_path, swift_server, Crowd(sync=100, volumes=4, depth=100), within_s=240, environment=large)
