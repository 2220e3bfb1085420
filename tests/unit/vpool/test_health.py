"""Signs of life: none while a part of the data path hangs or fails, and soon again when it does not."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from vpool.errors import Halted
from vpool.health import Health

PERIOD_S = 30.0


class Part:
    def __init__(self) -> None:
        self.hangs: trio.Event | None = None
        self.fails = False

    async def probe(self) -> None:
        if self.hangs is not None:
            await self.hangs.wait()
        if self.fails:
            raise Halted("no more")


async def test_signs_come_often_enough(autojump_clock: MockClock) -> None:
    signs: list[float] = []
    with trio.move_on_after(5 * PERIOD_S):
        await Health({"part": Part().probe}, lambda: signs.append(trio.current_time()), PERIOD_S).run()
    assert all(later - earlier <= PERIOD_S / 2 for earlier, later in pairwise(signs))
    assert len(signs) >= 10


@pytest.mark.parametrize("way", ["hangs", "fails"])
async def test_no_sign_while_a_part_is_ill(autojump_clock: MockClock, way: str) -> None:
    signs: list[float] = []
    ill = Part()
    async with trio.open_nursery() as nursery:
        health = Health({"well": Part().probe, "ill": ill.probe}, lambda: signs.append(trio.current_time()), PERIOD_S)
        nursery.start_soon(health.run)
        await trio.sleep(PERIOD_S)
        ill.hangs, ill.fails = (trio.Event(), False) if way == "hangs" else (None, True)
        await trio.sleep(1)
        before = len(signs)
        await trio.sleep(10 * PERIOD_S)
        assert len(signs) == before
        ill.fails = False
        if ill.hangs is not None:
            ill.hangs.set()
        await trio.sleep(PERIOD_S)
        assert len(signs) > before
        nursery.cancel_scope.cancel()
