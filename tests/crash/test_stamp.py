"""The crash tests' own tools: a checker that cannot fail proves nothing."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.crash.history import CLUSTER_UNITS, UNIT_BYTES, History, Judgement, Violation, Write
from tests.crash.stamp import Load, Signature, Writers, pick, read_stamps, sequences, stamped

UNITS = 64
ME = Signature(seed=7, round=1, thread=0)


def cluster(number: int) -> range:
    return range(number * CLUSTER_UNITS, (number + 1) * CLUSTER_UNITS)


def write(history: History, number: int, *, acknowledged: bool = True) -> Write:
    """A write of one whole cluster."""
    made = history.issue(number * CLUSTER_UNITS, CLUSTER_UNITS)
    assert made is not None
    if acknowledged:
        history.acknowledge(made)
    return made


def content(*parts: tuple[Write, Iterable[int]]) -> dict[int, int]:
    return {unit: made.sequence for made, units in parts for unit in units}


def judge(history: History, seen: dict[int, int], *, cache_lost: bool) -> Judgement:
    return history.judge(seen, range(UNITS), cache_lost=cache_lost)


def test_everything_that_was_acknowledged_is_there() -> None:
    history = History()
    a, b = write(history, 0), write(history, 1)
    seen = content((a, cluster(0)), (b, cluster(1)))
    assert judge(history, seen, cache_lost=False) == Judgement(writes=2, lost=0, lost_acknowledged=0)


def test_an_acknowledged_write_may_not_be_lost_with_the_cache_kept() -> None:
    history = History()
    a, _ = write(history, 0), write(history, 1)
    with pytest.raises(Violation, match="lost at unit 8, although the cache was kept"):
        judge(history, content((a, cluster(0))), cache_lost=False)


def test_an_older_content_counts_as_loss() -> None:
    history = History()
    a, _ = write(history, 0), write(history, 0)
    with pytest.raises(Violation, match="lost"):
        judge(history, content((a, cluster(0))), cache_lost=False)


@pytest.mark.parametrize("kept", [True, False])
def test_an_unanswered_write_may_be_there_or_not(kept: bool) -> None:
    history = History()
    a, b = write(history, 0), write(history, 1, acknowledged=False)
    history.refuse(b)
    seen = content((a, cluster(0)), *([(b, cluster(1))] if kept else []))
    for cache_lost in (False, True):
        judge(history, seen, cache_lost=cache_lost)


def test_a_tail_may_be_lost_with_the_cache() -> None:
    history = History()
    a, _, _ = write(history, 0), write(history, 1), write(history, 2)
    found = judge(history, content((a, cluster(0))), cache_lost=True)
    assert found == Judgement(writes=3, lost=2, lost_acknowledged=2)


def test_a_hole_in_the_order_is_no_prefix() -> None:
    history = History()
    a, _, c = write(history, 0), write(history, 1), write(history, 2)
    with pytest.raises(Violation, match="not a prefix"):
        judge(history, content((a, cluster(0)), (c, cluster(2))), cache_lost=True)


def test_a_hole_under_an_overwrite_is_no_prefix() -> None:
    """The lost write is older content's successor: it shows only by what it replaced."""
    history = History()
    a, _, c = write(history, 0), write(history, 0), write(history, 2)
    with pytest.raises(Violation, match="not a prefix"):
        judge(history, content((a, cluster(0)), (c, cluster(2))), cache_lost=True)


def test_writes_that_overlapped_in_time_have_no_order() -> None:
    """B was issued before A was acknowledged: either alone is a prefix."""
    history = History()
    a = history.issue(0, CLUSTER_UNITS)
    b = history.issue(CLUSTER_UNITS, CLUSTER_UNITS)
    assert a is not None
    assert b is not None
    history.acknowledge(a)
    history.acknowledge(b)
    judge(history, content((b, cluster(1))), cache_lost=True)
    judge(history, content((a, cluster(0))), cache_lost=True)


def test_an_order_through_a_third_write_counts() -> None:
    """A overlapped B, B overlapped C, but C was issued after A's answer."""
    history = History()
    a = history.issue(0, CLUSTER_UNITS)
    b = history.issue(8, CLUSTER_UNITS)
    assert a is not None
    assert b is not None
    history.acknowledge(a)
    c = write(history, 2)
    history.acknowledge(b)
    judge(history, content((a, cluster(0)), (c, cluster(2))), cache_lost=True)
    with pytest.raises(Violation, match="not a prefix"):
        judge(history, content((b, cluster(1)), (c, cluster(2))), cache_lost=True)


def test_a_torn_cluster_is_found() -> None:
    history = History()
    a, b = write(history, 0), write(history, 0, acknowledged=False)
    history.refuse(b)
    seen = content((a, cluster(0)), (b, range(3)))
    for cache_lost in (False, True):
        with pytest.raises(Violation, match="torn"):
            judge(history, seen, cache_lost=cache_lost)


