"""The registry on three nodes, a process each on this machine, over TLS: a command, a barrier, a rate, and who has to wait when.

The three processes share this machine's disk and cores, so a command pays for all their syncs: on three machines it pays for one
after the other only where Raft needs it.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median, quantiles

import trio

from bench.measure import Row, Target
from bench.mounts import Effort
from registry import Create, InodeKind, RegistryClient
from tests.cluster.registries import Registries, directory, on_loopback

OBJECTS = 100_000
OBJECTS_QUICK = 5_000
PROBE_PAUSE_S = 0.01


def registry_of_three(work: Path, effort: Effort) -> list[Row]:
    """Latency, rate, and the worst wait while a registry of 100,000 objects is filled, cut and copied to a new voter."""
    return trio.run(_measure, work, effort.rounds == 1)


async def _measure(work: Path, quick: bool) -> list[Row]:
    rows = []
    objects = OBJECTS_QUICK if quick else OBJECTS
    async with on_loopback(work, 4) as registries:
        await registries.begin(3)
        clients = [registries[number].up for number in range(3)]
        rows += [*await _serial(clients, 60 if quick else 300), await _barriers(clients, 60 if quick else 300)]
        rows += await _fill(registries, objects)
        rows.append(await _new_voter(registries, objects))
    return rows


async def _serial(clients: list[RegistryClient], count: int) -> list[Row]:
    times: list[list[float]] = []
    for number, client in enumerate(clients):
        taken = []
        for each in range(count):
            began = time.perf_counter()
            await client.submit(directory(f"s{number}-{each}"))
            taken.append((time.perf_counter() - began) * 1e3)
        times.append(taken)
    found = [median(taken) for taken in times]
    details = {"commands_each": count, "p99_ms": round(max(quantiles(taken, n=100)[98] for taken in times), 2), "per_node": found}
    return [
        Row(
            "registry3_command",
            "registry, three voters: a name made, one after the other",
            "ms",
            found,
            Target(at_most=5),
            details=details,
        )
    ]


async def _barriers(clients: list[RegistryClient], count: int) -> Row:
    found = []
    for client in clients:
        taken = []
        for _ in range(count):
            began = time.perf_counter()
            await client.barrier()
            taken.append((time.perf_counter() - began) * 1e3)
        found.append(median(taken))
    return Row(
        "registry3_barrier", "registry, three voters: a barrier, idle", "ms", found, Target(at_most=5), details={"each": count}
    )


class _Probe:
    """One command after the other, with its latency."""

    def __init__(self, client: RegistryClient, name: str) -> None:
        self._client, self._name = client, name
        self.taken_ms: list[float] = []

    async def run(self) -> None:
        number = 0
        while True:
            number += 1
            began = time.perf_counter()
            await self._client.submit(directory(f"{self._name}-{number}"))
            self.taken_ms.append((time.perf_counter() - began) * 1e3)
            await trio.sleep(PROBE_PAUSE_S)


async def _fill(registries: Registries, objects: int) -> list[Row]:
    """Volumes, as fast as they go; the log is cut all the while. Then slowly, with a probe beside."""
    client = registries[0].up
    queued = trio.CapacityLimiter(256)
    done = 0

    async def create(number: int) -> None:
        nonlocal done
        async with queued:
            await client.submit(
                Create(1, f"v{number}.raw", InodeKind.VOLUME, 0o600, 0, 0, 1, object=f"{number:032x}", size=1 << 30)
            )
            done += 1

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for number in range(objects):
            if number % 1024 == 0:
                await trio.sleep(0)
            nursery.start_soon(create, number)
    seconds = time.perf_counter() - began
    rate = Row(
        "registry3_rate", "registry, three voters: durable commands, pipelined", "1/s", [objects / seconds], Target(at_least=500),
        details={"commands": objects, "under_way": 256},
    )  # fmt: skip
    probe = _Probe(registries[1].up, "cut")
    await _turns(registries, 3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(probe.run)
        for number in range(objects, objects + 2000):  # a dozen cuts of the log
            await client.submit(directory(f"x{number}"))
        nursery.cancel_scope.cancel()
    row = _stall("registry3_cut", f"registry of {objects:,} objects: longest command while the log is cut", probe)
    row.details["longest_turns"] = await _turns(registries, 3)
    return [rate, row]


async def _turns(registries: Registries, count: int) -> list[tuple[float, float]]:
    """Of each registry's loop since this was asked last: (ms with the disk, ms of processor)."""
    found = [await registries[number].status() for number in range(count)]
    return [(each["longest_turn_ms"], each["longest_turn_cpu_ms"]) for each in found]


async def _new_voter(registries: Registries, objects: int) -> Row:
    probe = _Probe(registries[1].up, "new")
    await _turns(registries, 3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(probe.run)
        began = time.perf_counter()
        await registries.join(3, "")
        await registries.up().ask("role", registries[3].id, "voter")
        joined = time.perf_counter()
        await registries[3].start()
        await registries.settled(4, deadline_s=300)
        caught_up_s = time.perf_counter() - joined
        nursery.cancel_scope.cancel()
    row = _stall("registry3_new_voter", f"registry of {objects:,} objects: longest command while a voter joins", probe)
    row.details["longest_turns"] = await _turns(registries, 3)  # of those that serve; the new one may take its time
    row.details.update({"caught_up_s": round(caught_up_s, 1), "join_s": round(joined - began, 1)})
    return row


def _stall(key: str, what: str, probe: _Probe) -> Row:
    taken = sorted(probe.taken_ms)
    details = {"commands": len(taken), "median_ms": round(median(taken), 2), "p99_ms": round(taken[len(taken) * 99 // 100], 2)}
    return Row(key, what, "ms", [taken[-1]], Target(at_most=50), details=details)
