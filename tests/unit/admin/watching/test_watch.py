"""The look every few seconds: the store is asked seldom and never waited for long, and a problem at the edge is told once.

If this fails: a silent store makes every scrape hang, or a value that swings around its limit fills the events.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
import trio

from admin.watching.gathering import Gathering
from admin.watching.health_codes import Severity
from admin.watching.mutes import Mutes
from admin.watching.sample import NodeSample
from admin.watching.watch import Watch, WatchSettings
from tests.unit.admin.watching.samples import GIB, a_node, a_volume
from vpool.errors import Denied, Unavailable, VPoolError

SETTINGS = WatchSettings(period_s=5.0, backend_check_s=10.0, dirty_old_s=120.0)


class Node:
    """Samples and a store that tests change."""

    def __init__(self) -> None:
        self.node = a_node()
        self.problem: VPoolError | None = None
        self.silent = False
        self.checks = 0
        self.rooms = SimpleNamespace(store=self, events=SimpleNamespace(problem=""))

    async def check(self) -> None:
        self.checks += 1
        if self.silent:
            await trio.sleep_forever()
        if self.problem is not None:
            raise self.problem

    async def sample(self) -> NodeSample:
        await trio.lowlevel.checkpoint()
        now = trio.current_time()
        return replace(self.node, at=1e6 + now, boot_s=now)


def a_watch(node: Node, tmp_path: Path) -> Watch:
    return Watch(cast(Gathering, node), Mutes(tmp_path / "mutes.json"), SETTINGS, hard_bytes=4 * GIB)


async def test_the_store_is_asked_as_often_as_the_settings_say(tmp_path: Path, autojump_clock: Any) -> None:
    node = Node()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a_watch(node, tmp_path).run)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert 6 <= node.checks <= 7


async def test_a_silent_store_is_waited_for_three_seconds(tmp_path: Path, autojump_clock: Any) -> None:
    node = Node()
    node.silent = True
    began = trio.current_time()
    health = await a_watch(node, tmp_path).look()
    assert trio.current_time() - began == pytest.approx(3.0)
    assert [each.problem.code for each in health.standing] == ["BACKEND_UNREACHABLE"]


async def test_a_refusal_is_another_problem_than_silence(tmp_path: Path, autojump_clock: Any) -> None:
    node, codes = Node(), []
    watch = a_watch(node, tmp_path)
    for problem in (Unavailable("reset"), Denied("wrong key"), None):
        node.problem = problem
        await trio.sleep(2)
        codes.append([each.problem.code for each in (await watch.look()).standing])
    assert codes == [["BACKEND_UNREACHABLE"], ["BACKEND_REFUSES"], []]


async def test_a_problem_at_the_edge_is_told_once_and_keeps_its_beginning(tmp_path: Path, autojump_clock: Any) -> None:
    node = Node()
    watch = a_watch(node, tmp_path)
    bad, good = (a_volume(waiting_writers=1),), (a_volume(),)
    with structlog.testing.capture_logs() as said:
        since = set()
        for volumes in (bad, good, bad, good, bad, bad):
            node.node = replace(node.node, volumes=volumes)
            await trio.sleep(1)
            since |= {each.since for each in (await watch.look()).standing}
        assert len(since) == 1
        assert [line["event"] for line in said] == ["health_problem_began"]
        node.node = replace(node.node, volumes=good)
        for _ in range(3):
            await trio.sleep(1)
            assert (await watch.look()).standing == ()
    assert [line["event"] for line in said] == ["health_problem_began", "health_problem_ended"]
    assert (said[1]["code"], said[1]["subject"]) == ("WRITERS_WAIT", "machines/web.raw")
    assert said[1]["lasted_s"] == 7.0


async def test_what_is_muted_does_not_count_but_is_shown(tmp_path: Path, autojump_clock: Any) -> None:
    node = Node()
    node.node = replace(node.node, volumes=(a_volume(waiting_writers=1, oldest_dirty_age_s=500.0),))
    watch = a_watch(node, tmp_path)
    assert (await watch.look()).severity is Severity.CRITICAL
    watch.mutes.mute("WRITERS_WAIT", None)
    health = await watch.look()
    assert health.severity is Severity.WARNING
    assert [(each.problem.code, each.muted) for each in health.standing] == [("WRITERS_WAIT", True), ("DIRTY_OLD", False)]


async def test_a_look_that_fails_does_not_end_the_watch(tmp_path: Path, autojump_clock: Any) -> None:
    class Broken(Node):
        async def sample(self) -> NodeSample:
            raise OSError("the disk of the cache is gone")

    node = Broken()
    with structlog.testing.capture_logs() as said:
        with trio.move_on_after(12):
            await a_watch(node, tmp_path).run()
    assert [line["event"] for line in said] == ["look_failed"] * 3
