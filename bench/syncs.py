"""What a durable write costs at the least on a disk: the reference of what waits for such."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path


def sync_ms(path: Path) -> float:
    """Median of 300: 8 KiB written in place and synced, in a directory."""
    times = []
    with open(path / "reference", "wb", buffering=0) as file:
        file.write(bytes(1 << 20))
        os.fsync(file.fileno())
        for number in range(300):
            start = time.perf_counter()
            os.pwrite(file.fileno(), os.urandom(8192), number % 128 * 8192)
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3
