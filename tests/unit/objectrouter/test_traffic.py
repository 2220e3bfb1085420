"""The figures on the way of every request: buckets have the bounds they say, and a deleted object is forgotten."""

from __future__ import annotations

from objectrouter import BUCKETS, OperationTimes, SlowRequests, Traffic, bucket_bound_s


def test_a_latency_falls_below_the_bound_of_its_bucket_and_not_of_the_one_before() -> None:
    for elapsed_ns in (0, 1, 1023, 1024, 1025, 4095, 4096, 123_456, 1_000_000, 10**9, 3 * 10**10, 2**46 - 1):
        times = OperationTimes()
        times.ended(elapsed_ns, 7)
        (bucket,) = [index for index, count in enumerate(times.counts) if count]
        assert elapsed_ns / 1e9 < bucket_bound_s(bucket)
        assert bucket == 0 or elapsed_ns / 1e9 >= bucket_bound_s(bucket - 1)
        assert (times.answered, times.bytes, times.sum_ns) == (1, 7, elapsed_ns)


def test_what_takes_longer_than_all_is_counted_too() -> None:
    times = OperationTimes()
    times.ended(2**62, 0)
    assert times.counts[BUCKETS - 1] == 1


def test_an_object_keeps_its_figures_until_it_is_gone() -> None:
    traffic = Traffic()
    traffic.of("a").reads.ended(5000, 1)
    traffic.of("b")
    assert traffic.of("a").reads.answered == 1
    traffic.keep_only(["a", "c"])
    assert traffic.known("b") is None
    assert traffic.of("a").reads.answered == 1


def test_slow_requests_are_bounded_and_counted() -> None:
    slow = SlowRequests(threshold_s=0.5, kept=3)
    assert slow.threshold_ns == 500_000_000
    for number in range(5):
        slow.note(at=number, operation="read", inode=1, offset=0, length=1, seconds=1.0, waited_s={}, error="")
    assert slow.seen == 5
    assert [request.number for request in slow.kept()] == [3, 4, 5]
