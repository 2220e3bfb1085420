"""The host that owns a disk dies for good, and another takes the disk over; clients on all other hosts wait, and go on.

What they see then must be the disk as it was after some write, with all before it and none after (promise 5 of
docs/semantics.md), and from there on one disk again. If this fails, a site that has lost a host cannot trust what it finds.
"""

from __future__ import annotations

import json
import os
import random
import time
from functools import partial
from pathlib import Path

import pytest

from tests.cluster.faults import is_expired
from tests.cluster.histories import Loss, check_disk
from tests.cluster.hosts import Host, Hosts, hosts
from tests.cluster.loads import BLOCK, Blocks
from tests.mounted_pool import wait_until

pytestmark = pytest.mark.mount

SEED = int(os.environ.get("VPOOL_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
ROUNDS = int(os.environ.get("VPOOL_ROUNDS", "0"))
BLOCKS = 12
EXPIRED_S = 40.0
PUBLISHED_NS = 10e9
NO_DTL = {"VPOOL_DTL__MODE": "off"}
DISKS = ("disk.raw", "plain.bin")


def owner_of(made: Hosts, name: str) -> Host:
    """Who serves it, as the registry says."""
    with next(host for host in made if not host.ended()).view() as view:
        inode = view.lookup(1, name)
        assert inode is not None
        assert inode.object is not None
        record = view.object(inode.object)
        assert record is not None
        owner = view.object(record.log) if record.log else record
        assert owner is not None
        return next(host for host in made if host.id == owner.owner)


def is_clean(host: Host) -> bool:
    """Whether all that it has is in the backend."""
    return int(json.loads(host.vpool("status", "--json", "--dir", host.directory).out)["dirty_bytes"]) == 0


def lose(made: Hosts, dead: Host, thief: Host) -> Loss:
    """A host dies, and another takes over all that it owned, as the backend has it."""
    began = time.monotonic_ns()
    dead.kill()
    wait_until(lambda: is_expired([thief], dead), f"{dead} is declared dead", EXPIRED_S)
    taken = thief.vpool("node", "steal", dead.id, "--accept-loss", "--dir", thief.directory, "--json")
    assert taken.code == 0, taken.err
    problems = [each["problem"] for each in json.loads(taken.out)["taken"] if each["problem"]]
    assert not problems, problems
    return Loss(began, time.monotonic_ns())


def lost_one_after_the_other(made: Hosts, rounds: int, chosen: random.Random) -> None:
    """Under load; each time the owner of one of the disks. Then everything is checked."""
    for name in DISKS:
        with (made[0].mount / name).open("xb") as file:
            file.truncate(BLOCKS * BLOCK)
            os.fsync(file.fileno())
    wait_until(lambda: is_clean(made[0]), "it is in the backend: a loss may take the size of a file with it", 30)
    loads = {name: Blocks(made, name, BLOCKS, chosen.randrange(1 << 32), pause_s=0.01) for name in DISKS}
    losses: dict[str, list[Loss]] = {name: [] for name in DISKS}
    fresh = list(made)  # a node that has lost an object keeps what it had of it, and takes it over no more
    with loads[DISKS[0]], loads[DISKS[1]]:
        for number in range(rounds):
            for load in loads.values():
                load.goes_on(20)
            time.sleep(chosen.uniform(0, 2.5))
            dead = owner_of(made, chosen.choice(DISKS))
            fresh = [host for host in fresh if host is not dead]
            thief = chosen.choice(fresh)
            owned = [name for name in DISKS if owner_of(made, name) is dead]
            loss = lose(made, dead, thief)
            print(f"round {number}: {dead} died, {thief} has {owned} after {(loss.ended - loss.began) / 1e9:.1f} s", flush=True)
            for name in owned:
                losses[name].append(loss)
                assert owner_of(made, name) is thief
            made.heal()
            for load in loads.values():
                load.goes_on(10, made.tended)
        for load in loads.values():
            load.stop()
    for name, load in loads.items():
        for host in made:
            load.read_all(host)
        print(f"{name}: {len(load.accesses)} requests, {len(load.errors)} of unknown outcome, {len(losses[name])} losses")
        check_disk(load.accesses, losses=losses[name])
        if losses[name]:
            wait_until(partial(is_published, made, name, load.accesses[-1].ended), f"times of {name} are published", 20)


def is_published(made: Hosts, name: str, after_ns: float) -> bool:
    """Whether the registry has times of a disk from its new owner: it would not take them from somebody else."""
    with made[0].view() as view:
        inode = view.lookup(1, name)
    assert inode is not None
    return time.time_ns() - inode.mtime_ns < time.monotonic_ns() - after_ns + PUBLISHED_NS


def test_a_host_is_lost(tmp_path: Path) -> None:
    print(f"VPOOL_SEED={SEED}")
    with hosts(tmp_path, 3, seed=SEED, environment=NO_DTL) as made:
        lost_one_after_the_other(made, ROUNDS or 1, random.Random(SEED))


@pytest.mark.long
def test_all_hosts_but_one_are_lost_one_after_the_other(tmp_path: Path) -> None:
    print(f"VPOOL_SEED={SEED}")
    with hosts(tmp_path, 5, seed=SEED, environment=NO_DTL) as made:
        lost_one_after_the_other(made, 4, random.Random(SEED))
