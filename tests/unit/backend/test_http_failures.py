"""What a store does to us over HTTP ends in a retry or in the right kind of error, for S3 and for Swift."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from backend import BackendSettings, ObjectStore, open_store
from tests.unit.backend.scripted_http import Answer, ScriptedServer, scripted
from vpool.errors import Conflict, Corrupt, Denied, Invalid, NotFound, Unavailable, VPoolError

ENVIRON = dict.fromkeys(("ST_USER", "ST_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "hunter2")
QUICK = BackendSettings(
    deadline_s=20.0, try_timeout_s=4.0, connect_timeout_s=2.0, check_deadline_s=5.0, backoff_first_s=0.005, backoff_max_s=0.02
)
FEW_TRIES = QUICK.model_copy(update={"retry_budget": 1, "retry_budget_per_s": 0.001})  # gives up when the budget is empty
BODY = b"the content of an object"
MD5 = hashlib.md5(BODY).hexdigest()
Script = Callable[[str, str, int], Answer]


@asynccontextmanager
async def opened(
    protocol: str, answer: Script, settings: BackendSettings = QUICK
) -> AsyncIterator[tuple[ObjectStore, ScriptedServer]]:
    """A store whose requests for objects and buckets get ``answer``; the auth server always agrees and is not counted."""
    counted: list[str] = []

    def route(method: str, path: str, _count: int) -> Answer:
        if path.startswith("/auth"):
            return Answer(headers={"X-Storage-Url": f"http://{server.url[7:]}/v1/account", "X-Auth-Token": "token"})
        counted.append(path)
        return answer(method, path, len(counted) - 1)

    with scripted(route) as server:
        url = f"s3:{server.url}" if protocol == "s3" else f"swift:{server.url}/auth/v1.0"
        store = await open_store(url, settings=settings, environ=ENVIRON)
        try:
            yield store, server
        finally:
            await store.aclose()


def good(method: str) -> Answer:
    return Answer(201 if method == "PUT" else 200, b"" if method == "PUT" else BODY, {"ETag": f'"{MD5}"'})


def first_then_good(*bad: Answer) -> Script:
    return lambda method, path, count: bad[count] if count < len(bad) else good(method)


def s3_error(status: int, code: str, **headers: str) -> Answer:
    return Answer(status, f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode(), headers)


ANSWERS = {
    "500": Answer(500),
    "502": Answer(502, b"<html>bad gateway</html>"),
    "503": Answer(503, b"", {"Retry-After": "0"}),
    "429": Answer(429),
    "408": Answer(408),
    "reset": Answer(reset=True),
    "slow-down": s3_error(503, "SlowDown"),
    "request-timeout": s3_error(400, "RequestTimeout"),  # of S3 only
}
PASSING = list(ANSWERS)


@pytest.mark.parametrize(("protocol", "failure"), [("s3", each) for each in PASSING] + [("swift", each) for each in PASSING[:-1]])
@pytest.mark.parametrize("method", ["put", "get"])
async def test_what_may_pass_is_tried_again(protocol: str, failure: str, method: str) -> None:
    async with opened(protocol, first_then_good(ANSWERS[failure], ANSWERS[failure])) as (store, _):
        if method == "put":
            await store.put("vol-a", "a", BODY)
        else:
            assert await store.get("vol-a", "a") == BODY
        assert store.counters.operations["put" if method == "put" else "get"].retries == 2


@pytest.mark.parametrize("protocol", ["s3", "swift"])
async def test_a_short_body_is_tried_again_and_never_returned(protocol: str) -> None:
    short = Answer(200, BODY[:5], {"ETag": f'"{MD5}"'}, announced_bytes=len(BODY))
    async with opened(protocol, first_then_good(short, short)) as (store, _):
        assert await store.get("vol-a", "a") == BODY
    async with opened(protocol, lambda *_: short, FEW_TRIES) as (store, _):
        with pytest.raises(Unavailable, match="shorter"):
            await store.get("vol-a", "a")


@pytest.mark.parametrize("protocol", ["s3", "swift"])
@pytest.mark.parametrize("content_range", ["bytes 0-4/24", "bytes 4-7/24", "bytes 4-12/24", "nonsense"])
async def test_another_part_than_the_one_asked_for_is_never_returned(protocol: str, content_range: str) -> None:
    wrong = Answer(206, BODY[4:8], {"Content-Range": content_range})
    async with opened(protocol, lambda *_: wrong, FEW_TRIES) as (store, _):
        with pytest.raises(Unavailable, match="part"):
            await store.get("vol-a", "a", start=4, length=5)


@pytest.mark.parametrize("protocol", ["s3", "swift"])
async def test_a_store_that_ignores_ranges_is_cut(protocol: str) -> None:
    async with opened(protocol, lambda method, *_: good(method)) as (store, _):
        assert await store.get("vol-a", "a", start=4, length=5) == BODY[4:9]
        assert await store.get("vol-a", "a", start=20) == BODY[20:]


@pytest.mark.parametrize("protocol", ["s3", "swift"])
@pytest.mark.parametrize("method", ["put", "get"])
async def test_an_etag_that_differs_is_corrupt_after_a_few_tries(protocol: str, method: str) -> None:
    wrong = Answer(201 if method == "put" else 200, b"" if method == "put" else BODY, {"ETag": "0" * 32})
    async with opened(protocol, lambda *_: wrong) as (store, server):
        with pytest.raises(Corrupt, match="checksum"):
            await (store.put("vol-a", "a", BODY) if method == "put" else store.get("vol-a", "a"))
        assert len([path for _, path in server.asked if not path.startswith("/auth")]) == QUICK.corrupt_tries_max


async def test_an_etag_that_is_no_md5_is_not_compared() -> None:
    for etag, headers in (("0" * 32, {"x-amz-server-side-encryption": "aws:kms"}), ("0" * 32 + "-2", {})):
        async with opened("s3", lambda *_, e=etag, h=headers: Answer(200, BODY, {"ETag": e} | h)) as (store, _):
            assert await store.get("vol-a", "a") == BODY


@pytest.mark.parametrize(
    ("protocol", "answer", "kind", "words"),
    [
        ("s3", s3_error(403, "AccessDenied"), Denied, "policies"),
        ("s3", s3_error(403, "InvalidAccessKeyId"), Denied, "AWS_ACCESS_KEY_ID"),
        ("s3", s3_error(403, "SignatureDoesNotMatch"), Denied, "check both keys"),
        ("s3", s3_error(403, "RequestTimeTooSkewed"), Denied, "NTP"),
        ("s3", s3_error(403, "ExpiredToken"), Denied, "session token"),
        ("s3", s3_error(400, "AuthorizationHeaderMalformed"), Denied, "wrong region"),
        ("s3", s3_error(301, "PermanentRedirect", **{"x-amz-bucket-region": "eu-1"}), Denied, "wrong region.*expected=eu-1"),
        ("s3", s3_error(404, "NoSuchBucket"), NotFound, "no such bucket"),
        ("s3", s3_error(400, "InvalidArgument"), Invalid, "malformed"),
        ("s3", s3_error(400, "BadDigest"), Corrupt, "other bytes"),
        ("s3", Answer(200, b"<html>a web page</html>"), None, ""),
        ("swift", Answer(403), Denied, "roles"),
        ("swift", Answer(401), Denied, "credentials"),
        ("swift", Answer(404), NotFound, "no such"),
        ("swift", Answer(400), Invalid, "malformed"),
        ("swift", Answer(422), Corrupt, "other bytes"),
    ],
)
async def test_what_will_not_pass_is_told_at_once(
    protocol: str, answer: Answer, kind: type[VPoolError] | None, words: str
) -> None:
    async with opened(protocol, lambda *_: answer) as (store, _):
        if kind is None:
            await store.put("vol-a", "a", BODY)
            return
        with pytest.raises(kind, match=words) as caught:
            await store.put("vol-a", "a", BODY)
        assert "hunter2" not in str(caught.value)
        if kind is not Corrupt:
            assert store.counters.operations["put"].tries == 1
        assert store.counters.operations["put"].errors == {kind.__name__: 1}


@pytest.mark.parametrize("protocol", ["s3", "swift"])
async def test_a_bucket_that_is_not_empty_is_a_conflict(protocol: str) -> None:
    answer = s3_error(409, "BucketNotEmpty") if protocol == "s3" else Answer(409)
    async with opened(protocol, lambda *_: answer) as (store, _):
        with pytest.raises(Conflict, match="not empty"):
            await store.delete_bucket("vol-a")


async def test_a_bucket_of_another_account_is_denied() -> None:
    def answer(method: str, path: str, count: int) -> Answer:
        return s3_error(409, "BucketAlreadyExists") if method == "PUT" else Answer(403)

    async with opened("s3", answer) as (store, _):
        with pytest.raises(Denied, match="another account"):
            await store.create_bucket("vol-a")


@pytest.mark.parametrize("protocol", ["s3", "swift"])
async def test_a_silent_store_costs_one_time_out_per_try(protocol: str) -> None:
    release = threading.Event()
    settings = QUICK.model_copy(
        update={"try_timeout_s": 0.15, "connect_timeout_s": 0.15, "deadline_s": 0.5, "close_timeout_s": 2.0}
    )
    async with opened(protocol, lambda *_: Answer(wait=release), settings) as (store, _):
        begun_s = trio.current_time()
        with pytest.raises(Unavailable, match=r"time|broke"):
            await store.get("vol-a", "a")
        assert trio.current_time() - begun_s < 1.5
        assert store.counters.operations["get"].tries >= 2
        release.set()


@pytest.mark.parametrize("protocol", ["s3", "swift"])
async def test_reads_do_not_queue_behind_uploads(protocol: str) -> None:
    release = threading.Event()

    def answer(method: str, path: str, count: int) -> Answer:
        one = good(method)
        one.wait = release if method == "PUT" else None
        return one

    settings = QUICK.model_copy(update={"uploads_in_flight_max": 2, "try_timeout_s": 5.0})
    async with opened(protocol, answer, settings) as (store, server), trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(store.put, "vol-a", f"sco/{number}", BODY)
        with trio.fail_after(4):
            while sum(method == "PUT" for method, _ in server.asked) < 2:
                await trio.sleep(0.01)
            assert await store.get("vol-a", "a") == BODY
        assert sum(method == "PUT" for method, _ in server.asked) == 2  # and no more than two at once
        release.set()


async def test_a_cancelled_upload_keeps_its_place_until_its_thread_ends() -> None:
    """Else cancelled uploads would pile up without a limit, and closing would leave them behind."""
    release = threading.Event()
    answer = Answer(201, b"", {"ETag": MD5}, wait=release)
    settings = QUICK.model_copy(update={"uploads_in_flight_max": 1, "try_timeout_s": 5.0})
    async with opened("swift", lambda *_: answer, settings) as (store, server):
        with trio.move_on_after(0.2):
            await store.put("vol-a", "a", BODY)
        with trio.move_on_after(0.2) as scope:
            await store.put("vol-a", "b", BODY)
        assert scope.cancelled_caught
        assert [path for method, path in server.asked if method == "PUT"] == ["/v1/account/vol-a/a"]
        assert store.counters.operations["put"].cancelled == 2
        release.set()
        await store.put("vol-a", "c", BODY)


async def test_keystone_gives_token_and_account_and_is_asked_again_on_401() -> None:
    """The one part of Swift's protocol that the Swift of the contract tests does not have."""
    tokens: list[str] = []

    def answer(method: str, path: str, count: int) -> Answer:
        if path == "/v3/auth/tokens":
            tokens.append(f"token-{len(tokens)}")
            body = json.dumps({"token": catalog(server.url)}).encode()
            return Answer(201, body, {"X-Subject-Token": tokens[-1], "Content-Type": "application/json"})
        if path == "/v3":
            return Answer(200, json.dumps({"version": {"id": "v3.14", "status": "stable", "links": []}}).encode())
        return Answer(401) if count < 3 else good(method)

    environ = {"OS_USERNAME": "u", "OS_PASSWORD": "p", "OS_PROJECT_NAME": "j"}
    with scripted(answer) as server:
        store = await open_store(f"swift:{server.url}/v3?region=One", settings=QUICK, environ=environ)
        assert await store.get("vol-a", "a") == BODY
        await store.aclose()
        assert len(tokens) == 2
        assert server.asked[-1] == ("GET", "/v1/AUTH_j/vol-a/a")
        elsewhere = await open_store(f"swift:{server.url}/v3?region=Two", settings=QUICK, environ=environ)
        with pytest.raises(Denied, match="OS_REGION_NAME"):
            await elsewhere.check()
        await elsewhere.aclose()


