"""A guest is moved between two hosts while it writes: no error for it, and every write is there, through both.

As QEMU does it (cache=none): the destination opens the disk and reads a second before the source stops writing, and writes
through the other host's mount from then on. If this fails, virtual machines cannot be moved: promise 1 of docs/semantics.md.
"""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path

import pytest

from tests.clients.qmp import Guest
from tests.clients.test_qemu_guest import install, wrong_sectors
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
