"""``vpool up`` and ``vpool serve``: one node in the foreground, wired on one trio loop.

Order of construction is the order of the rooms, from below; leaving goes the other way: no more requests, what is unpublished
published, tails sent as long as ``volumes.stop_s`` allows, logs closed, registry stopped.
"""

from __future__ import annotations

import os
import resource
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog
import trio
from fastapi import FastAPI

import admin
import fuse
from admin.watching import EventRing, EventTap, Watch, add_watching, listening, serve_metrics
from backend import ObjectStore
from engine import Engine
from filedriver import FileDriver
from objectrouter import HandoverTimings, MirrorSettings, Neighbourhood, ObjectRouter, RouterSettings, Threshold
from peers import PROTOCOL, CredentialFiles, Hello, Purpose
from recovery import ExporterSettings, NamespaceExporter
from registry import FORMAT as REGISTRY_FORMAT
from registry import ClusterPlace, Initialise, Lease, RegisterNode, RegistryClient
from volumedriver import DtlTimings, LogNotes, Patrol, PatrolSettings, TailLeft, VolumeDriver, VolumeDriverSettings
from vpool.cache_directory import CacheDirectory
from vpool.checks import Start, check_local, open_backend
from vpool.clustering import cluster_place
from vpool.disk_watch import DiskWatch
from vpool.errors import VPoolError
from vpool.exitcodes import LEFT_IN_CACHE, OK, REGISTRY_UNTOLD, exit_code
from vpool.health import Health, probes_of
from vpool.leasing import LeaseKeeper
from vpool.logs import set_up_logs
from vpool.place import Identity
from vpool.runtime import announced
from vpool.service_manager import ServiceManager
from vpool.settings import SEGMENT_BYTES, DtlSettings, Settings
from vpool.settings_file import load_settings
from vpool.stopping import StopRequest
from vpool.version import VERSION
from vpool.watching import changed_settings, make_watch

log = structlog.get_logger()

OPEN_FILES = 65_536
RESEND_S = 5.0  # of what a hand-over has said: links lose nothing as long as they hold
REGISTRY_SILENT_S = 5.0  # a stop waits no longer for its answers
UNTOLD = (
    "vpool: stopped; but a majority of the registry's voters was away, and it could not be told everything. Nothing acknowledged "
    "is lost: keep DIR/cache, bring a majority back, and start this node again"
)


@dataclass(frozen=True, slots=True)
class Orders:
    """What a daemon is to run, and for whom."""

    directory: Path
    mountpoint: Path
    backend: str | None
    settings: Settings
    manager: ServiceManager
    stop_limit_s: float | None  # of a whole clean stop; None: however long it takes


def up(directory: Path, mountpoint: Path, *, backend: str | None = None, config: Path | None = None) -> int:
    """Run a node until a signal stops it; the exit code.

    Raises:
        VPoolError: the start was refused, and nothing has changed; or the node could not go on.
    """
    code = run(Orders(directory, mountpoint, backend, load_settings(config), ServiceManager(), None))
    return OK if code == LEFT_IN_CACHE else code


def run(orders: Orders) -> int:
    """Run a node until a signal stops it.

    OK; REGISTRY_UNTOLD when the registry did not answer any more; else LEFT_IN_CACHE when the backend has not got everything.

    Raises:
        VPoolError: the start was refused, and nothing has changed; or the node could not go on.
    """
    tap = EventTap()
    set_up_logs(orders.settings.log, tap)
    os.umask(0o077)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most), most))
    try:
        return trio.run(_run, orders, tap)
    except BaseExceptionGroup as group:
        ours = list(_leaves(group))
        for other in ours:
            log.error("daemon_failed", error=repr(other), exc_info=None if isinstance(other, VPoolError) else other)
        raise max(ours, key=exit_code_rank) from None


