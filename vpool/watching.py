"""Wires what an operator watches a node by: settings, places and rooms in, a running watch out."""

from __future__ import annotations

from typing import Any

from admin.watching import EventRing, Gathering, Mutes, Rooms, Watch, WatchSettings
from backend import ObjectStore
from engine import Engine
from objectrouter import ObjectRouter
from recovery import NamespaceExporter
from registry import RegistryClient
from volumedriver import Patrol, VolumeDriver
from vpool.leasing import LeaseKeeper
from vpool.place import Place
from vpool.settings import SEGMENT_BYTES, Settings
from vpool.version import VERSION


def make_watch(
    place: Place,
    settings: Settings,
    events: EventRing,
    router: ObjectRouter,
    volumes: VolumeDriver,
    store: ObjectStore,
    engine: Engine,
    registry: RegistryClient,
    patrol: Patrol,
    exporter: NamespaceExporter,
    cluster: LeaseKeeper | None,
) -> Watch:
    """A watch over a node's rooms; nothing runs yet."""
    rooms = Rooms(
        router, volumes, store, engine, registry, patrol, exporter, events, place.cache, SEGMENT_BYTES, VERSION, cluster
    )
    watch = settings.watch
    return Watch(
        Gathering(rooms),
        Mutes(place.health_mutes),
        WatchSettings(watch.period_s, watch.backend_check_s, watch.dirty_old_s, settings.verify.days),
        hard_bytes=settings.volumes.hard_bytes,
    )


def changed_settings(settings: Settings) -> dict[str, Any]:
    """What differs from the defaults, as ``section.key``: an event of each start."""
    defaults = type(settings).model_construct().model_dump(mode="json")
    found = settings.model_dump(mode="json")
    return {
        f"{section}.{key}": value
        for section, keys in found.items()
        for key, value in keys.items()
        if value != defaults[section][key]
    }
