"""Two daemons with one vPool: what one owns is read and written through the other's mount; either is killed, nothing is lost."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.running import vpool
from tests.cluster.test_three_nodes import START_S, Daemon
from tests.mounted_pool import unmount, wait_until

pytestmark = pytest.mark.mount

BLOCK = 4096
BLOCKS = 64
SIZE = BLOCK * BLOCKS
SEED = int(os.environ.get("VPOOL_SEED", "1"))


@contextlib.contextmanager
def two(top: Path) -> Iterator[list[Daemon]]:
    (top / "shared").mkdir()
    nodes = [Daemon(top, number) for number in range(2)]
    first, second = nodes
    try:
        made = vpool("cluster", "init", "--dir", first.directory, "--backend", f"dir:{top / 'shared'}", "--listen", first.address)
        assert made.code == 0, made.err
        first.start()
        token = vpool("cluster", "token", "--dir", first.directory).out.strip()
        joined = vpool("cluster", "join", "--dir", second.directory, "--token", token, "--listen", second.address)
        assert joined.code == 0, joined.err
        second.start()
        wait_until(lambda: [m["state"] for m in first.status()["members"]] == ["votes"] * 2, "both vote", START_S)
        yield nodes
    finally:
        for node in nodes:
            if not node.ended():
                assert node.process is not None
                node.process.kill()
                node.process.wait(30)
            unmount(node.mount)


def stamp(block: int, version: int) -> bytes:
    return (f"{block}:{version};".encode() * BLOCK)[:BLOCK]


def written(path: Path, block: int, data: bytes, *, sync: bool = False) -> None:
    with path.open("r+b", buffering=0) as file:
        assert os.pwrite(file.fileno(), data, block * BLOCK) == len(data)
        if sync:
            os.fsync(file.fileno())


def read(path: Path, block: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), BLOCK, block * BLOCK)


def made_on(node: Daemon, name: str) -> None:
    with (node.mount / name).open("wb", buffering=0) as file:
        os.ftruncate(file.fileno(), SIZE)
        os.pwrite(file.fileno(), stamp(0, 0), 0)
        os.fsync(file.fileno())


@pytest.mark.parametrize("name", ["disk.raw", "plain.txt"])
def test_two_nodes_serve_one_object(tmp_path: Path, name: str) -> None:
    """A volume, and a file: sizes, data, truncation, times and removal are one history, whoever asks."""
    with two(tmp_path) as (owner, other):
        made_on(owner, name)
        here, there = owner.mount / name, other.mount / name
        assert there.stat().st_size == SIZE
        assert read(there, 0) == stamp(0, 0)
        chosen = random.Random(SEED)
        print(f"VPOOL_SEED={SEED}")
        content = {0: stamp(0, 0)}
        for version in range(1, 40):
            block, to_other = chosen.randrange(BLOCKS), chosen.random() < 0.5
            content[block] = stamp(block, version)
            written(there if to_other else here, block, content[block], sync=version % 7 == 0)
            assert read(here if to_other else there, block) == content[block], "a write is seen by every later read"
        for block in range(BLOCKS):
            expected = content.get(block, bytes(BLOCK))
            assert read(here, block) == read(there, block) == expected, block
        # a write that ends within a cluster, one that grows, a large one, and one that is cut again
        written(there, BLOCKS, b"behind the end", sync=True)
        assert (here.stat().st_size, read(here, BLOCKS)) == (SIZE + 14, b"behind the end")
        large = os.urandom(3 << 20)
        with there.open("r+b", buffering=0) as file:
            at = 0
            while at < len(large):
                at += os.pwrite(file.fileno(), large[at:], SIZE + at)
        assert here.read_bytes()[SIZE:] == large
        assert there.read_bytes()[SIZE:] == large
        os.truncate(there, SIZE)
        assert here.stat().st_size == there.stat().st_size == SIZE
        assert read(there, BLOCKS) == b""
        # its name goes on one node while the other has it open: it stays until that is closed
        with there.open("r+b", buffering=0) as file:
            here.unlink()
            assert os.pwrite(file.fileno(), stamp(1, 99), BLOCK) == BLOCK
            assert os.pread(file.fileno(), BLOCK, BLOCK) == stamp(1, 99)
        assert not there.exists()


def test_a_killed_owner_and_a_killed_asker_lose_nothing(tmp_path: Path) -> None:
    """What was flushed through either node is there, and what was on its way to a killed owner waits or fails as EIO."""
    with two(tmp_path) as (owner, other):
        made_on(owner, "disk.raw")
        here, there = owner.mount / "disk.raw", other.mount / "disk.raw"
        for block in range(1, 9):
            written(there, block, stamp(block, 1), sync=block % 2 == 0)
        with here.open("rb", buffering=0) as mine:  # one of two voters is no majority: names wait, data do not
            other.kill()
            for block in range(9):
                found_here = os.pread(mine.fileno(), BLOCK, block * BLOCK)
                assert found_here == stamp(block, 0 if block == 0 else 1), "acknowledged by the owner, so it is there"
            other.start()
        written(there, 9, stamp(9, 1), sync=True)
        # the owner is killed under an open file: reads wait for it, and a flush covers what it had acknowledged
        with there.open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), stamp(10, 1), 10 * BLOCK)
            owner.kill()
            found: list[bytes] = []
            reader = threading.Thread(target=lambda: found.append(os.pread(file.fileno(), BLOCK, 10 * BLOCK)), daemon=True)
            reader.start()
            reader.join(2)
            assert reader.is_alive(), "a request waits while the owner is away"
            owner.start()
            reader.join(30)
            assert found == [stamp(10, 1)], "a kill of the daemon loses nothing that was acknowledged"
            os.fsync(file.fileno())
            os.pwrite(file.fileno(), stamp(11, 1), 11 * BLOCK)
            os.fsync(file.fileno())
        for block in range(12):
            assert read(here, block) == read(there, block) == stamp(block, 0 if block == 0 else 1)


def test_a_writer_goes_on_when_its_owner_is_killed_again_and_again(tmp_path: Path) -> None:
    """Each write is answered once: done, or EIO if nobody can know. What was answered as done is found."""
    with two(tmp_path) as (owner, other):
        made_on(owner, "disk.raw")
        there = other.mount / "disk.raw"
        stop = threading.Event()
        done: dict[int, int] = {}
        failed: list[int | None] = []

        def write_on() -> None:
            with there.open("r+b", buffering=0) as file:
                version = 0
                while not stop.is_set():
                    version += 1
                    block = version % BLOCKS
                    try:
                        os.pwrite(file.fileno(), stamp(block, version), block * BLOCK)
                        done[block] = version
                    except OSError as error:
                        failed.append(error.errno)
                        done.pop(block, None)

        writer = threading.Thread(target=write_on, daemon=True)
        writer.start()
        for _ in range(2):
            done.clear()
            wait_until(lambda: len(done) > BLOCKS // 2, "it writes", 20)
            owner.kill()
            owner.start()
        stop.set()
        writer.join(30)
        assert not writer.is_alive()
        assert failed in ([], [errno.EIO], [errno.EIO] * 2), "one request was on its way at each kill"
        for block, version in done.items():
            assert read(owner.mount / "disk.raw", block) == stamp(block, version)