def exit_code_rank(error: BaseException) -> bool:
    """Which of several errors is told: one that an operator can act on before one that is not ours."""
    return isinstance(error, VPoolError) and exit_code(error) != 1


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def _run(orders: Orders, tap: EventTap) -> int:
    def stop_begins() -> None:
        orders.manager.stopping(orders.stop_limit_s)
        if orders.stop_limit_s is not None:
            stop.must_end_within(orders.stop_limit_s)

    stop = StopRequest(stop_begins)
    left: list[TailLeft] = []
    untold: set[str] = set()
    async with trio.open_nursery() as beside:
        await beside.start(stop.watch)
        beside.start_soon(orders.manager.extend_start)
        with stop.starting():
            start = await trio.to_thread.run_sync(
                check_local, orders.directory, orders.mountpoint, orders.backend, orders.settings
            )
            await _serve(start, orders, stop, left, untold, tap)
        beside.cancel_scope.cancel()
    if untold:
        log.warning("registry_untold", commands=" ".join(sorted(untold)))
        print(UNTOLD, file=sys.stderr, flush=True)
    log.info("daemon_stopped", left_in_cache=len(left))
    if untold:
        return REGISTRY_UNTOLD
    return LEFT_IN_CACHE if left else OK


async def _serve(start: Start, orders: Orders, stop: StopRequest, left: list[TailLeft], untold: set[str], tap: EventTap) -> None:
    """Serve until a stop is asked for; on leaving what could not be sent is in ``left``, what could not be told in ``untold``."""
    settings, manager = orders.settings, orders.manager
    async with AsyncExitStack() as stack:
        metrics = stack.enter_context(listening(settings.watch.metrics_address))
        if start.place.is_embedded(start.backend):
            identity = start.place.settle(start.backend)
            store = await open_backend(start, settings)
            stack.push_async_callback(store.aclose)
        else:
            store = await open_backend(start, settings)
            stack.push_async_callback(store.aclose)
            identity = start.place.settle(start.backend)
        events = EventRing(start.place.events, bytes_max=settings.watch.events_bytes)
        tap.attach(events.record)
        log.info(
            "daemon_starting", directory=str(start.place.directory), backend=start.backend, vpool=identity.vpool, version=VERSION
        )
        log.info("settings_in_force", changed=changed_settings(settings))
        if start.dead_mount:
            log.info("dead_mount_removed", mountpoint=str(start.mountpoint))
            await trio.to_thread.run_sync(fuse.detach, start.mountpoint)
        node = await stack.enter_async_context(_node(start, settings, identity, store, left))
        rooms = (node.router, node.volumes, node.store, node.engine, node.registry, node.patrol, node.exporter, node.keeper)
        watch = make_watch(start.place, settings, events, *rooms)
        mount = await stack.enter_async_context(_front_ends(start, settings, identity, node, stop, watch))
        stack.enter_context(announced(start.place.directory, identity.node))
        stop.started()
        manager.ready(f"serving {start.mountpoint}")
        print(f"vpool ready: {start.mountpoint} (vPool {identity.vpool}, backend {start.backend}, pid {os.getpid()})", flush=True)
        async with trio.open_nursery() as watched:
            watched.start_soon(watch.run)
            if metrics is not None:
                await watched.start(serve_metrics, watch, metrics)
            if manager.watchdog_s is not None:
                watched.start_soon(
                    Health(probes_of(node.registry, node.volumes, node.has_neighbours), manager.alive, manager.watchdog_s).run
                )
            await stop.requested.wait()
            watched.cancel_scope.cancel()
        log.info("daemon_stopping", within_s=settings.fuse.stop_s + settings.volumes.stop_s)
        await mount.stop(limit_s=settings.fuse.stop_s)
        node.registry.lose_patience(REGISTRY_SILENT_S)
    untold.update(node.registry.untold)


@dataclass(frozen=True, slots=True)
class _Node:
    """The rooms that the front ends need."""

    store: ObjectStore
    registry: RegistryClient
    exporter: NamespaceExporter
    engine: Engine
    volumes: VolumeDriver
    router: ObjectRouter
    patrol: Patrol
    keeper: LeaseKeeper | None  # of one of several

    @property
    def has_neighbours(self) -> bool:
        """Whether it is one of several."""
        return self.keeper is not None


