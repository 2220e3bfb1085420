"""Volumes come by themselves to the node that uses them: counts each node's requests, and has it ask for what it uses most.

See ``objectrouter.thresholds`` for when, and ``HandoverSource`` for when that is granted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import structlog

from registry import NodeStatus, ObjectKind, RegistryClient
from vpool.errors import VPoolError

if TYPE_CHECKING:
    from objectrouter.ownership import Ownership
    from objectrouter.remote_object import RemoteObject
    from volumedriver import VolumeDriver

log = structlog.get_logger()

PERIOD_S = 1.0
ROOM_SHARE = 8  # a node whose cache has less than this part of its segments left takes nothing by itself


class Uses:
    """Of the volumes of a vPool by one node; ``tick`` often."""

    def __init__(
        self,
        registry: RegistryClient,
        volumes: VolumeDriver,
        ownership: Ownership,
        remote: Callable[[], Iterable[RemoteObject]],
        requests: Callable[[str], int],
        forwarded: Callable[[str], int],
    ) -> None:
        """``requests``: all that were made of an object here; ``forwarded``: those of them that other nodes made."""
        self._registry, self._volumes, self._ownership = registry, volumes, ownership
        self._remote, self._requests, self._forwarded = remote, requests, forwarded
        self._seen: dict[str, tuple[bool, int]] = {}  # object -> (it was ours, requests so far)
        self._due = 0.0

    def tick(self, now: float) -> None:
        """Count what was asked for since, and ask for what passes the threshold."""
        if now < self._due:
            return
        self._due = now + PERIOD_S
        counts = {each.object: (False, each.requests) for each in self._remote()}
        for object_id in self._volumes.open_objects():
            counts[object_id] = True, self._requests(object_id) - self._forwarded(object_id)
        for object_id, (ours, count) in counts.items():
            was_ours, before = self._seen.get(object_id, (ours, count))
            use = self._ownership.use(object_id)
            if was_ours == ours and count > before:
                use.used(now, count - before)
            if not ours and use.wants(now):
                self._want(object_id, now)
        self._seen = counts

    def _want(self, object_id: str, now: float) -> None:
        record, me = self._registry.view.object(object_id), self._registry.view.node(self._registry.node)
        use = self._ownership.use(object_id)
        if record is None or record.kind is not ObjectKind.VOLUME or record.owner in ("", self._registry.node):
            return None
        if me is None or me.status is not NodeStatus.ACTIVE or not self._has_room():
            return use.refused(now)
        try:
            self._ownership.want(record, use.count(now))
        except VPoolError as error:
            log.info("not_wanted", object=object_id, reason=str(error))
            use.refused(now)

    def _has_room(self) -> bool:
        stats = self._volumes.engine.stats()
        left = stats.segments_max - stats.segments + stats.segments_free
        return left * ROOM_SHARE > stats.segments_max and not stats.full
