"""The engine alone, in this process: 4 KiB random writes and reads, one thread, log on a tmpfs; and the registry."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.measure import Row, Target
from bench.mounts import CLUSTER, MIB, Effort
from engine import Engine, Volume

VOLUME = bytes(range(16))
SPACE_CLUSTERS = 1 << 18  # 1 GiB
UNLIMITED = 1 << 40


def engine_rows(work: Path, effort: Effort) -> list[Row]:
    """Through the same calls that the Volume Driver makes, so each pays for a step from Python to Rust and back."""
    count = 50_000 if effort.rounds == 1 else 200_000
    directory = Path(tempfile.mkdtemp(prefix="vpool-bench-", dir="/dev/shm"))
    try:
        segments = 2 * count * CLUSTER // (4 * MIB) + 64
        engine = Engine(str(directory), segments_max=segments, map_cache_bytes=256 * MIB, read_cache_bytes=0)
        recovery = engine.recover(VOLUME, levels=4, head=None, head_next_sco=1)
        volume = recovery.open(1, soft_bytes=UNLIMITED, hard_bytes=UNLIMITED, event_token=1)
        _write(volume, count, 0)  # every segment has been written once: what counts is a log that has run for a while
        _shipped(volume)
        writes, reads = [], []
        for number in range(1, effort.rounds + 1):
            seconds, offsets = _write(volume, count, number)
            writes.append(count / seconds)
            reads.append(count / _read(volume, offsets))
            _shipped(volume)
        volume.close()
        engine.close()
    finally:
        shutil.rmtree(directory)
    details = {"requests": count, "space_bytes": SPACE_CLUSTERS * CLUSTER, "threads": 1, "log": "tmpfs", "called_from": "Python"}
    target = Target(at_least=200_000)
    return [
        Row("engine_write", "engine, 4 KiB random write, one thread", "1/s", writes, target, details=details),
        Row("engine_read", "engine, 4 KiB random read, one thread", "1/s", reads, target, details=details),
        *_registry_rows(work, effort),
    ]


def _write(volume: Volume, count: int, seed: int) -> tuple[float, list[int]]:
    chance = random.Random(seed)
    offsets = [chance.randrange(SPACE_CLUSTERS) * CLUSTER for _ in range(count)]
    data, write = chance.randbytes(CLUSTER), volume.write
    began = time.perf_counter()
    for offset in offsets:
        write(offset, data)
    return time.perf_counter() - began, offsets


def _read(volume: Volume, offsets: list[int]) -> float:
    random.Random(1).shuffle(offsets)
    read = volume.read
    began = time.perf_counter()
    for offset in offsets:
        read(offset, CLUSTER)
    seconds = time.perf_counter() - began
    assert isinstance(read(offsets[0], CLUSTER), bytes), "the reads must not have missed"
    return seconds


def _shipped(volume: Volume) -> None:
    """As if all were in the backend: the segments are free again."""
    while (tlog := volume.close_tlog(seal_open=True, scos_max=64)) is not None:
        volume.head_committed(tlog.ref.number)


def _registry_rows(work: Path, effort: Effort) -> list[Row]:
    """What bench/registry.py says."""
    serial, sync, rate = [], [], []
    script = Path(__file__).with_name("registry.py")
    for number in range(min(3, effort.rounds)):
        place = work / f"registry-{number}"
        place.mkdir()
        done = subprocess.run(
            [sys.executable, str(script), str(place)],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
            cwd=script.parents[1],
        )
        figures = json.loads(done.stdout)
        serial.append(figures["serial_median_ms"])
        sync.append(figures["reference_sync_ms"])
        rate.append(figures["pipelined_commands_per_s"])
    name = "8 KiB write and fdatasync in place"
    return [
        Row("registry_serial", "registry, a durable command, one at a time", "ms", serial, Target(), name, sync),
        Row("registry_pipelined", "registry, durable commands, pipelined", "1/s", rate, Target()),
    ]