@asynccontextmanager
async def _node(
    start: Start, settings: Settings, identity: Identity, store: ObjectStore, left: list[TailLeft]
) -> AsyncIterator[_Node]:
    async with AsyncExitStack() as stack:
        cluster = cluster_place(start.place, identity, settings.cluster)
        if cluster is not None:
            log.info("cluster_joining", listen=str(cluster.listen), advertise=str(cluster.advertise))
        registry = await stack.enter_async_context(RegistryClient.start(start.place.registry, identity.node, cluster))
        left_open = registry.view.inodes_held(identity.node)
        sizes_known = start.place.sizes_known
        if left_open:  # registering anew forgets them: should this life end before they are looked up, the next looks at all
            start.place.forget_sizes_known()
        await registry.submit(
            Initialise(
                identity.vpool,
                name=start.place.directory.name,
                format=REGISTRY_FORMAT,
                volume_rules=settings.namespace.volume_rules,
                now_ns=time.time_ns(),
                uid=os.geteuid(),
                gid=os.getegid(),
            )
        )
        address = "" if cluster is None else str(cluster.advertise.neighbour())
        await registry.submit(
            RegisterNode(
                identity.node,
                address=address,
                incarnation=registry.incarnation,
                domain=settings.cluster.failure_domain or None,
                release=VERSION[:64],
            )
        )
        neighbourhood, keeper = None, None
        if cluster is not None:
            keeper = await stack.enter_async_context(LeaseKeeper.start(registry, maintenance_s=settings.cluster.maintenance_s))
            neighbourhood = _neighbourhood(cluster, identity, keeper.lease, start, settings)
        exporter = await stack.enter_async_context(
            NamespaceExporter.start(
                registry=registry,
                store=store,
                vpool_id=identity.vpool,
                settings=ExporterSettings(**settings.recovery.model_dump()),
            )
        )
        make_engine = partial(
            Engine,
            str(start.place.cache),
            segments_max=settings.cache.segments_max,
            map_cache_bytes=settings.cache.map_cache_bytes,
            read_cache_bytes=settings.cache.read_bytes,
        )
        engine = await trio.to_thread.run_sync(make_engine)  # looks through the log: blocks
        stack.push_async_callback(trio.to_thread.run_sync, engine.close)
        driver = VolumeDriver.start(
            engine=engine,
            store=store,
            registry=registry,
            node_id=identity.node,
            vpool_id=identity.vpool,
            settings=VolumeDriverSettings(**settings.volumes.model_dump()),
            notes=None if neighbourhood is None else neighbourhood.notes,
        )
        volumes = await stack.enter_async_context(_noting_what_is_left(driver, left))
        if keeper is not None:
            keeper.watch_disk(DiskWatch(start.place.cache, lambda: volumes.has_halted))
            keeper.room = lambda: _room_bytes(engine)
            keeper.unsaved = volumes.unsaved
        files = await stack.enter_async_context(FileDriver.start(volumes=volumes, registry=registry))
        router = await stack.enter_async_context(
            ObjectRouter.start(
                registry=registry,
                volumes=volumes,
                files=files,
                settings=RouterSettings(
                    volume_rules=settings.namespace.volume_rules,
                    slow_s=settings.watch.slow_s,
                    slow_kept=settings.watch.slow_kept,
                ),
                left_open=left_open,
                sizes_known=sizes_known,
                note_sizes_known=start.place.note_sizes_known,
                note_sizes_unknown=start.place.forget_sizes_known,
                neighbourhood=neighbourhood,
            )
        )
        if keeper is not None:
            keeper.answers_waiting = lambda: router.answers_waiting
        patrol = await stack.enter_async_context(
            Patrol.start(
                volumes.patrol_ground(),
                start.place.directory / "verify.json",
                PatrolSettings(
                    days=settings.verify.days or None,
                    bytes_per_s_max=settings.verify.bytes_per_s_max,
                    patience_s=settings.volumes.lost_object_s,
                ),
            )
        )
        yield _Node(store, registry, exporter, engine, volumes, router, patrol, keeper)


def _room_bytes(engine: Engine) -> int:
    """What the log can still take; nothing while its disk refuses, whatever the settings allow."""
    stats = engine.stats()
    return 0 if stats.full else stats.segments_free * SEGMENT_BYTES


def _mirror(of: DtlSettings) -> MirrorSettings:
    timings = DtlTimings(patience_s=of.patience_s, lag_bytes=of.lag_bytes, lag_s=of.lag_s)
    return MirrorSettings(of.mode, of.change_peer_s, timings)


