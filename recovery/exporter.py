"""Keeps exports of the registry in the vPool's shared bucket while a node runs.

The first export of a life is full; then come increments, until they weigh as much as the full one or have become many. An export
is built from one read transaction, part after part in a thread, with pauses, so that the largest namespace does not hold up I/O;
its last part is put when all others have been acknowledged. What fails is begun anew at the next round: nothing waits for it, and
the registry is not held back by a backend that is away.

Of several nodes one exports: ``exporting_node`` says which, from what the registry knows, so it moves on when a node is declared
dead. For a moment two may do so; their names differ, and what either has written stays whole until newer full exports are there.
Whoever becomes the one begins with a full export: what it had built on may have been collected since.

Concurrency: one export at a time (``_exporting``); ``status`` reads plain fields.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
import trio

from backend import ObjectStore
from recovery.names import PREFIX, Chain, ExportName, part_name, superseded
from registry import NodeRecord, NodeStatus, RegistryClient
from registry.export import FOOTER_BYTES, ExportId, Item, StateExport, batches, encode_part
from volumedriver import TOMBSTONES, shared_bucket, tombstone_time_ns
from vpool.errors import NotFound, VPoolError

log = structlog.get_logger()

INCREMENTS_MAX = 512  # on one full export: what a recovery reads one by one
FULL_BYTES_MIN = 1 << 20  # increments weigh at least that much before a full export replaces them
REST_FACTOR = 3.0  # after a part was built for so long, rest that many times as long
DAY_NS = 86_400 * 10**9


@dataclass(frozen=True, slots=True)
class ExporterSettings:
    """What an operator may set; see vpool/settings.py."""

    age_s: float = 10.0
    keep_full: int = 2
    tombstone_days: float = 90.0
    stop_s: float = 10.0


@dataclass(frozen=True, slots=True)
class ExportStatus:
    """Counters since the start, and how far behind the backend's copy of the namespace is."""

    index: int  # of the last complete export; 0: none in this life
    age_s: float  # since the state that it holds was read; 0.0 while there is none
    full_exports: int
    increments: int
    failures: int
    bytes_sent: int
    objects_collected: int
    problem: str  # why the last try failed; "" if it did not


