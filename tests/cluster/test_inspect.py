"""``vpool inspect`` on everything that a real daemon leaves behind, whole and damaged.

If one of these fails, an operator is told that a damaged file is whole, or that a whole one is damaged.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest

from tests.cluster.running import picture, vpool
from tests.conftest import PoolMaker
from tests.mounted_pool import wait_until
from vpool.errors import Conflict, Corrupt, Invalid, NotFound
from vpool.exitcodes import EXIT_CODES
from vpool.inspecting import inspect

GOLDEN = Path(__file__).parents[1] / "golden"
MIB = 1 << 20
WITHOUT_FORMAT = {"lock", "lock.mdb", "sizes-known", "data"}  # locks, an empty mark, blocks that are checked by the map


@pytest.fixture
def rng() -> random.Random:
    seed = int(os.environ.get("VPOOL_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"VPOOL_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def left_behind(make_pool: PoolMaker, tmp_path: Path, rng: random.Random) -> Path:
    """A DIR whose daemon was killed: checkpoints, a tail, read cache, files."""
    pool = make_pool(environment={"VPOOL_VOLUMES__SCOS_PER_TLOG": "1", "VPOOL_VOLUMES__TLOGS_PER_CHECKPOINT": "2"})
    assert vpool("volume", "create", "a.raw", "64M").code == 0
    (pool.mount / "files").mkdir()
    with (pool.mount / "a.raw").open("r+b", buffering=0) as disk:
        for number in range(400):
            disk.seek(rng.randrange(8000) * 4096)
            disk.write(rng.randbytes(rng.choice([4096, 40_960, 262_144])))
            if number % 40 == 0:
                (pool.mount / f"files/{number}").write_bytes(rng.randbytes(10_000))

    def settled() -> bool:
        return all(item["dirty_bytes"] == 0 for item in json.loads(vpool("status", "--json").out)["objects"])

    wait_until(settled, "everything is in the backend", 60)
    (pool.mount / "a.raw").open("r+b", buffering=0).write(rng.randbytes(5 * MIB))
    assert vpool("inspect", pool.directory / "cache/map").code == EXIT_CODES[Conflict]
    assert vpool("inspect", pool.directory / "registry").code == 0
    pool.kill()
    copy = tmp_path / "copy"
    shutil.copytree(pool.directory, copy, ignore=lambda _, names: {name for name in names if name in ("admin.sock", "socket")})
    return copy


@pytest.mark.mount
def test_everything_that_a_daemon_leaves_is_known_and_right(left_behind: Path) -> None:
    before = picture(left_behind)
    kinds: dict[str, int] = {}
    for path in sorted(left_behind.rglob("*")):
        if not path.is_file() or path.name in WITHOUT_FORMAT or path.suffix == ".jsonl":
            continue
        if any(part.startswith(".") for part in path.parts):
            continue
        found = inspect(path)
        assert not found.problems, (path, found)
        kinds[found.kind] = kinds.get(found.kind, 0) + 1
    print(kinds)
    assert kinds.keys() >= {
        "log segment",
        "TLog",
        "SCO",
        "combined object (SCO and TLog)",
        "checkpoint object",
        "index of the read cache",
        "local map",
        "registry",
        "birth record of a volume (volume.json)",
        "marker of a DIR (vpool.json)",
        "export of the namespace",
    }
    assert picture(left_behind) == before


@pytest.mark.mount
def test_damage_is_seen(left_behind: Path, rng: random.Random) -> None:
    """A flipped byte anywhere in what has a checksum, a cut file."""
    objects = [path for path in left_behind.rglob("*") if path.is_file() and "backend" in path.parts]
    by_kind: dict[str, list[Path]] = {}
    for path in objects:
        if any(part.startswith(".") for part in path.parts):
            continue
        by_kind.setdefault(inspect(path).kind, []).append(path)
    by_kind.pop("SCO")
    for kind, paths in by_kind.items():
        for _ in range(40):
            path = rng.choice(paths)
            whole = path.read_bytes()
            at = rng.randrange(len(whole))
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :])
            assert inspect(path).problems, (kind, path, at)
            path.write_bytes(whole[: rng.randrange(len(whole)) // 4096 * 4096 + 7])  # clusters alone would be a SCO
            assert inspect(path).problems, (kind, path, path.stat().st_size)
            path.write_bytes(whole)
            assert not inspect(path).problems
    segments = [path for path in left_behind.rglob("*.seg") if inspect(path).fields["state"] == "sealed"]
    for _ in range(20):
        path = rng.choice(segments)
        torn = bytearray(path.read_bytes())
        fields = inspect(path).fields
        places = [(0, 120), (128, 168), (4096, 4096 + int(fields["seal: record bytes"] or 0))]
        places.append((65_536, 65_536 + int(fields["seal: slots"] or 0) * 4096))
        at = rng.randrange(*rng.choice([place for place in places if place[0] < place[1]]))
        torn[at] ^= 1 << rng.randrange(8)
        path.write_bytes(torn)
        assert inspect(path).problems, (path, at)
        path.unlink()
        segments.remove(path)
        if not segments:
            break
    for name in ("cache/map/map.tree", "registry/data.mdb"):
        path = left_behind / name
        whole = path.read_bytes()
        pages = int(inspect(path).fields["last page"] or 0)
        os.truncate(path, 3 * 4096)
        assert inspect(path).problems
        wrong = 0
        for _ in range(12):
            damaged = bytearray(whole)
            page = rng.randrange(2, pages + 1)
            damaged[page * 4096 : (page + 1) * 4096] = rng.randbytes(4096)
            path.write_bytes(damaged)
            wrong += bool(inspect(path).problems)
        assert wrong, "no page that was used has been hit"


def test_the_golden_files_are_read(tmp_path: Path) -> None:
    for name in ("checkpoint-object-1", "checkpoint-object-2", "checkpoint-root-1", "combined-1", "tlog-1", "read-cache-index-1"):
        assert not inspect(GOLDEN / f"engine/{name}.bin").problems
    for name in ("local-map-meta-1", "local-map-meta-no-checkpoint-1"):
        assert not inspect(GOLDEN / f"engine/{name}.bin").problems
    assert not inspect(GOLDEN / "volume/volume.json").problems
    assert not inspect(GOLDEN / "verify-1.json").problems
    assert not inspect(GOLDEN / "namespace-export-1.bin").problems
    whole = tmp_path / "whole.seg"
    whole.write_bytes((GOLDEN / "engine/segment-1.bin").read_bytes().ljust(4_259_840, b"\0"))
    found = inspect(whole)
    assert found.fields["records"]
    shown = vpool("inspect", GOLDEN / "engine/tlog-1.bin", "--json")
    report = json.loads(shown.out)
    assert (report["kind"], report["fields"]["number"], report["problems"]) == ("TLog", 42, [])
    assert shown.code == 0


def test_what_cannot_be_inspected(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("nothing of ours")
    damaged = tmp_path / "tlog.bin"
    damaged.write_bytes((GOLDEN / "engine/tlog-1.bin").read_bytes()[:-1])
    for kind, path in ((NotFound, tmp_path / "none"), (Invalid, text), (Invalid, tmp_path), (Corrupt, damaged)):
        ran = vpool("inspect", path)
        assert ran.code == EXIT_CODES[kind], ran
        assert "Traceback" not in ran.err
        assert ran.err
