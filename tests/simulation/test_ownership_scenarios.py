"""One misfortune at a time in a healthy world: who must not lose ownership, who must go on, and how soon another does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from registry import DtlState
from tests.simulation.ownership_node import Host
from tests.simulation.ownership_weather import MIXED
from tests.simulation.ownership_world import DTL, LEASE, Faults, World

SEEDS = range(4)
HEALTHY = {"loss": 0.0, "double": 0.0, "slow": 0.0, "slow_disk": 0.0, "slow_registry": 0.0}


def healthy(seed: int, *, dtl: bool = True) -> World:
    """Three hosts or more, one object or two, in sync with their peers (or without any), for some seconds."""
    world = World(seed, weather=MIXED)
    world.dtl, world.by_threshold = dtl, False
    world.faults = Faults(**HEALTHY, calm=True)  # type: ignore[arg-type]
    world.run_until(5.0)
    for record in world.registry.now.objects.values():
        assert record.epoch == 1
        assert record.dtl.state is (DtlState.IN_SYNC if dtl else DtlState.OFF)
    return world


def owner(world: World, object_id: str) -> Host:
    return world.hosts[world.registry.now.objects[object_id].owner]


def epochs(world: World) -> list[int]:
    return [record.epoch for record in world.registry.now.objects.values()]


def completed(world: World) -> dict[tuple[str, str], int]:
    """Requests answered, by host and object."""
    return {(name, object_id): host.done[object_id] for name, host in world.hosts.items() for object_id in world.truths}


def registry_away(world: World) -> None:
    world.registry_away = True
    world.at(6.0, world._registry_back)


def pause_that_ends_in_time(world: World) -> None:
    for object_id in world.truths:
        owner(world, object_id).pause(LEASE.lease_s - LEASE.renew_s)


def partition_on_the_thiefs_side(world: World) -> None:
    owners = {owner(world, object_id).name for object_id in world.truths}
    alone = next(name for name in world.hosts if name not in owners)
    others = [*[name for name in world.hosts if name != alone], "registry"]
    world._cut([pair for other in others for pair in ((alone, other), (other, alone))], 6.0)


def full_disks(world: World) -> None:
    for host in world.hosts.values():
        host.full_until = world.now + 6.0


def slow_disks(world: World) -> None:
    world.faults.slow_disk = 1.0


@pytest.mark.parametrize(
    "trouble", [registry_away, pause_that_ends_in_time, partition_on_the_thiefs_side, full_disks, slow_disks]
)
def test_no_steal_for(trouble: Callable[[World], None]) -> None:
    for seed in SEEDS:
        world = healthy(seed)
        trouble(world)
        world.run_until(world.now + 12.0)
        assert epochs(world) == [1] * len(world.truths), f"seed {seed}"


def test_without_a_registry_what_is_in_sync_goes_on_and_the_rest_waits() -> None:
    for seed in SEEDS:
        for dtl in (True, False):
            world = healthy(seed, dtl=dtl)
            world.registry_away = True
            world.run_until(world.now + 2 * LEASE.lease_s)
            before = completed(world)
            world.run_until(world.now + 3.0)
            after = completed(world)
            assert all((after[key] > before[key]) is dtl for key in before), f"seed {seed}, dtl {dtl}"
            world.registry_away = False
            world.run_until(world.now + 6.0)
            assert all(count > after[key] for key, count in completed(world).items()), f"seed {seed}, dtl {dtl}"


def test_in_sync_does_not_outlive_the_peers_word() -> None:
    """Cut off from registry and peer, an owner stops when the lease is over, and its flushes wait before that."""
    for seed in SEEDS:
        world = healthy(seed)
        alone = owner(world, next(iter(world.truths)))
        ends = [*[name for name in world.hosts if name != alone.name], "registry"]
        world._cut([pair for end in ends for pair in ((alone.name, end), (end, alone.name))], 30.0)
        world.run_until(world.now + LEASE.lease_s * 1.1 + DTL.word_s)
        before = completed(world)
        world.run_until(world.now + 3.0)
        after = completed(world)
        assert all(after[key] == before[key] for key in before if key[0] == alone.name), f"seed {seed}"


def test_a_dead_owner_costs_seconds_and_nothing_that_was_flushed() -> None:
    bound_s = (LEASE.lease_s + LEASE.margin_s) * 1.1 + LEASE.sighting_s + 1.0
    for seed in SEEDS:
        world = healthy(seed)
        object_id = next(iter(world.truths))
        dead = owner(world, object_id)
        dead.destroy()
        died_at = world.now
        before = completed(world)
        waiting = [key for key in before if key[0] != dead.name and key[1] == object_id]
        while not all(completed(world)[key] > before[key] + 2 for key in waiting):
            world.run_until(world.now + 0.1)
            assert world.now - died_at < bound_s, f"seed {seed}: {world.registry.now.objects[object_id]}"
        assert world.registry.now.objects[object_id].remains == () or not world.registry.now.objects[object_id].remains[-1].lost


def test_a_hand_over_is_short_and_leaves_the_source_in_sync() -> None:
    for seed in SEEDS:
        world = healthy(seed)
        object_id = next(iter(world.truths))
        source = owner(world, object_id)
        target = next(host for host in world.hosts.values() if host is not source)
        target.want(object_id)
        world.run_until(world.now + 0.4)
        record = world.registry.now.objects[object_id]
        assert (record.owner, record.epoch, record.dtl.peer) == (target.name, 2, source.name), f"seed {seed}"
        assert record.dtl.state is DtlState.IN_SYNC
        world.run_until(world.now + 5.0)
        record = world.registry.now.objects[object_id]
        assert (record.dtl.state, record.dtl.peer, record.remains) == (DtlState.IN_SYNC, source.name, ())