class NamespaceExporter:
    """See the module; made by ``start``."""

    def __init__(self, registry: RegistryClient, store: ObjectStore, vpool_id: str, settings: ExporterSettings) -> None:
        self._registry = registry
        self._store = store
        self._vpool = vpool_id
        self._bucket = shared_bucket(vpool_id)
        self._settings = settings
        self._exporting = trio.Lock()
        self._tried: ExportId | None = None
        self._newest: ExportName | None = None
        self._exported_at = 0.0
        self._full_bytes = 0
        self._increment_bytes = 0  # since the full export
        self._increments_since = 0
        self._to_collect = False
        self._counts = dict.fromkeys(("full_exports", "increments", "failures", "bytes_sent", "objects_collected"), 0)
        self._problem = ""
        self._chosen = registry.node

    @classmethod
    @asynccontextmanager
    async def start(
        cls, *, registry: RegistryClient, store: ObjectStore, vpool_id: str, settings: ExporterSettings
    ) -> AsyncIterator[NamespaceExporter]:
        """Run it; on leaving, what has changed last is exported, within ``stop_s``."""
        exporter = cls(registry, store, vpool_id, settings)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exporter._run)
            try:
                yield exporter
            finally:
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True), trio.move_on_after(settings.stop_s) as scope:
                    if exporter._is_chosen():
                        await exporter.export()
                if scope.cancelled_caught:
                    log.info("namespace_not_exported_at_stop", within_s=settings.stop_s, consequence="the next start does it")

    def status(self) -> ExportStatus:
        """Counters, and how old the newest export is."""
        newest = self._newest
        age = trio.current_time() - self._exported_at if newest is not None else 0.0
        return ExportStatus(index=newest.index if newest else 0, age_s=round(age, 3), problem=self._problem, **self._counts)

    async def export(self) -> bool:
        """Export what has changed since the last export; False if the backend did not take it (``status`` says why)."""
        async with self._exporting:
            try:
                await self._export()
                if self._to_collect:
                    await self._collect()
            except VPoolError as error:
                self._counts["failures"] += 1
                if not self._problem:
                    log.info("namespace_export_waits", bucket=self._bucket, reason=str(error))
                self._problem = str(error)
                return False
            if self._problem:
                log.info("namespace_export_goes_on", bucket=self._bucket)
            self._problem = ""
            return True

    async def _run(self) -> None:
        while True:
            if self._is_chosen():
                await self.export()
            else:
                self._newest, self._problem = None, ""
            await trio.sleep(self._settings.age_s)

    def _is_chosen(self) -> bool:
        chosen = exporting_node(self._registry.view.nodes())
        if chosen != self._chosen:
            log.info("namespace_exporter", node=chosen)
            self._chosen = chosen
        return chosen == self._registry.node

    async def _export(self) -> None:
        began = trio.current_time()
        source = self._registry.view.export()
        try:
            since = self._base(source)
            if since == source.index:
                self._exported_at = began
                return
            items = source.changes(since) if since else source.items()
            first = await trio.to_thread.run_sync(next, items, None)
            if first is None:  # only what belongs to a node's life has changed
                self._exported_at = began
                return
            export = self._name(source, since)
            sent, parts = await self._send(export, _with(first, items))
        finally:
            source.close()
        self._newest = ExportName.of(export, parts)
        self._exported_at = began
        self._counts["bytes_sent"] += sent
        if since:
            self._counts["increments"] += 1
            self._increments_since += 1
            self._increment_bytes += sent
        else:
            self._counts["full_exports"] += 1
            self._full_bytes, self._increment_bytes, self._increments_since = sent, 0, 0
            self._to_collect = True

    def _base(self, source: StateExport) -> int:
        """The index to go on from; 0: a full export is due."""
        newest = self._newest
        if (
            newest is None
            or newest.chain.generation != source.tables.generation()
            or self._increments_since >= INCREMENTS_MAX
            or self._increment_bytes > max(self._full_bytes, FULL_BYTES_MIN)
            or not source.knows_changes_since(newest.index)
        ):
            return 0
        return newest.index

    def _name(self, source: StateExport, since: int) -> ExportId:
        """A second try of the same export says the same in everything: its names may be there already."""
        created = time.time_ns()
        if self._tried is not None and (self._tried.index, self._tried.since) == (source.index, since):
            created = self._tried.created_ns
        generation, registry = source.tables.generation(), self._registry
        self._tried = ExportId(self._vpool, generation, source.index, since, registry.node, registry.incarnation, created)
        return self._tried

    async def _send(self, export: ExportId, items: Iterator[Item]) -> tuple[int, int]:
        """All parts, in order. (bytes, parts)."""
        chain = Chain(export.generation, export.node, export.incarnation)
        groups = batches(items)
        before, number, sent = bytes(FOOTER_BYTES), 0, 0
        while True:
            data, last, took_s = await trio.to_thread.run_sync(_build, export, number, groups, before)
            if number == 0:
                await self._store.create_bucket(self._bucket)
            await self._store.put(self._bucket, part_name(chain, export.index, export.since, number, last), data)
            sent, before, number = sent + len(data), data[-FOOTER_BYTES:], number + 1
            if last:
                return sent, number
            await trio.sleep(took_s * REST_FACTOR)

    async def _collect(self) -> None:
        """Remove what newer exports have superseded, and tombstones that are old enough."""
        names = [info.name async for info in self._store.list(self._bucket, PREFIX)]
        oldest_ns = time.time_ns() - int(self._settings.tombstone_days * DAY_NS)
        tombstones = [info.name async for info in self._store.list(self._bucket, TOMBSTONES)]
        old = [name for name in tombstones if (written := tombstone_time_ns(name)) is not None and written < oldest_ns]
        for name in superseded(names, self._settings.keep_full) + old:
            try:
                await self._store.delete(self._bucket, name)
            except NotFound:
                continue
            self._counts["objects_collected"] += 1
        self._to_collect = False


def exporting_node(nodes: Sequence[NodeRecord]) -> str:
    """Which of the nodes exports: the first that lives, and is not about to be away if another is there; "" for none. Pure."""
    living = [node for node in nodes if not node.expired]
    return min((node.status is not NodeStatus.ACTIVE, node.id) for node in living)[1] if living else ""


def _with(first: Item, others: Iterator[Item]) -> Iterator[Item]:
    yield first
    yield from others


def _build(export: ExportId, number: int, groups: Iterator[tuple[list[Item], bool]], before: bytes) -> tuple[bytes, bool, float]:
    began = time.monotonic()
    group, last = next(groups)
    data = encode_part(export, number, group, last=last, before=before)
    return data, last, time.monotonic() - began
