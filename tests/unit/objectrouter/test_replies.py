"""An answer leaves under the lease only; without, it waits; after the end of a life it fails. If not: two owners answer."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from objectrouter.replies import Replies
from registry import Lease
from vpool.errors import Fenced


def lease_from(now: float) -> Lease:
    lease = Lease()
    lease.sent(1, now)
    lease.committed(1)
    return lease


async def test_under_the_lease_nobody_waits() -> None:
    replies = Replies(lease_from(100.0), lambda: 103.9)
    with trio.CancelScope() as scope:
        scope.cancel()
        await replies.allowed("log")  # not even a checkpoint
    assert not scope.cancelled_caught


async def test_without_it_an_answer_waits_until_there_is_one_again(autojump_clock: MockClock) -> None:
    lease, now = lease_from(100.0), 104.1
    replies = Replies(lease, lambda: now)
    left = []

    async def answer() -> None:
        await replies.allowed("log")
        left.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        await wait_all_tasks_blocked()
        replies.tick()
        await wait_all_tasks_blocked()
        assert (left, replies.waiting) == ([], 1), "the lease was over when it would have left"
        lease.sent(2, 104.0)
        lease.committed(2)
        replies.tick()
    assert left == [True]


async def test_when_the_life_is_over_it_fails(autojump_clock: MockClock) -> None:
    lease = lease_from(100.0)
    replies = Replies(lease, lambda: 104.1)
    async with trio.open_nursery() as nursery:

        async def answer() -> None:
            with pytest.raises(Fenced):
                await replies.allowed("log")

        nursery.start_soon(answer)
        await wait_all_tasks_blocked()
        lease.end()
        replies.tick()
