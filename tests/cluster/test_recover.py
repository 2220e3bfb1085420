"""A registry is lost, and comes back from the buckets alone or from a backup: names, attributes, contents, bit for bit.

What a client sees of the mount before is compared with what it sees after; where the daemon was killed, with what may be there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from registry import RegistryView
from tests.conftest import PoolMaker
from tests.crash.history import UNIT_BYTES, History
from tests.crash.rounds import chosen_seed
from tests.crash.stamp import Load, Signature, Writers, read_stamps
from tests.mounted_pool import MountedPool, wait_until
from tests.swift_server import SwiftServer

pytestmark = pytest.mark.mount

MIB = 1 << 20
AT_START_ONLY = {"VPOOL_RECOVERY__AGE_S": "3600"}


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client sees of one name."""

    mode: int
    owner: tuple[int, int]
    links: int
    size: int
    mtime_ns: int
    content: str  # digest, target of a symbolic link, or names of a directory


def look(top: Path) -> dict[str, Seen]:
    """All of a mount by path, with which paths are one file."""
    found: dict[str, Seen] = {}
    waiting = [top]
    while waiting:
        path = waiting.pop()
        status = path.lstat()
        if stat.S_ISDIR(status.st_mode):
            content = " ".join(sorted(os.listdir(path)))
            waiting += path.iterdir()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        else:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
        found[str(path.relative_to(top))] = Seen(
            status.st_mode, (status.st_uid, status.st_gid), status.st_nlink, size, status.st_mtime_ns, content
        )
    return found


def write(path: Path, data: bytes, offset: int = 0) -> None:
    with path.open("r+b" if path.exists() else "xb") as file:
        file.seek(offset)
        file.write(data)
        os.fsync(file.fileno())