def _neighbourhood(cluster: ClusterPlace, identity: Identity, lease: Lease, start: Start, settings: Settings) -> Neighbourhood:
    """How this node's router talks to the others."""
    process, moves = secrets.token_hex(8), settings.cluster

    def hello(purpose: Purpose) -> Hello:
        return Hello(PROTOCOL, purpose, identity.vpool, identity.node, identity.format, process, time.time())

    return Neighbourhood(
        listen=cluster.listen.neighbour(),
        credentials=CredentialFiles(cluster.directory),
        hello=hello,
        lease=lease,
        notes=LogNotes(start.place.cache / "notes"),
        mirror=_mirror(settings.dtl),
        power_off=settings.dtl.power_off,
        wait_s=float("inf") if settings.cluster.owner_wait_s is None else settings.cluster.owner_wait_s,
        timings=HandoverTimings(stay_s=moves.move_stay_s, pause_s=moves.move_pause_s, resend_s=RESEND_S),
        threshold=Threshold(moves.move_requests, moves.move_half_life_s) if moves.move_requests else None,
    )


@asynccontextmanager
async def _noting_what_is_left(
    driver: AbstractAsyncContextManager[VolumeDriver], left: list[TailLeft]
) -> AsyncIterator[VolumeDriver]:
    """The driver; once it has stopped, ``left`` has what it could not send."""
    started = None
    try:
        async with driver as started:
            yield started
    finally:
        if started is not None:
            left.extend(started.left)


@asynccontextmanager
async def _front_ends(
    start: Start, settings: Settings, identity: Identity, node: _Node, stop: StopRequest, watch: Watch
) -> AsyncIterator[fuse.Mount]:
    facts = admin.NodeFacts(
        version=VERSION,
        vpool=identity.vpool,
        node=identity.node,
        directory=str(start.place.directory),
        mountpoint=str(start.mountpoint),
        volume_rules=settings.namespace.volume_rules,
        segment_bytes=SEGMENT_BYTES,
    )
    administration = admin.Administration(
        facts=facts, namespace=node.router, volumes=node.volumes, store=node.store, engine=node.engine
    )
    async with trio.open_nursery() as nursery:
        watching = partial(add_watching, watch=watch)
        cache = CacheDirectory(start.place, settings.cache.size_bytes, mountpoint=start.mountpoint)
        await nursery.start(
            admin.serve, administration, start.place.socket, *_routes(administration, node, identity, cache), watching
        )
        mount = await nursery.start(_mounted, start, settings, identity, node, stop)
        stop.in_emergency(mount.abandon)
        yield mount
        nursery.cancel_scope.cancel()


def _routes(
    administration: admin.Administration, node: _Node, identity: Identity, cache: CacheDirectory
) -> list[Callable[[FastAPI], None]]:
    """What the tools for volumes, files, objects and the cache ask."""
    view = node.router.registry.view
    contents = admin.Contents(administration, node.router, node.volumes)
    buckets = admin.Buckets(administration, node.store, view, node.volumes, identity.vpool)
    return [
        partial(admin.add_contents, contents=contents),
        partial(admin.add_entries, entries=admin.Entries(node.router, view)),
        partial(admin.add_buckets, buckets=buckets),
        partial(admin.add_caching, caching=admin.Caching(node.volumes, node.router, view, cache)),
        partial(admin.add_moving, moving=admin.Moving(administration, node.router, view)),
        partial(admin.add_nodes, nodes=admin.Nodes(node.registry, node.keeper)),
        partial(admin.add_takeovers, takeovers=admin.Takeovers(administration, node.router, view)),
        partial(admin.add_patrolling, patrolling=admin.Patrolling(node.patrol, view)),
    ]


async def _mounted(
    start: Start,
    settings: Settings,
    identity: Identity,
    node: _Node,
    stop: StopRequest,
    *,
    task_status: trio.TaskStatus[fuse.Mount],
) -> None:
    """The mount; a stop is asked for when somebody else unmounts it.

    The kernel believes nothing where other nodes change names and sizes: it asks, and what it is told is never old.
    """
    await fuse.serve(
        node.router,
        start.mountpoint,
        vpool_id=identity.vpool,
        entry_timeout_s=0.0 if node.has_neighbours else settings.fuse.entry_timeout_s,
        attributes_timeout_s=0.0 if node.has_neighbours else settings.fuse.attributes_timeout_s,
        sync_on_close=settings.fuse.sync_on_close,
        limits=fuse.Limits(
            requests_max=settings.fuse.requests_max,
            background_max=settings.fuse.background_max,
            open_for_writing_max=settings.fuse.open_for_writing_max,
        ),
        task_status=task_status,
    )
    if not stop.requested.is_set():
        log.info("unmounted_by_somebody", mountpoint=str(start.mountpoint))
        stop.request()