def test_a_large_write_may_stop_between_clusters() -> None:
    history = History()
    a = history.issue(0, 3 * CLUSTER_UNITS)
    assert a is not None
    history.refuse(a)
    judge(history, content((a, range(2 * CLUSTER_UNITS))), cache_lost=False)


def test_a_sector_written_into_a_cluster_does_not_make_it_torn() -> None:
    history = History()
    a = write(history, 0)
    b = history.issue(2, 1)
    assert b is not None
    history.acknowledge(b)
    judge(history, content((a, cluster(0)), (b, [2])), cache_lost=False)
    with pytest.raises(Violation, match="although the cache was kept"):
        judge(history, content((a, cluster(0))), cache_lost=False)


def test_what_was_lost_once_never_comes_back() -> None:
    history = History()
    a, b = write(history, 0), write(history, 1)
    seen = content((a, cluster(0)))
    judge(history, seen, cache_lost=True)
    history.settle(seen, range(UNITS))
    with pytest.raises(Violation, match="no longer"):
        judge(history, content((a, cluster(0)), (b, cluster(1))), cache_lost=True)


def test_an_unanswered_write_that_was_seen_comes_before_later_ones() -> None:
    history = History()
    a = write(history, 0, acknowledged=False)
    history.refuse(a)
    seen = content((a, cluster(0)))
    judge(history, seen, cache_lost=False)
    history.settle(seen, range(UNITS))
    b = write(history, 1)
    with pytest.raises(Violation, match="not a prefix"):
        judge(history, content((b, cluster(1))), cache_lost=True)
    judge(history, {}, cache_lost=True)  # both are gone: an older state of the backend


def test_what_was_in_the_backend_survives_the_cache() -> None:
    history = History()
    a = write(history, 0)
    seen = content((a, cluster(0)))
    history.everything_is_safe()
    history.settle(seen, range(UNITS))
    write(history, 0)
    judge(history, seen, cache_lost=True)
    with pytest.raises(Violation, match="although it was in the backend"):
        judge(history, {}, cache_lost=True)


def test_foreign_content_is_found() -> None:
    history = History()
    a = write(history, 0)
    with pytest.raises(Violation, match="never"):
        judge(history, content((a, cluster(0)), (a, cluster(4))), cache_lost=True)


def test_a_stale_read_is_found() -> None:
    history = History()
    a = write(history, 0)
    floor = history.floor(0, CLUSTER_UNITS)
    b = write(history, 0)
    history.compare(floor, content((a, cluster(0))))
    history.compare(floor, content((b, cluster(0))))
    with pytest.raises(Violation, match="stale read"):
        history.compare(history.floor(0, CLUSTER_UNITS), content((a, cluster(0))))


def test_overlapping_requests_are_never_under_way_together() -> None:
    history = History()
    a = history.issue(0, 4)
    assert a is not None
    assert history.issue(3, 4) is None
    assert history.issue(4, 4) is not None
    history.acknowledge(a)
    assert history.issue(0, 4) is not None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (stamped(ME, 5, 8, 1), "has the content of unit 8"),
        (stamped(Signature(8, 1, 0), 5, 0, 1), "seed 8"),
        (stamped(ME, 5, 0, 1)[:-1] + b"\0", "damaged"),
        (b"\1" + bytes(UNIT_BYTES - 1), "damaged"),
    ],
)
def test_wrong_data_are_never_taken_for_a_write(data: bytes, said: str) -> None:
    with pytest.raises(Violation, match=said):
        dict(sequences(data, 0, ME.seed))


def test_stamps_are_read_back() -> None:
    data = bytes(UNIT_BYTES) + stamped(ME, 5, 11, 2)
    assert dict(sequences(data, 10, ME.seed)) == {11: 5, 12: 5}


def test_requests_are_of_all_sizes_and_inside() -> None:
    dice, load = random.Random(1), Load(units=16384)
    made = [pick(dice, load) for _ in range(5000)]
    assert all(first >= 0 and count > 0 and first + count <= load.units for first, count in made)
    assert {count for _, count in made} >= {1, CLUSTER_UNITS, 16}
    assert max(count for _, count in made) > 1800


def test_writers_and_reader_agree_on_an_honest_disk(tmp_path: Path) -> None:
    """On a plain file nothing is lost; and a checker that sees one cluster less than was written says so."""
    disk, load, history = tmp_path / "disk.raw", Load(units=8192, bytes_max=4 << 20), History()
    disk.touch()
    os.truncate(disk, load.units * UNIT_BYTES)
    with Writers(disk, history, load, ME) as writers:
        while writers.bytes_written < load.bytes_max and writers.busy:
            time.sleep(0.01)
    assert not writers.errors
    assert writers.fsyncs > 0
    assert writers.reads > 0
    seen = read_stamps(disk, 0, load.units, ME.seed)
    found = history.judge(seen, range(load.units), cache_lost=False)
    assert found.lost == 0
    assert found.writes > 100
    history.settle(seen, range(load.units))
    gone = next(iter(seen))
    with pytest.raises(Violation):
        history.judge({unit: sequence for unit, sequence in seen.items() if unit != gone}, range(load.units), cache_lost=False)
