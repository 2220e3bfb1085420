"""A DIR that an earlier release wrote opens with this one, with everything that was in it; else nobody can upgrade."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.golden.stored_directory import HERE, SETTINGS, Contents, contents, unpack
from tests.mounted_pool import MountedPool
from vpool.place import FORMAT

pytestmark = pytest.mark.mount

STORED = sorted(path.stem for path in HERE.glob("*.json"))
PoolMaker = Callable[..., MountedPool]
Unpacked = tuple[Path, dict[str, Contents]]


@pytest.fixture(params=STORED)
def unpacked(request: pytest.FixtureRequest, tmp_path: Path) -> Unpacked:
    directory = tmp_path / "pool"
    return directory, unpack(request.param, directory)


def untouched_by_time(seen: Contents) -> Contents:
    """Without times: what was not synced before a kill keeps the time of its last sync."""
    return {path: {key: value for key, value in facts.items() if key != "mtime_ns"} for path, facts in seen.items()}


def test_everything_is_there(unpacked: Unpacked, make_pool: PoolMaker) -> None:
    directory, seen = unpacked
    pool = make_pool(environment=SETTINGS)
    found = contents(pool.mount)
    assert untouched_by_time(found) == untouched_by_time(seen["last"])
    for path in ("notes.txt", "picture", "machines/web.raw"):  # set by utimens
        assert found[path]["mtime_ns"] == seen["last"][path]["mtime_ns"]
    assert json.loads((directory / "vpool.json").read_text())["format"] == FORMAT


def test_it_can_be_written_and_opened_again(unpacked: Unpacked, make_pool: PoolMaker) -> None:
    _, seen = unpacked
    pool = make_pool(environment=SETTINGS)
    with (pool.mount / "machines/web.raw").open("r+b") as disk:
        disk.seek(50 << 20)
        disk.write(b"of this release")
    (pool.mount / "new").write_bytes(b"file")
    (pool.mount / "notes.txt").unlink()
    before = contents(pool.mount)
    assert set(before) == (set(seen["last"]) | {"new"}) - {"notes.txt"}
    assert pool.stop() == 0
    pool.start()
    assert contents(pool.mount) == before


def test_without_its_cache_it_comes_back_from_its_buckets(unpacked: Unpacked, make_pool: PoolMaker) -> None:
    """Names come from the registry, contents are those that had reached the buckets: the end of the first life."""
    directory, seen = unpacked
    shutil.rmtree(directory / "cache")
    found = contents(make_pool(environment=SETTINGS).mount)
    assert set(found) == set(seen["last"])
    unchanged = [path for path in seen["first"] if seen["first"][path] == seen["last"].get(path)]
    assert len(unchanged) > 40
    for path in [*unchanged, "machines/web.raw", "notes.txt"]:
        assert found[path].get("sha256") == seen["first"][path].get("sha256"), path
