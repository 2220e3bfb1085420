"""``vpool file`` and ``vpool object`` on a real daemon: what has a name, what is in the buckets, and why.

If one of these fails, an operator who looks for what fills a bucket, or for what stands behind a name, is told something wrong.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.running import vpool
from tests.conftest import PoolMaker
from tests.mounted_pool import MountedPool, wait_until
from vpool.errors import Corrupt, Invalid, NotFound
from vpool.exitcodes import EXIT_CODES

pytestmark = pytest.mark.mount
MIB = 1 << 20


def asked(*arguments: str | Path) -> Any:
    ran = vpool(*arguments, "--json")
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def refused(kind: type[Exception], *arguments: str | Path) -> str:
    ran = vpool(*arguments)
    assert ran.code == EXIT_CODES[kind], (ran.code, ran.err)  # type: ignore[index]
    assert "Traceback" not in ran.err
    return ran.err


def settled() -> bool:
    return all(item["dirty_bytes"] == 0 for item in asked("status")["objects"])


def test_names_are_listed_and_shown(pool: MountedPool) -> None:
    top = pool.mount
    (top / "a/b").mkdir(parents=True)
    (top / "a/text").write_bytes(b"12345")
    (top / "a/link").symlink_to("text")
    os.mkfifo(top / "a/queue")
    for number in range(1500):
        (top / f"a/b/{number:04}").touch()
    assert vpool("volume", "create", "a/disk.raw", "1M").code == 0
    listed = asked("file", "list", "a")["entries"]
    assert [(entry["path"], entry["kind"]) for entry in listed] == [
        ("a/b", "directory"),
        ("a/disk.raw", "volume"),
        ("a/link", "symlink"),
        ("a/queue", "fifo"),
        ("a/text", "file"),
    ]
    everything = asked("file", "list", "-r")["entries"]
    assert len(everything) == 1 + 5 + 1500
    shown = asked("file", "show", "/a/text")
    assert (shown["path"], shown["size"], shown["record"]["kind"]) == ("a/text", 5, "file")
    assert shown["mode"] == (top / "a/text").stat().st_mode & 0o7777
    assert asked("file", "show", "a/link")["target"] == "text"
    with (top / "a/disk.raw").open("rb"):
        assert asked("file", "show", "a/disk.raw")["handles_here"] == 1
    assert "a/text" in vpool("file", "list", "a").out
    assert "object: kind" in vpool("file", "show", "a/text").out
    assert "there is no a/none" in refused(NotFound, "file", "show", "a/none")
    assert "not a directory" in refused(Invalid, "file", "list", "a/text")
    assert "not a directory" in refused(Invalid, "file", "show", "a/text/x")
    refused(Invalid, "file", "show", "a/../b")


def test_every_object_is_known_and_judged(make_pool: PoolMaker) -> None:
    seed = int(os.environ.get("VPOOL_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"VPOOL_SEED={seed}")
    rng = random.Random(seed)
    few = {"VPOOL_VOLUMES__SCOS_PER_TLOG": "1", "VPOOL_VOLUMES__TLOGS_PER_CHECKPOINT": "4"}
    pool = make_pool(environment=few, expected={"bucket_stays"})
    assert vpool("volume", "create", "v.raw", "64M").code == 0
    disk = pool.mount / "v.raw"
    for _ in range(3):
        disk.open("r+b", buffering=0).write(rng.randbytes(16 * MIB))
        (pool.mount / "file").write_bytes(rng.randbytes(100_000))
    wait_until(settled, "everything is in the backend", 60)
    uuid = asked("volume", "show", "v.raw")["object"]
    buckets = {bucket["bucket"]: bucket for bucket in asked("object", "list")["buckets"]}
    assert buckets[f"vpool-{uuid}"]["path"] == "v.raw"
    assert sorted(bucket["what"] for bucket in buckets.values()) == ["shared", "volume"]
    listing = asked("object", "list", "v.raw")
    listed = {each["name"]: each for each in listing["listed"]}
    stored = pool.directory / "backend" / f"vpool-{uuid}"
    names = {str(path.relative_to(stored)) for path in stored.rglob("*") if path.is_file()}
    assert listed.keys() == names
    scos = [each for each in listed.values() if each["what"] == "sco"]
    live = sum(int(each["why"].split()[3]) for each in scos if each["why"].startswith("the map uses") and each["state"] == "live")
    assert live * 4096 == 16 * MIB + 4096, "what was written last, and the size"
    assert {each["state"] for each in scos} >= {"live", "garbage"}
    assert {each["what"] for each in listed.values()} >= {"birth", "sco", "tlog", "checkpoint"}
    assert not [each for each in listed.values() if each["state"] in ("unknown", "stale", "uploading")]
    assert any(each["state"] == "history" for each in listed.values())
    assert listing["objects"]["garbage"] == sum(each["state"] == "garbage" for each in listed.values())
    assert asked("object", "list", uuid)["objects"] == listing["objects"]
    shared = next(name for name, bucket in buckets.items() if bucket["what"] == "shared")
    of_files = asked("object", "list", shared)["listed"]
    assert {each["state"] for each in of_files} <= {"live", "garbage", "history"}
    assert {each["what"] for each in of_files} >= {"birth", "sco", "export"}

    stale = stored / "sco" / f"{1:016x}" / f"{9999:016x}"
    stale.write_bytes(bytes(4096))
    (stored / "notes.txt").write_text("of a visitor")
    pool.stop()
    pool.start()
    again = {each["name"]: each for each in asked("object", "list", "v.raw")["listed"]}
    assert again[str(stale.relative_to(stored))]["state"] == "stale"
    assert (again["notes.txt"]["what"], again["notes.txt"]["state"]) == ("foreign", "unknown")
    only = vpool("object", "list", "v.raw", "--state", "stale")
    assert only.out.count("stale") >= 1
    assert "garbage   " not in only.out

    for name in ("volume.json", next(name for name, each in again.items() if each["what"] == "tlog")):
        shown = asked("object", "show", f"vpool-{uuid}", name)
        assert shown["problems"] == []
        assert shown["fields"]["state"] in ("live", "history")
    tlog = stored / next(name for name, each in again.items() if each["what"] == "tlog")
    whole = tlog.read_bytes()
    tlog.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused(Corrupt, "object", "show", f"vpool-{uuid}", str(tlog.relative_to(stored)))
    tlog.write_bytes(whole)

    assert vpool("volume", "delete", "v.raw").code == 0
    refused(NotFound, "object", "list", "v.raw")
    refused(NotFound, "object", "show", f"vpool-{'0' * 32}", "volume.json")
    refused(Invalid, "object", "list", "v.raw", "--state", "some")


def test_a_bucket_that_is_not_there(pool: MountedPool) -> None:
    assert refused(NotFound, "object", "list", "vpool-nothing")
    pool.stop()
    assert "no vPool daemon" in refused(NotFound, "object", "list", "--dir", pool.directory)
    assert "no vPool daemon" in refused(NotFound, "file", "list", "--dir", pool.directory)
