"""The exporter beside a real registry: what it leaves in the bucket is the registry's content, at a bounded age and cost."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import trio

from backend import ObjectStore, open_store
from backend.faults import Faults, FaultyStore
from recovery import ExporterSettings, NamespaceExporter
from recovery.exporter import exporting_node
from recovery.loading import load_newest
from registry import (
    Create,
    DirectoryEntry,
    Initialise,
    Inode,
    InodeKind,
    NodeRecord,
    NodeStatus,
    ObjectKind,
    ObjectRecord,
    ObjectState,
    RegisterNode,
    RegistryClient,
)
from registry.changes import is_lasting
from registry.lmdbdisk import LmdbDisk
from registry.tables import WritableTables
from tests.parts import NODE, VPOOL
from volumedriver import TOMBSTONES, shared_bucket, tombstone_name

SETTINGS = ExporterSettings(age_s=3600.0, stop_s=30.0)
BUCKET = shared_bucket(VPOOL)


@asynccontextmanager
async def registry_in(directory: Path) -> AsyncIterator[RegistryClient]:
    directory.mkdir(exist_ok=True)
    async with RegistryClient.start(directory, NODE) as client:
        await client.submit(RegisterNode(NODE, "", client.incarnation))
        await client.submit(Initialise(VPOOL, "test", 1, ("*.raw",), 1))
        yield client


async def directory(client: RegistryClient, name: str) -> None:
    await client.submit(Create(1, name, InodeKind.DIRECTORY, 0o700, 0, 0, 1))


def state(client: RegistryClient) -> dict[bytes, bytes]:
    source = client.view.export()
    try:
        return {key: value for key, value in source.items() if value is not None and is_lasting(key)}
    finally:
        source.close()


async def objects(store: ObjectStore, prefix: str = "namespace/") -> list[str]:
    return [info.name async for info in store.list(BUCKET, prefix)]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ObjectStore]:
    opened = await open_store(f"dir:{tmp_path / 'store'}")
    yield opened
    await opened.aclose()


def test_one_node_exports_and_another_when_it_is_gone() -> None:
    """Else nobody does, or all pay for it."""
    one, two, three = (NodeRecord(name, 1, "", 1, expired=False) for name in ("a", "b", "c"))
    assert exporting_node([three, one, two]) == "a"
    assert exporting_node([replace(one, expired=True), two, three]) == "b"
    assert exporting_node([replace(one, expired=True), replace(two, status=NodeStatus.MAINTENANCE), three]) == "c"
    assert exporting_node([replace(one, status=NodeStatus.DRAINED), replace(two, expired=True)]) == "a", "better than nobody"
    assert exporting_node([replace(one, expired=True)]) == ""


async def test_whoever_becomes_the_exporter_again_begins_with_all(
    tmp_path: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it goes on from an export that the others have collected, and nothing of what follows can be read."""
    chosen = NODE
    monkeypatch.setattr("recovery.exporter.exporting_node", lambda nodes: chosen)
    async with (
        registry_in(tmp_path / "registry") as client,
        NamespaceExporter.start(registry=client, store=store, vpool_id=VPOOL, settings=replace(SETTINGS, age_s=0.01)) as exporter,
    ):

        async def until(condition: Callable[[], bool]) -> None:
            with trio.fail_after(30):
                while not condition():  # counters
                    await trio.sleep(0.01)

        await until(lambda: exporter.status().full_exports == 1)
        chosen = "another"
        await until(lambda: not exporter.status().index)
        await directory(client, "meanwhile")
        chosen = NODE
        await until(lambda: exporter.status().full_exports == 2)
        assert exporter.status().increments == 0


async def test_full_exports_and_increments_over_lives_give_the_registry(tmp_path: Path, store: ObjectStore) -> None:
    """Else a recovery brings back another namespace than there was."""
    for life in range(3):
        async with registry_in(tmp_path / "registry") as client:
            async with NamespaceExporter.start(registry=client, store=store, vpool_id=VPOOL, settings=SETTINGS) as exporter:
                assert await exporter.export()
                await directory(client, f"life-{life}")
                assert await exporter.export()
                assert await exporter.export()
                status = exporter.status()
                assert (status.full_exports, status.increments, status.failures) == (1, 1, 0)
                await directory(client, f"last-of-{life}")
            loaded = await load_newest(store, BUCKET)
            assert loaded is not None
            assert loaded.items == state(client), "the last changes of a life are exported as it ends"
    assert len({name.rpartition("/")[2].split(".")[3] for name in await objects(store)}) == 2, "two lives' exports are kept"


