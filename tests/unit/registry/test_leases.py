"""Leases: nobody serves when another may take over, and nobody is declared dead for a registry that was away."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.leases import Lease, LeaseTimings, Watcher

T = LeaseTimings()


def test_it_serves_from_the_commit_until_the_sending_plus_the_lease() -> None:
    lease = Lease()
    assert not lease.serves(0.0)
    lease.sent(1, 10.0)
    assert not lease.serves(10.1), "a renewal that is not committed is worth nothing"
    lease.committed(1)
    assert lease.serves(10.2)
    assert lease.serves(13.99)
    assert not lease.serves(14.0), "counted from the sending, not from the answer"


def test_a_late_answer_counts_from_its_sending() -> None:
    lease = Lease()
    lease.sent(1, 10.0)
    lease.sent(2, 10.5)
    lease.committed(2)
    lease.committed(1)  # later, of the older one
    assert lease.until == 14.5
    lease.sent(3, 11.0)
    lease.committed(4)  # never sent
    assert lease.until == 14.5
    lease.committed(3)
    lease.committed(3)
    assert lease.until == 15.0


def test_once_ended_it_never_serves_again() -> None:
    lease = Lease()
    lease.sent(1, 10.0)
    lease.committed(1)
    lease.sent(2, 10.5)
    lease.end()
    lease.committed(2)
    assert not lease.serves(10.6)
    assert lease.until is None
    assert not lease.due(100.0)


def test_renewals_have_numbers_of_their_own() -> None:
    lease = Lease()
    lease.sent(2, 1.0)
    with pytest.raises(ValueError, match="number"):
        lease.sent(2, 1.0)
    lease.committed(2)
    with pytest.raises(ValueError, match="number"):
        lease.sent(1, 1.0)


def test_it_is_due_at_once_and_then_each_period() -> None:
    lease = Lease()
    assert lease.due(5.0)
    lease.sent(1, 5.0)
    assert not lease.due(5.4)
    assert lease.due(5.5)


def watch(watcher: Watcher, start: float, end: float, step: float = 0.5) -> float:
    now = start
    while now < end:
        now += step
        watcher.saw_commit(now)
    return now


def test_a_silent_node_expires_after_lease_and_margin() -> None:
    watcher = Watcher()
    watcher.saw_commit(0.0)
    watcher.renewed("b", 7, 0.0)
    watch(watcher, 0.0, 4.5)
    assert watcher.expirable(4.6) == []
    watch(watcher, 4.5, 5.0)
    assert watcher.expirable(5.1) == [("b", 7)]


def test_a_newer_renewal_or_incarnation_begins_anew() -> None:
    watcher = Watcher()
    watcher.saw_commit(0.0)
    watcher.renewed("b", 7, 0.0)
    watch(watcher, 0.0, 4.0)
    watcher.renewed("b", 8, 4.0)
    watch(watcher, 4.0, 8.0)
    assert watcher.expirable(8.0) == []
    watcher.renewed("b", 8, 8.0, incarnation=2)
    watch(watcher, 8.0, 12.5)
    assert watcher.expirable(12.5) == []
    watch(watcher, 12.5, 13.0)
    assert watcher.expirable(13.0) == [("b", 8)]


def test_time_without_commits_does_not_count() -> None:
    watcher = Watcher()
    watcher.saw_commit(0.0)
    watcher.renewed("b", 7, 0.0)
    assert watcher.expirable(100.0) == [], "the registry was away"
    watcher.saw_commit(100.0)
    assert watcher.expirable(100.0) == [], "the watched node must have its time to renew"
    watch(watcher, 100.0, 104.5)
    assert watcher.expirable(104.5) == []
    watch(watcher, 104.5, 105.0)
    assert watcher.expirable(105.0) == [("b", 7)]


def test_a_node_in_maintenance_may_be_silent_for_longer() -> None:
    watcher = Watcher()
    watcher.saw_commit(0.0)
    watcher.renewed("b", 7, 0.0, patience_s=10.0)
    watch(watcher, 0.0, 14.5)
    assert watcher.expirable(14.5) == []
    watch(watcher, 14.5, 15.5)
    assert watcher.silent_s("b") >= 15.0
    assert watcher.expirable(15.5) == [("b", 7)]
    watcher.renewed("b", 7, 15.5, patience_s=60.0)  # it was put into maintenance later
    assert watcher.expirable(15.5) == []


def test_what_is_forgotten_does_not_expire() -> None:
    watcher = Watcher()
    watcher.saw_commit(0.0)
    watcher.renewed("b", 7, 0.0)
    watcher.forget("b")
    watch(watcher, 0.0, 9.0)
    assert watcher.expirable(9.0) == []


@pytest.mark.parametrize(
    "wrong", [LeaseTimings(renew_s=3.0), LeaseTimings(margin_s=0.0), LeaseTimings(sighting_s=0.1), LeaseTimings(renew_s=0.0)]
)
def test_timings_that_cannot_work_are_refused(wrong: LeaseTimings) -> None:
    with pytest.raises(ValueError, match=r"lease|margin"):
        Lease(wrong)


@given(
    applied_after=st.floats(0.0, 2.0),
    rate=st.floats(0.9, 1.1),
    steps=st.lists(st.floats(0.01, 2.0), min_size=1, max_size=60),
)
def test_whoever_may_be_expired_serves_no_more(applied_after: float, rate: float, steps: list[float]) -> None:
    """The owner's clock and the watcher's run at different rates (well inside the margin) and begin anywhere."""
    lease, watcher = Lease(), Watcher()
    lease.sent(1, 500.0)
    lease.committed(1)
    now = applied_after  # on the owner's clock, from the sending on
    watcher.saw_commit(now * rate)
    watcher.renewed("owner", 1, now * rate)
    for step in steps:
        now += step
        watcher.saw_commit(now * rate)
        if watcher.expirable(now * rate):
            assert not lease.serves(500.0 + now)
