"""What a real store answers to wrong credentials, endpoints, regions and permissions, in kinds and words an operator can use."""

from __future__ import annotations

import hashlib
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from swiftclient.client import Connection
from swiftclient.exceptions import ClientException

from backend import BackendSettings, ObjectStore, open_store
from backend.directory_files import MARKER, StoreFiles
from backend.swift_errors import translate
from tests.swift_server import READER, READER_KEY, SwiftServer
from vpool.errors import Conflict, Corrupt, Denied, Invalid, NotFound, Unavailable

SHORT = BackendSettings(retry_budget=1, retry_budget_per_s=0.001)  # gives up when the budget is empty, on a busy host too


async def check(url: str, environ: dict[str, str], settings: BackendSettings = SHORT) -> None:
    store = await open_store(url, settings=settings, environ=environ)
    try:
        await store.check()
    finally:
        await store.aclose()


@pytest.mark.swift
@pytest.mark.parametrize("wrong", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "ST_USER", "ST_KEY"])
async def test_wrong_credentials_are_denied_and_not_shown(swift_server: SwiftServer, wrong: str) -> None:
    url = swift_server.s3_url if wrong.startswith("AWS") else swift_server.swift_url
    with pytest.raises(Denied, match="check") as caught:
        await check(url, swift_server.environ | {wrong: "wrong:hunter2"}, BackendSettings())
    assert "hunter2" not in str(caught.value)
    assert "testing" not in str(caught.value)


@pytest.mark.swift
async def test_a_wrong_region_is_denied_and_the_right_one_named(swift_server: SwiftServer) -> None:
    with pytest.raises(Denied, match=r"wrong region.*given=eu-west-3 expected=us-east-1"):
        await check(f"{swift_server.s3_url}?region=eu-west-3", swift_server.environ, BackendSettings())


@pytest.mark.swift
@pytest.mark.parametrize("protocol", ["s3", "swift"])
async def test_a_missing_permission_is_denied(swift_server: SwiftServer, protocol: str) -> None:
    url = swift_server.s3_url if protocol == "s3" else swift_server.swift_url
    environ = {"ST_USER": READER, "ST_KEY": READER_KEY, "AWS_ACCESS_KEY_ID": READER, "AWS_SECRET_ACCESS_KEY": READER_KEY}
    store = await open_store(url, settings=BackendSettings(), environ=environ)
    try:
        with pytest.raises(Denied, match="permission"):
            await store.create_bucket("vol-denied")
    finally:
        await store.aclose()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3:http://127.0.0.1:9", "cannot be reached"),
        ("swift:http://127.0.0.1:9/auth/v1.0", "cannot be reached"),
        ("swift:http://127.0.0.1:9/v3", "Keystone cannot be reached"),
        ("s3:http://nowhere.invalid", "DNS"),
        ("swift:http://nowhere.invalid/auth/v1.0", "DNS"),
    ],
)
async def test_an_endpoint_that_is_not_there_is_unavailable(url: str, words: str) -> None:
    environ = dict.fromkeys(("ST_USER", "ST_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "x")
    environ |= dict.fromkeys(("OS_USERNAME", "OS_PASSWORD", "OS_PROJECT_NAME"), "x")
    with pytest.raises(Unavailable, match=words):
        await check(url, environ)


@pytest.mark.swift
@pytest.mark.parametrize("protocol", ["s3", "swift"])
async def test_tls_to_a_server_without_it_is_unavailable(swift_server: SwiftServer, protocol: str) -> None:
    url = {"s3": f"s3:https://{swift_server.host}", "swift": f"swift:https://{swift_server.host}/auth/v1.0"}[protocol]
    with pytest.raises(Unavailable, match="TLS"):
        await check(url, swift_server.environ)


@pytest.mark.swift
async def test_swift_at_the_wrong_path_says_so(swift_server: SwiftServer) -> None:
    with pytest.raises((Denied, Unavailable), match="address"):
        await check(f"swift:http://{swift_server.host}/elsewhere/v1.0", swift_server.environ)


@pytest.mark.swift
async def test_an_expired_token_is_renewed(swift_server: SwiftServer) -> None:
    store = await open_store(swift_server.swift_url, environ=swift_server.environ)
    bucket = f"vol-{secrets.token_hex(8)}"
    try:
        await store.create_bucket(bucket)
        swift_server.stop_one("proxy")  # its tokens are in its memory
        await trio.to_thread.run_sync(swift_server.start_one, "proxy")
        async with trio.open_nursery() as nursery:
            for number in range(16):
                nursery.start_soon(store.put, bucket, f"sco/1/{number}", b"x")
        assert await store.get(bucket, "sco/1/7") == b"x"
    finally:
        await store.aclose()


@pytest.mark.swift
async def test_a_store_that_is_away_for_a_while_is_waited_for(swift_server: SwiftServer) -> None:
    store = await open_store(swift_server.s3_url, environ=swift_server.environ)
    bucket = f"vol-{secrets.token_hex(8)}"
    try:
        await store.create_bucket(bucket)
        swift_server.stop_one("proxy")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.put, bucket, "sco/1/0", b"x")
            while store.counters.operations["put"].retries < 1:
                await trio.sleep(0.01)
            await trio.to_thread.run_sync(swift_server.start_one, "proxy")
        assert await store.get(bucket, "sco/1/0") == b"x"
    finally:
        await store.aclose()


@pytest.mark.swift
def test_swift_refuses_a_body_that_is_not_its_etag(swift_server: SwiftServer) -> None:
    credentials = swift_server.environ
    connection = Connection(
        swift_server.swift_url.removeprefix("swift:"), credentials["ST_USER"], credentials["ST_KEY"], retries=0
    )
    connection.put_container("vol-etag")
    with pytest.raises(ClientException) as caught:
        connection.put_object("vol-etag", "a", b"damaged", etag=hashlib.md5(b"sent").hexdigest())
    assert isinstance(translate(caught.value), Corrupt)
    connection.close()


@pytest.mark.swift
async def test_a_single_bucket_is_checked_before_it_exists(swift_server: SwiftServer) -> None:
    store = await open_store(f"{swift_server.s3_url}?bucket=not-yet-there", environ=swift_server.environ)
    try:
        await store.check()
        assert [bucket async for bucket in store.list_buckets()] == []
    finally:
        await store.aclose()


async def test_a_foreign_directory_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(Invalid, match="not empty and no vPool store"):
        await open_store(f"dir:{tmp_path}")
    assert os.listdir(tmp_path) == ["thesis.tex"]


async def test_a_directory_without_its_parent_or_of_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="parent"):
        await open_store(f"dir:{tmp_path}/not/there")
    (tmp_path / MARKER).write_text("vpool directory store, format 2\n")
    with pytest.raises(Invalid, match="another format"):
        await open_store(f"dir:{tmp_path}")


