"""The store that fails on purpose must fail as told, the same for a seed, and see every name that gets two contents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from backend import ObjectStore, open_store
from backend.faults import Faults, FaultyStore
from vpool.errors import Internal, NotFound, Unavailable


class HandClock:
    """A clock that stands until it is moved; sleeping moves it."""

    def __init__(self) -> None:
        self.time_s = 1000.0

    def now_s(self) -> float:
        return self.time_s

    async def sleep(self, seconds: float) -> None:
        self.time_s += seconds
        await trio.lowlevel.checkpoint()


@pytest.fixture
async def inner(tmp_path: Path) -> AsyncIterator[ObjectStore]:
    store = await open_store(f"dir:{tmp_path}/store")
    await store.create_bucket("vol-a")
    yield store
    await store.aclose()


def faulty(inner: ObjectStore, seed: int = 1, **faults: float) -> tuple[FaultyStore, HandClock]:
    clock = HandClock()
    return FaultyStore(inner, Faults(**faults), seed=seed, clock=clock), clock


async def names(store: ObjectStore) -> list[str]:
    return [info.name async for info in store.list("vol-a")]


async def test_a_name_with_two_contents_is_a_violation_even_if_the_put_fails(inner: ObjectStore) -> None:
    store, _ = faulty(inner)
    await store.put("vol-a", "sco/1", b"one")
    await store.put("vol-a", "sco/1", b"one")
    assert store.violations == []
    store.outage = True
    with pytest.raises(Unavailable):
        await store.put("vol-a", "sco/1", b"two")
    assert [(violation.bucket, violation.name) for violation in store.violations] == [("vol-a", "sco/1")]


async def test_a_violation_survives_a_delete_and_can_be_raised(inner: ObjectStore) -> None:
    store = FaultyStore(inner, Faults(), seed=1, raise_on_violation=True)
    await store.put("vol-a", "sco/1", b"one")
    await store.delete("vol-a", "sco/1")
    with pytest.raises(Internal, match="two contents"):
        await store.put("vol-a", "sco/1", b"two")


async def test_an_outage_is_total_and_ends(inner: ObjectStore) -> None:
    store, _ = faulty(inner)
    store.outage = True
    requests = [
        store.check(),
        store.put("vol-a", "a", b""),
        store.get("vol-a", "a"),
        store.size("vol-a", "a"),
        store.delete("vol-a", "a"),
    ]
    requests += [store.create_bucket("vol-b"), store.delete_bucket("vol-a")]
    for request in requests:
        with pytest.raises(Unavailable, match="outage"):
            await request
    with pytest.raises(Unavailable, match="outage"):
        await names(store)
    store.outage = False
    await store.put("vol-a", "a", b"x")
    assert await store.get("vol-a", "a") == b"x"


async def test_a_lost_reply_has_happened(inner: ObjectStore) -> None:
    store, _ = faulty(inner, lost_reply=1.0)
    with pytest.raises(Unavailable, match="lost_reply"):
        await store.put("vol-a", "a", b"x")
    assert await inner.get("vol-a", "a") == b"x"


async def test_an_unavailable_put_has_not_happened_and_a_reset_one_perhaps(inner: ObjectStore) -> None:
    store, _ = faulty(inner, unavailable=1.0)
    with pytest.raises(Unavailable, match="unavailable"):
        await store.put("vol-a", "a", b"x")
    assert await names(inner) == []
    store, _ = faulty(inner, reset=1.0)
    for number in range(40):
        with pytest.raises(Unavailable, match="reset"):
            await store.put("vol-a", f"reset/{number:02}", b"x")
    assert 5 < len(await names(inner)) < 35


async def test_a_late_put_lands_after_the_caller_was_told_otherwise(inner: ObjectStore) -> None:
    store, clock = faulty(inner, late_put=1.0, late_s_max=5.0)
    with pytest.raises(Unavailable, match="late_put"):
        await store.put("vol-a", "a", b"x")
    assert await names(inner) == []
    clock.time_s += 5.0
    assert await store.get("vol-a", "a") == b"x"


async def test_a_new_object_is_invisible_for_a_while_and_a_known_one_is_not(inner: ObjectStore) -> None:
    store, clock = faulty(inner, invisible_s_max=10.0, stale_list_s_max=10.0)
    await store.put("vol-a", "a", b"x")
    with pytest.raises(NotFound, match="injected"):
        await store.get("vol-a", "a")
    assert await names(store) == []
    clock.time_s += 10.0
    assert await store.get("vol-a", "a") == b"x"
    await store.put("vol-a", "a", b"x")
    assert await store.get("vol-a", "a") == b"x"
    assert await names(store) == ["a"]
    await store.delete("vol-a", "a")
    assert await names(store) == ["a"]
    clock.time_s += 10.0
    assert await names(store) == []


async def test_a_damaged_body_differs_and_a_short_one_is_told(inner: ObjectStore) -> None:
    await inner.put("vol-a", "a", bytes(100))
    store, _ = faulty(inner, damaged_body=1.0)
    for _ in range(20):
        assert await store.get("vol-a", "a") != bytes(100)
    store, _ = faulty(inner, short_body=1.0)
    with pytest.raises(Unavailable, match="short_body"):
        await store.get("vol-a", "a")


async def test_a_seed_gives_the_same_run_again(inner: ObjectStore) -> None:
    async def run(seed: int) -> tuple[list[str], float]:
        store, clock = faulty(inner, seed, delay_s_max=1.0, unavailable=0.3, reset=0.2, lost_reply=0.2, short_body=0.3)
        outcomes = []
        for number in range(60):
            try:
                await store.put("vol-a", f"seed/{number}", b"x")
                outcomes.append(str(await store.get("vol-a", f"seed/{number}")))
            except (Unavailable, NotFound) as error:
                outcomes.append(type(error).__name__ + error.message.partition("(")[0])
        assert set(store.injected.by_kind) == {"unavailable", "reset", "lost_reply", "short_body"}
        return outcomes, clock.time_s

    await run(7)  # after it, all names exist, and the store below answers the same each time
    for number in range(60):
        await inner.put("vol-a", f"seed/{number}", b"x")
    first = await run(7)
    assert await run(7) == first
    assert await run(8) != first


@pytest.mark.parametrize("wrong", [{"unavailable": 1.5}, {"reset": -0.1}, {"delay_s_max": -1.0}])
def test_impossible_faults_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="not possible"):
        Faults(**wrong)
