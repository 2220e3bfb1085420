"""The contract of ``ObjectStore``, over every store, each also in a single bucket, with a server down, and with faults.

S3 and Swift are one real OpenStack Swift on loopback. What fails here would lose data or mislead the rooms above.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import pytest
import trio

from backend import BackendSettings, ObjectStore, open_store
from backend.faults import MILD, FaultyStore
from tests.contract.patient_store import PatientStore
from tests.swift_server import SwiftServer
from vpool.errors import Conflict, Invalid, NotFound

KINDS = [
    "directory",
    "directory-single",
    "directory-faulty",
    "s3",
    "s3-single",
    "s3-faulty",
    "s3-degraded",
    "swift",
    "swift-single",
    "swift-faulty",
    "swift-degraded",
]
MIB = 1 << 20
PAGE_OBJECTS = 50
EVENTUALLY_S = 30.0
RANGES: list[tuple[int, int | None]] = [
    *((0, 1), (0, 4096), (4096, 8192), (9999, 1), (9999, 100)),
    *((9990, None), (0, None), (0, 99_999), (5, 0)),
]
GOOD_NAMES = [
    "volume.json",
    "sco/00000000000000ff/000000000000000a",
    "a/b/c/d/e/f",
    "file/0-1_2.3",
    "UPPER/lower",
    ".hidden",
    "x" * 200,
]
BAD_NAMES = ["", "/a", "a/", "a//b", "../a", "a/./b", "a b", "ä", "a\n", "a%2Fb", "x/" * 300 + "x", "x" * 201, "a?b"]
BAD_BUCKETS = ["", "Upper", "-a-", "a_b", "a.b", "a/b", "x" * 64, ".buckets"]


@dataclass(frozen=True)
class Case:
    """One store to try: where it is and what is odd about it."""

    url: str
    environ: dict[str, str]
    faulty: bool


def _mark(kind: str) -> object:
    return pytest.param(kind, marks=() if kind.startswith("directory") else pytest.mark.swift)


@pytest.fixture(scope="module", params=[_mark(kind) for kind in KINDS])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    """Module-scoped, so that pytest runs all tests of one store together and a server is stopped once."""
    protocol, _, oddity = request.param.partition("-")
    options = f"?bucket=single-{protocol}" if oddity == "single" else ""
    if protocol == "directory":
        yield Case(f"dir:{tmp_path_factory.mktemp('store')}/store{options}", {}, oddity == "faulty")
        return
    server: SwiftServer = request.getfixturevalue("swift_server")
    if not options:
        prefix = f"p{secrets.token_hex(3)}-"
        options = f"/{prefix}" if protocol == "s3" else f"?prefix={prefix}"
    url = (server.s3_url if protocol == "s3" else server.swift_url) + options
    if oddity == "degraded":
        server.stop_one("object-2")
        _let_the_proxy_notice(server)
    yield Case(url, server.environ, oddity == "faulty")
    if oddity == "degraded":
        server.start_one("object-2")


def _let_the_proxy_notice(server: SwiftServer) -> None:
    """Until the proxy knows that a server is gone, it is chance which replica of a listing misses an update."""

    async def put_some() -> None:
        store = await open_store(f"{server.swift_url}?prefix=notice-", environ=server.environ)
        await store.create_bucket("vol")
        for number in range(6):
            await store.put("vol", f"{number}", b"")
        await store.aclose()

    trio.run(put_some)


@pytest.fixture
async def store(case: Case) -> AsyncIterator[ObjectStore]:
    """The store, closed at the end; with faults there is patience above them, and nothing may be put with two contents."""
    plain = await open_store(case.url, settings=BackendSettings(list_page_objects=PAGE_OBJECTS), environ=case.environ)
    if not case.faulty:
        yield plain
        await plain.aclose()
        return
    seed = secrets.randbits(32)
    print(f"seed={seed}")
    faulty = FaultyStore(plain, MILD, seed=seed)
    yield PatientStore(faulty)
    assert faulty.violations == []
    await faulty.aclose()


@pytest.fixture
async def bucket(store: ObjectStore) -> str:
    """A bucket that only this test uses."""
    name = f"vol-{secrets.token_hex(8)}"
    await store.create_bucket(name)
    return name


async def eventually(expected: object, look: Callable[[], Awaitable[object]]) -> None:
    """Listings may lag; wait for one to be right."""
    until_s = trio.current_time() + EVENTUALLY_S
    while (seen := await look()) != expected:
        assert trio.current_time() < until_s, f"{seen!r} is not {expected!r}"
        await trio.sleep(0.02)


async def names(store: ObjectStore, bucket: str, prefix: str = "") -> list[str]:
    return [info.name async for info in store.list(bucket, prefix)]


async def test_check_of_a_good_store_passes(store: ObjectStore) -> None:
    await store.check()


async def test_what_is_put_is_what_is_returned(store: ObjectStore, bucket: str) -> None:
    for size in (0, 1, 4095, 4 * MIB):
        data = Random(size).randbytes(size)
        await store.put(bucket, f"sco/1/{size}", data)
        assert await store.get(bucket, f"sco/1/{size}") == data
        assert await store.size(bucket, f"sco/1/{size}") == size


async def test_a_range_is_exact_and_ends_with_the_object(store: ObjectStore, bucket: str) -> None:
    data = Random(1).randbytes(10_000)
    await store.put(bucket, "object", data)
    for start, length in RANGES:
        expected = data[start:] if length is None else data[start : start + length]
        assert await store.get(bucket, "object", start=start, length=length) == expected, (start, length)


async def test_a_range_past_the_end_is_empty(store: ObjectStore, bucket: str) -> None:
    for size in (0, 10):
        await store.put(bucket, f"object/{size}", bytes(size))
        assert await store.get(bucket, f"object/{size}", start=10, length=5) == b""
        assert await store.get(bucket, f"object/{size}", start=99) == b""


async def test_the_same_content_may_be_put_again(store: ObjectStore, bucket: str) -> None:
    for _ in range(3):  # a retry after a lost reply does this
        await store.put(bucket, "tlog/1/000001", b"same")
    assert await store.get(bucket, "tlog/1/000001") == b"same"


async def test_a_deleted_object_is_gone_and_may_be_deleted_again(store: ObjectStore, bucket: str) -> None:
    await store.put(bucket, "sco/1/000000", b"x")
    await store.delete(bucket, "sco/1/000000")
    await store.delete(bucket, "sco/1/000000")
    await store.delete(bucket, "never/was")
    with pytest.raises(NotFound):
        await store.get(bucket, "sco/1/000000")
    await eventually([], lambda: names(store, bucket))


async def test_an_unknown_object_is_not_found(store: ObjectStore, bucket: str) -> None:
    for request in (store.get(bucket, "nothing"), store.get(bucket, "nothing", start=1, length=1), store.size(bucket, "nothing")):
        with pytest.raises(NotFound):
            await request
    with pytest.raises(NotFound):
        await store.get(bucket, "nothing", length=0)


async def test_an_unknown_bucket_is_not_found(store: ObjectStore) -> None:
    unknown = f"vol-{secrets.token_hex(8)}"
    for request in (store.get(unknown, "a"), store.size(unknown, "a"), store.put(unknown, "a", b""), names(store, unknown)):
        with pytest.raises(NotFound):
            await request
    await store.delete(unknown, "a")
    await store.delete_bucket(unknown)


async def test_a_bucket_may_be_created_and_deleted_twice(store: ObjectStore, bucket: str) -> None:
    await store.create_bucket(bucket)
    await store.delete_bucket(bucket)
    await store.delete_bucket(bucket)
    with pytest.raises(NotFound):
        await store.put(bucket, "a", b"")


async def test_a_bucket_with_objects_stays(store: ObjectStore, bucket: str) -> None:
    await store.put(bucket, "sco/1/000000", b"x")
    await eventually(["sco/1/000000"], lambda: names(store, bucket))
    with pytest.raises(Conflict):
        await store.delete_bucket(bucket)
    assert await store.get(bucket, "sco/1/000000") == b"x"


async def test_buckets_are_listed_in_order_without_their_prefix(store: ObjectStore) -> None:
    ours = sorted(f"vol-{secrets.token_hex(8)}" for _ in range(3))
    for bucket in reversed(ours):
        await store.create_bucket(bucket)

    async def listed() -> object:
        return [bucket async for bucket in store.list_buckets() if bucket in ours]

    await eventually(ours, listed)


async def test_a_listing_has_its_prefix_order_and_sizes(store: ObjectStore, bucket: str) -> None:
    sizes = {"map/1/0": 1, "sco/1/0": 2, "sco/1/1": 3, "sco/10/0": 4, "sco/2/0": 5, "sco-x": 6, "sco.y": 7, "snapshot/a.b_c-D": 0}
    for name, size in sizes.items():
        await store.put(bucket, name, bytes(size))

    async def listed(prefix: str) -> object:
        return [(info.name, info.size_bytes) async for info in store.list(bucket, prefix)]

    for prefix in ("", "sco", "sco/", "sco/1", "sco/1/", "snapshot/a.", "nothing"):
        expected = [(name, sizes[name]) for name in sorted(sizes) if name.startswith(prefix)]
        await eventually(expected, partial(listed, prefix))


async def test_a_listing_goes_on_over_pages(store: ObjectStore, bucket: str, case: Case) -> None:
    count = 1200 if case.url.startswith("dir:") else 2 * PAGE_OBJECTS + 20  # a put into a real Swift takes its time
    expected = [f"sco/{number // 100:04x}/{number:06x}" for number in range(count)]
    async with trio.open_nursery() as nursery:
        for part in range(4):
            nursery.start_soon(_put_all, store, bucket, expected[part::4])
    await eventually(expected, lambda: names(store, bucket))


async def _put_all(store: ObjectStore, bucket: str, which: list[str]) -> None:
    for name in which:
        await store.put(bucket, name, b"")


async def test_names_that_vpool_uses(store: ObjectStore, bucket: str) -> None:
    for name in GOOD_NAMES:
        await store.put(bucket, name, name.encode())
    for name in GOOD_NAMES:
        assert await store.get(bucket, name) == name.encode()
    await eventually(sorted(GOOD_NAMES), lambda: names(store, bucket))


async def test_names_that_not_every_store_can_have_are_refused(store: ObjectStore, bucket: str) -> None:
    for name in BAD_NAMES:
        with pytest.raises(Invalid, match="not possible"):
            await store.put(bucket, name, b"")
    for name in BAD_BUCKETS:
        with pytest.raises(Invalid, match="not possible"):
            await store.create_bucket(name)


async def test_32_puts_at_once_all_arrive(store: ObjectStore, bucket: str) -> None:
    contents = {f"sco/1/{number:06x}": Random(number).randbytes(64 * 1024) for number in range(32)}
    async with trio.open_nursery() as nursery:
        for name, data in contents.items():
            nursery.start_soon(store.put, bucket, name, data)
    for name, data in contents.items():
        assert await store.get(bucket, name) == data


async def test_a_cancelled_request_leaves_the_store_usable(store: ObjectStore, bucket: str) -> None:
    data = Random(2).randbytes(MIB)
    for number in range(10):
        with trio.move_on_after(0.002 * number):
            await store.put(bucket, f"sco/1/{number:06x}", data)
    for number in range(10):  # the outcome is unknown; the same content may be put again
        await store.put(bucket, f"sco/1/{number:06x}", data)
        with trio.move_on_after(0.001 * number):
            await store.get(bucket, f"sco/1/{number:06x}")
        assert await store.get(bucket, f"sco/1/{number:06x}") == data


async def test_another_process_sees_what_was_put(store: ObjectStore, bucket: str, case: Case) -> None:
    await store.put(bucket, "volume.json", b"{}")
    other = await open_store(case.url, settings=BackendSettings(), environ=case.environ)
    try:
        assert await other.get(bucket, "volume.json") == b"{}"
        await other.put(bucket, "other", b"1")
    finally:
        await other.aclose()
    assert await store.get(bucket, "other") == b"1"


async def test_requests_and_bytes_are_counted(store: ObjectStore, bucket: str) -> None:
    await store.put(bucket, "object", bytes(1000))
    await store.get(bucket, "object", length=10)
    counted = store.counters.operations
    assert counted["put"].succeeded >= 1
    assert counted["put"].sent_bytes >= 1000
    assert counted["get"].received_bytes >= 10
    assert sum(counted["put"].latency_counts) == counted["put"].requests


def test_the_address_shows_no_credentials(case: Case) -> None:
    async def shown() -> str:
        store = await open_store(case.url, environ=case.environ)
        await store.aclose()
        return store.url + repr(vars(store))

    text = trio.run(shown)
    assert not [secret for key, secret in case.environ.items() if key.endswith("KEY") and secret in text], Path(case.url).name
