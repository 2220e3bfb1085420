"""``vpool top``: rates are differences over the node's own clock, also over a restart and a deletion."""

from __future__ import annotations

from typing import Any

import pytest

from vpool.cli.top_frame import SORTS, frame_of

BOUNDS = [0.001, 0.01, 0.1]


def operation(counts: list[int], *, size: int = 0, sum_s: float = 0.0) -> dict[str, Any]:
    return {"count": sum(counts), "failed": 0, "bytes": size, "sum_s": sum_s, "counts": counts}


def volume(name: str, **changed: Any) -> dict[str, Any]:
    fields = {
        "object": name,
        "path": f"{name}.raw",
        "state": "serving",
        "dirty_bytes": 0,
        "oldest_dirty_age_s": 0.0,
        "waiting_writers": 0,
        "stalled": "",
        "misses": 0,
        "hit_bytes": 0,
        "missed_bytes": 0,
        "operations": {},
    }
    return {**fields, **changed}


def report(boot_s: float, *volumes: dict[str, Any], uptime_s: float | None = None, **changed: Any) -> dict[str, Any]:
    fields = {
        "at": 1e6 + boot_s,
        "boot_s": boot_s,
        "uptime_s": boot_s if uptime_s is None else uptime_s,
        "bounds_s": BOUNDS,
        "volumes": list(volumes),
        "sent_bytes": 0,
        "received_bytes": 0,
        "backend_retries": 0,
    }
    return {**fields, **changed}


def test_rates_latencies_and_totals() -> None:
    before = report(10.0, volume("a", operations={"read": operation([5, 0, 0, 0], size=1000, sum_s=0.1)}), sent_bytes=100)
    after = report(
        14.0,
        volume(
            "a",
            operations={"read": operation([5, 99, 1, 0], size=401_000, sum_s=0.9)},
            missed_bytes=100_000,
            dirty_bytes=7,
            oldest_dirty_age_s=3.0,
        ),
        volume("b", operations={"write": operation([4, 0, 0, 0], size=4096, sum_s=0.002)}, dirty_bytes=5, waiting_writers=2),
        sent_bytes=4100,
    )
    frame = frame_of(before, after)
    first, second = frame.lines
    assert (first.path, second.path) == ("a.raw", "b.raw")
    assert (first.read.per_s, first.read.bytes_per_s) == (25.0, 100_000.0)
    assert first.read.mean_s == pytest.approx(0.008)
    assert first.read.p99_s == 0.01
    assert first.hit_share == 0.75
    assert first.write.mean_s is None
    assert second.hit_share is None
    assert (frame.total.per_s, frame.total.dirty_bytes, frame.total.waiting_writers) == (26.0, 12, 2)
    assert frame.total.oldest_dirty_age_s == 3.0
    assert frame.sent_per_s == 1000.0
    assert frame.as_dict()["total"]["read"]["per_s"] == 25.0


def test_a_restart_in_between_counts_from_zero() -> None:
    before = report(100.0, volume("a", operations={"write": operation([50, 0, 0, 0], size=9999, sum_s=1.0)}), sent_bytes=9)
    after = report(
        102.0, volume("a", operations={"write": operation([60, 0, 0, 0], size=600, sum_s=0.1)}), uptime_s=1.0, sent_bytes=20
    )
    frame = frame_of(before, after)
    assert frame.lines[0].write.per_s == 30.0
    assert frame.lines[0].write.bytes_per_s == 300.0
    assert frame.sent_per_s == 10.0


def test_a_deleted_volume_is_gone_and_a_slow_tail_is_beyond_all_bounds() -> None:
    before = report(0.0, volume("a"), volume("b", operations={"read": operation([9, 0, 0, 0])}))
    frame = frame_of(before, report(1.0, volume("a", operations={"flush": operation([0, 0, 0, 2], sum_s=3.0)})))
    assert [line.path for line in frame.lines] == ["a.raw"]
    assert frame.total.flush.p99_s == float("inf")


@pytest.mark.parametrize(
    ("sort", "order"),
    [("requests", "cab"), ("bytes", "bac"), ("latency", "abc"), ("dirty", "bca"), ("path", "abc")],
)
def test_sorting(sort: str, order: str) -> None:
    volumes = (
        volume("a", operations={"read": operation([2, 0, 0, 0], size=20, sum_s=9.0)}, dirty_bytes=1),
        volume("b", operations={"read": operation([1, 0, 0, 0], size=30, sum_s=2.0)}, dirty_bytes=3),
        volume("c", operations={"read": operation([3, 0, 0, 0], size=10, sum_s=0.1)}, dirty_bytes=2),
    )
    frame = frame_of(report(0.0), report(1.0, *volumes), sort=sort)
    assert sort in SORTS
    assert "".join(line.path[0] for line in frame.lines) == order
