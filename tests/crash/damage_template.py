"""A node without front ends whose volume has data everywhere data can be; and what may be read of it after damage.

Every cluster written says which operation wrote it, so a reader can tell from the content alone which prefix it sees.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

import trio

from backend.opening import open_store
from engine import CLUSTER, Engine
from registry import ROOT_INODE, Create, InodeKind
from tests.crash.memory_registry import MemoryRegistry
from tests.mounted_pool import wait_until
from volumedriver import VolumeDriver, VolumeDriverSettings
from volumedriver.volume import Volume
from vpool.errors import VPoolError

MIB = 1 << 20
NODE, VPOOL, VOLUME = "node-1", "5" * 32, "6" * 32
CLUSTERS = 4096
PER_READ = 64
STAMP = struct.Struct("<QQ")
HOLE = 0

SETTINGS = VolumeDriverSettings(
    scos_per_tlog=2,
    tlog_age_s=3600.0,  # only what the template asks for is sent
    soft_bytes=64 * MIB,
    hard_bytes=96 * MIB,
    tlogs_per_checkpoint=5,
    read_ahead_scos=1,
    lost_object_s=0.05,
    stop_s=0.0,
)


def stamped(lba: int, operation: int) -> bytes:
    """The content of a cluster after an operation that wrote it."""
    body = STAMP.pack(lba, operation) * (CLUSTER // STAMP.size)
    return body[:-4] + struct.pack("<I", crc32(body[:-4]))


@dataclass
class Operations:
    """What was done to the volume, in order; numbered from 1."""

    writes: dict[int, list[tuple[int, int]]] = field(default_factory=dict)  # LBA -> (operation, content: it, or HOLE)
    count: int = 0
    safe: int = 0  # operations that no damage to local files may take: they are in the backend
    flushed: int = 0  # operations that were acknowledged durable

    def note(self, lba: int, clusters: int, *, zero: bool) -> int:
        self.count += 1
        for cluster in range(lba, lba + clusters):
            self.writes.setdefault(cluster, []).append((self.count, HOLE if zero else self.count))
        return self.count

    def prefixes(self, found: dict[int, bytes], oldest: int) -> set[int]:
        """Numbers of operations after which the disk was as found, not older than ``oldest``; empty: it never was."""
        possible = set(range(oldest, self.count + 1))
        for lba, data in found.items():
            possible &= self._when(lba, data, oldest)
        return possible

    def _when(self, lba: int, data: bytes, oldest: int) -> set[int]:
        history = [(0, HOLE), *self.writes.get(lba, [])]
        ends = [*(operation for operation, _ in history[1:]), self.count + 1]
        when: set[int] = set()
        for (begin, content), end in zip(history, ends, strict=True):
            if end > oldest and data == (bytes(CLUSTER) if content == HOLE else stamped(lba, content)):
                when.update(range(max(begin, oldest), end))
        return when


@asynccontextmanager
async def node(directory: Path, registry: MemoryRegistry) -> AsyncIterator[VolumeDriver]:
    """Engine, directory store and Volume Driver on ``directory``; a clean stop on leaving, without sending the tail."""
    store = await open_store(f"dir:{directory / 'backend'}")
    try:
        engine = Engine(
            str(directory / "cache"), segments_max=24, map_cache_bytes=8 * MIB, read_cache_bytes=8 * MIB, map_size_bytes=64 * MIB
        )
        try:
            async with VolumeDriver.start(
                engine=engine,
                store=store,
                registry=registry,  # type: ignore[arg-type]  # the part of it that is used
                node_id=NODE,
                vpool_id=VPOOL,
                settings=SETTINGS,
            ) as driver:
                yield driver
        finally:
            engine.close()
    finally:
        await store.aclose()


async def build(directory: Path, seed: int, done: Callable[[dict[bytes, bytes], Operations], None]) -> None:
    """Write the template and call ``done`` in the middle of its life: the caller ends the process there, as a crash would."""
    writer = _Writer(random.Random(seed))
    registry = MemoryRegistry(NODE, VPOOL)
    await registry.submit(
        Create(ROOT_INODE, "disk.raw", InodeKind.VOLUME, 0o600, 0, 0, 0, object=VOLUME, size=CLUSTERS * CLUSTER)
    )
    async with node(directory, registry) as driver:
        volume = await driver.attach(VOLUME)
        for how_many, clusters_max in ((8, 16), (60, 64), (3, 4)):
            await writer.operate(volume, how_many, clusters_max)
            await driver.drain(VOLUME)
    shutil.rmtree(directory / "cache")
    registry = MemoryRegistry(NODE, VPOOL, registry.items, incarnation=2)
    async with node(directory, registry) as driver:
        volume = await driver.attach(VOLUME)
        for lba in range(0, CLUSTERS, PER_READ):
            await volume.read(lba * CLUSTER, PER_READ * CLUSTER)  # fills the read cache
        for how_many, clusters_max in ((70, 64), (10, 32), (12, 32), (3, 4)):
            await writer.operate(volume, how_many, clusters_max)
            await driver.drain(VOLUME)
        writer.operations.safe = writer.operations.count
        record = registry.view.object(VOLUME)
        assert record is not None
        assert record.head is not None
        assert 0 < record.head.checkpoint_tlog < record.head.tlog.number, "a start needs a checkpoint and TLogs behind it"
        await writer.operate(volume, 60, 48)
        await volume.flush()
        writer.operations.flushed = writer.operations.count
        await trio.to_thread.run_sync(
            lambda: wait_until(lambda: marked(directory / "cache"), "an idle log marks what is durable", 10)
        )
        await writer.operate(volume, 8, 8)
        done(registry.items, writer.operations)


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes and zeroes by chance, and notes what."""

    chance: random.Random
    operations: Operations = field(default_factory=Operations)

    async def operate(self, volume: Volume, how_many: int, clusters_max: int) -> None:
        for _ in range(how_many):
            clusters = self.chance.randint(1, clusters_max)
            lba = self.chance.randrange(CLUSTERS - clusters)
            zero = self.chance.random() < 0.15
            number = self.operations.note(lba, clusters, zero=zero)
            if zero:
                await volume.zero(lba * CLUSTER, clusters * CLUSTER)
            else:
                data = b"".join(stamped(cluster, number) for cluster in range(lba, lba + clusters))
                await volume.write(lba * CLUSTER, data)


