"""``vpool cache replace`` while no daemon runs: for a disk that no daemon comes up with. Blocks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine import Engine
from registry import RegistryView
from volumedriver import StillDirty, unsent
from vpool.cache_directory import CacheDirectory
from vpool.errors import Conflict, Invalid, VPoolError
from vpool.place import Place

MAP_CACHE_BYTES = 64 << 20
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Replaced:
    """What came of it."""

    path: Path  # where the cache is now
    old: Path | None  # where the old one is
    lost: list[StillDirty]
    unreadable: str  # why nobody knows what the old one had; empty if that is known


def replace_offline(directory: Path, new: Path | None, *, needed_bytes: int, accept_loss: bool) -> Replaced:
    """Put another cache directory in place, or an emptied one.

    Raises:
        Invalid: DIR is no vPool, or ``new`` no place for a cache.
        Conflict: a daemon runs; or the cache has what the backend has not, and ``accept_loss`` is not given. Nothing has changed.
        Denied, NoSpace, Unavailable: the disk refuses.
    """
    place = Place(directory)
    if place.identity is None:
        raise Invalid(f"{directory} is no vPool")
    place.lock()
    try:
        cache = CacheDirectory(place, needed_bytes)
        cache.check(new)
        lost, unreadable = _look(place)
        if (lost or unreadable) and not accept_loss:
            raise Conflict(_told(lost, unreadable))
        old = cache.change(new, complete=not lost and not unreadable)
        return Replaced(cache.real, old, lost, unreadable)
    finally:
        place.unlock()


def _look(place: Place) -> tuple[list[StillDirty], str]:
    if not (place.cache / "log").is_dir():
        return [], "there is no log in it"
    try:
        engine = Engine(str(place.cache), segments_max=1, map_cache_bytes=MAP_CACHE_BYTES, read_cache_bytes=0)
        try:
            with RegistryView(place.registry) as view:
                return unsent(engine, view, place.identity.node if place.identity is not None else ""), ""
        finally:
            engine.close()
    except VPoolError as error:
        return [], str(error)


def _told(lost: list[StillDirty], unreadable: str) -> str:
    if unreadable:
        what = f"what only the cache has is not known ({unreadable})"
    else:
        some = ", ".join(f"{each.bytes} bytes of {each.object}: {each.reason}" for each in lost[:SHOWN])
        what = (
            f"the backend has not got everything ({some}{', …' if len(lost) > SHOWN else ''}); start the daemon to have it sent"
        )
    return f"{what}; --accept-loss goes on without it; nothing has changed"
