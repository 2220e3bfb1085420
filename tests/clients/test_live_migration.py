"""A guest is moved between hosts while it writes: no error for it, and every write is there. Or its host dies under it.

As QEMU does it (cache=none): the destination opens the disk and reads a second before the source stops writing, and writes
through the other host's mount from then on. If this fails, virtual machines cannot be moved: promise 1 of docs/semantics.md.
"""

from __future__ import annotations

import itertools
import statistics
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from registry import DtlState, ObjectRecord
from tests.clients.boot_sector import SECTOR
from tests.clients.qmp import Guest
from tests.clients.test_qemu_guest import FIRST, install, wrong_sectors
from tests.cluster.faults import is_expired
from tests.cluster.hosts import Host, Hosts, hosts
from tests.mounted_pool import wait_until

pytestmark = pytest.mark.mount

MIB = 1 << 20
SECTORS = 1000
FOR_EVER = 1 << 30
WRITES_BETWEEN = 50


def grows(said: Path, count: int) -> None:
    """The guest goes on writing."""
    wanted = (said.stat().st_size if said.exists() else 0) + count
    wait_until(lambda: said.exists() and said.stat().st_size >= wanted, f"the guest has written {count} sectors more", 60)


class Watch:
    """How long the guest had to wait for a write, at most, while something was done."""

    def __init__(self, said: Path) -> None:
        self._said = said
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.longest_s = 0.0

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        seen, since = self._said.stat().st_size, time.monotonic()
        while not self._stop.wait(0.001):
            size, now = self._said.stat().st_size, time.monotonic()
            self.longest_s = max(self.longest_s, now - since)
            if size != seen:
                seen, since = size, now


def moved_after_it(host: Host, asked: Host) -> None:
    """The disk follows, by command."""
    done = asked.vpool("volume", "move", "guest.raw", "--to", host.id, "--dir", asked.directory)
    assert done.code == 0, done.err
    assert owner_of_disk(asked) == host.id


def owner_of_disk(host: Host) -> str:
    """Node that owns it, as a host's registry says."""
    return record_of_disk(host).owner


def record_of_disk(host: Host) -> ObjectRecord:
    """What a host's registry says of it."""
    with host.view() as view:
        inode = view.lookup(1, "guest.raw")
        assert inode is not None
        record = view.object(inode.object)
        assert record is not None
        return record


def moved_about(
    made: Hosts, top: Path, times: int, follows: Callable[[Host, Host], None]
) -> tuple[list[float], list[float], int]:
    """A guest that is moved between the first two hosts, and its disk after it.

    Returns pauses of the guest in seconds, the longest waits for a write while the disk moved, and how many writes it knows of.
    """
    disk, said = "guest.raw", top / "said"
    with (made[0].mount / disk).open("xb") as file:
        file.truncate(16 * MIB)
    install(made[0].mount / disk, sectors=SECTORS, writes=FOR_EVER)
    pauses, waits = [], []
    numbers = itertools.count()
    here = Guest(made[0].mount / disk, said, top / f"q{next(numbers)}")
    try:
        grows(said, WRITES_BETWEEN)
        for turn in range(times):
            number = next(numbers)
            there = Guest(made[(turn + 1) % 2].mount / disk, said, top / f"q{number}", incoming=True)
            try:
                pauses.append(here.migrate_to(there))
            except BaseException:
                there.close()
                raise
            here.close()
            here = there
            grows(said, WRITES_BETWEEN)
            with Watch(said) as watch:
                follows(made[(turn + 1) % 2], made[turn % 2])
                grows(said, WRITES_BETWEEN)
            waits.append(watch.longest_s)
        return pauses, waits, here.finish()
    finally:
        here.close()


def check_disk(made: Hosts, said: Path, acknowledged: int) -> None:
    """Every write is there, through every mount, and the guest counted without a gap."""
    assert said.read_bytes() == bytes(number & 0xFF for number in range(acknowledged))
    for host in made:
        wrong = wrong_sectors(host.mount / "guest.raw", sectors=SECTORS, acknowledged=acknowledged, tried=acknowledged + 1)
        assert not wrong, f"through {host}:\n" + "\n".join(wrong[:10])


def moved_by_use(host: Host, asked: Host) -> None:
    """The disk follows by itself, once the host has used it enough."""
    wait_until(lambda: owner_of_disk(asked) == host.id, "the disk is where it is used", 60)


FOLLOWS = {
    "the disk stays": (lambda host, asked: None, {"VPOOL_CLUSTER__MOVE_REQUESTS": "0"}),
    "the disk follows by command": (moved_after_it, {"VPOOL_CLUSTER__MOVE_REQUESTS": "0"}),
    "the disk follows by use": (
        moved_by_use,
        {"VPOOL_CLUSTER__MOVE_REQUESTS": "20", "VPOOL_CLUSTER__MOVE_STAY_S": "0", "VPOOL_CLUSTER__MOVE_HALF_LIFE_S": "1"},
    ),
}


