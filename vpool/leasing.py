"""The lease of a node of a cluster, from its registration to the end of its stop: renewed while its data path is well."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from registry import Lease, RegistryClient, Watcher, keep_lease, watch_leases
from vpool.disk_watch import DiskWatch, somebody_can_take_over


class LeaseKeeper:
    """Made by ``start``; ``lease`` is what it keeps, ``watcher`` what it knows of the others'."""

    def __init__(self, registry: RegistryClient, nursery: trio.Nursery) -> None:
        self.lease, self.watcher = Lease(), Watcher()
        self._registry, self._nursery = registry, nursery
        self._disk: DiskWatch | None = None

    @classmethod
    @asynccontextmanager
    async def start(cls, registry: RegistryClient, *, maintenance_s: float) -> AsyncIterator[LeaseKeeper]:
        """Renew, and watch the other nodes, until the block ends. ``Fenced`` leaves when this node has been declared dead."""
        async with trio.open_nursery() as nursery:
            keeper = cls(registry, nursery)
            nursery.start_soon(keep_lease, registry, keeper.lease, keeper.watcher, keeper._is_well)
            nursery.start_soon(watch_leases, registry, keeper.watcher, maintenance_s)
            try:
                yield keeper
            finally:
                nursery.cancel_scope.cancel()

    def watch_disk(self, disk: DiskWatch) -> None:
        """From now on the disk counts, too."""
        self._disk = disk
        self._nursery.start_soon(disk.run)

    def _is_well(self) -> bool:
        """False: the disk is dead, and others can go on."""
        registry = self._registry
        return self._disk is None or not self._disk.is_dead or not somebody_can_take_over(registry.view, registry.node)
