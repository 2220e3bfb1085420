"""Many files through one daemon: memory stays where it is, what is removed gives its room back, large directories list whole.

If this fails, a mail spool or a source tree would wear the daemon out, or a listing would lose names or repeat them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.clients.posix.directories import Stream
from tests.conftest import PoolMaker
from tests.mounted_pool import MountedPool, wait_until

pytestmark = pytest.mark.mount

THREADS = 4
GROWTH_KIB_MAX = 48 << 10  # of RssAnon, over all rounds but the first
LARGE_DIRECTORY_KIB_MAX = 64 << 10  # of RssAnon, from before it was made until after it was removed
PLACES = 20  # of a listing that are returned to
NO_KERNEL_CACHE = {"VPOOL_FUSE__ENTRY_TIMEOUT_S": "0", "VPOOL_FUSE__ATTRIBUTES_TIMEOUT_S": "0", "VPOOL_VOLUMES__TLOG_AGE_S": "1"}


def in_threads(function: Callable[[Path], object], paths: list[Path]) -> None:
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(function, paths))


class Stopwatch:
    """Prints what a step took per name; figures for whoever runs this with ``-s``."""

    def __init__(self, pool: MountedPool, number: int) -> None:
        self._pool, self._number, self._began = pool, number, time.monotonic()

    def lap(self, step: str) -> None:
        elapsed_s = time.monotonic() - self._began
        per_name_us = 1e6 * elapsed_s / self._number
        print(
            f"{step}: {elapsed_s:.1f} s, {per_name_us:.0f} µs per name, RssAnon {self._pool.memory_kib() >> 10} MiB", flush=True
        )
        self._began = time.monotonic()


def make(path: Path) -> None:
    with path.open("xb", buffering=0) as file:
        file.write(path.name.encode() * 100)


def used(pool: MountedPool) -> tuple[int, int]:
    """Inodes, and bytes of contents, as df tells them."""
    numbers = os.statvfs(pool.mount)
    return numbers.f_files - numbers.f_ffree, (numbers.f_blocks - numbers.f_bfree) * numbers.f_frsize


def wait_until_used(pool: MountedPool, expected: tuple[int, int], deadline_s: float) -> None:
    wait_until(lambda: used(pool) == expected, f"df says {expected}; it says {used(pool)} at first", deadline_s)


def made_and_removed(pool: MountedPool, number: int, rounds: int) -> None:
    empty = used(pool)
    directory = pool.mount / "many"
    first = 0
    for turn in range(rounds):
        watch = Stopwatch(pool, number)
        directory.mkdir()
        paths = [directory / f"{turn}-{at}" for at in range(number)]
        in_threads(make, paths)
        watch.lap("made and written")
        for path in paths[:: number // 50]:
            assert path.read_bytes() == path.name.encode() * 100
        wait_until_used(pool, (empty[0] + number + 1, empty[1] + number * 4096), 30)
        in_threads(os.unlink, paths)
        directory.rmdir()
        watch.lap("removed")
        wait_until_used(pool, empty, 60 + number / 500)
        watch.lap("room given back")
        first = first or pool.memory_kib()
    assert pool.memory_kib() - first < GROWTH_KIB_MAX, f"RssAnon was {first} KiB after the first round"


def listed_while_names_come_and_go(directory: Path, names: list[str]) -> set[str]:
    """Each name that stays is seen once, also from places that were told before others went; returns those that stay."""
    step = len(names) // PLACES
    stream = Stream(directory)
    seen: list[str] = []
    places: dict[str, int] = {}
    removed: set[str] = set()
    while (name := stream.read()) is not None:
        seen.append(name)
        if len(seen) % step == 0:
            places[name] = stream.tell()
            (directory / f"new-{len(seen)}").touch()
            gone = {names[len(seen) // 2], names[(len(names) + len(seen)) // 2 % len(names)]} - removed  # seen, and yet to come
            for each in gone:
                os.unlink(directory / each)
            removed |= gone
    stayed = set(names) - removed
    assert sorted(name for name in seen if name in stayed) == sorted(stayed)
    for name, place in places.items():
        stream.seek(place)
        position = seen.index(name)
        assert [found for found in stream.rest() if found in stayed] == [each for each in seen[position + 1 :] if each in stayed]
    stream.close()
    return stayed


def a_large_directory(pool: MountedPool, number: int) -> None:
    directory = pool.mount / "large"
    directory.mkdir()
    names = [f"{at:06}" for at in range(number)]
    before_kib = pool.memory_kib()
    watch = Stopwatch(pool, number)
    in_threads(lambda path: os.mknod(path, 0o600), [directory / name for name in names])
    watch.lap("made")
    assert sorted(os.listdir(directory)) == names
    watch.lap("listed")
    stayed = listed_while_names_come_and_go(directory, names)
    watch.lap(f"listed {PLACES} times more, while names came and went")
    in_threads(os.stat, [directory / name for name in stayed])
    for absent in ("none", names[0] + "0"):
        assert not (directory / absent).exists()
    watch.lap("looked up")
    in_threads(os.unlink, [directory / name for name in os.listdir(directory)])
    assert os.listdir(directory) == []
    directory.rmdir()
    watch.lap("removed")
    assert pool.memory_kib() - before_kib < LARGE_DIRECTORY_KIB_MAX, f"RssAnon was {before_kib} KiB before"


def test_memory_does_not_grow_with_files_made_and_removed(make_pool: PoolMaker) -> None:
    made_and_removed(make_pool(environment=NO_KERNEL_CACHE), 1000, 3)


def test_a_large_directory(make_pool: PoolMaker) -> None:
    a_large_directory(make_pool(environment=NO_KERNEL_CACHE), 3000)


def test_room_is_counted_when_nobody_looks(make_pool: PoolMaker) -> None:
    """Df and du are right of a large file that was written, closed and left alone; over a restart, too."""
    environment = {**NO_KERNEL_CACHE, "VPOOL_CACHE__SIZE_BYTES": "1GiB", "VPOOL_VOLUMES__HARD_BYTES": "512MiB"}
    pool = make_pool(environment=environment)
    empty = used(pool)
    size = 400 << 20  # more than one look at the map counts
    with (pool.mount / "large").open("wb", buffering=0) as file:
        for _ in range(size >> 20):
            file.write(b"x" * (1 << 20))
    wait_until_used(pool, (empty[0] + 1, empty[1] + size), 30)
    assert (pool.mount / "large").stat().st_blocks * 512 == size
    pool.stop()
    pool.start()
    assert (pool.mount / "large").stat().st_blocks * 512 == size
    os.truncate(pool.mount / "large", 0)
    wait_until_used(pool, (empty[0] + 1, empty[1]), 30)


def test_room_is_counted_where_checkpoints_have_the_map(make_pool: PoolMaker) -> None:
    """What says that the rest of a file is a hole may lie in a checkpoint, of which nothing is on this host."""
    often = {"VPOOL_VOLUMES__TLOG_AGE_S": "0.1", "VPOOL_VOLUMES__TLOGS_PER_CHECKPOINT": "1"}
    made_and_removed(make_pool(environment={**NO_KERNEL_CACHE, **often}), 600, 2)


@pytest.mark.long
def test_memory_does_not_grow_with_very_many_files(make_pool: PoolMaker) -> None:
    made_and_removed(make_pool(environment=NO_KERNEL_CACHE), 50_000, 4)


@pytest.mark.long
def test_a_directory_of_100_000_names(make_pool: PoolMaker) -> None:
    a_large_directory(make_pool(environment=NO_KERNEL_CACHE), 100_000)