def marked(cache: Path) -> bool:
    """Whether some segment's last record is a mark (docs/formats/segment.md)."""
    return any(last_kind(path) == 3 for path in (cache / "log").glob("*.seg"))


def last_kind(path: Path) -> int:
    """Kind of the last record of a segment, by LSN alone; 0 if it has none."""
    head = path.read_bytes()[:65536]
    if head[:8] != b"vPoolSEG":
        return 0
    lsn, at, kind = int.from_bytes(head[56:64], "little"), 4096, 0
    while at + 48 <= len(head) and int.from_bytes(head[at + 8 : at + 16], "little") == lsn:
        kind, sums = head[at + 4], int.from_bytes(head[at + 6 : at + 8], "little")
        at += 48 + 4 * sums + (4 if sums % 2 else 0)
        lsn += 1
    return kind


async def read_everything(read: Callable[[int, int], object]) -> tuple[dict[int, bytes], list[str]]:
    """All clusters that can be read, and the errors of the others."""
    found: dict[int, bytes] = {}
    errors: list[str] = []
    for lba in range(0, CLUSTERS, PER_READ):
        for first, count in ((lba, PER_READ), *((cluster, 1) for cluster in range(lba, lba + PER_READ))):
            try:
                data = await read(first * CLUSTER, count * CLUSTER)  # type: ignore[misc]
            except VPoolError as error:
                if count == 1:
                    errors.append(str(error))
                continue
            assert isinstance(data, bytes)
            assert len(data) == count * CLUSTER
            found |= {first + i: data[i * CLUSTER : (i + 1) * CLUSTER] for i in range(count)}
            if count == PER_READ:
                break
    return found, errors


def files_below(directory: Path) -> Iterable[Path]:
    """All regular files, in a stable order."""
    for root, directories, names in os.walk(directory):
        directories.sort()
        for name in sorted(names):
            path = Path(root) / name
            if path.is_file() and not path.is_symlink():
                yield path
