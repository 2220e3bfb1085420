"""What an operator watches a node by, on a real daemon: the numbers are exact, and health goes bad and good with the store.

If this fails: a graph lies, an alert does not fire or never ends, or what happened cannot be found afterwards.
"""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.running import vpool
from tests.conftest import PoolMaker
from tests.crash.rounds import chosen_seed
from tests.fault_proxy import FaultProxy, Outage
from tests.mounted_pool import MountedPool, wait_until
from tests.swift_server import SwiftServer

pytestmark = pytest.mark.mount

MIB = 1 << 20
CLUSTER = 4096
REACTION_S = 30.0


class Numbers:
    """The series of a daemon at one moment."""

    def __init__(self, text: str) -> None:
        self._series: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._series[sample.name, frozenset(sample.labels.items())] = sample.value

    def of(self, name: str, **labels: str) -> list[float]:
        """Values of the series with these labels (and others)."""
        wanted = frozenset(labels.items())
        return [value for (found, pairs), value in self._series.items() if found == name and wanted <= pairs]

    def one(self, name: str, **labels: str) -> float:
        (value,) = self.of(name, **labels)
        return value


@contextmanager
def api(pool: MountedPool) -> Iterator[httpx.Client]:
    transport = httpx.HTTPTransport(uds=str(pool.directory / "admin.sock"))
    with httpx.Client(transport=transport, base_url="http://vpool", timeout=60) as client:
        yield client


def numbers(pool: MountedPool) -> Numbers:
    with api(pool) as client:
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return Numbers(answer.text)


def ask(pool: MountedPool, path: str) -> Any:
    with api(pool) as client:
        answer = client.get(path)
    answer.raise_for_status()
    return answer.json()


def direct(path: Path, flags: int) -> int:
    return os.open(path, flags | os.O_DIRECT)


@contextmanager
def page(content: bytes) -> Iterator[memoryview]:
    """Page-aligned memory, as O_DIRECT wants it."""
    import mmap

    memory = mmap.mmap(-1, len(content))
    memory.write(content)
    view = memoryview(memory)
    try:
        yield view
    finally:
        view.release()
        memory.close()


def test_requests_are_counted_one_by_one(make_pool: PoolMaker, free_port: int) -> None:
    pool = make_pool(environment={"VPOOL_WATCH__METRICS_ADDRESS": f"127.0.0.1:{free_port}"})
    disk = pool.make_volume("web.raw", 64 * MIB)
    other = pool.make_volume("idle.raw", 8 * MIB)
    descriptor = direct(disk, os.O_RDWR)
    before = numbers(pool)
    with page(bytes(range(256)) * 16) as cluster:
        for number in range(37):
            os.pwrite(descriptor, cluster, number * CLUSTER)
        for number in range(23):
            os.preadv(descriptor, [cluster], number * CLUSTER)
    for _ in range(5):
        os.fsync(descriptor)
    os.close(descriptor)
    after = numbers(pool)

    def grown(name: str, operation: str, volume: str = "web.raw") -> float:
        now = after.one(name, volume=volume, operation=operation)
        earlier = before.of(name, volume=volume, operation=operation)
        return now - (earlier[0] if earlier else 0.0)

    for operation, count, size in (("write", 37, 37 * CLUSTER), ("read", 23, 23 * CLUSTER), ("flush", 5, 0)):
        assert grown("vpool_volume_requests_total", operation) == count
        assert grown("vpool_volume_bytes_total", operation) == size
        assert grown("vpool_volume_request_seconds_count", operation) == count
        assert grown("vpool_volume_requests_failed_total", operation) == 0
    buckets = after.of("vpool_volume_request_seconds_bucket", volume="web.raw", operation="write", le="+Inf")
    assert buckets == [37]
    assert 0 < after.one("vpool_volume_request_seconds_sum", volume="web.raw", operation="write") < 30
    assert after.one("vpool_volume_size_bytes", volume="idle.raw") == 8 * MIB
    assert not [value for value in after.of("vpool_volume_requests_total", volume="idle.raw", operation="write") if value]
    assert after.one("vpool_volume_dirty_bytes", volume="web.raw") >= 0
    over_tcp = httpx.get(f"http://127.0.0.1:{free_port}/metrics")
    assert Numbers(over_tcp.text).one("vpool_volume_requests_total", volume="web.raw", operation="write") == 37
    assert httpx.get(f"http://127.0.0.1:{free_port}/v1/status").status_code == 404
    assert httpx.post(f"http://127.0.0.1:{free_port}/metrics").status_code == 405

    wait_until(lambda: numbers(pool).one("vpool_volume_dirty_bytes", volume="web.raw") == 0, "all is in the backend", REACTION_S)
    sent = numbers(pool)
    assert sent.one("vpool_backend_sent_bytes_total", operation="put") >= 37 * CLUSTER
    puts = sent.one("vpool_backend_requests_total", operation="put", outcome="succeeded")
    assert sent.one("vpool_backend_request_seconds_count", operation="put") == puts > 0
    assert sent.one("vpool_registry_commands_total", command="AdvanceHeads", outcome="applied") > 0
    other.unlink()
    wait_until(lambda: not numbers(pool).of("vpool_volume_info", volume="idle.raw"), "the series are gone", REACTION_S)
    assert not [pairs for name, pairs in numbers(pool)._series if ("volume", "idle.raw") in pairs]


