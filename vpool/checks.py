"""Everything that can be wrong with a start, found before anything has changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import structlog

import fuse
from backend import ObjectStore, open_store
from vpool.errors import Invalid, Unavailable
from vpool.place import Place
from vpool.settings import Settings

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Start:
    """What ``vpool up`` was asked for, checked."""

    place: Place
    mountpoint: Path
    backend: str
    dead_mount: bool  # a killed predecessor's mount has to be removed first


def check_local(directory: Path, mountpoint: Path, backend: str | None, settings: Settings) -> Start:
    """Check all that this machine knows; blocks. Takes the DIR, if it is there, but changes nothing.

    Raises:
        Invalid, Conflict, Denied, NoSpace: what is wrong and what would be right.
    """
    target = fuse.resolve(mountpoint)
    source = directory.absolute() if target in (directory.absolute(), *directory.absolute().parents) else directory.resolve()
    if target == source or target in source.parents or source in target.parents:
        raise Invalid(f"MOUNT {target} and DIR {source} must not be inside one another; name two directories")
    place = Place(source)
    url = place.backend_url(backend)
    if url.startswith("dir:") and target in (path := Path(url.removeprefix("dir:").partition("?")[0]), *path.parents):
        raise Invalid(f"the backend {url} must not be inside MOUNT {target}")
    place.lock()
    place.check_store(url)
    dead = fuse.check_mountpoint(target, place.identity.vpool if place.identity is not None else None)
    place.check_cache()
    place.check_room(settings.cache.size_bytes)
    return Start(place, target, url, dead)


async def open_backend(start: Start, settings: Settings) -> ObjectStore:
    """The store, tried out; a new vPool needs it to answer, one that is known starts without it and says so.

    Raises:
        Invalid, Denied, Unavailable: what is wrong with address, credentials or endpoint.
    """
    store = await open_store(start.backend, settings=settings.backend)
    try:
        await store.check()
    except Unavailable as error:
        if start.place.identity is None:
            await store.aclose()
            raise
        log.warning(
            "backend_unreachable", backend=start.backend, error=str(error), consequence="serving from the cache until it is back"
        )
    except BaseException:
        await store.aclose()
        raise
    return store
