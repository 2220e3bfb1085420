"""Routing, hand-over, DTL and failover under everything that can go wrong; and mutations of the protocol, each is caught.

``VPOOL_SEEDS=n`` runs n seeds; ``VPOOL_SEED=s`` runs that one. A failure names its seed.
"""

from __future__ import annotations

import os

import pytest

from tests.simulation.ownership_mutants import MUTATIONS, Mutation
from tests.simulation.ownership_world import World

SEED = os.environ.get("VPOOL_SEED")
SEEDS = int(os.environ.get("VPOOL_SEEDS", "2000"))
BATCH = 250
SEEDS_LONG = 50_000
CAUGHT_WITHIN = 1000


def run(seed: int) -> World:
    try:
        return World(seed).run()
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


@pytest.mark.long
def test_many_seeds() -> None:
    for seed in range(1_000_000, 1_000_000 + SEEDS_LONG):
        run(seed)


def test_same_seed_same_trace() -> None:
    for seed in range(3):
        one, two = run(seed), run(seed)
        assert (one.trace, one.events, one.now) == (two.trace, two.events, two.now)
        assert one.registry.view.items == two.registry.view.items
        assert one.registry.applied == two.registry.applied


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_broken_protocol_is_caught(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each clause of the protocol, taken out alone, is missed."""
    assert mutation.first_seed_that_catches(monkeypatch, CAUGHT_WITHIN) is not None, f"{mutation.name}: nothing is noticed"
