"""A QEMU guest boots from a volume and writes to it, and what it wrote is there from outside; also qemu-img on the mount.

If this fails, a virtual machine cannot rely on its disk: promises 1 and 2 of docs/semantics.md.
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.boot_sector import EXIT_DONE, EXIT_FAILED, SECTOR, boot_sector, last_write, sector_of
from tests.mounted_pool import MountedPool, wait_until

MIB = 1 << 20
FIRST = 64
POOL = {"VPOOL_CACHE__SIZE_BYTES": "1GiB", "VPOOL_VOLUMES__SOFT_BYTES": "256MiB", "VPOOL_VOLUMES__HARD_BYTES": "512MiB"}

pytestmark = pytest.mark.mount


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[MountedPool]:
    with MountedPool(tmp_path / "pool", tmp_path / "mount", environment=POOL) as running:
        yield running


@contextlib.contextmanager
def guest(disk: Path, said: Path, *, interface: str, cache: str) -> Iterator[subprocess.Popen[str]]:
    """QEMU on a disk; what the guest reports is appended to ``said``. Ended on leaving if it has not ended by itself."""
    command = ["qemu-system-x86_64", "-accel", "tcg", "-m", "32", "-nodefaults", "-display", "none", "-no-reboot"]
    command += ["-drive", f"file={disk},format=raw,if={interface},cache={cache},werror=report"]
    command += ["-debugcon", f"file:{said}", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def qemu_img(*arguments: str | Path) -> str:
    done = subprocess.run(["qemu-img", *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"qemu-img {arguments}: {done.stdout}{done.stderr}"
    return done.stdout


def install(disk: Path, *, sectors: int, writes: int) -> None:
    """Put the boot sector on a disk and leave the rest as it is."""
    with disk.open("r+b") as file:
        file.write(boot_sector(first=FIRST, sectors=sectors, writes=writes))


def wrong_sectors(disk: Path, *, sectors: int, acknowledged: int, tried: int) -> list[str]:
    """Sectors that hold neither their last acknowledged write nor the one that was under way when the disk went."""
    wrong = []
    with disk.open("rb") as file:
        file.seek(FIRST * SECTOR)
        data = file.read(sectors * SECTOR)
    for position in range(sectors):
        numbers = {last_write(position, sectors=sectors, writes=count) for count in (acknowledged, tried)}
        allowed = {bytes(SECTOR) if number is None else sector_of(number) for number in numbers}
        if data[position * SECTOR : (position + 1) * SECTOR] not in allowed:
            wrong.append(f"sector {position}: begins {data[position * SECTOR :][:8].hex()}, allowed were writes {numbers}")
    return wrong


@pytest.mark.parametrize(
    ("interface", "cache"), [("virtio", "none"), ("ide", "none"), ("virtio", "writeback"), ("virtio", "unsafe")]
)
def test_a_guest_boots_from_a_volume_and_its_writes_are_there(
    pool: MountedPool, tmp_path: Path, interface: str, cache: str
) -> None:
    sectors, writes = 300, 1000  # not a multiple of a cluster's 8: partly written clusters at both ends
    disk = pool.make_volume("guest.raw", 64 * MIB)
    install(disk, sectors=sectors, writes=writes)
    said = tmp_path / "said"
    with guest(disk, said, interface=interface, cache=cache) as qemu:
        output, _ = qemu.communicate(timeout=60)
    assert qemu.returncode == EXIT_DONE, output
    assert said.read_bytes() == bytes(number & 0xFF for number in range(writes))
    assert not wrong_sectors(disk, sectors=sectors, acknowledged=writes, tried=writes)
    with disk.open("rb") as file:
        head = file.read(FIRST * SECTOR)
        file.seek((FIRST + sectors) * SECTOR)
        behind = file.read(MIB)
    assert head == boot_sector(first=FIRST, sectors=sectors, writes=writes).ljust(FIRST * SECTOR, b"\0")
    assert behind.count(0) == MIB, "the guest's writes spilled over"


def test_what_a_guest_knows_to_be_written_survives_the_daemon(pool: MountedPool, tmp_path: Path) -> None:
    """kill -9 of the daemon under a guest: it gets an error, and after the restart its disk has what was acknowledged."""
    sectors, chance = 1000, random.Random(11)
    disk = pool.make_volume("guest.raw", 64 * MIB)
    for round_number in range(3):
        install(disk, sectors=sectors, writes=1 << 24)
        with disk.open("r+b") as file:
            file.seek(FIRST * SECTOR)
            file.write(bytes(sectors * SECTOR))
        said = tmp_path / f"said-{round_number}"
        with guest(disk, said, interface="virtio", cache="none") as qemu:
            wanted = chance.randint(500, 4000)
            wait_until(lambda said=said, wanted=wanted: said.exists() and said.stat().st_size >= wanted, "the guest writes", 60)  # type: ignore[misc]
            pool.kill()
            output, _ = qemu.communicate(timeout=60)
        assert qemu.returncode == EXIT_FAILED, output
        pool.start()
        acknowledged = said.stat().st_size
        wrong = wrong_sectors(disk, sectors=sectors, acknowledged=acknowledged, tried=acknowledged + 1)
        assert not wrong, f"round {round_number}: {acknowledged} writes were acknowledged:\n" + "\n".join(wrong[:10])


def test_qemu_img_resizes_volumes_and_images(pool: MountedPool) -> None:
    disk, image = pool.mount / "disk.raw", pool.mount / "image.qcow2"
    qemu_img("create", "-q", "-f", "raw", disk, "16M")
    qemu_img("create", "-q", "-f", "qcow2", image, "16M")
    with disk.open("r+b", buffering=0) as file:
        file.write(b"kept" * 1000)
    for path, kind in ((disk, "raw"), (image, "qcow2")):
        qemu_img("resize", "-q", "-f", kind, path, "+48M")
        assert json.loads(qemu_img("info", "--output", "json", "-f", kind, path))["virtual-size"] == 64 * MIB
        qemu_img("resize", "-q", "--shrink", "-f", kind, path, "32M")
        assert json.loads(qemu_img("info", "--output", "json", "-f", kind, path))["virtual-size"] == 32 * MIB
    qemu_img("check", "-q", image)
    assert disk.read_bytes() == (b"kept" * 1000).ljust(32 * MIB, b"\0")
    pool.kill()
    pool.start()
    assert disk.stat().st_size == 32 * MIB
    qemu_img("check", "-q", image)


def test_qemu_img_makes_converts_checks_and_compares_images(pool: MountedPool, tmp_path: Path) -> None:
    content = tmp_path / "content.raw"
    chance = random.Random(5)
    with content.open("wb") as file:
        for _ in range(40):
            file.seek(chance.randrange(128 * MIB // 512) * 512)
            file.write(chance.randbytes(chance.choice((512, 4096, 70_000))))
        file.truncate(128 * MIB)
    mount = pool.mount
    qemu_img("create", "-q", "-f", "raw", mount / "made.raw", "128M")
    assert (mount / "made.raw").stat().st_size == 128 * MIB
    qemu_img("convert", "-n", "-O", "raw", content, mount / "made.raw")
    qemu_img("compare", "-f", "raw", "-F", "raw", content, mount / "made.raw")
    qemu_img("convert", "-O", "qcow2", mount / "made.raw", mount / "copy.qcow2")
    qemu_img("check", "-q", mount / "copy.qcow2")
    qemu_img("compare", content, mount / "copy.qcow2")
    qemu_img("convert", "-t", "none", "-O", "raw", mount / "copy.qcow2", mount / "back.raw")
    qemu_img("compare", "-f", "raw", "-F", "raw", content, mount / "back.raw")
    pool.kill()
    pool.start()
    qemu_img("check", "-q", mount / "copy.qcow2")
    qemu_img("compare", content, mount / "copy.qcow2")
    qemu_img("compare", "-f", "raw", "-F", "raw", content, mount / "back.raw")
