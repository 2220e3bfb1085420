"""The lease of a node of a cluster, from its registration to the end of its stop: renewed while its data path is well."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from admin.watching import ClusterSample
from registry import Lease, NodeStatus, RegistryClient, Unsaved, Watcher, boottime, keep_lease, watch_leases
from vpool.disk_watch import DiskWatch, somebody_can_take_over
from vpool.errors import VPoolError

STATUS_S = 1.0


class LeaseKeeper:
    """Made by ``start``; ``lease`` is what it keeps, ``watcher`` what it knows of the others'."""

    def __init__(self, registry: RegistryClient, nursery: trio.Nursery) -> None:
        self.lease, self.watcher = Lease(), Watcher()
        self._registry, self._nursery = registry, nursery
        self._disk: DiskWatch | None = None
        self.answers_waiting: Callable[[], int] = lambda: 0  # told by whoever holds them back
        self.unsaved: Callable[[], Unsaved] = Unsaved  # what only the cache has; told likewise
        self.room: Callable[[], int | None] = lambda: None  # bytes that the cache can still take; told by whoever has it

    @classmethod
    @asynccontextmanager
    async def start(cls, registry: RegistryClient, *, maintenance_s: float) -> AsyncIterator[LeaseKeeper]:
        """Renew, and watch the other nodes, until the block ends. ``Fenced`` leaves when this node has been declared dead."""
        async with trio.open_nursery() as nursery:
            keeper = cls(registry, nursery)
            nursery.start_soon(
                keep_lease,
                registry,
                keeper.lease,
                keeper.watcher,
                keeper._is_well,
                lambda: keeper.room(),
                lambda: keeper.unsaved(),
            )
            nursery.start_soon(watch_leases, registry, keeper.watcher, maintenance_s)
            try:
                yield keeper
            finally:
                nursery.cancel_scope.cancel()

    async def sample(self) -> ClusterSample | None:
        """How this node stands among the others; None if its registry does not say so in time."""
        status = None
        with trio.move_on_after(STATUS_S):
            try:
                status = await self._registry.ask("status")
            except VPoolError:  # whoever uses the registry hears of it
                return None
        if status is None:
            return None
        me, members, now = self._registry.node, status["members"], boottime()
        records = {record.id: record for record in self._registry.view.nodes()}
        present = [member["id"] for member in members]
        return ClusterSample(
            votes=any(member["id"] == me and member["state"] == "votes" for member in members),
            leads=status["leader"] == me,
            has_leader=bool(status["leader"]),
            term=status["term"],
            lag_entries=status["committed"] - status["applied"],
            lease_left_s=max(0.0, (self.lease.until or now) - now),
            answers_waiting=self.answers_waiting(),
            members=len(members),
            connected=sum(member["connected"] for member in members),
            dead_nodes=tuple(node for node in present if node in records and records[node].expired),
            maintenance=tuple(node for node in present if node in records and records[node].status is NodeStatus.MAINTENANCE),
        )

    def watch_disk(self, disk: DiskWatch) -> None:
        """From now on the disk counts, too."""
        self._disk = disk
        self._nursery.start_soon(disk.run)

    def _is_well(self) -> bool:
        """False: the disk is dead, and others can go on."""
        registry = self._registry
        return self._disk is None or not self._disk.is_dead or not somebody_can_take_over(registry.view, registry.node)
