"""What a request waited for: its own task's notes since its beginning, and nobody else's."""

from __future__ import annotations

from time import perf_counter_ns

import trio

from volumedriver.phases import NOTES_MAX, Phase, Waiting, waited_since


async def test_phases_add_up_and_are_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    with Waiting(Phase.ROOM):
        pass
    began = perf_counter_ns()
    with Waiting(Phase.BACKEND):
        await trio.sleep(1)
    with Waiting(Phase.BACKEND), Waiting(Phase.DELAY):
        pass
    found = waited_since(began)
    assert found.keys() == {Phase.BACKEND, Phase.DELAY}  # not the room of an earlier request
    assert all(seconds >= 0 for seconds in found.values())
    assert waited_since(began) == {}


async def test_a_task_has_its_own_notes() -> None:
    began = perf_counter_ns()
    seen = []

    async def other() -> None:
        with Waiting(Phase.ROOM):
            pass
        seen.append(waited_since(began))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
    assert seen[0].keys() == {Phase.ROOM}
    assert waited_since(began) == {}


def test_a_task_that_nobody_asks_keeps_a_bounded_number() -> None:
    began = perf_counter_ns()
    for _ in range(10 * NOTES_MAX):
        with Waiting(Phase.DELAY):
            pass
    assert 0 < waited_since(began)[Phase.DELAY] < (perf_counter_ns() - began) / 1e9
