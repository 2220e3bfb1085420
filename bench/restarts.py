"""The rows on size: a host that lost its cache opens a volume of 1 TiB; the memory of its daemon, with caches empty and full."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

from bench.fio import Load, fio
from bench.measure import Row, Target
from bench.mounts import CLUSTER, GIB, MIB, Effort, pool
from tests.mounted_pool import MountedPool

TIB = 1 << 40


class PeakMemory:
    """Samples a daemon's RssAnon while a load runs."""

    def __init__(self, running: MountedPool) -> None:
        self._running = running
        self._ended = threading.Event()
        self.mib = 0.0

    def __enter__(self) -> PeakMemory:
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.is_set():
            self.mib = max(self.mib, self._running.memory_kib() / 1024)
            self._ended.wait(0.1)


def spread(volume: Path, size: int, stride: int) -> int:
    """One 4 KiB write per ``stride`` bytes over the whole volume; returns their number."""
    command = ["fio", "--name=spread", f"--filename={volume}", f"--size={size}", f"--io_size={size // stride * CLUSTER}"]
    command += [
        "--bs=4k",
        "--direct=1",
        "--ioengine=libaio",
        "--iodepth=16",
        f"--rw=write:{stride - CLUSTER}",
        "--thread",
        "--output=/dev/null",
    ]
    subprocess.run(command, check=True, timeout=3600, stdout=subprocess.DEVNULL)
    return size // stride


def first_io_s(running: MountedPool, volume: Path, offset: int) -> float:
    """Seconds from the start of the process until a cold read, a write and its fsync have been answered."""
    began = time.monotonic()
    running.start()
    descriptor = os.open(volume, os.O_RDWR)
    try:
        assert os.pread(descriptor, CLUSTER, offset).count(0) < CLUSTER, "the volume came back empty"
        os.pwrite(descriptor, os.urandom(CLUSTER), offset + CLUSTER)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return time.monotonic() - began


def one_tebibyte(work: Path, effort: Effort) -> list[Row]:
    """Restart time and memory with a volume that is mapped all over."""
    size, stride = effort.mapped_bytes, effort.map_stride
    with pool(work) as running:
        volume = running.make_volume("large.raw", size)
        began = time.monotonic()
        writes = spread(volume, size, stride)
        built_s = time.monotonic() - began
        assert running.stop(600) == 0
        seconds, empty = [], []
        for number in range(effort.rounds):
            shutil.rmtree(running.directory / "cache")
            seconds.append(first_io_s(running, volume, (size // 7 * (number + 1)) % size // stride * stride))
            empty.append(running.memory_kib() / 1024)
            if number < effort.rounds - 1:
                assert running.stop(600) == 0
        with PeakMemory(running) as peak:
            load = Load("randread", CLUSTER, depth=16, size=size, seconds=12 * effort.seconds)
            reads = fio(volume, load, f"--blockalign={stride}")
            fio(volume, Load("write", MIB, depth=16, size=min(2 * GIB, effort.sequential_bytes)))
            fio(volume, Load("read", MIB, depth=16, size=min(2 * GIB, effort.sequential_bytes)))
    mapped = {"mapped": f"one 4 KiB write per {stride >> 10} KiB over {size / TIB:g} TiB", "writes": writes}
    load_text = "random cold reads all over, then 1 MiB writes and reads at QD16"
    return [
        Row(
            "restart",
            "restart without cache, 1 TiB mapped, to first I/O",
            "s",
            seconds,
            Target(at_most=2),
            details={**mapped, "built_s": round(built_s, 1), "first_io": "process start, cold 4 KiB read, 4 KiB write, fsync"},
        ),
        Row("memory_empty", "RssAnon of the daemon after that restart", "MiB", empty, Target(at_most=512), details=mapped),
        Row(
            "memory_full",
            "RssAnon of the daemon, 1 TiB mapped, caches full (peak)",
            "MiB",
            [peak.mib],
            Target(at_most=512),
            details={**mapped, "load": load_text, "cold_reads_per_s": round(reads.per_second)},
        ),
    ]