@pytest.mark.parametrize(
    ("status", "kind"), [(401, Denied), (403, Denied), (404, Denied), (500, Unavailable), (503, Unavailable)]
)
async def test_keystone_that_refuses_or_fails(status: int, kind: type[VPoolError]) -> None:
    environ = {"OS_USERNAME": "u", "OS_PASSWORD": "hunter2", "OS_PROJECT_NAME": "j"}
    with scripted(lambda *_: Answer(status, b"{}", {"Content-Type": "application/json"})) as server:
        store = await open_store(f"swift:{server.url}/v3", settings=FEW_TRIES, environ=environ)
        with pytest.raises(kind, match="Keystone") as caught:
            await store.check()
        assert "hunter2" not in str(caught.value)
        await store.aclose()


def catalog(url: str) -> dict[str, object]:
    endpoint = {"interface": "public", "region": "One", "region_id": "One", "url": f"{url}/v1/AUTH_j", "id": "e"}
    return {
        "methods": ["password"],
        "user": {"name": "u", "id": "u", "domain": {"id": "default", "name": "Default"}},
        "project": {"name": "j", "id": "j", "domain": {"id": "default", "name": "Default"}},
        "expires_at": "2099-01-01T00:00:00.000000Z",
        "issued_at": "2020-01-01T00:00:00.000000Z",
        "catalog": [{"type": "object-store", "name": "swift", "id": "s", "endpoints": [endpoint]}],
        "roles": [],
    }
