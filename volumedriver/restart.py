"""Opening a volume: from what is local, from the backend, or from both; always into a new epoch.

Order (docs/architecture.md, "a restart"): look at the local log and make its tail durable; bring the map from the backend
if the local one is gone or behind; only then take the new epoch in the registry, with base = head; only then serve. A crash
between any two of these leaves a volume that is opened the same way again. Where another node has handed the object over, or it
was stolen, the epoch is taken already, and the log is what was staged for it, or none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
import trio

from engine import Engine, Recovery, RootRef, TlogRef, tlog_previous
from engine import Volume as EngineVolume
from registry import Halt, Head, NewEpoch, ObjectKind, ObjectRecord, RegistryClient, TlogName
from volumedriver.fetch import Fetcher
from volumedriver.local_choice import LocalChoice
from volumedriver.names import Place
from volumedriver.settings import VolumeDriverSettings
from volumedriver.unsent import look_at
from vpool.errors import Corrupt, Halted

log = structlog.get_logger()

TLOGS_MAX = 4096  # between a checkpoint and the head; far above what the settings allow
READ_TRIES = 3


@dataclass(frozen=True, slots=True)
class Opened:
    """A volume that serves, and the record of its new epoch."""

    native: EngineVolume
    record: ObjectRecord


async def open_volume(
    record: ObjectRecord,
    *,
    levels: int,
    place: Place,
    node_id: str,
    engine: Engine,
    fetcher: Fetcher,
    registry: RegistryClient,
    settings: VolumeDriverSettings,
    event_token: int,
    accept_loss: bool = False,
    choice: LocalChoice | None = None,
    taken: bool = False,
) -> Opened:
    """Open a volume that this node owns or may own.

    ``choice``: of a node of a cluster. ``taken``: the registry has given this node the record's epoch, by a hand-over or a steal.

    Errors: Halted (the durable part of the local log is damaged: says where and what to do; also recorded in the registry),
    Corrupt (an object that the head needs is damaged or missing), Conflict (the epoch moved meanwhile), Unavailable
    (``stall_s``), NoSpace (the cache disk has no room for the map; nothing but the epoch has changed).
    """

    async def look(head: Head | None) -> Recovery:
        recovery = await _look(record.id, head, levels, engine)
        await judge(recovery)
        if recovery.map_lost and head is not None:
            await _load_map(recovery, head, place, fetcher)
            await judge(recovery)  # again: only now is it certain where the head ends
        return recovery

    async def judge(recovery: Recovery) -> None:
        if recovery.damage is None or accept_loss:
            return
        reason = (
            f"the local log is damaged where it was durable: {recovery.damage}; "
            f"to go on without what lies behind: {opening(record.kind)} --accept-loss"
        )
        await registry.submit(Halt(record.id, reason))
        raise Halted(reason, object=record.id)

    if choice is not None:
        await choice.prepare(record, taken=taken)
    recovery = await look(record.head)
    if taken:
        opened = record
    else:
        if choice is not None:
            await choice.before_epoch(record)
        opened = await registry.submit(NewEpoch(record.id, record.epoch, node_id))
    if opened.head != record.head:  # one of the epoch before was still under way; from now on none can come
        recovery = await look(opened.head)
    tail_clusters, from_backend = recovery.tail_clusters, recovery.map_lost and opened.head is not None
    native = await trio.to_thread.run_sync(
        lambda: recovery.open(
            opened.epoch,
            soft_bytes=settings.soft_bytes,
            hard_bytes=settings.hard_bytes,
            event_token=event_token,
            accept_loss=accept_loss,
        )
    )
    if choice is not None:
        await choice.opened(record.id, opened.epoch, native.stats().lsn + 1)
    log.info(
        "volume_opened",
        object=record.id,
        epoch=opened.epoch,
        tail_clusters=tail_clusters,
        map_from_backend=from_backend,
    )
    return Opened(native, opened)


def opening(kind: ObjectKind) -> str:
    """The command that opens what is halted again."""
    return "vpool volume open PATH" if kind is ObjectKind.VOLUME else "vpool files open"


async def _look(object_id: str, head: Head | None, levels: int, engine: Engine) -> Recovery:
    return await trio.to_thread.run_sync(look_at, engine, object_id, levels, head)


async def _load_map(recovery: Recovery, head: Head, place: Place, fetcher: Fetcher) -> None:
    """The newest checkpoint (its root only), then every TLog from there to the head; that one always: it says where it ends."""
    root = head.checkpoint
    if root is not None:
        reference = RootRef(root.epoch, root.object, root.offset, root.length, root.checksum)
        name = place.checkpoint(root)

        async def load_root() -> None:
            data = await fetcher.object(place, name, start=root.offset, length=root.length)
            recovery.load_checkpoint(reference, data)

        await _while_damaged(load_root, place, name)
    history: list[tuple[TlogRef, bytes]] = []
    reference_back: TlogRef | None = _tlog_ref(head.tlog)
    while reference_back is not None and (not history or reference_back.number > head.checkpoint_tlog):
        if len(history) == TLOGS_MAX:
            raise Corrupt("more TLogs since the checkpoint than there can be", tlogs=len(history))
        data, previous = await _tlog(reference_back, place, fetcher)
        history.append((reference_back, data))
        reference_back = previous
    for tlog, data in reversed(history):
        await trio.to_thread.run_sync(recovery.apply_tlog, tlog, data)


async def _tlog(reference: TlogRef, place: Place, fetcher: Fetcher) -> tuple[bytes, TlogRef | None]:
    name = place.tlog(TlogName(reference.epoch, reference.number, reference.combined_sco, reference.checksum))
    found: list[tuple[bytes, TlogRef | None]] = []

    async def load() -> None:
        data = await fetcher.object(place, name)
        found.append((data, tlog_previous(data)))

    await _while_damaged(load, place, name)
    return found[0]


async def _while_damaged(load: Callable[[], Awaitable[None]], place: Place, name: str) -> None:
    """A damaged body is fetched again a few times; a damaged object stays an error that names it."""
    for attempt in range(1, READ_TRIES + 1):
        try:
            await load()
        except Corrupt as error:
            log.warning("backend_object_damaged", bucket=place.bucket, object=name, reason=str(error), attempt=attempt)
            if attempt == READ_TRIES:
                raise Corrupt(
                    f"an object that the volume needs cannot be used: {error}", bucket=place.bucket, object=name
                ) from error
        else:
            return


def _tlog_ref(name: TlogName) -> TlogRef:
    return TlogRef(name.epoch, name.number, name.combined_sco, name.checksum)
