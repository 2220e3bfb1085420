"""A log and its copy in another engine, through the seam: shipped, opened there, compared."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import CLUSTER, Engine, Plan, Replica, Tlog, TlogRef, Volume, tlog_previous
from vpool.errors import Conflict, Corrupt, Invalid, NotFound

VOLUME = bytes(range(16))
LEVELS = 4


class Backend:
    """What has gone to the bucket, and the head."""

    def __init__(self) -> None:
        self.scos: dict[tuple[int, int], bytes] = {}
        self.tlogs: dict[TlogRef, bytes] = {}
        self.head: TlogRef | None = None
        self.next_sco = 1

    def ship(self, volume: Volume, tlogs: int, *, scos_max: int = 1) -> list[Tlog]:
        """Close, upload and commit TLogs of one volume."""
        closed = []
        for _ in range(tlogs):
            tlog = volume.close_tlog(seal_open=False, scos_max=scos_max)
            if tlog is None:
                break
            for sco in tlog.scos:
                self.scos[tlog.ref.epoch, sco.number] = volume.sco(sco.number)
            self.tlogs[tlog.ref] = tlog.encode()
            self.head, self.next_sco = tlog.ref, tlog.next_sco
            volume.head_committed(tlog.ref.number)
            closed.append(tlog)
        return closed

    def history(self) -> list[tuple[TlogRef, bytes]]:
        """Every TLog up to the head, oldest first."""
        found, at = [], self.head
        while at is not None:
            found.append((at, self.tlogs[at]))
            at = tlog_previous(self.tlogs[at])
        return found[::-1]

    def read(self, volume: Volume, offset: int, length: int) -> bytes:
        """Read with what the backend has."""
        got = volume.read(offset, length)
        while isinstance(got, Plan):
            for index, miss in enumerate(got.misses):
                data = self.scos[miss.epoch, miss.number]
                got.supply(index, data[miss.offset : miss.offset + miss.length])
            got = volume.resume(got)  # type: ignore[assignment]
        return got


def engine(path: Path) -> Engine:
    return Engine(str(path), segments_max=64, map_cache_bytes=1 << 20, read_cache_bytes=0, map_size_bytes=1 << 28)


@pytest.fixture
def seed() -> int:
    chosen = int(os.environ.get("VPOOL_SEED", "0")) or random.SystemRandom().getrandbits(32)
    print(f"VPOOL_SEED={chosen}")
    return chosen


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Engine]:
    made = engine(tmp_path / "source")
    yield made
    made.close()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Engine]:
    made = engine(tmp_path / "target")
    yield made
    made.close()


def opened(on: Engine, backend: Backend, epoch: int) -> Volume:
    """A restart: map from the backend where the local one is of no use, then a new epoch."""
    recovery = on.recover(VOLUME, levels=LEVELS, head=backend.head, head_next_sco=backend.next_sco)
    if recovery.map_lost:
        for ref, data in backend.history():
            recovery.apply_tlog(ref, data)
    assert recovery.damage is None
    return recovery.open(epoch, soft_bytes=1 << 30, hard_bytes=1 << 30, event_token=1)


def follow(volume: Volume, replica: Replica, bytes_max: int = 1 << 20) -> None:
    """Everything that is there."""
    at = replica.end_lsn + 1 if replica.end_lsn else volume.tail_first_lsn()
    while batch := volume.tail(at, bytes_max):
        assert batch.first_lsn == at
        assert replica.take(batch.data) == batch.last_lsn
        at = batch.last_lsn + 1


def is_kept(volume: Volume, lsn: int) -> bool:
    """Whether the log still has this record."""
    try:
        return volume.tail(lsn, 1) is not None
    except NotFound:
        return False


def write(volume: Volume, image: bytearray, rng: random.Random, requests: int) -> None:
    for _ in range(requests):
        clusters = rng.choice([1, 1, 2, 64, 256])
        offset = rng.randrange(len(image) // CLUSTER - clusters) * CLUSTER
        data = rng.randbytes(clusters * CLUSTER)
        assert isinstance(volume.write(offset, data), float)
        image[offset : offset + len(data)] = data


@pytest.mark.parametrize("closed_between", [False, True])
def test_a_volume_opens_from_its_replica(source: Engine, target: Engine, seed: int, closed_between: bool) -> None:
    """Would break: a takeover finds other content than the owner wrote, or none, with or without a part of it in the backend."""
    rng, image, backend = random.Random(seed), bytearray(16 << 20), Backend()
    volume = opened(source, backend, 1)
    replica = target.replica(VOLUME)
    assert (replica.first_lsn, replica.end_lsn, replica.bytes) == (0, 0, 0)
    for _ in range(6):
        write(volume, image, rng, 20)
        written_lsn = volume.stats().lsn  # an idle log may add a mark at any time
        follow(volume, replica, rng.choice([1, 100_000, 8 << 20]))
        replica.sync()
        assert replica.end_lsn == replica.synced_lsn >= written_lsn
        assert replica.chain(replica.end_lsn) == volume.chain(replica.end_lsn)
        tlogs = backend.ship(volume, rng.randrange(3))
        if tlogs and rng.random() < 0.5:
            replica.trim(tlogs[-1].last_lsn)
            assert replica.first_lsn <= volume.tail_first_lsn()
        if closed_between:
            replica.close()
            replica = target.replica(VOLUME)
    volume.close()
    replica.close()
    taken = opened(target, backend, 2)
    for offset in range(0, len(image), 1 << 20):
        assert backend.read(taken, offset, 1 << 20) == image[offset : offset + (1 << 20)]
    # And back, onto the former owner's own log.
    replica = source.replica(VOLUME, head_next_sco=backend.next_sco)
    write(taken, image, rng, 20)
    if replica.end_lsn and replica.chain(replica.end_lsn) != taken.chain(replica.end_lsn):
        replica.cut(taken.tail_first_lsn() - 1)
    follow(taken, replica)
    replica.sync()
    taken.close()
    replica.close()
    back = opened(source, backend, 3)
    for offset in range(0, len(image), 1 << 20):
        assert backend.read(back, offset, 1 << 20) == image[offset : offset + (1 << 20)]


def test_what_is_pinned_is_not_recycled(source: Engine, seed: int) -> None:
    """Would break: a hand-over whose target is slow loses the records that it has not got yet, and begins anew for ever."""
    rng, image, backend = random.Random(seed), bytearray(16 << 20), Backend()
    volume = opened(source, backend, 1)
    volume.pin_tail(1)
    for _ in range(30):
        write(volume, image, rng, 10)
        backend.ship(volume, 8)
    assert volume.tail(1, 1) is not None
    lsn = volume.stats().lsn
    volume.pin_tail(lsn)
    while is_kept(volume, 1):  # what the pin has let go of makes room before a write is refused
        write(volume, image, rng, 10)
        backend.ship(volume, 8)
    assert volume.tail(lsn, 1) is not None
    with pytest.raises(NotFound):
        volume.pin_tail(1)
    volume.pin_tail(None)


def test_what_does_not_fit_is_refused(source: Engine, target: Engine, seed: int) -> None:
    """Would break: promise 9. A gap, another history or a changed byte gets into a replica."""
    rng, image, backend = random.Random(seed), bytearray(16 << 20), Backend()
    volume = opened(source, backend, 1)
    write(volume, image, rng, 30)
    replica = target.replica(VOLUME)
    with pytest.raises(Conflict, match="a replica of the volume is open"):
        target.replica(VOLUME)
    with pytest.raises(Conflict, match="a replica of the volume is open"):
        target.recover(VOLUME, levels=LEVELS, head=None, head_next_sco=1)
    first = volume.tail(1, 1 << 20)
    assert first is not None
    later = volume.tail(first.last_lsn + 2, 1)
    assert later is not None
    with pytest.raises(Conflict, match="gap"):
        replica.take(later.data)
    for _ in range(200):
        changed = bytearray(first.data)
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        with pytest.raises((Corrupt, Invalid)):
            replica.take(bytes(changed))
    replica.cut(0)
    assert replica.take(first.data) == first.last_lsn == replica.take(first.data)
    with pytest.raises(Conflict, match="gap"):
        replica.take(later.data)
    assert volume.tail(volume.stats().lsn + 1, 1) is None
