"""A small DIR as some release leaves it, stored so that later releases can be tried on it.

``python -m tests.golden.stored_directory NAME`` runs the daemon of the tree it is started in and writes ``directory/NAME.tar.xz``
(the DIR, embedded backend included) and ``directory/NAME.json`` (what a client found in it at the end of
each of its lives). It is run once per format, by the
release that writes that format, and its result is never changed afterwards.

The DIR has been through two lives: the first stopped cleanly, with TLogs and checkpoints in the buckets; the second was killed
with a tail in the cache and a file open that has no name any more.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from tests.mounted_pool import MountedPool

HERE = Path(__file__).parent / "directory"
KIB, MIB = 1 << 10, 1 << 20
Contents = dict[str, dict[str, Any]]  # by path
TIME_NS = 1_700_000_000_123_456_789
SETTINGS = {
    "VPOOL_CACHE__SIZE_BYTES": "256MiB",
    "VPOOL_VOLUMES__SOFT_BYTES": "32MiB",
    "VPOOL_VOLUMES__HARD_BYTES": "64MiB",
    "VPOOL_VOLUMES__SCOS_PER_TLOG": "1",
    "VPOOL_VOLUMES__TLOGS_PER_CHECKPOINT": "1",
}


def stamped(name: str, offset: int, length: int, version: int) -> bytes:
    """Content that says what it is, in blocks of 512 bytes; it compresses well and no two blocks are the same."""
    blocks = range(offset // 512, -(-(offset + length) // 512))
    return b"".join(f"{name}:{version}:{block:012d}\n".encode().ljust(512, b".") for block in blocks)[:length]


def _put(path: Path, offset: int, length: int, version: int) -> None:
    with path.open("r+b", buffering=0) as file:
        file.seek(offset)
        file.write(stamped(path.name, offset, length, version))


def _first_life(top: Path) -> None:
    (top / "machines/deep").mkdir(parents=True)
    disk = top / "machines/web.raw"
    subprocess.run(["truncate", "-s", "64M", disk], check=True)
    for version, (offset, length) in enumerate([(0, 6 * MIB), (40 * MIB, 2 * MIB), (MIB, 3 * MIB), (40 * MIB + 512, 1536)]):
        _put(disk, offset, length, version)
        with disk.open("rb") as file:
            os.fsync(file.fileno())
    other = top / "first-name.raw"
    subprocess.run(["truncate", "-s", "3M", other], check=True)
    _put(other, 0, MIB, 1)
    other.rename(top / "machines/renamed-flat.vmdk")
    for name, length in (("notes.txt", 100), ("picture", 3 * MIB + 17), ("empty", 0), ("gone", 40 * KIB), ("shrunk", 64 * KIB)):
        (top / name).write_bytes(stamped(name, 0, length, 1))
    os.link(top / "notes.txt", top / "machines/deep/same-notes")
    os.symlink("../notes.txt", top / "machines/link")
    (top / os.fsdecode(b"not-utf8-\xff")).write_bytes(b"a name is bytes\n")
    os.chmod(top / "notes.txt", 0o640)
    os.chown(top / "picture", 1234, 5678)
    for number in range(40):
        (top / f"machines/deep/{number:02d}").write_bytes(stamped(f"{number:02d}", 0, number * 100, 1))


def _second_life(top: Path) -> None:
    disk = top / "machines/web.raw"
    _put(disk, 8 * MIB, MIB, 9)
    with disk.open("rb") as file:
        os.fsync(file.fileno())
    _put(disk, 2 * MIB + 1000, 5000, 10)
    os.truncate(top / "machines/renamed-flat.vmdk", 5 * MIB)
    _put(top / "machines/renamed-flat.vmdk", 4 * MIB, 64 * KIB, 10)
    (top / "late").write_bytes(stamped("late", 0, 200 * KIB, 10))
    os.truncate(top / "shrunk", 1000)
    with (top / "notes.txt").open("ab") as file:
        file.write(b"appended in the second life\n")
    (top / "gone").unlink()
    (top / "machines/deep/39").rename(top / "machines/deep/thirty-nine")
    for path in (top / "notes.txt", top / "picture", disk):
        os.utime(path, ns=(TIME_NS, TIME_NS))


def contents(top: Path) -> Contents:
    """Everything a client sees of a mount, by path, with a digest of what is in it."""
    found: Contents = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        facts: dict[str, Any] = {"mode": oct(status.st_mode), "owner": [status.st_uid, status.st_gid], "links": status.st_nlink}
        if stat.S_ISREG(status.st_mode):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            facts |= {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": digest}
        elif stat.S_ISLNK(status.st_mode):
            facts |= {"target": os.readlink(path)}
        found[os.fsencode(path.relative_to(top)).decode("utf-8", "backslashreplace")] = facts
    return found


def build(name: str) -> None:
    """Write the DIR and its manifest."""
    with tempfile.TemporaryDirectory() as scratch:
        pool = MountedPool(Path(scratch) / "pool", Path(scratch) / "mount", environment=SETTINGS)
        with pool:
            _first_life(pool.mount)
            first = contents(pool.mount)
            assert pool.stop() == 0
            pool._environment["VPOOL_VOLUMES__TLOG_AGE_S"] = "3600"
            pool.start()
            _second_life(pool.mount)
            unnamed = os.open(pool.mount / "unnamed", os.O_CREAT | os.O_RDWR)
            os.write(unnamed, b"gone with its last handle")
            os.unlink(pool.mount / "unnamed")
            last = contents(pool.mount)
            pool.kill()
            with contextlib.suppress(OSError):
                os.close(unnamed)
        HERE.mkdir(exist_ok=True)
        (HERE / f"{name}.json").write_text(json.dumps({"first": first, "last": last}, indent=1) + "\n", encoding="ascii")
        with tarfile.open(HERE / f"{name}.tar.xz", "w:xz", preset=9) as archive:
            archive.add(pool.directory, "pool", filter=lambda member: member if member.isreg() or member.isdir() else None)


def unpack(name: str, directory: Path) -> dict[str, Contents]:
    """Put the stored DIR at ``directory``, with holes where it has zeros; what its clients saw, ``first`` and ``last``."""
    with tarfile.open(HERE / f"{name}.tar.xz") as archive:
        for member in archive:
            path = directory / Path(member.name).relative_to("pool")
            if member.isdir():
                path.mkdir(mode=0o700)
                continue
            source = archive.extractfile(member)
            assert source is not None
            with path.open("wb") as file:
                while piece := source.read(64 * KIB):
                    file.seek(len(piece), os.SEEK_CUR) if not any(piece) else file.write(piece)
                file.truncate(member.size)
    seen: dict[str, Contents] = json.loads((HERE / f"{name}.json").read_text(encoding="ascii"))
    return seen


if __name__ == "__main__":
    build(sys.argv[1])