def populate(pool: MountedPool) -> None:
    """Volumes and files with everything that a namespace can have, and traces of what is gone."""
    top = pool.mount
    for name in ("one.raw", "deep/in/two.raw", "gone.raw"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        write(pool.make_volume(name, 24 * MIB), os.urandom(9 * MIB), 3 * MIB)
    pool.make_volume("never-written.raw", 5 * MIB)
    (top / "one.raw").rename(top / "deep" / "renamed.raw")
    (top / "gone.raw").unlink()
    for number in range(60):
        write(top / "deep" / f"file-{number}", os.urandom(number * 977))
    for number in range(0, 60, 5):
        (top / "deep" / f"file-{number}").unlink()
    for number in range(1, 60, 5):
        (top / "deep" / f"file-{number}").rename(top / f"moved-{number}")
    write(top / "over", b"old")
    write(top / "new", b"new content")
    (top / "new").rename(top / "over")
    os.link(top / "over", top / "deep" / "hard link")
    os.symlink("../over", top / "deep" / "symbolic \udcff link".encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
    os.truncate(top / "moved-1", 3_000_000)  # sparse
    (top / "empty directory").mkdir(mode=0o1770)
    os.chmod(top / "over", 0o4751)
    os.chown(top / "moved-6", 1234, 2345)
    os.utime(top / "moved-11", ns=(1_000_000_007, 1_700_000_000_123_456_789))
    (top / "empty file").touch()


def command(*arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vpool", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **(environ or {})},
        check=False,
    )


def recover(directory: Path, backend: str, *options: str, environ: dict[str, str] | None = None) -> dict[str, Any]:
    done = command("recover", str(directory), "--backend", backend, "--json", *options, environ=environ)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def fates(report: dict[str, Any]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for finding in report["plan"]["logs"]:
        counts[finding["fate"]] = counts.get(finding["fate"], 0) + 1
    return counts


def exports(store: Path) -> tuple[int, int]:
    """(generation, index) of the newest export in a directory store."""
    return max((int(path.parent.name, 16), int(path.name[:16], 16)) for path in store.glob("**/namespace/*/*.last"))


@pytest.fixture(params=["directory", "single-bucket", pytest.param("swift", marks=pytest.mark.swift)])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    if request.param == "swift":
        server: SwiftServer = request.getfixturevalue("swift_server")
        yield f"{server.swift_url}?prefix=recover-{uuid.uuid4().hex[:8]}-", server.environ
    else:
        yield f"dir:{tmp_path / 'store'}" + ("?bucket=everything" if request.param == "single-bucket" else ""), {}


def test_everything_comes_back_after_a_clean_stop(
    make_pool: PoolMaker, tmp_path: Path, backend: tuple[str, dict[str, str]]
) -> None:
    """Only the buckets are left. Else a lost registry would be the loss of everything."""
    url, environ = backend
    pool = make_pool(backend=url, environment={**environ, "VPOOL_RECOVERY__AGE_S": "0.5"})
    populate(pool)
    before = look(pool.mount)
    assert pool.stop() == 0
    shutil.rmtree(pool.directory)

    planned = recover(tmp_path / "recovered", url, "--dry-run", environ=environ)
    assert not planned["carried_out"]
    assert not (tmp_path / "recovered").exists()
    report = recover(tmp_path / "recovered", url, environ=environ)
    assert report["plan"]["logs"] == planned["plan"]["logs"]
    assert set(fates(report)) <= {"kept", "empty"}
    assert not report["plan"]["files"] + report["plan"]["problems"]

    again = make_pool("recovered", backend=url, environment=environ)
    assert look(again.mount) == before
    volume = again.mount / "deep/renamed.raw"
    write(volume, b"x" * MIB, 20 * MIB)
    write(again.mount / "deep/another", b"y" * 5000)
    changed = look(again.mount)
    assert again.stop() == 0
    shutil.rmtree(again.directory)
    assert recover(tmp_path / "third", url, environ=environ)["plan"]["generation"] == 3
    third = make_pool("third", backend=url, environment=environ)
    assert look(third.mount) == changed, "what was written after a recovery is in the history that the next one finds"


def test_what_the_last_export_does_not_know(make_pool: PoolMaker, tmp_path: Path) -> None:
    """Made since: under lost+found. Deleted since: stays deleted. Renamed since: under the older name."""
    url = f"dir:{tmp_path / 'store'}"
    pool = make_pool(backend=url, environment={**AT_START_ONLY, "VPOOL_VOLUMES__TLOG_AGE_S": "0.3"})
    populate(pool)
    erased(pool)  # what was deleted before the export is not counted below
    assert pool.stop() == 0
    made = exports(tmp_path / "store")
    pool.start()
    top = pool.mount
    wait_until(lambda: exports(tmp_path / "store") > made, "the first export of this life", 30)
    before = look(top)

    data = {name: os.urandom(size) for name, size in (("made.raw", 6 * MIB), ("made file", 70_000))}
    write(pool.make_volume("made.raw", 8 * MIB), data["made.raw"])
    write(top / "made file", data["made file"])
    (top / "deep/in/two.raw").unlink()
    for number in (7, 8, 9):
        (top / f"deep/file-{number}").unlink()
    (top / "moved-16").rename(top / "moved again")
    erased(pool)
    deleted = {"deep/in/two.raw", "deep/file-7", "deep/file-8", "deep/file-9"}
    wait_until(lambda: bool(list((tmp_path / "store").glob("**/deleted/*"))), "the deleted volume's bucket goes", 60)
    last = top / "last.raw"
    write(pool.make_volume("last.raw", MIB), os.urandom(MIB))
    settled(pool)
    assert last.exists()
    pool.kill()
    shutil.rmtree(pool.directory)

    report = recover(tmp_path / "recovered", url)
    counts = fates(report)
    assert counts["deleted"] == 1
    assert counts["found"] == 2
    again = make_pool("recovered", backend=url)
    after = look(again.mount)
    lost = {path: seen for path, seen in after.items() if path.startswith("lost+found/")}
    kept = {path: seen for path, seen in after.items() if path not in lost and path not in (".", "lost+found")}
    expected = {path: seen for path, seen in before.items() if path not in deleted and path != "."}
    assert {path: (seen.content, seen.size) for path, seen in kept.items() if not stat.S_ISDIR(seen.mode)} == {
        path: (seen.content, seen.size) for path, seen in expected.items() if not stat.S_ISDIR(seen.mode)
    }
    contents = {seen.content for seen in lost.values()}
    assert hashlib.sha256(data["made.raw"].ljust(8 * MIB, b"\0")).hexdigest() in contents
    assert hashlib.sha256(data["made file"]).hexdigest() in contents
    assert len(lost) == 3


def erased(pool: MountedPool) -> None:
    """Until nothing that has been deleted waits to be erased."""

    def done() -> bool:
        with RegistryView(pool.directory / "registry") as view, view.snapshot() as tables:
            inodes = {inode.number for inode in (tables.inode(number) for number in range(1, 2000)) if inode is not None}
            return all(next(tables.names(number), None) is not None for number in inodes - {1})

    wait_until(done, "what was deleted is erased", 60)


def settled(pool: MountedPool) -> None:
    """Until everything acknowledged is in the backend."""

    def clean() -> bool:
        done = command("status", "--dir", str(pool.directory), "--json")
        assert done.returncode == 0, done.stderr
        return bool(json.loads(done.stdout)["dirty_bytes"] == 0)

    wait_until(clean, "everything is in the backend", 60)


def test_without_any_export_everything_comes_back_under_lost_and_found(make_pool: PoolMaker, tmp_path: Path) -> None:
    """A vPool from before there were exports, or whose exports are all damaged."""
    url = f"dir:{tmp_path / 'store'}"
    environment = {"VPOOL_VOLUMES__SCOS_PER_TLOG": "1", "VPOOL_VOLUMES__TLOGS_PER_CHECKPOINT": "3"}
    pool = make_pool(backend=url, environment=environment)
    populate(pool)
    before = look(pool.mount)
    assert pool.stop() == 0
    shutil.rmtree(pool.directory)
    for export in (tmp_path / "store").glob("**/namespace/*/*"):
        data = bytearray(export.read_bytes())
        data[-20] ^= 1
        export.write_bytes(data)
    report = recover(tmp_path / "recovered", url)
    assert report["plan"]["source"] is None
    assert set(fates(report)) == {"found"}
    again = make_pool("recovered", backend=url)
    after = look(again.mount)
    contents = {(seen.content, seen.size) for path, seen in after.items() if path.startswith("lost+found/")}
    wanted = {
        (seen.content, seen.size)
        for path, seen in before.items()
        if stat.S_ISREG(seen.mode) and seen.size and path != "never-written.raw"
    }
    assert contents >= wanted


def test_kills_under_load_come_back_as_a_prefix(
    make_pool: PoolMaker, tmp_path: Path, backend: tuple[str, dict[str, str]]
) -> None:
    """After each kill only the buckets are left; the volume is the state after some write, and what was old stays."""
    seed = chosen_seed()
    units = 16 << 11
    url, environ = backend
    lives = 5 if url.endswith("store") else 2
    environment = {
        **environ,
        "VPOOL_VOLUMES__TLOG_AGE_S": "0.3",
        "VPOOL_VOLUMES__SCOS_PER_TLOG": "2",
        "VPOOL_VOLUMES__TLOGS_PER_CHECKPOINT": "3",
        "VPOOL_RECOVERY__AGE_S": "0.3",
        "VPOOL_FUSE__ATTRIBUTES_TIMEOUT_S": "0",
    }
    pool = make_pool("life-0", backend=url, environment=environment)
    pool.make_volume("disk.raw", units * UNIT_BYTES)
    write(pool.mount / "old file", b"old" * 10_000)
    assert pool.stop() == 0
    pool.start()
    history = History()
    lost = 0
    for life in range(1, lives + 1):
        with Writers(
            pool.mount / "disk.raw", history, Load(units=units, bytes_max=12 * MIB), Signature(seed, life, 0)
        ) as writers:
            time.sleep(0.4 * life)  # when the kill hits is what is random here
            pool.kill()
            writers.stop()
        assert not writers.errors
        shutil.rmtree(pool.directory)
        report = recover(tmp_path / f"life-{life}", url, environ=environ)
        assert not report["plan"]["problems"]
        pool = make_pool(f"life-{life}", backend=url, environment=environment)
        assert (pool.mount / "old file").read_bytes() == b"old" * 10_000
        seen = read_stamps(pool.mount / "disk.raw", 0, units, seed)
        lost += history.judge(seen, range(units), cache_lost=True).lost_acknowledged
        history.settle(seen, range(units))
    print(f"{lost} acknowledged writes were lost over {lives} losses of everything but the buckets")


def test_a_backup_restored_has_its_names_and_the_newest_contents(make_pool: PoolMaker, tmp_path: Path) -> None:
    """On the same host, with the cache: contents lose nothing, tails included; names go back to the backup's."""
    url = f"dir:{tmp_path / 'store'}"
    pool = make_pool(backend=url, environment={"VPOOL_VOLUMES__TLOG_AGE_S": "0.5"})
    populate(pool)
    backup = tmp_path / "backup"
    done = command("registry", "backup", str(backup), "--dir", str(pool.directory), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["items"] > 100
    names = set(look(pool.mount)) - {"."}
    refused = command("registry", "restore", str(backup), "--dir", str(pool.directory))
    assert refused.returncode == 5, "a daemon has the DIR"

    (pool.mount / "deep/file-7").unlink()
    erased(pool)
    write(pool.mount / "since the backup", b"s" * 9000)
    write(pool.mount / "deep/renamed.raw", b"w" * MIB, 22 * MIB)
    settled(pool)
    pool.stop()
    pool.start()
    write(pool.mount / "over", b"tail " * 1000)
    write(pool.mount / "deep/renamed.raw", b"t" * MIB, MIB)
    contents = look(pool.mount)
    pool.kill()

    done = command("registry", "restore", str(backup), "--dir", str(pool.directory), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert Path(report["moved_aside"]).is_dir()
    assert fates(report)["advanced"] == 2
    pool.start()
    after = look(pool.mount)
    assert set(after) - {"."} >= names - {"deep/file-7"}
    assert "deep/file-7" not in after, "deleted since, and its region erased"
    for path in names - {"deep/file-7"}:
        assert (after[path].content, after[path].size) == (contents[path].content, contents[path].size) or stat.S_ISDIR(
            after[path].mode
        )
    found = {seen.content for path, seen in after.items() if path.startswith("lost+found/")}
    assert found == {contents["since the backup"].content}


def test_what_cannot_be_recovered_is_refused_and_nothing_changes(make_pool: PoolMaker, tmp_path: Path) -> None:
    """Each refusal says what is wrong, with an exit code of its own."""
    url = f"dir:{tmp_path / 'store'}"
    pool = make_pool(backend=url)
    write(pool.mount / "file", b"content")
    backup = tmp_path / "backup"
    assert command("registry", "backup", str(backup), "--dir", str(pool.directory)).returncode == 0
    assert pool.stop() == 0

    def refused(code: int, words: str, *arguments: str) -> None:
        done = command(*arguments)
        assert (done.returncode, words in done.stderr) == (code, True), done.stderr
        assert "Traceback" not in done.stderr

    refused(2, "is a vPool", "recover", str(pool.directory), "--backend", url)
    refused(2, "name the backend", "recover", str(tmp_path / "new"))
    refused(3, "no bucket of any vPool", "recover", str(tmp_path / "new"), "--backend", f"dir:{tmp_path / 'empty-store'}")
    refused(3, "no bucket of the vPool", "recover", str(tmp_path / "new"), "--backend", url, "--vpool", "0" * 32)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/something").touch()
    refused(2, "not empty", "recover", str(tmp_path / "full"), "--backend", url)
    assert not (tmp_path / "new").exists()

    restore = ("registry", "restore", "--dir", str(pool.directory))
    before = {path: path.stat().st_mtime_ns for path in pool.directory.rglob("*") if path.is_file()}
    refused(2, "cannot be read", *restore, str(tmp_path / "absent"))
    refused(2, "no backup of a registry", *restore, str(pool.log))
    (tmp_path / "cut").write_bytes(backup.read_bytes()[:-1])
    refused(9, "cut short", *restore, str(tmp_path / "cut"))
    other = make_pool("other", backend=f"dir:{tmp_path / 'other-store'}")
    assert other.stop() == 0
    refused(2, "is of the vPool", "registry", "restore", "--dir", str(other.directory), str(backup))
    refused(2, "name a file", "registry", "backup", str(tmp_path / "absent/file"), "--dir", str(pool.directory))
    assert before == {path: path.stat().st_mtime_ns for path in pool.directory.rglob("*") if path.is_file()}


def test_an_interrupted_recovery_is_begun_anew(make_pool: PoolMaker, tmp_path: Path) -> None:
    """Whatever an earlier try left in DIR: another one makes a vPool of it, and ``vpool up`` never takes a half one."""
    url = f"dir:{tmp_path / 'store'}"
    pool = make_pool(backend=url)
    write(pool.mount / "file", b"content")
    assert pool.stop() == 0
    target = tmp_path / "recovered"
    target.mkdir()
    (target / "registry.new").mkdir()
    (target / "registry.new/data.mdb").write_bytes(b"half")
    for left in ([], ["registry", "vpool.json.recovered"]):
        for name in left:
            (target / name).mkdir() if name == "registry" else (target / name).touch()
        refused = command("up", str(target), str(tmp_path), "--backend", url)
        assert refused.returncode == 2, "not empty, and no vPool"
    recover(target, url)
    again = make_pool("recovered", backend=url)
    assert (again.mount / "file").read_bytes() == b"content"
