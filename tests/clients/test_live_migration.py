"""A guest is moved between hosts while it writes: no error for it, and every write is there. Or its host dies under it.

As QEMU does it (cache=none): the destination opens the disk and reads a second before the source stops writing, and writes
through the other host's mount from then on. If this fails, virtual machines cannot be moved: promise 1 of docs/semantics.md.
"""

from __future__ import annotations

import itertools
import statistics
import struct
import time
from pathlib import Path

import pytest

from tests.clients.boot_sector import SECTOR
from tests.clients.qmp import Guest
from tests.clients.test_qemu_guest import FIRST, install, wrong_sectors
from tests.cluster.faults import is_expired
from tests.cluster.hosts import Hosts, hosts
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


def moved_about(made: Hosts, top: Path, times: int) -> tuple[list[float], int]:
    """A guest that is moved between the first two hosts; pauses in seconds, and how many writes it knows of."""
    disk, said = "guest.raw", top / "said"
    with (made[0].mount / disk).open("xb") as file:
        file.truncate(16 * MIB)
    install(made[0].mount / disk, sectors=SECTORS, writes=FOR_EVER)
    pauses = []
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
        return pauses, here.finish()
    finally:
        here.close()


def check_disk(made: Hosts, said: Path, acknowledged: int) -> None:
    """Every write is there, through every mount, and the guest counted without a gap."""
    assert said.read_bytes() == bytes(number & 0xFF for number in range(acknowledged))
    for host in made:
        wrong = wrong_sectors(host.mount / "guest.raw", sectors=SECTORS, acknowledged=acknowledged, tried=acknowledged + 1)
        assert not wrong, f"through {host}:\n" + "\n".join(wrong[:10])


def test_a_guest_is_moved_to_and_fro_while_it_writes(tmp_path: Path) -> None:
    with hosts(tmp_path, 2) as made:
        pauses, acknowledged = moved_about(made, tmp_path, 10)
        print(
            f"{acknowledged} writes; pause of the guest: median {statistics.median(pauses) * 1e3:.0f} ms, "
            f"longest {max(pauses) * 1e3:.0f} ms"
        )
        check_disk(made, tmp_path / "said", acknowledged)


def test_a_guest_of_a_host_that_died_starts_on_another(tmp_path: Path) -> None:
    """Host, daemon and QEMU are gone at once. The disk is as it was after some write of the guest, and a guest runs from it."""
    with hosts(tmp_path, 3) as made:
        dead, thief = made[0], made[1]
        said, again = tmp_path / "said", tmp_path / "again"
        with (dead.mount / "guest.raw").open("xb") as file:
            file.truncate(16 * MIB)
        install(dead.mount / "guest.raw", sectors=SECTORS, writes=FOR_EVER)
        with Guest(dead.mount / "guest.raw", said, tmp_path / "q0"):
            grows(said, 20 * WRITES_BETWEEN)
            began = time.monotonic()
            dead.kill()
        acknowledged = said.stat().st_size
        wait_until(lambda: is_expired([thief], dead), "the host is declared dead", 40)
        taken = thief.vpool("node", "steal", dead.id, "--accept-loss", "--dir", thief.directory)
        assert taken.code == 0, taken.err
        survived = writes_on(thief.mount / "guest.raw")
        print(f"{survived} of {acknowledged} writes survived; taken over after {time.monotonic() - began:.1f} s")
        assert survived <= acknowledged + 1
        assert not wrong_sectors(thief.mount / "guest.raw", sectors=SECTORS, acknowledged=survived, tried=survived)
        with Guest(thief.mount / "guest.raw", again, tmp_path / "q1") as guest:
            grows(again, WRITES_BETWEEN)
            written = guest.finish()
        for host in (thief, made[2]):
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
