"""Promises 10 and 12: a store that is away slows writers and stalls them at the limit; nothing fails, and memory stays bounded.

If this fails: a guest sees an I/O error because Swift was restarted, or reads of what is here wait for what is not, or the daemon
grows until the host kills it, or it does not catch up when the store is back.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.outage import Reader, Recorder, ask_status
from tests.crash.history import UNIT_BYTES, History
from tests.crash.rounds import chosen_seed, log_lines
from tests.crash.stamp import Load, Signature, Writers, read_stamps, stamped
from tests.fault_proxy import FaultProxy, Outage
from tests.mounted_pool import MountedPool, wait_until
from tests.swift_server import SwiftServer

pytestmark = [pytest.mark.mount, pytest.mark.swift]

MIB = 1 << 20
SOFT, HARD = 16 * MIB, 48 * MIB
OVER_HARD = 8 * MIB  # requests that were let in just below the limit, and the log's own records
SETTINGS = {
    "VPOOL_CACHE__SIZE_BYTES": "256MiB",
    "VPOOL_CACHE__READ_CACHE_BYTES": "64MiB",
    "VPOOL_CACHE__MAP_CACHE_BYTES": "8MiB",
    "VPOOL_VOLUMES__SOFT_BYTES": str(SOFT),
    "VPOOL_VOLUMES__HARD_BYTES": str(HARD),
    "VPOOL_VOLUMES__SCOS_PER_TLOG": "2",
    "VPOOL_VOLUMES__TLOG_AGE_S": "0.5",
    "VPOOL_VOLUMES__UPLOADS": "4",
    "VPOOL_BACKEND__CONNECT_TIMEOUT_S": "2",
    "VPOOL_BACKEND__TRY_TIMEOUT_S": "4",
    "VPOOL_BACKEND__DEADLINE_S": "5",
}
WARM = range(4 << 11)  # 4 MiB that are only read
UNITS = 68 << 11
REACTION_S = 20.0  # for the store's absence to be seen, for the limit to be reached, for writers to go on
CATCH_UP_S = 60.0
READ_S = 2.0
RSS_ANON_KIB_MAX = 320 << 10


class Warmed(Writers):
    """Writers that stay out of the part that is read."""

    def _write(self, fd: int, signature: Signature, first: int, count: int) -> None:
        first = max(first, WARM.stop)
        Writers._write(self, fd, signature, first, min(count, UNITS - first))


def warm_up(pool: MountedPool, disk: Path, history: History, seed: int) -> None:
    """Write the part that is read later, and see it safe in the store."""
    with disk.open("r+b", buffering=0) as file:
        for first in range(WARM.start, WARM.stop, 512):
            write = history.issue(first, 512)
            assert write is not None
            file.seek(first * UNIT_BYTES)
            file.write(stamped(Signature(seed, 0, 0), write.sequence, first, 512))
            history.acknowledge(write)
    wait_until(lambda: ask_status(pool)["dirty_bytes"] == 0, "the first data are in the store", CATCH_UP_S)


def outage(
    tmp_path: Path,
    swift: SwiftServer,
    *,
    away_s: float,
    threads: int,
    away: Callable[[FaultProxy], None],
    back: Callable[[FaultProxy], None],
) -> None:
    seed = chosen_seed()
    history = History()
    load = Load(units=UNITS, threads=threads, bytes_max=1 << 40, sub_cluster=0.1, large=0.05)
    with (
        FaultProxy.running(f"http://{swift.host}", seed=seed) as proxy,
        MountedPool(
            tmp_path / "pool",
            tmp_path / "mount",
            backend=f"swift:{proxy.url}/auth/v1.0?prefix=away-{seed}-",
            environment={**SETTINGS, **swift.environ},
        ) as pool,
    ):
        disk = pool.make_volume("disk.raw", UNITS * UNIT_BYTES)
        warm_up(pool, disk, history, seed)
        with Recorder(pool) as record, Reader(disk, history, WARM, seed) as reader:
            away(proxy)
            with Warmed(disk, history, load, Signature(seed, 1, 0)) as writers:
                began = time.monotonic()
                pace: list[tuple[float, int]] = []
                wait_until(
                    lambda: _stalled(record, writers, pace), "writers wait at the limit, and the status says so", REACTION_S
                )
                print(f"stalled after {time.monotonic() - began:.1f} s, with {writers.bytes_written >> 20} MiB written")
                _slowed_first(pace)
                stalled_at, reads = writers.acknowledged, reader.reads
                _hold(record, reader, began + away_s)
                assert reader.reads > reads, "no read was served while writers waited"
                assert writers.acknowledged - stalled_at < 2000, "writers went on over the limit"
                _shown_by_the_command(pool)
                back(proxy)
                stalled_at = writers.acknowledged
                wait_until(lambda: writers.acknowledged > stalled_at + 500, "writers go on", REACTION_S + CATCH_UP_S)
            wait_until(lambda: ask_status(pool)["dirty_bytes"] == 0, "the store has caught up", CATCH_UP_S)
        assert not writers.errors, f"guests saw errors: {writers.errors[:3]}"
        assert not reader.errors, f"a reader saw errors: {reader.errors}"
        assert not record.errors, f"the status could not be read: {record.errors}"
        _judge(record, reader, proxy, pool)
        seen = read_stamps(disk, 0, UNITS, seed)
        history.judge(seen, range(UNITS), cache_lost=False)
        assert pool.stop() == 0


def _stalled(record: Recorder, writers: Writers, pace: list[tuple[float, int]]) -> bool:
    pace.append((time.monotonic(), writers.bytes_written))
    assert not writers.errors, f"guests saw errors: {writers.errors[:3]}"
    assert not record.errors, f"the status could not be read: {record.errors}"
    last = record.samples[-1] if record.samples else None
    return last is not None and last.waiting_writers > 0 and bool(last.stalled) and last.dirty_bytes > HARD * 0.8


def _slowed_first(pace: list[tuple[float, int]]) -> None:
    """Above the soft limit writers are slower than below it, and the nearer to the hard one the more."""

    def rate(least: float, most: float) -> float:
        inside = [each for each in pace if least <= each[1] <= most]
        assert len(inside) > 1, f"from {least} to {most} bytes were written too quickly to be seen"
        return (inside[-1][1] - inside[0][1]) / (inside[-1][0] - inside[0][0])

    free, slowed = rate(MIB, SOFT), rate(HARD * 0.7, HARD * 0.9)
    print(f"bytes/s below the soft limit {free:.0f}, near the hard one {slowed:.0f}")
    assert slowed < free * 0.8, "writers were not slowed before they had to wait"


def _hold(record: Recorder, reader: Reader, until_s: float) -> None:
    """Wait for the end of the outage; what may not happen within it ends the test at once."""
    while time.monotonic() < until_s:
        assert reader.waits_s < READ_S, "a read of data that are here waits for the store"
        assert record.samples[-1].dirty_bytes <= HARD + OVER_HARD, f"beyond the limit: {record.samples[-1]}"
        time.sleep(0.05)


def _shown_by_the_command(pool: MountedPool) -> None:
    command = [sys.executable, "-m", "vpool", "status", "--dir", str(pool.directory), "--json"]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)
    volume = next(each for each in report["objects"] if each["kind"] == "volume")
    assert report["backend"]["reachable"] is False
    assert report["backend"]["problem"]
    assert volume["stalled"]
    assert volume["waiting_writers"] > 0
    assert volume["dirty_bytes"] > HARD * 0.8


def _judge(record: Recorder, reader: Reader, proxy: FaultProxy, pool: MountedPool) -> None:
    rss = [sample.rss_anon_kib for sample in record.samples]
    print(
        f"RssAnon {rss[0] >> 10} to {max(rss) >> 10} MiB; "
        f"up to {max(sample.waiting_writers for sample in record.samples)} writers waited; "
        f"dirty up to {max(sample.dirty_bytes for sample in record.samples) >> 20} MiB; "
        f"{reader.reads} reads, slowest {reader.slowest_s:.3f} s; {dict(proxy.counts)}"
    )
    assert max(rss) < RSS_ANON_KIB_MAX
    assert not proxy.ledger.violations
    bad = [line for line in log_lines(pool) if line.get("level") in ("error", "critical")]
    assert not bad, f"unexpected lines in the daemon's log: {bad[:3]}"


def _set(state: Outage) -> Callable[[FaultProxy], None]:
    def switch(proxy: FaultProxy) -> None:
        proxy.outage = state

    return switch


def test_swift_refuses_connections(tmp_path: Path, swift_server: SwiftServer) -> None:
    outage(tmp_path, swift_server, away_s=12, threads=8, away=_set(Outage.RESET), back=_set(Outage.NONE))


@pytest.mark.long
def test_swift_is_silent_for_a_minute(tmp_path: Path, swift_server: SwiftServer) -> None:
    """Connections are taken and nothing is answered: what was sent must time out."""
    outage(tmp_path, swift_server, away_s=60, threads=8, away=_set(Outage.SILENT), back=_set(Outage.NONE))


@pytest.mark.long
def test_swift_is_stopped_for_a_minute(tmp_path: Path, swift_server: SwiftServer) -> None:
    """The proxy server's process is stopped and started again."""
    outage(
        tmp_path,
        swift_server,
        away_s=60,
        threads=8,
        away=lambda _: swift_server.stop_one("proxy"),
        back=lambda _: swift_server.start_one("proxy"),
    )
