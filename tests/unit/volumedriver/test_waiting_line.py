"""Writers that wait for room: in order, and a thousand of them cost no more than one.

If this fails, a stalled host burns its processors on attempts that cannot succeed, or a halted volume keeps its writers for ever.
"""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio
import trio.testing

from engine import WouldBlock
from volumedriver import Volume, VolumeDriverSettings
from vpool.errors import Halted, Moved, Unavailable

WRITERS = 200


class FullLog:
    """An engine's volume that has room for ``room`` more requests."""

    def __init__(self) -> None:
        self.room = 0
        self.attempts = 0
        self.written: list[int] = []

    def write(self, offset: int, data: bytes) -> float:
        self.attempts += 1
        if not self.room:
            raise WouldBlock
        self.room -= 1
        self.written.append(offset)
        return 0.0


def volume(log: FullLog, *, stall_s: float | None = None) -> Volume:
    return Volume("a" * 32, cast(Any, log), cast(Any, None), cast(Any, None), VolumeDriverSettings(stall_s=stall_s))


async def begin(nursery: trio.Nursery, disk: Volume) -> None:
    """Writers, one after the other, that all wait."""
    for number in range(WRITERS):
        nursery.start_soon(disk.write, number * 4096, b"x" * 4096)
        await trio.testing.wait_all_tasks_blocked()
    assert disk.waiting_writers == WRITERS


async def test_the_first_tries_and_all_get_in_by_their_order(autojump_clock: trio.testing.MockClock) -> None:
    log = FullLog()
    disk = volume(log)
    async with trio.open_nursery() as nursery:
        await begin(nursery, disk)
        log.attempts = 0
        await trio.sleep(10)
        assert log.attempts <= 20
        log.room = 3
        disk.room_freed()
        await trio.testing.wait_all_tasks_blocked()
        assert log.written == [0, 4096, 8192]
        assert disk.waiting_writers == WRITERS - 3
        log.room = WRITERS  # freed by another volume: nobody says so
    assert log.written == [number * 4096 for number in range(WRITERS)]
    assert disk.waiting_writers == 0


async def test_a_halt_lets_all_of_them_go(autojump_clock: trio.testing.MockClock) -> None:
    disk, refused = volume(FullLog()), []

    async def write() -> None:
        with pytest.raises(Halted):
            await disk.write(0, b"x" * 4096)
        refused.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        for _ in range(WRITERS):
            nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        halted_at = trio.current_time()
        disk.halt("a sync failed")
    assert refused == [halted_at] * WRITERS
    assert disk.waiting_writers == 0


async def test_none_waits_longer_than_it_may(autojump_clock: trio.testing.MockClock) -> None:
    disk, waited = volume(FullLog(), stall_s=30), []

    async def write(after_s: float) -> None:
        await trio.sleep(after_s)
        began = trio.current_time()
        with pytest.raises(Unavailable):
            await disk.write(0, b"x" * 4096)
        waited.append(trio.current_time() - began)

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(write, number * 0.1)
    assert len(waited) == 50
    assert max(waited) < 32


async def test_a_hold_for_a_hand_over_and_one_for_an_exchange_end_each_by_itself() -> None:
    """Else an exchange that is given up lets clients write behind the end that a hand-over has told its target."""
    log = FullLog()
    log.room = WRITERS
    disk = volume(log)
    for ends in ((disk.release, lambda: disk.go_on(disk.native)), (lambda: disk.go_on(disk.native), disk.release)):
        log.written.clear()
        disk.hold_all()
        disk.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk.write, 0, b"x" * 4096)
            await trio.testing.wait_all_tasks_blocked()
            ends[0]()
            await trio.testing.wait_all_tasks_blocked()
            assert log.written == []
            ends[1]()
        assert log.written == [0]
    disk.hold_all()
    disk.hold()
    disk.move_away()
    with pytest.raises(Moved):
        await disk.write(0, b"x" * 4096)
