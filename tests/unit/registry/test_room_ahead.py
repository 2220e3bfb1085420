"""Zeroes ahead of a file's owner: they are there, and they never lie on what the owner has written."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from random import Random

import pytest

from registry import room_ahead
from registry.room_ahead import RoomAhead

SEED = int(os.environ.get("VPOOL_SEED", "0")) or Random().randrange(1 << 32)
PAGE = 4096
DEADLINE_S = 60.0


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small slices, so that there are many."""
    monkeypatch.setattr(room_ahead, "AHEAD_BYTES", 64 << 10)
    monkeypatch.setattr(room_ahead, "SLICE_BYTES", 16 << 10)
    path = tmp_path / "file"
    path.touch()
    print(f"VPOOL_SEED={SEED}")
    return path


def wait_for_size(path: Path, size: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while path.stat().st_size < size:
        assert time.monotonic() < deadline, "nobody makes room"
        time.sleep(0.005)


def test_room_is_made_at_the_start_and_kept(file: Path) -> None:
    room = RoomAhead(file)
    room.fill(10_000)
    assert file.stat().st_size >= 10_000 + (48 << 10)
    for used in range(20_000, 400_000, 20_000):
        room.keep(used)
        wait_for_size(file, used + (48 << 10))
    room.close()
    assert file.stat().st_size < 400_000 + (96 << 10), "more room than was asked for"


def test_what_the_owner_writes_is_never_covered(file: Path) -> None:
    """The owner is faster than the room: it writes at and beyond the end of the file all the while."""
    random = Random(SEED)
    room = RoomAhead(file)
    written: dict[int, bytes] = {}
    with open(file, "r+b", buffering=0) as owner:
        page = 0
        for number in range(1, 3000):
            page += random.choice([0, 1, 1, 2, 5])
            written[page] = number.to_bytes(4, "little") * (PAGE // 4)
            os.pwrite(owner.fileno(), written[page], page * PAGE)
            room.keep((page + 1) * PAGE)
        room.close()
        for page, data in written.items():
            assert os.pread(owner.fileno(), PAGE, page * PAGE) == data, f"page {page} has been covered"


def test_a_full_disk_stops_nobody(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def full(fd: int, data: bytes) -> int:
        tried.append(fd)
        raise OSError(errno.ENOSPC, "no space left")

    room = RoomAhead(file)
    monkeypatch.setattr(os, "write", full)
    room.keep(1 << 20)
    deadline = time.monotonic() + DEADLINE_S
    while not tried:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    room.keep(2 << 20)
    room.close()  # does not wait until it would be tried again
    assert len(tried) == 1