@pytest.mark.parametrize(
    "how",
    [
        "the disk follows by use",
        *(pytest.param(f"the disk {each}", marks=pytest.mark.long) for each in ("stays", "follows by command")),
    ],
)
def test_a_guest_is_moved_to_and_fro_while_it_writes(tmp_path: Path, how: str) -> None:
    follows, environment = FOLLOWS[how]
    with hosts(tmp_path, 2, environment=environment) as made:
        pauses, waits, acknowledged = moved_about(made, tmp_path, 10, follows)
        print(f"{how}: {acknowledged} writes; the guest stood still for {shown(pauses)}; longest wait for a write {shown(waits)}")
        check_disk(made, tmp_path / "said", acknowledged)


def shown(seconds: list[float]) -> str:
    """For people."""
    return f"{statistics.median(seconds) * 1e3:.0f} ms (median), {max(seconds) * 1e3:.0f} ms (most)"


def taken_by_command(made: Hosts, dead: Host) -> Host:
    """Without a DTL: the disk as the backend has it."""
    thief = made[1]
    wait_until(lambda: is_expired([thief], dead), "the host is declared dead", 40)
    taken = thief.vpool("node", "steal", dead.id, "--accept-loss", "--dir", thief.directory)
    assert taken.code == 0, taken.err
    return thief


def taken_by_the_peer(made: Hosts, dead: Host) -> Host:
    """With a DTL in sync nobody need do anything."""
    rest = [host for host in made if host is not dead]
    wait_until(lambda: owner_of_disk(rest[0]) != dead.id, "the disk is taken over", 60)
    return next(host for host in rest if host.id == owner_of_disk(rest[0]))


LOST = {"off": taken_by_command, "sync": taken_by_the_peer}


@pytest.mark.parametrize("dtl", [pytest.param("off", marks=pytest.mark.long), "sync"])
def test_a_guest_of_a_host_that_died_starts_on_another(tmp_path: Path, dtl: str) -> None:
    """Host, daemon and QEMU are gone at once. The disk is as it was after some write of the guest, and a guest runs from it.

    With a DTL it is as it was after the last write that the guest knows of: each was flushed (cache=directsync).
    """
    with hosts(tmp_path, 3, environment={"VPOOL_DTL__MODE": dtl}) as made:
        dead = made[0]
        said, again = tmp_path / "said", tmp_path / "again"
        with (dead.mount / "guest.raw").open("xb") as file:
            file.truncate(16 * MIB)
        install(dead.mount / "guest.raw", sectors=SECTORS, writes=FOR_EVER)
        with Guest(dead.mount / "guest.raw", said, tmp_path / "q0", cache="none" if dtl == "off" else "directsync"):
            grows(said, 20 * WRITES_BETWEEN)
            if dtl == "sync":
                wait_until(lambda: record_of_disk(dead).dtl.state is DtlState.IN_SYNC, "the DTL is in sync", 30)
            grows(said, WRITES_BETWEEN)
            began = time.monotonic()
            dead.kill()
        acknowledged = said.stat().st_size
        thief = LOST[dtl](made, dead)
        survived = writes_on(thief.mount / "guest.raw")
        print(f"DTL {dtl}: {survived} of {acknowledged} writes survived; taken over after {time.monotonic() - began:.1f} s")
        assert survived in (acknowledged, acknowledged + 1) if dtl == "sync" else survived <= acknowledged + 1
        assert not wrong_sectors(thief.mount / "guest.raw", sectors=SECTORS, acknowledged=survived, tried=survived)
        with Guest(thief.mount / "guest.raw", again, tmp_path / "q1") as guest:
            grows(again, WRITES_BETWEEN)
            written = guest.finish()
        for host in made[1:]:
            assert last_numbers(host.mount / "guest.raw", written) == list(range(written))


def writes_on(disk: Path) -> int:
    """How many writes a disk must have had for what is on it."""
    with disk.open("rb") as file:
        file.seek(FIRST * SECTOR)
        data = file.read(SECTORS * SECTOR)
    numbers = [struct.unpack_from("<I", data, at)[0] for at in range(0, len(data), SECTOR)]
    return max(number + 1 for number in numbers) if any(data) else 0


def last_numbers(disk: Path, count: int) -> list[int]:
    """What the first sectors say."""
    with disk.open("rb") as file:
        file.seek(FIRST * SECTOR)
        data = file.read(min(count, SECTORS) * SECTOR)
    return [struct.unpack_from("<I", data, at)[0] for at in range(0, len(data), SECTOR)]