async def test_a_registry_of_100_000_objects_is_exported_beside_the_io(tmp_path: Path, store: ObjectStore) -> None:
    """Increments cost what has changed, not what there is; the loop is not held up by the full export."""
    count = 100_000
    async with registry_in(tmp_path / "registry"):
        pass
    disk = LmdbDisk(tmp_path / "registry")
    tables = WritableTables(disk.state)
    for number in range(1000, 1000 + count):
        identity = f"{number:032x}"
        tables.put_inode(Inode(number, InodeKind.VOLUME, identity, 0o600, 0, 0, 1, 1 << 30, 1, 1, 1, "", 0))
        tables.put_entry(1, DirectoryEntry(number, f"machine-{number}.raw", number))
        tables.put_object(
            ObjectRecord(identity, ObjectKind.VOLUME, ObjectState.LIVE, "", 1, None, None, 1 << 30, number, 0, "", "")
        )
    disk.commit()
    disk.close()
    async with registry_in(tmp_path / "registry") as client, trio.open_nursery() as nursery:
        slowest = [0.0]

        async def watch() -> None:
            while True:
                began = time.monotonic()
                await trio.sleep(0.001)
                slowest[0] = max(slowest[0], time.monotonic() - began)

        nursery.start_soon(watch)
        async with NamespaceExporter.start(registry=client, store=store, vpool_id=VPOOL, settings=SETTINGS) as exporter:
            assert await exporter.export()
            full = exporter.status()
            for number in range(20):
                await directory(client, f"new-{number}")
            began = time.monotonic()
            assert await exporter.export()
            took_s = time.monotonic() - began
            status = exporter.status()
        nursery.cancel_scope.cancel()
    increment_bytes = status.bytes_sent - full.bytes_sent
    print(f"full: {full.bytes_sent} bytes; increment: {increment_bytes} bytes in {took_s:.3f} s; loop held up {slowest[0]:.3f} s")
    assert increment_bytes < 20_000
    assert took_s < 2.0
    assert slowest[0] < 1.0


async def test_increments_end_in_a_full_export_and_old_ones_are_collected(
    tmp_path: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the bucket, or the reading of a recovery, would grow without bound."""
    monkeypatch.setattr("recovery.exporter.INCREMENTS_MAX", 3)
    settings = replace(SETTINGS, tombstone_days=1.0)
    young, old = (tombstone_name(f"{number:032x}", time.time_ns() - number * 10**18) for number in (0, 1))
    async with registry_in(tmp_path / "registry") as client:
        await store.create_bucket(BUCKET)
        for name in (young, old):
            await store.put(BUCKET, name, b"vPoolDEL")
        async with NamespaceExporter.start(registry=client, store=store, vpool_id=VPOOL, settings=settings) as exporter:
            for number in range(20):
                await directory(client, f"d{number}")
                assert await exporter.export()
            assert exporter.status().full_exports >= 4
            assert len(await objects(store)) <= 2 * 4
            assert await objects(store, TOMBSTONES) == [young]
            loaded = await load_newest(store, BUCKET)
            assert loaded is not None
            assert loaded.items == state(client)


async def test_a_failing_backend_never_gets_a_name_twice_with_other_content(tmp_path: Path, store: ObjectStore) -> None:
    """The watching store fails the test by itself if a name is written twice differently."""
    seed = int(os.environ.get("VPOOL_SEED", Random().randrange(1 << 32)))
    print(f"VPOOL_SEED={seed}")
    faulty = FaultyStore(store, Faults(unavailable=0.3, lost_reply=0.3), seed=seed, raise_on_violation=True)
    async with (
        registry_in(tmp_path / "registry") as client,
        NamespaceExporter.start(registry=client, store=faulty, vpool_id=VPOOL, settings=SETTINGS) as exporter,
    ):
        for number in range(30):
            await directory(client, f"d{number}")
            await exporter.export()
        while not await exporter.export():
            pass
        assert exporter.status().failures > 0
        loaded = await load_newest(store, BUCKET)
        assert loaded is not None
        assert loaded.items == state(client)
