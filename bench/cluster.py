"""The registry on three nodes, a process each on this machine, over TLS: a command, a barrier, a rate, and who has to wait when.

The three processes share this machine's disk and cores, so a command pays for all their syncs: on three machines it pays for one
after the other only where Raft needs it.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import trio

from bench.measure import Row, Target
from bench.mounts import Effort
from bench.syncs import sync_ms
from registry import Create, InodeKind, RegistryClient
from registry.server import KEEP_CLUSTER
from tests.cluster.registries import Registries, directory, on_loopback

OBJECTS = 100_000
OBJECTS_QUICK = 5_000
PROBE_PAUSE_S = 0.01
WITHOUT_LEASE = (sys.executable, str(Path(__file__).with_name("without_lease.py")))  # runs what stands behind it


def registry_of_three(work: Path, effort: Effort) -> list[Row]:
    """Latency, rate, and the worst wait while a registry of 100,000 objects is filled, cut and copied to a new voter."""
    return trio.run(_measure, work, effort.rounds == 1)


async def _measure(work: Path, quick: bool) -> list[Row]:
    rows = []
    objects = OBJECTS_QUICK if quick else OBJECTS
    count = 60 if quick else 300
    (work / "lease").mkdir()
    async with on_loopback(work / "lease", 4) as registries:
        await registries.begin(3)
        rows += [await _serial(registries, work, count), *await _looked_up(registries, work / "round", count)]
        rows += await _fill(registries, objects)
        rows.append(await _new_voter(registries, objects))
        rows.append(await _returning(registries, objects))
    return rows


async def _serial(registries: Registries, work: Path, count: int) -> Row:
    times: list[list[float]] = []
    sync = sync_ms(work)
    for number in range(3):
        taken = []
        for each in range(count):
            began = time.perf_counter()
            await registries[number].up.submit(directory(f"s{number}-{each}"))
            taken.append((time.perf_counter() - began) * 1e3)
        times.append(taken)
    found = [median(taken) for taken in times]
    details = {
        "commands_each": count,
        "p99_ms": [round(quantiles(taken, n=100)[98], 2) for taken in times],
        "leader": registries.nodes.index(await registries.leader()),
        "sync_ms": [round(sync, 3), round(sync_ms(work), 3)],  # a write and a sync of this disk, before and behind
        "load": round(os.getloadavg()[0], 1),
    }
    what = "registry, three voters: a name made, one after the other"
    return Row("registry3_command", what, "ms", found, Target(at_most=5), details=details)


async def _looked_up(leased: Registries, top: Path, count: int) -> list[Row]:
    """A name looked up (a barrier, then the node's own copy), with the leader's lease and with a round to a majority instead."""
    top.mkdir()
    found: dict[tuple[str, str], list[float]] = {}
    async with on_loopback(top, 3, WITHOUT_LEASE) as unleased:
        await unleased.begin(3)
        for registries in (leased, unleased):
            await registries.up().submit(directory("wanted"))
        for _ in range(3):
            for way, registries in (("lease", leased), ("round", unleased)):
                leader = await registries.leader()
                follower = next(node for node in registries.nodes[:3] if node is not leader)
                for where, node in (("leader", leader), ("follower", follower)):
                    found.setdefault((where, way), []).append(await _look_up(node.up, count))
    return [
        Row(
            f"registry3_lookup_{where}",
            f"registry, three voters: a name looked up at the {'node that leads' if where == 'leader' else 'node of a follower'}",
            "ms",
            found[where, "lease"],
            Target(at_most=1),
            reference="without a lease: a round to a majority",
            reference_runs=found[where, "round"],
            details={"lookups_each": count},
        )
        for where in ("leader", "follower")
    ]


async def _look_up(client: RegistryClient, count: int) -> float:
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        await client.barrier()
        assert client.view.lookup(1, "wanted") is not None
        taken.append((time.perf_counter() - began) * 1e3)
    return median(taken)


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

    await _turns(registries, 3)
    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for number in range(objects):
            if number % 1024 == 0:
                await trio.sleep(0)
            nursery.start_soon(create, number)
    seconds = time.perf_counter() - began
    rate = Row(
        "registry3_rate", "registry, three voters: durable commands, pipelined", "1/s", [objects / seconds], Target(at_least=500),
        details={"commands": objects, "under_way": 256, "longest_turns": await _turns(registries, 3)},
    )  # fmt: skip
    probe = _Probe(registries[1].up, "cut")
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
    return [_turn(await registries[number].status()) for number in range(count)]


def _turn(status: dict[str, Any]) -> tuple[float, float]:
    return status["longest_turn_ms"], status["longest_turn_cpu_ms"]


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
    row.details["longest_turns"] = await _turns(registries, 4)
    row.details.update({"caught_up_s": round(caught_up_s, 1), "join_s": round(joined - began, 1)})
    return row


async def _returning(registries: Registries, objects: int) -> Row:
    """A voter that was away for longer than the log goes back: it takes the whole state, and lets go of its old one."""
    leader = await registries.leader()
    away = next(node for node in registries.nodes[2:] if node is not leader)
    await away.stop()
    client = registries[0].up
    queued = trio.CapacityLimiter(256)

    async def touch(number: int) -> None:
        async with queued:
            await client.submit(directory(f"away{number}"))

    async with trio.open_nursery() as nursery:
        for number in range(KEEP_CLUSTER + 2048):
            nursery.start_soon(touch, number)
    probe = _Probe(registries[1].up, "back")
    there = [node for node in registries.nodes if node is not away]
    for node in there:
        await node.status()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(probe.run)
        began = time.perf_counter()
        await away.start()  # returns when it has everything
        seconds = time.perf_counter() - began
        nursery.cancel_scope.cancel()
    row = _stall("registry3_back", f"registry of {objects:,} objects: longest command while a voter takes them all anew", probe)
    row.details["longest_turns"] = [_turn(await node.status()) for node in [*there, away]]
    row.details["caught_up_s"] = round(seconds, 1)
    return row


def _stall(key: str, what: str, probe: _Probe) -> Row:
    taken = sorted(probe.taken_ms)
    details = {"commands": len(taken), "median_ms": round(median(taken), 2), "p99_ms": round(taken[len(taken) * 99 // 100], 2)}
    return Row(key, what, "ms", [taken[-1]], Target(at_most=50), details=details)
