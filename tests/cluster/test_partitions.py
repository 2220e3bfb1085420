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

from tests.cluster.faults import ALL, QUICK, Fault, far_away
from tests.cluster.histories import Loss, check_disk
from tests.cluster.hosts import Host, Hosts, hosts
from tests.cluster.loads import BLOCK, Blocks, Moves, Names
from tests.cluster.name_histories import check_names

pytestmark = pytest.mark.mount

SEED = int(os.environ.get("VPOOL_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
ROUNDS = int(os.environ.get("VPOOL_ROUNDS", "0"))
BLOCKS = 12
DISKS = ("disk.raw", "plain.bin")
SETTLED_NS = 0.2e9  # from the log's line on a takeover to the last answer of the time before


def make_disk(host: Host, name: str) -> None:
    with (host.mount / name).open("xb") as file:
        file.truncate(BLOCKS * BLOCK)


class Rounds:
    """A fault, and getting over it, again and again, under load; ``check`` looks at everything then."""

    def __init__(self, made: Hosts, chosen: random.Random) -> None:
        self.made, self.chosen = made, chosen
        for number, name in enumerate(DISKS):
            make_disk(made[number % len(made)], name)
        self.blocks = [Blocks(made, name, BLOCKS, chosen.randrange(1 << 32), pause_s=0.01) for name in DISKS]
        self.names = Names(made, chosen.randrange(1 << 32))
        self.moves = Moves(made, DISKS[:1], chosen.randrange(1 << 32))
        self.spans: list[tuple[int, int]] = []  # when a fault began, and when it was over

    def run(self, faults: Sequence[Fault], rounds: int) -> None:
        """Each fault once, then any."""
        first = list(faults)
        self.chosen.shuffle(first)
        with self.blocks[0], self.blocks[1], self.names, self.moves:
            for number in range(rounds):
                self._round(number, first[number] if number < len(first) else self.chosen.choice(faults))
            for load in self.blocks:
                load.stop()
            self.names.stop()
            self.moves.stop()

    def _round(self, number: int, fault: Fault) -> None:
        (self.made[number % len(self.made)].mount / f"r{number}").mkdir()
        self.names.begin(f"r{number}")
        for load in self.blocks:
            load.goes_on(10, self.made.tended)
        began = time.monotonic_ns()
        print(f"round {number}: {fault(self.chosen, self.made)}", flush=True)
        time.sleep(self.chosen.uniform(0.3, 3.0))  # the fault lasts
        self.made.heal()
        for load in self.blocks:
            load.goes_on(5, self.made.tended)
        self.spans.append((began, time.monotonic_ns()))
        print(f"round {number}: over after {(self.spans[-1][1] - began) / 1e9:.1f} s", flush=True)

    def check(self) -> None:
        """Every history is one that a single disk, or directory, may have."""
        print(f"{self.moves.moved} moves; refused: {dict(self.moves.refused)}")
        taken = self.made.taken_over()
        for load in self.blocks:
            for host in self.made:
                load.read_all(host)
            losses = [self._loss(at) for at in taken.get(self.made.log_of(load.name), [])]
            print(f"{load.name}: {len(load.accesses)} requests, {len(load.errors)} of unknown outcome, {len(losses)} takeovers")
            check_disk(load.accesses, load.flushes, losses)
        for directory, calls in self.names.calls.items():
            print(f"{directory}: {len(calls)} requests on names")
            check_names(calls)

    def _loss(self, taken_ns: float) -> Loss:
        """What was written since the fault began, and not flushed, may have gone with the host."""
        return Loss(max(began for began, _ in self.spans if began < taken_ns), taken_ns + SETTLED_NS)


def harmed(made: Hosts, faults: Sequence[Fault], rounds: int, seed: int) -> None:
    """All of it."""
    work = Rounds(made, random.Random(seed))
    work.run(faults, rounds)
    work.check()


def test_histories_through_faults(tmp_path: Path) -> None:
    print(f"VPOOL_SEED={SEED}")
    with hosts(tmp_path, 3, seed=SEED) as made:
        harmed(made, QUICK, ROUNDS or 4, SEED)


def test_hosts_that_are_far_from_each_other(tmp_path: Path) -> None:
    """A way of 150 to 200 ms between any two: all is slow, nobody is declared dead, nothing fails, and nothing is taken over."""
    print(f"VPOOL_SEED={SEED}")
    with hosts(tmp_path, 3, seed=SEED) as made:
        work = Rounds(made, random.Random(SEED))
        far_away(work.chosen, made)
        with work.blocks[0], work.blocks[1], work.names:
            (made[0].mount / "far").mkdir()
            work.names.begin("far")
            for _ in range(3):
                for load in work.blocks:
                    load.goes_on(4, made.tended)
            for load in work.blocks:
                load.stop()
            work.names.stop()
        assert not made.taken_over()
        assert not any(load.errors for load in work.blocks)
        made.network.clear()
        work.check()


@pytest.mark.long
@pytest.mark.parametrize("dtl", ["auto", "off"])
def test_histories_through_many_faults(tmp_path: Path, dtl: str) -> None:
    print(f"VPOOL_SEED={SEED}")
    with hosts(tmp_path, 3, seed=SEED, environment={"VPOOL_DTL__MODE": dtl}, own_disks=True) as made:
        harmed(made, ALL, ROUNDS or 60, SEED)


@pytest.mark.long
@pytest.mark.swift
def test_histories_of_five_hosts_over_swift(tmp_path: Path) -> None:
    print(f"VPOOL_SEED={SEED}")
    with hosts(tmp_path, 5, seed=SEED, swift=True, own_disks=True) as made:
        harmed(made, ALL, ROUNDS or 60, SEED)
