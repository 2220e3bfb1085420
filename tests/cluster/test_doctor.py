"""``vpool doctor`` on real stores: what it finds, what it refuses, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backend import open_store
from tests.cluster.running import Ran, picture, vpool
from tests.mounted_pool import wait_until
from tests.swift_server import SwiftServer
from vpool.errors import Invalid, Unavailable
from vpool.exitcodes import EXIT_CODES

QUICK = {"VPOOL_BACKEND__CHECK_DEADLINE_S": "3", "VPOOL_BACKEND__TRY_TIMEOUT_S": "3", "VPOOL_BACKEND__CONNECT_TIMEOUT_S": "2"}
SMALL = {"VPOOL_CACHE__SIZE_BYTES": "512MiB", "VPOOL_VOLUMES__SOFT_BYTES": "128MiB", "VPOOL_VOLUMES__HARD_BYTES": "256MiB"}


def checks(ran: Ran) -> dict[tuple[str, str], dict[str, Any]]:
    return {(check["area"], check["name"]): check for check in json.loads(ran.out)["checks"]}


def test_a_directory_store_and_a_dir_that_is_not_made_yet(tmp_path: Path) -> None:
    before = picture(tmp_path)
    ran = vpool("doctor", tmp_path / "pool", "--backend", f"dir:{tmp_path}/store", "--json", environment=SMALL, seconds=120)
    assert picture(tmp_path) == before
    found = checks(ran)
    for name in ("permissions", "latency of 4 KiB", "rate of 4 MiB", "read after write", "listings", "404"):
        assert found["backend", name]["verdict"] == "good", found["backend", name]
    assert "one won" in found["backend", "conditional put"]["found"]
    figures = json.loads(ran.out)["figures"]
    assert figures["sync_median_s"] > 0
    assert figures["backend_put_bytes_per_s"] > 1 << 20
    assert figures["condition_winners_max"] == 1
    assert figures["advice_size_bytes"] <= figures["disk_free_bytes"]
    assert figures["advice_hard_bytes"] + figures["advice_read_cache_bytes"] < figures["advice_size_bytes"]
    problems = [check for check in found.values() if check["verdict"] == "problem"]
    assert ran.code == (EXIT_CODES[Unavailable] if problems else 0)
    said = vpool("doctor", tmp_path / "pool", environment=SMALL, seconds=120)
    assert "embedded" in said.out
    assert "cache.size_bytes" in said.out


@pytest.mark.swift
@pytest.mark.parametrize("kind", ["s3", "swift"])
async def test_a_real_store(tmp_path: Path, swift_server: SwiftServer, kind: str) -> None:
    url = swift_server.s3_url if kind == "s3" else swift_server.swift_url
    environment = {**SMALL, **swift_server.environ}
    ran = vpool("doctor", tmp_path / "pool", "--backend", url, "--json", environment=environment, seconds=240)
    found = checks(ran)
    assert found["backend", "permissions"]["verdict"] == "good"
    assert found["backend", "read after write"]["verdict"] in ("good", "note")
    assert ("backend", "clean-up") not in found
    assert ("backend", "works") not in found
    assert "conditional put" in {name for _, name in found}
    store = await open_store(url, environ=swift_server.environ)
    try:
        assert [name async for name in store.list_buckets() if name.startswith("vpool-doctor")] == []
    finally:
        await store.aclose()


def test_a_backend_that_does_not_answer_is_a_problem_in_the_report(tmp_path: Path) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    url = "s3:http://127.0.0.1:9/p?region=us-east-1"
    ran = vpool("doctor", tmp_path / "pool", "--backend", url, "--json", environment={**QUICK, **SMALL, **keys}, seconds=120)
    assert ran.code == EXIT_CODES[Unavailable]
    works = checks(ran)["backend", "works"]
    assert works["verdict"] == "problem"
    assert "127.0.0.1:9" in works["found"]


@pytest.mark.parametrize(
    ("backend", "message"),
    [("ftp://host/x", "unknown kind of store"), ("dir:relative", "absolute path"), ("dir:/no/such/parent/store", "parent")],
)
def test_an_address_that_cannot_be(tmp_path: Path, backend: str, message: str) -> None:
    ran = vpool("doctor", tmp_path / "pool", "--backend", backend, environment=SMALL)
    assert ran.code == EXIT_CODES[Invalid], ran
    assert message in ran.err
    assert not list(tmp_path.iterdir())


def test_a_dir_that_is_something_else(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool/homework.txt").write_text("mine")
    ran = vpool("doctor", tmp_path / "pool", environment=SMALL)
    assert ran.code == EXIT_CODES[Invalid]
    assert picture(tmp_path / "pool").keys() == {str(tmp_path / "pool/homework.txt")}


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vpool", "doctor", str(tmp_path / "pool"), "--backend", f"dir:{tmp_path}/store"]
    running = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **SMALL}
    )
    try:
        begun = lambda: running.poll() is not None or any((tmp_path / "store").glob("vpool-doctor-*"))  # noqa: E731
        wait_until(begun, "the backend is being tried out", 60)
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=60)
    finally:
        if running.poll() is None:
            running.kill()
            running.wait()
    assert running.returncode == 130
    assert not list(tmp_path.iterdir())
