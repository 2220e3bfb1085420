"""Latency and rate of durable registry commands, one node; prints JSON. ``python bench/registry.py [directory]``.

Reference in the same run: an 8 KiB write and fdatasync in place, which is the least one commit can cost.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import trio

sys.path[0] = str(Path(__file__).parents[1])  # this file has the room's name

from bench.syncs import sync_ms  # noqa: E402
from registry import Create, Initialise, InodeKind, RegisterNode, RegistryClient  # noqa: E402

SERIAL = 500
PIPELINED = 10_000


def directory(name: str) -> Create:
    return Create(1, name, InodeKind.DIRECTORY, 0o755, 0, 0, 1)


async def measure(path: Path) -> dict[str, float]:
    async with RegistryClient.start(path / "registry", "bench") as client:
        await client.submit(Initialise("f" * 32, "bench", 1, (), 1))
        await client.submit(RegisterNode("bench", "", client.incarnation))
        times = []
        for number in range(SERIAL):
            start = time.perf_counter()
            await client.submit(directory(f"s{number}"))
            times.append(time.perf_counter() - start)
        start = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for number in range(PIPELINED):
                nursery.start_soon(client.submit, directory(f"p{number}"))
        pipelined = time.perf_counter() - start
        start = time.perf_counter()
        for number in range(PIPELINED):
            client.view.lookup(1, f"p{number}")
        lookups = time.perf_counter() - start
    times.sort()
    return {
        "serial_median_ms": round(statistics.median(times) * 1e3, 3),
        "serial_p99_ms": round(times[SERIAL * 99 // 100] * 1e3, 3),
        "pipelined_commands_per_s": round(PIPELINED / pipelined),
        "lookup_us": round(lookups / PIPELINED * 1e6, 1),
    }


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        path = Path(name)
        result = {"reference_sync_ms": round(sync_ms(path), 3), **trio.run(measure, path)}
    print(json.dumps({"bench": "registry", **result}))


if __name__ == "__main__":
    main()
