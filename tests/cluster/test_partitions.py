"""Several hosts with one vPool, all of them used at once, while links are cut and hosts stand still or die.

Whatever happens, what all clients saw together must be the history of one disk, and of one directory; and when all is mended,
everybody goes on without anybody's help. If this fails, promises 1, 6 or 11 of docs/semantics.md do not hold on real hosts.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cluster.faults import ALL, QUICK, Fault
from tests.cluster.histories import check_disk
from tests.cluster.hosts import Host, Hosts, hosts
from tests.cluster.loads import BLOCK, Blocks, Names
from tests.cluster.name_histories import check_names

pytestmark = pytest.mark.mount

SEED = int(os.environ.get("VPOOL_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
ROUNDS = int(os.environ.get("VPOOL_ROUNDS", "0"))
BLOCKS = 12


def make_disk(host: Host, name: str) -> None:
    with (host.mount / name).open("xb") as file:
        file.truncate(BLOCKS * BLOCK)


def harmed(made: Hosts, faults: Sequence[Fault], rounds: int, chosen: random.Random) -> None:
    """Rounds of a fault, and of getting over it, under load; then everything is checked."""
    disks = ["disk.raw", "plain.bin"]
    for number, name in enumerate(disks):
        make_disk(made[number % len(made)], name)
    blocks = [Blocks(made, name, BLOCKS, chosen.randrange(1 << 32), pause_s=0.01) for name in disks]
    names = Names(made, chosen.randrange(1 << 32))
    first = list(faults)
    chosen.shuffle(first)
    with blocks[0], blocks[1], names:
        for number in range(rounds):
            (made[number % len(made)].mount / f"r{number}").mkdir()
            names.begin(f"r{number}")
            for load in blocks:
                load.goes_on(10)
            fault = first[number] if number < len(first) else chosen.choice(faults)
            began = time.monotonic()
            said = fault(chosen, made)
            print(f"round {number}: {said}", flush=True)
            time.sleep(chosen.uniform(0.3, 3.0))  # the fault lasts
            made.heal()
            for load in blocks:
                load.goes_on(5, made.tended)
            print(f"round {number}: over after {time.monotonic() - began:.1f} s", flush=True)
        for load in blocks:
            load.stop()
        names.stop()
    for load in blocks:
        for host in made:
            load.read_all(host)
        print(f"{load.name}: {len(load.accesses)} requests, {len(load.errors)} of unknown outcome")
        check_disk(load.accesses)
    for directory, calls in names.calls.items():
        print(f"{directory}: {len(calls)} requests on names")
        check_names(calls)


def test_histories_through_faults(tmp_path: Path) -> None:
    print(f"VPOOL_SEED={SEED}")
    with hosts(tmp_path, 3, seed=SEED) as made:
        harmed(made, QUICK, ROUNDS or 4, random.Random(SEED))


@pytest.mark.long
def test_histories_through_many_faults(tmp_path: Path) -> None:
    print(f"VPOOL_SEED={SEED}")
    with hosts(tmp_path, 3, seed=SEED) as made:
        harmed(made, ALL, ROUNDS or 60, random.Random(SEED))


@pytest.mark.long
@pytest.mark.swift
def test_histories_of_five_hosts_over_swift(tmp_path: Path) -> None:
    print(f"VPOOL_SEED={SEED}")
    with hosts(tmp_path, 5, seed=SEED, swift=True) as made:
        harmed(made, ALL, ROUNDS or 60, random.Random(SEED))