async def _directory(path: Path) -> ObjectStore:
    store = await open_store(f"dir:{path}/store", settings=SHORT)
    await store.create_bucket("vol-a")
    await store.put("vol-a", "sco/1", b"x")
    return store


async def test_a_directory_that_is_not_mounted_any_more_is_unavailable(tmp_path: Path) -> None:
    store = await _directory(tmp_path)
    (tmp_path / "store").rename(tmp_path / "away")
    (tmp_path / "store").mkdir()
    for request in (store.get("vol-a", "sco/1"), store.put("vol-a", "sco/2", b""), store.delete("vol-a", "sco/1"), store.check()):
        with pytest.raises(Unavailable):  # not NotFound: that would be believed
            await request
    await store.aclose()


async def test_an_object_and_a_directory_of_one_name_are_refused(tmp_path: Path) -> None:
    store = await _directory(tmp_path)
    with pytest.raises(Invalid, match="an object itself"):
        await store.put("vol-a", "sco/1/0", b"")
    with pytest.raises(Invalid, match="other objects"):
        await store.put("vol-a", "sco", b"")
    with pytest.raises(NotFound):
        await store.get("vol-a", "sco")
    with pytest.raises(Conflict):
        await store.delete_bucket("vol-a")
    await store.aclose()


def test_a_killed_process_leaves_no_partial_object_and_its_rest_is_swept(tmp_path: Path) -> None:
    """A child is killed in the middle of its puts; what it left is whole, and the next process removes its unfinished files."""
    program = (
        "import sys; from pathlib import Path; from backend.directory_files import StoreFiles\n"
        "files = StoreFiles(Path(sys.argv[1])); files.create_bucket('vol-a')\n"
        "open(files._session / 'unfinished', 'wb').write(b'x'); print('ready', flush=True)\n"
        "for number in range(10**9): files.put('vol-a', f'sco/{number:08}', bytes([number % 256]) * 300000)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "store")], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        living = StoreFiles(tmp_path / "store")  # while the child lives, its files stay
        assert list((tmp_path / "store/.tmp").glob("*/unfinished"))
        while len(list(living.walk("vol-a", "sco/"))) < 20:
            assert child.poll() is None
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert list((tmp_path / "store/.tmp").glob("*/unfinished"))
        after = StoreFiles(tmp_path / "store")
        assert not list((tmp_path / "store/.tmp").glob("*/unfinished"))
        whole = list(after.walk("vol-a", ""))
        assert len(whole) >= 20
        for info in whole:
            number = int(info.name.removeprefix("sco/"))
            assert after.get("vol-a", info.name, 0, None) == bytes([number % 256]) * 300000
        after.close()
        living.close()
        assert os.listdir(tmp_path / "store/.tmp") == []
    finally:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()
