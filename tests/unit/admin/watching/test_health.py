"""From samples to codes: each code comes up for its cause and for nothing else, and mutes are kept.

If this fails: an operator is woken for nothing, or is not woken, or sleeps on because a mute never ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from admin.watching.health import Answer, BackendAnswer, Memory, Problem, problems_of, stepped
from admin.watching.health_codes import HEALTH_CODES, Severity
from admin.watching.mutes import Mutes
from admin.watching.sample import ExportSample, NodeSample
from tests.unit.admin.watching.samples import GIB, LIMITS, MIB, a_cluster, a_node, a_volume, histogram, store_operation
from vpool.errors import Invalid, NotFound, Unavailable

REACHABLE = BackendAnswer(Answer.YES, "")
NOTHING = Memory(None, None, 0.0)


def problems(
    sample: NodeSample, *, backend: BackendAnswer = REACHABLE, memory: Memory = NOTHING, events: str = ""
) -> list[Problem]:
    return problems_of(sample, backend, memory, LIMITS, events)


def with_cache(**changed: Any) -> NodeSample:
    node = a_node()
    return replace(node, cache=replace(node.cache, **changed))


def with_volume(**changed: object) -> NodeSample:
    return a_node(volumes=(a_volume(**changed),))


def with_verification(**changed: float) -> NodeSample:
    node = a_node()
    return replace(node, verification=replace(node.verification, **changed))  # type: ignore[arg-type]


def lately(**now: object) -> list[Problem]:
    earlier = a_node(store={"put": store_operation(tries=100, retries=1)})
    return problems(a_node(store={"put": store_operation(**now)}), memory=Memory(earlier, None, 0.0))  # type: ignore[arg-type]


SLOW = histogram(*[0] * 20, 4, sum_s=24.0)
CAUSES: dict[str, Callable[[], list[Problem]]] = {
    "BACKEND_UNREACHABLE": lambda: problems(a_node(), backend=BackendAnswer(Answer.NONE, "no answer within 3 s")),
    "BACKEND_REFUSES": lambda: problems(a_node(), backend=BackendAnswer(Answer.REFUSAL, "wrong key")),
    "BACKEND_ERRORS": lambda: lately(tries=120, retries=6),
    "BACKEND_SLOW": lambda: lately(tries=104, retries=1, latency=SLOW),
    "VOLUME_HALTED": lambda: problems(with_volume(state="halted", halted_reason="a gap")),
    "FILES_HALTED": lambda: problems(with_volume(state="halted", halted_reason="a gap", kind="file-log", path="(files)")),
    "WRITERS_WAIT": lambda: problems(with_volume(waiting_writers=3, stalled="503")),
    "CACHE_NEAR_LIMIT": lambda: problems(with_cache(log_used_bytes=6 * GIB - 1)),
    "CACHE_DISK_FULL": lambda: problems(with_cache(disk_free_bytes=63 * MIB)),
    "CACHE_DISK_FAILS": lambda: problems(with_cache(failed=("read cache: read: Input/output error",))),
    "CACHE_DISK_SHORT": lambda: problems(with_cache(disk_free_bytes=3 * GIB - 1)),
    "CONTENT_LOST": lambda: problems(with_verification(lost_ranges=2, lost_bytes=8192)),
    "RESTART_WOULD_FAIL": lambda: problems(with_verification(needed_objects=1)),
    "VERIFY_OVERDUE": lambda: problems(with_verification(started=1e6 - 61 * 86_400)),
    "EXPORT_WAITS": lambda: problems(a_node(export=ExportSample(3, 4, "507 quota"))),
    "DIRTY_OLD": lambda: problems(with_volume(oldest_dirty_age_s=121.0)),
    "REGISTRY_NO_MAJORITY": lambda: problems(a_node(cluster=a_cluster(has_leader=False))),
    "NODE_DEAD": lambda: problems(a_node(cluster=a_cluster(dead_nodes=("abc",)))),
    "REGISTRY_SILENT": lambda: problems(a_node(registry_waiting_s=10.5)),
    "CLOCK_STEPPED": lambda: problems(a_node(), memory=Memory(None, 4990.0, 3600.0)),
    "OPEN_FILES_NEAR_LIMIT": lambda: problems(a_node(open_files=900, open_files_max=1000)),
    "EVENTS_LOST": lambda: problems(a_node(events_lost=2), events="No space left on device"),
}


def test_a_healthy_node_has_no_problem() -> None:
    earlier = a_node(boot_s=4940.0, store={"put": store_operation(tries=1)})
    assert problems(a_node(), memory=Memory(earlier, None, 0.0)) == []
    assert problems(a_node(), memory=Memory(None, 4000.0, 5.0)) == []  # the clock was set long ago


def test_every_code_has_a_cause_here() -> None:
    assert CAUSES.keys() == HEALTH_CODES.keys()


@pytest.mark.parametrize("code", CAUSES)
def test_a_cause_brings_up_its_code_alone(code: str) -> None:
    found = CAUSES[code]()
    assert [problem.code for problem in found] == [code]
    assert found[0].message


def test_a_volume_near_its_own_limit_is_named() -> None:
    found = problems(with_volume(dirty_bytes=int(3.7 * GIB)))
    assert [(problem.code, problem.subject) for problem in found] == [("CACHE_NEAR_LIMIT", "machines/web.raw")]


def test_the_worst_comes_first() -> None:
    both = a_node(volumes=(a_volume(oldest_dirty_age_s=500.0), a_volume(object="1" * 32, path="b.raw", waiting_writers=1)))
    assert [problem.severity for problem in problems(both)] == [Severity.CRITICAL, Severity.WARNING]


def test_a_step_of_the_clock_is_seen_and_drift_is_not() -> None:
    before = a_node()
    assert stepped(before, replace(before, at=before.at + 5.5, boot_s=before.boot_s + 5.0)) == 0.0
    assert stepped(before, replace(before, at=before.at + 3605.0, boot_s=before.boot_s + 5.0)) == 3600.0
    assert stepped(before, replace(before, at=before.at - 55.0, boot_s=before.boot_s + 5.0)) == -60.0


def test_mutes_end_by_themselves_and_survive_a_restart(tmp_path: Path) -> None:
    now = [1000.0]
    path = tmp_path / "health-mutes.json"
    mutes = Mutes(path, clock=lambda: now[0])
    mutes.mute("DIRTY_OLD", 60.0)
    mutes.mute("WRITERS_WAIT", None)
    again = Mutes(path, clock=lambda: now[0])
    assert again.current() == {"DIRTY_OLD": 1060.0, "WRITERS_WAIT": None}
    now[0] = 1060.0
    assert again.current() == {"WRITERS_WAIT": None}
    again.unmute("WRITERS_WAIT")
    assert Mutes(path, clock=lambda: now[0]).current() == {}


def test_bad_mutes_are_refused_and_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "health-mutes.json"
    mutes = Mutes(path)
    with pytest.raises(Invalid, match="there is no health code DIRTY; there are: BACKEND_UNREACHABLE"):
        mutes.mute("DIRTY", 60.0)
    for seconds in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(Invalid, match="above 0"):
            mutes.mute("DIRTY_OLD", seconds)
    with pytest.raises(NotFound, match="DIRTY_OLD is not muted"):
        mutes.unmute("DIRTY_OLD")
    assert not path.exists()


def test_mutes_that_cannot_be_written_are_not_in_force(tmp_path: Path) -> None:
    mutes = Mutes(tmp_path / "gone" / "health-mutes.json")
    with pytest.raises(Unavailable):
        mutes.mute("DIRTY_OLD", 60.0)
    assert mutes.current() == {}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"FOO": null, "DIRTY_OLD": "soon", "WRITERS_WAIT": true}', "\xff"])
def test_a_damaged_file_mutes_nothing(tmp_path: Path, content: str) -> None:
    path = tmp_path / "health-mutes.json"
    path.write_text(content, encoding="latin-1")
    assert Mutes(path).current() == {}


def test_what_the_cache_disk_refuses_is_told_in_its_own_words() -> None:
    found = problems(with_cache(refused=("growing the log: no room",)))
    assert [(each.code, each.message) for each in found] == [("CACHE_DISK_FULL", "growing the log: no room")]


def test_errors_of_the_backend_say_why() -> None:
    """A full store answers all that is no upload; nothing else would tell."""
    (problem,) = lately(tries=120, retries=15, problem="the file system of the store is full")
    assert problem.code == "BACKEND_ERRORS"
    assert "14 of 20" in problem.message
    assert problem.message.endswith("the file system of the store is full")
