"""``vpool recover`` and ``vpool registry restore``: a registry made anew, from the buckets alone or from a backup.

Both plan first, change nothing in the backend, and put a finished registry in its place by a rename; an interruption leaves what
was there before, or something that the same command begins anew. No daemon runs on DIR meanwhile: its lock is held.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from backend import ObjectStore, open_store, would_be_new
from recovery import (
    Namespace,
    RecoveryPlan,
    Tell,
    load_backup,
    load_newest,
    only_vpool,
    plan_recovery,
    rebuilt,
    vpools_in,
    write_registry,
)
from volumedriver import shared_bucket
from vpool.durable import sync_directory
from vpool.errors import Conflict, Invalid, NotFound
from vpool.place import FORMAT, MARKER, Identity, Place, embedded_url
from vpool.settings import Settings

BUILDING = "registry.new"
MARKER_NEXT = f"{MARKER}.recovered"  # the marker-to-be: says that registry/ beside it is ours to remove
Show = Callable[[RecoveryPlan, Namespace | None], None]


@dataclass(frozen=True, slots=True)
class Rescued:
    """What was done."""

    plan: RecoveryPlan
    directory: str
    carried_out: bool  # False: only planned
    moved_aside: str  # where the registry that was there is now; "" if there was none


async def recover(
    directory: Path,
    backend: str | None,
    *,
    vpool: str | None,
    settings: Settings,
    dry_run: bool,
    show: Show,
    tell: Tell,
) -> Rescued:
    """Rebuild a vPool's registry in an empty DIR (an absolute path) from what its buckets hold.

    Raises:
        Invalid: DIR is not empty, or the address is wrong.
        NotFound, Conflict: which vPool is meant cannot be said; a daemon has DIR.
        Unavailable, Denied: the backend.
    """
    leftovers = _check_empty(directory)
    if backend is None and not (directory / "backend").is_dir():
        raise Invalid("name the backend whose buckets are to be looked into: --backend URL")
    embedded = embedded_url(directory)
    url = backend or embedded
    async with _store(url, settings) as store:
        found = await vpools_in(store)
        wanted = only_vpool(found, vpool, url)
        namespace = await load_newest(store, shared_bucket(wanted))
        plan = await plan_recovery(store, wanted, namespace, tell=tell)
    show(plan, namespace)
    if dry_run:
        return Rescued(plan, str(directory), False, "")
    await trio.to_thread.run_sync(_found, directory, leftovers, namespace, plan, "" if url == embedded else url, settings)
    return Rescued(plan, str(directory), True, "")


async def restore(directory: Path, backup: Path, *, settings: Settings, dry_run: bool, show: Show, tell: Tell) -> Rescued:
    """Put a backup's namespace in the place of DIR's registry, with heads and epochs from the buckets.

    The registry that is there is moved aside, never removed. The cache is kept: tails in it are found again.

    Raises:
        Invalid: DIR is no vPool, the backup is of another one or no backup.
        Conflict: a daemon has DIR. Corrupt: the backup is damaged.
        Unavailable, Denied: the backend.
    """
    place = Place(directory)
    if place.identity is None:
        raise Invalid(f"{directory} is no vPool; a registry is restored into the DIR that had it, or made by `vpool recover`")
    identity = place.identity
    place.lock()
    try:
        namespace = await trio.to_thread.run_sync(load_backup, backup)
        if namespace.export.vpool != identity.vpool:
            raise Invalid(f"{backup} is of the vPool {namespace.export.vpool}, {directory} belongs to {identity.vpool}")
        async with _store(place.backend_url(None), settings) as store:
            plan = await plan_recovery(store, identity.vpool, namespace, tell=tell)
        show(plan, namespace)
        if dry_run:
            return Rescued(plan, str(directory), False, "")
        aside = await trio.to_thread.run_sync(_replace_registry, place, namespace, plan, identity.node, settings)
    finally:
        place.unlock()
    return Rescued(plan, str(directory), True, aside)


@asynccontextmanager
async def _store(url: str, settings: Settings) -> AsyncIterator[ObjectStore]:
    _check_is_there(url)
    store = await open_store(url, settings=settings.backend)
    try:
        await store.check()
        yield store
    finally:
        await store.aclose()


def _check_is_there(url: str) -> None:
    """A directory without anything in it is refused: opening it would make a store of it."""
    if would_be_new(url):
        raise NotFound("there is no bucket of any vPool, since there is nothing in the directory", backend=url)


def _check_empty(directory: Path) -> list[Path]:
    """What an interrupted recovery has left in DIR; everything else is refused."""
    if not directory.exists():
        if not directory.parent.is_dir():
            raise Invalid(f"{directory} cannot be made: {directory.parent} is not a directory")
        return []
    if not directory.is_dir():
        raise Invalid(f"{directory} is not a directory")
    if (directory / MARKER).exists():
        raise Invalid(f"{directory} is a vPool; recover into an empty DIR, or use `vpool registry restore`")
    ours = {BUILDING, MARKER_NEXT} | ({"registry"} if (directory / MARKER_NEXT).exists() else set())
    foreign = sorted({entry.name for entry in directory.iterdir()} - ours - {"backend", "lost+found"})
    if foreign:
        raise Invalid(f"{directory} is not empty (it has {foreign[0]!r}); name a DIR that is empty or not there yet")
    return [directory / name for name in sorted(ours) if (directory / name).exists()]


def _found(
    directory: Path, leftovers: list[Path], namespace: Namespace | None, plan: RecoveryPlan, backend: str, settings: Settings
) -> None:
    directory.mkdir(mode=0o700, exist_ok=True)
    for path in leftovers:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    place = Place(directory)
    place.lock()
    try:
        identity = Identity(FORMAT, plan.vpool, uuid.uuid4().hex, backend)
        _build(place, namespace, plan, identity.node, settings)
        (directory / MARKER_NEXT).touch(mode=0o600)
        sync_directory(directory)
        (directory / BUILDING).rename(place.registry)
        sync_directory(directory)
        place.adopt(identity)
        (directory / MARKER_NEXT).unlink()
        sync_directory(directory)
    finally:
        place.unlock()


def _replace_registry(place: Place, namespace: Namespace, plan: RecoveryPlan, node: str, settings: Settings) -> str:
    aside = place.directory / time.strftime("registry.before-restore-%Y%m%dT%H%M%SZ", time.gmtime())
    if aside.exists():
        raise Conflict(f"{aside} is there already; try again in a second")
    if (place.directory / BUILDING).exists():
        shutil.rmtree(place.directory / BUILDING)
    _build(place, namespace, plan, node, settings)
    place.forget_sizes_known()  # the published sizes are those of the backup
    had_one = place.registry.exists()
    if had_one:
        place.registry.rename(aside)
    (place.directory / BUILDING).rename(place.registry)
    sync_directory(place.directory)
    return str(aside) if had_one else ""


def _build(place: Place, namespace: Namespace | None, plan: RecoveryPlan, node: str, settings: Settings) -> None:
    state = rebuilt(
        namespace.items if namespace is not None else {},
        plan,
        keep_owner=node,
        volume_rules=settings.namespace.volume_rules,
        now_ns=time.time_ns(),
    )
    index = namespace.export.index + 1 if namespace is not None else 1
    write_registry(place.directory / BUILDING, state, index)
    sync_directory(place.directory / BUILDING)
