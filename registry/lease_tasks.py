"""Leases on trio: renewing this node's, watching the others'. The decisions are in ``registry.leases``; here are clock and loop.

``keep_lease`` and ``watch_leases`` run beside each other for one incarnation. Neither waits for the other: a renewal that is not
answered does not hold up the next, and a proposal to expire somebody is made once per sighting.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog
import trio

from registry.client import RegistryClient
from registry.commands import Expire
from registry.leases import Lease, Watcher
from registry.model import NodeStatus, Unsaved
from vpool.errors import Conflict, Fenced, NotFound, Unavailable

log = structlog.get_logger()

RENEWALS_MAX = 8  # under way; a lease is over before more could help


def boottime() -> float:
    """Seconds of ``CLOCK_BOOTTIME``: the clock of all leases."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


async def keep_lease(
    client: RegistryClient,
    lease: Lease,
    watcher: Watcher,
    healthy: Callable[[], bool],
    room: Callable[[], int | None] = lambda: None,
    unsaved: Callable[[], Unsaved] = Unsaved,
) -> None:
    """Renew until the incarnation is over; then the lease has ended, and ``Fenced`` leaves.

    ``healthy`` says whether the data path is well: without that no renewal is sent, and others take over. ``room``: bytes that
    the cache can still take, and ``unsaved``, what would be lost with it: the others are told with each renewal.
    """
    under_way = trio.CapacityLimiter(RENEWALS_MAX)
    async with trio.open_nursery() as nursery:

        async def renew() -> None:
            async with under_way:
                try:
                    await client.renew_lease(lease, room(), unsaved())
                except Conflict:
                    return  # a later one has been applied before it
                except Unavailable:
                    return  # the node stops without the registry
                except Fenced:
                    lease.end()
                    raise
                watcher.saw_commit(boottime())

        looked_at = boottime()
        while True:
            away_s, looked_at = boottime() - looked_at, boottime()
            if away_s > lease.timings.lease_s:  # an answer that was on its way out when it began may have left since
                log.warning("node_was_paused", seconds=round(away_s, 1), lease_s=lease.timings.lease_s)
            if lease.due(boottime()) and healthy() and under_way.available_tokens:
                nursery.start_soon(renew)
            await trio.sleep(lease.timings.renew_s / 4)


async def watch_leases(client: RegistryClient, watcher: Watcher, maintenance_s: float = 0.0) -> None:
    """Have nodes that renew no more declared dead, for ever; those in maintenance only ``maintenance_s`` later."""
    while True:
        now = boottime()
        incarnations = {}
        for record in client.view.nodes():
            if record.expired or record.id == client.node:
                watcher.forget(record.id)
            else:
                patience_s = maintenance_s if record.status is NodeStatus.MAINTENANCE else 0.0
                watcher.renewed(record.id, record.lease_number, now, record.incarnation, patience_s=patience_s)
                incarnations[record.id] = record.incarnation
        for node, number in watcher.expirable(now):
            watcher.forget(node)  # whatever comes of it: the next sighting begins anew
            try:
                await client.submit(Expire(node, incarnations[node], number))
            except (Conflict, NotFound, Unavailable) as refused:
                log.info("expiry_refused", node=node, reason=str(refused))
            else:
                log.warning("node_expired", node=node, renewal=number)
        await trio.sleep(watcher.timings.renew_s / 2)
