"""fio, and the numbers that count of what it says."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT_S = 600


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of I/O; the same for the thing measured and for its reference."""

    rw: str  # fio's word: randwrite, randread, write, read
    block: int  # bytes
    depth: int = 1
    jobs: int = 1
    sync_every: int = 0  # fdatasync after so many writes; 0: never
    size: int = 1 << 30  # bytes of the file that are used
    seconds: float | None = None  # None: until ``size`` bytes have been moved


@dataclass(frozen=True, slots=True)
class Result:
    """What fio measured, all jobs together."""

    per_second: float  # I/Os
    bytes_per_second: float
    latency_ms_p50: float
    latency_ms_p99: float


def fio(path: Path, load: Load, *more: str) -> Result:
    """Run a load on a file, with direct I/O. RuntimeError when an I/O failed."""
    command = ["fio", "--name=bench", f"--filename={path}", "--direct=1", f"--rw={load.rw}", f"--bs={load.block}"]
    command += [f"--size={load.size}", "--group_reporting", "--output-format=json", "--norandommap", "--randrepeat=0", "--thread"]
    command += ["--ioengine=psync"] if load.depth == 1 else ["--ioengine=libaio", f"--iodepth={load.depth}"]
    command += [f"--numjobs={load.jobs}"] if load.jobs > 1 else []
    command += [f"--fdatasync={load.sync_every}"] if load.sync_every else []
    command += ["--time_based", f"--runtime={load.seconds}", "--ramp_time=0.5"] if load.seconds else []
    command += more
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}{done.stdout[-2000:]}")
    return _result(json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0], "read" if "read" in load.rw else "write")


def _result(job: dict[str, Any], direction: str) -> Result:
    numbers = job[direction]
    percentiles = numbers["clat_ns"].get("percentile", {})
    p50, p99 = (percentiles.get(key, 0) / 1e6 for key in ("50.000000", "99.000000"))
    return Result(numbers["iops"], numbers["bw_bytes"], p50, p99)


def lay_out(path: Path, size: int) -> None:
    """Write a file once from end to end, so that writes in place allocate nothing; durable on return."""
    fio(path, Load("write", 1 << 20, depth=4, size=size, sync_every=256))