def test_misses_and_hits_are_bytes_that_were_read(make_pool: PoolMaker) -> None:
    """A cache that was lost: the first read comes from the backend, the second from the read cache."""
    pool = make_pool(environment={"VPOOL_VOLUMES__READ_AHEAD_SCOS": "0"})
    disk = pool.make_volume("web.raw", 16 * MIB)
    content = os.urandom(CLUSTER)
    with disk.open("r+b", buffering=0) as file:
        for number in range(64):
            file.seek(number * 16 * CLUSTER)
            file.write(content)
        os.fsync(file.fileno())
    assert pool.stop() == 0
    subprocess.run(["rm", "-rf", str(pool.directory / "cache")], check=True)
    pool.start()
    descriptor = direct(disk, os.O_RDONLY)
    with page(bytes(CLUSTER)) as cluster:
        for round_number in range(2):
            for number in range(64):
                os.preadv(descriptor, [cluster], number * 16 * CLUSTER)
                assert bytes(cluster) == content
            found = numbers(pool)
            assert found.one("vpool_volume_requests_total", volume="web.raw", operation="read") == 64 * (round_number + 1)
    os.close(descriptor)
    missed = found.one("vpool_volume_missed_bytes_total", volume="web.raw")
    hit = found.one("vpool_volume_hit_bytes_total", volume="web.raw")
    assert missed > 0
    assert hit + missed >= 128 * CLUSTER
    assert hit >= 64 * CLUSTER  # the second round, at least
    assert found.one("vpool_backend_received_bytes_total", operation="get") >= missed
    assert found.one("vpool_read_cache_used_bytes") > 0


