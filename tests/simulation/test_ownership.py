"""Routing, hand-over, DTL and failover under everything that can go wrong; and mutations of the protocol, each is caught.

``VPOOL_SEEDS=n`` runs n seeds; ``VPOOL_SEED=s`` runs that one. A failure names its seed.

That PySyncObj's own follower and journal are caught is in ``test_raft.py``:
``test_stock_pysyncobj_loses_acknowledged_commands``, and the mutants ``SaysBeforeItIsDurable``, ``TruncatesWithoutConflict``,
``ForgetsItsVote`` and ``CountsUnverifiedTail`` of ``test_a_broken_protocol_is_caught``.
"""

from __future__ import annotations

import os

import pytest

from tests.simulation.ownership_mutants import MUTATIONS, Mutation
from tests.simulation.ownership_raft import RaftRegistry
from tests.simulation.ownership_registry import LinearRegistry
from tests.simulation.ownership_world import World

SEED = os.environ.get("VPOOL_SEED")
SEEDS = int(os.environ.get("VPOOL_SEEDS", "2000"))
BATCH = 250
SEEDS_LONG = 50_000
RAFT_SEEDS = int(os.environ.get("VPOOL_RAFT_SEEDS", "30"))
RAFT_SEEDS_LONG = 2_000
CAUGHT_WITHIN = 1000


def run(seed: int, registry: type[LinearRegistry] = LinearRegistry) -> World:
    try:
        return World(seed, registry=registry).run()
    except BaseException as error:
        raise AssertionError(f"VPOOL_SEED={seed}: {error!r}") from error


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH) if SEED is None else [int(SEED)])
def test_one_owner_nothing_lost_nothing_twice(first: int) -> None:
    totals: dict[str, int] = {}
    for seed in range(first, min(first + BATCH, SEEDS) if SEED is None else first + 1):
        for truth in run(seed).truths.values():
            for what, count in truth.counts.items():
                totals[what] = totals.get(what, 0) + count
    assert all(totals.values()) or SEED is not None, f"the world does nothing: {totals}"


def test_over_real_raft() -> None:
    """The registry as three voters of the shipped Raft, which crash and lose each other on their own."""
    for seed in range(RAFT_SEEDS):
        run(seed, RaftRegistry)


@pytest.mark.long
def test_many_seeds() -> None:
    for seed in range(1_000_000, 1_000_000 + SEEDS_LONG):
        run(seed)


@pytest.mark.long
def test_many_seeds_over_real_raft() -> None:
    for seed in range(1_000_000, 1_000_000 + RAFT_SEEDS_LONG):
        run(seed, RaftRegistry)


def test_same_seed_same_trace() -> None:
    for seed, registry in ((0, LinearRegistry), (1, LinearRegistry), (2, RaftRegistry)):
        one, two = run(seed, registry), run(seed, registry)
        assert (one.trace, one.events, one.now) == (two.trace, two.events, two.now)
        assert one.registry.view.items == two.registry.view.items
        assert one.registry.applied == two.registry.applied


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_missing_clause_is_caught(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each clause of the protocol, taken out alone, is missed."""
    assert mutation.first_seed_that_catches(monkeypatch, CAUGHT_WITHIN) is not None, f"{mutation.name}: nothing is noticed"
