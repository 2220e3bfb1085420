"""A vPool without front ends, in the test's own process: real engine, real registry process, any store.

``running`` starts it on a directory; leaving is a clean stop. What a killed daemon leaves behind is tested with a real one
(tests/crash).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from backend import ObjectStore
from engine import Engine
from filedriver import FileDriver
from objectrouter import ROOT_INODE, ObjectRouter, RouterSettings
from registry import Initialise, RegisterNode, RegistryClient
from volumedriver import VolumeDriver, VolumeDriverSettings

NODE = "node-1"
VPOOL = "5" * 32
MIB = 1 << 20

SMALL = VolumeDriverSettings(
    soft_bytes=32 * MIB, hard_bytes=48 * MIB, tlog_age_s=0.2, tlogs_per_checkpoint=3, scos_per_tlog=2, stop_s=60.0
)


@dataclass(frozen=True, slots=True)
class Parts:
    """What runs."""

    engine: Engine
    registry: RegistryClient
    volumes: VolumeDriver
    files: FileDriver
    router: ObjectRouter
    cache: Path

    async def volume(self, name: str = "disk.raw", size: int = 64 * MIB) -> int:
        """Inode of a new volume."""
        return (await self.router.create(ROOT_INODE, name, mode=0o600, uid=0, gid=0, size=size)).number

    def object_of(self, inode: int) -> str:
        """Object id behind an inode."""
        found = self.registry.view.inode(inode)
        assert found is not None
        return found.object

    async def in_backend(self, inode: int) -> None:
        """Until everything acknowledged is safe in the backend."""
        await self.volumes.drain(self.object_of(inode))


@asynccontextmanager
async def running(
    directory: Path,
    store: ObjectStore,
    *,
    settings: VolumeDriverSettings = SMALL,
    segments_max: int = 64,
    read_cache_bytes: int = 64 * MIB,
    map_cache_bytes: int = 64 * MIB,
) -> AsyncIterator[Parts]:
    """Start everything on ``directory``; ``store`` stays open."""
    (directory / "registry").mkdir(parents=True, exist_ok=True)
    async with RegistryClient.start(directory / "registry", NODE) as registry:
        held = registry.view.inodes_held(NODE)
        await registry.submit(RegisterNode(NODE, "", registry.incarnation))
        await registry.submit(Initialise(VPOOL, "test", 1, ("*.raw",), time.time_ns()))
        engine = await trio.to_thread.run_sync(
            lambda: Engine(
                str(directory / "cache"),
                segments_max=segments_max,
                map_cache_bytes=map_cache_bytes,
                read_cache_bytes=read_cache_bytes,
            )
        )
        try:
            async with (
                VolumeDriver.start(
                    engine=engine, store=store, registry=registry, node_id=NODE, vpool_id=VPOOL, settings=replace(settings)
                ) as volumes,
                FileDriver.start(volumes=volumes, registry=registry) as files,
                ObjectRouter.start(
                    registry=registry, volumes=volumes, files=files, settings=RouterSettings(("*.raw",)), left_open=held
                ) as router,
            ):
                yield Parts(engine, registry, volumes, files, router, directory / "cache")
        finally:
            await trio.to_thread.run_sync(engine.close)