def test_events_survive_a_kill_and_a_stop(pool: MountedPool) -> None:
    pool.make_volume("web.raw", MIB)
    (pool.mount / "web.raw").read_bytes()
    first = ask(pool, "/v1/events")
    names = [event["event"] for event in first["events"]]
    assert names[:2] == ["daemon_starting", "settings_in_force"]
    opened = next(event for event in first["events"] if event["event"] == "volume_opened")
    assert (opened["path"], opened["epoch"]) == ("web.raw", 1)
    assert first["events"][1]["changed"]["volumes.hard_bytes"] == 256 * MIB
    pool.kill()
    stored = json.loads(vpool("event", "list", "--dir", pool.directory, "--json").out)
    assert [event["number"] for event in stored["events"]] == [event["number"] for event in first["events"]]
    pool.start()
    following = subprocess.Popen(
        [sys.executable, "-m", "vpool", "event", "list", "--follow", "--json", "--dir", str(pool.directory)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert following.stdout is not None
        lines = [json.loads(following.stdout.readline()) for _ in range(len(first["events"]) + 2)]
        (pool.mount / "web.raw").read_bytes()
        while lines[-1]["event"] != "volume_opened" or lines[-1]["epoch"] != 2:
            lines.append(json.loads(following.stdout.readline()))
    finally:
        following.kill()
        following.wait()
    assert [line["number"] for line in lines] == list(range(1, len(lines) + 1))
    assert pool.stop() == 0
    ended = vpool("event", "list", "--dir", pool.directory, "--limit", "1")
    assert "daemon_stopped" in ended.out
    assert vpool("event", "list", "--dir", pool.directory, "--since", "yesterday").code == 2
    assert vpool("event", "list", "--dir", pool.directory / "nothing").code == 3


def test_a_level_of_the_log_hides_no_event(make_pool: PoolMaker) -> None:
    pool = make_pool(environment={"VPOOL_LOG__LEVEL": "error"})
    assert ask(pool, "/v1/events")["events"][0]["event"] == "daemon_starting"
    assert "daemon_starting" not in pool.log.read_text(encoding="utf-8")


def test_top_is_one_frame_without_a_terminal_and_live_on_one(pool: MountedPool) -> None:
    disk = pool.make_volume("web.raw", 8 * MIB)
    stop = threading.Event()

    def write() -> None:
        with disk.open("r+b", buffering=0) as file:
            while not stop.is_set():
                file.seek(0)
                file.write(bytes(CLUSTER))

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        ran = vpool("top", "--dir", pool.directory, "--interval", "0.5", "--json")
        frame = json.loads(ran.out)
        (line,) = [line for line in frame["volumes"] if line["path"] == "web.raw"]
        assert line["write"]["per_s"] > 10
        assert frame["total"]["write"]["bytes_per_s"] == pytest.approx(frame["total"]["write"]["per_s"] * CLUSTER)
        plain = vpool("top", "--dir", pool.directory, "--interval", "0.5")
        assert "web.raw" in plain.out
        assert "\x1b" not in plain.out
        assert vpool("top", "--dir", pool.directory, "--sort", "colour").code == 2
        _live(pool)
    finally:
        stop.set()
        writer.join(30)


def _live(pool: MountedPool) -> None:
    """On a terminal it draws, takes keys, and leaves the terminal as it was."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "vpool", "top", "--dir", str(pool.directory), "--interval", "0.5"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "140", "LINES": "40"}
    running = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True)
    os.close(theirs)
    shown = bytearray()

    def until(text: bytes) -> None:
        end = time.monotonic() + REACTION_S
        while text not in shown:
            assert time.monotonic() < end, f"{text!r} is not shown: {bytes(shown[-2000:])!r}"
            if select.select([ours], [], [], 0.2)[0]:
                shown.extend(os.read(ours, 65536))

    try:
        until(b"web.raw")
        os.write(ours, b"s")
        until("MiB/s ↓".encode())
        os.write(ours, b"p")
        until(b"paused")
        os.write(ours, b"q")
        end = time.monotonic() + REACTION_S
        while running.poll() is None:
            assert time.monotonic() < end, "q does not end it"
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    shown.extend(os.read(ours, 65536))
                except OSError:  # the other side has gone
                    break
        assert running.wait(10) == 0
        assert b"\x1b[?1049l" in shown  # the screen that was there before is back
    finally:
        running.kill()
        running.wait()
        os.close(ours)


SMALL = {
    "VPOOL_CACHE__SIZE_BYTES": "256MiB",
    "VPOOL_CACHE__READ_CACHE_BYTES": "64MiB",
    "VPOOL_CACHE__MAP_CACHE_BYTES": "8MiB",
    "VPOOL_VOLUMES__SOFT_BYTES": str(8 * MIB),
    "VPOOL_VOLUMES__HARD_BYTES": str(16 * MIB),
    "VPOOL_VOLUMES__SCOS_PER_TLOG": "1",
    "VPOOL_VOLUMES__TLOG_AGE_S": "0.5",
    "VPOOL_BACKEND__CONNECT_TIMEOUT_S": "1",
    "VPOOL_BACKEND__TRY_TIMEOUT_S": "2",
    "VPOOL_BACKEND__DEADLINE_S": "2",
    "VPOOL_WATCH__PERIOD_S": "0.5",
    "VPOOL_WATCH__BACKEND_CHECK_S": "1",
    "VPOOL_WATCH__DIRTY_OLD_S": "3",
    "VPOOL_WATCH__SLOW_S": "0.5",
}
DURING = {"BACKEND_UNREACHABLE", "WRITERS_WAIT", "DIRTY_OLD", "CACHE_NEAR_LIMIT"}


@pytest.mark.swift
def test_health_goes_bad_and_good_with_the_store(tmp_path: Path, swift_server: SwiftServer) -> None:
    seed = chosen_seed()
    with (
        FaultProxy.running(f"http://{swift_server.host}", seed=seed) as proxy,
        MountedPool(
            tmp_path / "pool",
            tmp_path / "mount",
            backend=f"swift:{proxy.url}/auth/v1.0?prefix=watch-{seed}-",
            environment={**SMALL, **swift_server.environ},
        ) as pool,
    ):
        disk = pool.make_volume("web.raw", 64 * MIB)
        healthy = vpool("health", "--dir", pool.directory)
        assert (healthy.code, healthy.out.strip()) == (0, "ok")
        proxy.outage = Outage.RESET
        written = threading.Event()
        writer = threading.Thread(target=_write_beyond_the_limit, args=(disk, written), daemon=True)
        writer.start()
        wait_until(lambda: _codes(pool) >= DURING, f"all of {DURING} are told", 2 * REACTION_S)
        assert not written.is_set(), "the writer was not held up"
        _while_away(pool)
        proxy.outage = Outage.NONE
        assert written.wait(2 * REACTION_S), "the writer does not go on"
        writer.join(REACTION_S)
        wait_until(lambda: _codes(pool) == {"BACKEND_ERRORS"} or not _codes(pool), "health is good again", 2 * REACTION_S)
        _afterwards(pool)
        assert pool.stop() == 0


def _write_beyond_the_limit(disk: Path, written: threading.Event) -> None:
    with disk.open("r+b", buffering=0) as file:
        for number in range(24):
            file.seek(number * MIB)
            file.write(os.urandom(MIB))
        os.fsync(file.fileno())
    written.set()


def _codes(pool: MountedPool) -> set[str]:
    return {problem["code"] for problem in ask(pool, "/v1/health")["problems"]}


def _while_away(pool: MountedPool) -> None:
    bad = vpool("health", "--dir", pool.directory)
    assert bad.code == 17
    assert bad.out.startswith("critical")
    assert "WRITERS_WAIT web.raw: 1 wait" in bad.out
    assert "volumes.hard_bytes" in bad.out  # the remedy
    found = numbers(pool)
    assert found.one("vpool_volume_waiting_writers", volume="web.raw") == 1
    assert found.one("vpool_health_problems", code="BACKEND_UNREACHABLE", severity="critical", muted="false") == 1
    assert found.one("vpool_volume_dirty_age_seconds", volume="web.raw") > 3
    assert found.one("vpool_volume_stalled", volume="web.raw") == 1
    wait_until(lambda: _uploads_fail_and_are_tried_again(numbers(pool)), "failed and repeated requests are counted", REACTION_S)
    for code in ("BACKEND_UNREACHABLE", "WRITERS_WAIT"):
        assert vpool("health", "mute", code, "--for", "1h", "--dir", pool.directory).code == 0
    muted = vpool("health", "--dir", pool.directory)
    assert muted.code == 16  # DIRTY_OLD and CACHE_NEAR_LIMIT are warnings
    assert "WRITERS_WAIT" in muted.out
    for code in ("BACKEND_UNREACHABLE", "WRITERS_WAIT"):
        assert vpool("health", "unmute", code, "--dir", pool.directory).code == 0
    assert vpool("health", "unmute", "WRITERS_WAIT", "--dir", pool.directory).code == 3
    assert vpool("health", "mute", "WRITERS", "--dir", pool.directory).code == 2
    assert vpool("health", "mute", "WRITERS_WAIT", "--for", "soon", "--dir", pool.directory).code == 2
    assert vpool("health", "--dir", pool.directory).code == 17


def _uploads_fail_and_are_tried_again(found: Numbers) -> bool:
    """Whatever the outage hit first: the making of the volume's bucket, or an object."""
    operations = ("create_bucket", "put")
    failed = sum(sum(found.of("vpool_backend_requests_total", operation=of, outcome="Unavailable")) for of in operations)
    return failed > 0 and sum(found.one("vpool_backend_retries_total", operation=of) for of in operations) > 0


def _afterwards(pool: MountedPool) -> None:
    events = ask(pool, "/v1/events")["events"]
    names = [event["event"] for event in events]
    for began, ended in (("writers_wait", "writers_go_on"), ("backend_unavailable", "backend_available_again")):
        assert names.index(began) < names.index(ended), names
    told = {
        kind: {event["code"] for event in events if event["event"] == f"health_problem_{kind}"} for kind in ("began", "ended")
    }
    assert told["began"] >= DURING
    wait_until(
        lambda: {e["code"] for e in ask(pool, "/v1/events")["events"] if e["event"] == "health_problem_ended"} >= DURING,
        "the end of each problem is an event",
        REACTION_S,
    )
    stall = next(event for event in events if event["event"] == "writers_go_on")
    assert stall["path"] == "web.raw"
    slow = ask(pool, "/v1/slow")
    held_up = max(slow["requests"], key=lambda request: request["waited_s"].get("room", 0.0))
    assert held_up["path"] == "web.raw"
    assert held_up["operation"] == "write"
    assert held_up["waited_s"]["room"] > 1.0
    assert held_up["seconds"] >= held_up["waited_s"]["room"]
    assert slow["seen"] >= len(slow["requests"]) > 0
    assert numbers(pool).one("vpool_slow_requests_total") == ask(pool, "/v1/slow")["seen"]
    shown = vpool("slow", "list", "--dir", pool.directory)
    assert "room" in shown.out


def test_a_metrics_address_that_is_taken_is_refused_at_the_start(tmp_path: Path, free_port: int) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port))
        taken.listen()
        (tmp_path / "mount").mkdir()
        address = {"VPOOL_WATCH__METRICS_ADDRESS": f"127.0.0.1:{free_port}"}
        ran = vpool("up", tmp_path / "dir", tmp_path / "mount", environment=address)
    assert ran.code == 5
    assert "watch.metrics_address" in ran.err
    assert not (tmp_path / "dir" / "vpool.json").exists()
    outside = vpool("up", tmp_path / "dir", tmp_path / "mount", environment={"VPOOL_WATCH__METRICS_ADDRESS": "0.0.0.0:9420"})
    assert outside.code == 2
    assert "not on the loopback interface" in outside.err
