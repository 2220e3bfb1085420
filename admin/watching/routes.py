"""The routes of watching: ``/metrics``, ``/v1/events``, ``/v1/health``, ``/v1/slow``, ``/v1/top``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import trio
from fastapi import FastAPI, Query, Response

from admin.models import ErrorReport
from admin.watching.event_ring import Event
from admin.watching.gathering import REQUEST_BOUNDS_S
from admin.watching.health_codes import HEALTH_CODES
from admin.watching.metrics import CONTENT_TYPE, exposition
from admin.watching.models import (
    EventList,
    EventReport,
    HealthReport,
    NewMute,
    ProblemReport,
    SlowList,
    SlowReport,
    TopOperation,
    TopReport,
    TopVolume,
)
from admin.watching.sample import OperationSample, VolumeSample
from admin.watching.watch import Health, Watch

WAIT_S_MAX = 30.0
EVENTS_MAX = 10_000


async def metrics_of(watch: Watch) -> bytes:
    """The text that Prometheus asks for."""
    return await trio.to_thread.run_sync(exposition, await watch.look(check_every_s=60.0))


def add_watching(api: FastAPI, watch: Watch) -> None:
    """Add the routes."""
    refusals = {"model": ErrorReport}

    @api.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(await metrics_of(watch), media_type=CONTENT_TYPE)

    @api.get("/v1/events", responses={"default": refusals})
    async def events(
        after: Annotated[int, Query(ge=0, description="only events with a higher number")] = 0,
        since: Annotated[float, Query(ge=0, description="only events at or after this unix time")] = 0.0,
        limit: Annotated[int, Query(ge=1, le=EVENTS_MAX, description="the newest so many")] = 1000,
        wait_s: Annotated[float, Query(ge=0, le=WAIT_S_MAX, description="wait so long for one, if there is none")] = 0.0,
    ) -> EventList:
        return await _events(watch, after, since, limit, wait_s)

    @api.get("/v1/health", responses={"default": refusals})
    async def health() -> HealthReport:
        return _health(await watch.look(), watch)

    @api.post("/v1/health/mutes", responses={"default": refusals})
    async def mute(new: NewMute) -> HealthReport:
        watch.mutes.mute(new.code, new.seconds)
        return _health(await watch.look(), watch)

    @api.delete("/v1/health/mutes/{code}", status_code=204, responses={"default": refusals})
    async def unmute(code: str) -> None:
        watch.mutes.unmute(code)

    @api.get("/v1/slow", responses={"default": refusals})
    async def slow() -> SlowList:
        return await _slow(watch)

    @api.get("/v1/top", responses={"default": refusals})
    async def top() -> TopReport:
        return _top(await watch.look(check_every_s=60.0))


async def _events(watch: Watch, after: int, since: float, limit: int, wait_s: float) -> EventList:
    ring = watch.gathering.rooms.events
    if wait_s and ring.last <= after:
        await _next_event(watch, wait_s)
    last = ring.last
    found = await trio.to_thread.run_sync(lambda: _with_paths(watch, ring.read(after=after, since=since, limit=limit)))
    return EventList(events=[EventReport(**event) for event in found], last=last)


def _with_paths(watch: Watch, events: list[Event]) -> list[Event]:
    """Events that name an object also name its path, if it has one now."""
    view = watch.gathering.rooms.registry.view
    paths: dict[str, str] = {}
    for event in events:
        object_id = event.get("object")
        if not isinstance(object_id, str) or "path" in event:
            continue
        if object_id not in paths:
            record = view.object(object_id)
            paths[object_id] = (record is not None and record.inode and view.path_of(record.inode)) or ""
        if paths[object_id]:
            event["path"] = paths[object_id].removeprefix("/")
    return events


async def _next_event(watch: Watch, wait_s: float) -> None:
    token, come = trio.lowlevel.current_trio_token(), trio.Event()

    def tell() -> None:
        token.run_sync_soon(come.set, idempotent=True)

    forget = watch.gathering.rooms.events.listen(tell)
    try:
        with trio.move_on_after(wait_s):
            await come.wait()
    finally:
        forget()


def _health(health: Health, watch: Watch) -> HealthReport:
    return HealthReport(
        severity=health.severity.name.lower(),
        problems=[
            ProblemReport(
                code=each.problem.code,
                severity=each.problem.severity.name.lower(),
                subject=each.problem.subject,
                message=each.problem.message,
                remedy=HEALTH_CODES[each.problem.code].remedy,
                since=each.since,
                muted=each.muted,
                muted_until=each.muted_until,
            )
            for each in health.standing
        ],
        muted=watch.mutes.current(),
    )


async def _slow(watch: Watch) -> SlowList:
    rooms = watch.gathering.rooms
    kept, view = rooms.router.slow.kept(), rooms.registry.view
    paths = await trio.to_thread.run_sync(lambda: {request.inode: view.path_of(request.inode) for request in kept})
    return SlowList(
        threshold_s=rooms.router.slow.threshold_ns / 1e9,
        seen=rooms.router.slow.seen,
        requests=[SlowReport(path=(paths[request.inode] or "").removeprefix("/"), **asdict(request)) for request in kept],
    )


def _top(health: Health) -> TopReport:
    sample = health.sample
    store = sample.store.values()
    return TopReport(
        at=sample.at,
        boot_s=sample.boot_s,
        uptime_s=sample.uptime_s,
        severity=health.severity.name.lower(),
        problems=sorted({each.problem.code for each in health.standing if not each.muted}),
        bounds_s=list(REQUEST_BOUNDS_S),
        volumes=[_top_volume(volume) for volume in sample.volumes],
        log_used_bytes=sample.cache.log_used_bytes,
        log_limit_bytes=sample.cache.log_limit_bytes,
        read_cache_used_bytes=sample.cache.read_cache_used_bytes,
        read_cache_limit_bytes=sample.cache.read_cache_limit_bytes,
        uploads=sample.queues.uploads,
        uploads_queued=sample.queues.uploads_queued,
        fetches=sample.queues.fetches,
        fetches_queued=sample.queues.fetches_queued,
        sent_bytes=sum(of.sent_bytes for of in store),
        received_bytes=sum(of.received_bytes for of in store),
        backend_retries=sum(of.retries for of in store),
        anonymous_bytes=sample.anonymous_bytes,
    )


def _top_volume(volume: VolumeSample) -> TopVolume:
    return TopVolume(
        object=volume.object,
        path=volume.path,
        state=volume.state,
        dirty_bytes=volume.dirty_bytes,
        oldest_dirty_age_s=volume.oldest_dirty_age_s,
        waiting_writers=volume.waiting_writers,
        stalled=volume.stalled,
        misses=volume.misses,
        hit_bytes=volume.hit_bytes,
        missed_bytes=volume.missed_bytes,
        operations={name: _top_operation(of) for name, of in volume.operations.items()},
    )


def _top_operation(of: OperationSample) -> TopOperation:
    latency = of.latency
    return TopOperation(count=latency.count, failed=of.failed, bytes=of.bytes, sum_s=latency.sum_s, counts=list(latency.counts))
