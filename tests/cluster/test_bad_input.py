"""Bad input to ``vpool up``: each has its message and its exit code, and nothing has changed.

If one of these fails, a slip of an operator changes a disk, a bucket or a mount, or is answered with a riddle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.running import picture, vpool
from tests.conftest import SMALL_CACHE, PoolMaker
from tests.mounted_pool import MountedPool
from tests.swift_server import SwiftServer
from vpool.errors import Conflict, Denied, Invalid, NoSpace, Unavailable
from vpool.exitcodes import EXIT_CODES

QUICK = {"VPOOL_BACKEND__CHECK_DEADLINE_S": "3", "VPOOL_BACKEND__TRY_TIMEOUT_S": "3", "VPOOL_BACKEND__CONNECT_TIMEOUT_S": "2"}
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "ST_USER": "test:tester", "ST_KEY": "testing"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with an empty mount point in it."""
    (tmp_path / "mount").mkdir()
    return tmp_path


def refused(
    place: Path, *options: str, environment: dict[str, str] | None = None, directory: str = "pool", mount: str = "mount"
) -> tuple[int, str]:
    """Exit code and message of a start that must change nothing."""
    before = picture(place)
    ran = vpool("up", place / directory, place / mount, *options, environment={**SMALL_CACHE, **QUICK, **(environment or {})})
    assert picture(place) == before
    assert ran.out == ""
    assert "Traceback" not in ran.err
    return ran.code, ran.err


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("ftp://host/x", "unknown kind of store 'ftp'"),
        ("nonsense", "unknown kind of store"),
        ("dir:relative", "dir: needs an absolute path"),
        ("dir:/no/such/parent/store", "parent"),
        ("s3:https://user:pass@host/p", "credentials do not belong into the address"),
        ("s3:http://127.0.0.1:9/Not_A_Bucket?region=us-east-1", "Not_A_Bucket"),
        ("swift:http://127.0.0.1:9/auth/v1.0?prefix=a%2Fb", "a/b"),
        ("swift:http://127.0.0.1:9/somewhere", "must end in /v3"),
    ],
)
def test_an_address_that_cannot_be(place: Path, backend: str, message: str) -> None:
    code, said = refused(place, "--backend", backend, environment=KEYS)
    assert message in said
    assert code == EXIT_CODES[Invalid]


@pytest.mark.parametrize("backend", ["s3:http://127.0.0.1:9/p?region=us-east-1", "swift:http://127.0.0.1:9/auth/v1.0"])
def test_a_backend_that_does_not_answer(place: Path, backend: str) -> None:
    code, said = refused(place, "--backend", backend, environment=KEYS)
    assert "127.0.0.1:9" in said
    assert code == EXIT_CODES[Unavailable]


@pytest.mark.swift
@pytest.mark.parametrize("kind", ["s3", "swift"])
def test_wrong_credentials(place: Path, swift_server: SwiftServer, kind: str) -> None:
    wrong = dict.fromkeys(swift_server.environ, "wrong")
    wrong |= {name: value for name, value in swift_server.environ.items() if "USER" in name or "ACCESS_KEY_ID" in name}
    code, said = refused(place, "--backend", swift_server.s3_url if kind == "s3" else swift_server.swift_url, environment=wrong)
    assert code == EXIT_CODES[Denied], said


def test_missing_credentials(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    code, said = refused(place, "--backend", "s3:http://127.0.0.1:9/p?region=us-east-1", environment={"HOME": str(place)})
    assert "credentials" in said.lower()
    assert code == EXIT_CODES[Invalid]


def test_a_mount_point_that_is_missing(place: Path) -> None:
    code, said = refused(place, mount="none")
    assert f"the mount point {place}/none does not exist; make it with: mkdir" in said
    assert code == EXIT_CODES[Invalid]


def test_a_mount_point_that_is_no_directory(place: Path) -> None:
    (place / "file").touch()
    code, said = refused(place, mount="file")
    assert "is not a directory" in said
    assert code == EXIT_CODES[Invalid]


def test_a_mount_point_with_files_in_it(place: Path) -> None:
    (place / "mount/precious").touch()
    code, said = refused(place)
    assert "is not empty (it has 'precious')" in said
    assert code == EXIT_CODES[Invalid]


@pytest.mark.mount
def test_a_mount_point_in_use(place: Path, pool: MountedPool) -> None:
    ran = vpool("up", place / "other", pool.mount, environment=SMALL_CACHE)
    code, said = ran.code, ran.err
    assert "a running vPool is mounted there" in said
    assert code == EXIT_CODES[Conflict]
    assert not (place / "other").exists()


@pytest.mark.parametrize(("directory", "mount"), [("mount/pool", "mount"), ("mount", "mount"), (".", "mount")])
def test_a_mount_point_around_or_inside_the_directory(place: Path, directory: str, mount: str) -> None:
    code, said = refused(place, directory=directory, mount=mount)
    assert "must not be inside one another" in said
    assert code == EXIT_CODES[Invalid]


def test_a_backend_inside_the_mount(place: Path) -> None:
    code, said = refused(place, "--backend", f"dir:{place}/mount/store")
    assert "must not be inside MOUNT" in said
    assert code == EXIT_CODES[Invalid]


@pytest.mark.mount
def test_a_store_whose_file_system_is_not_mounted(place: Path, make_pool: PoolMaker) -> None:
    """Else what is written goes below the mount point, where nobody finds it again."""
    store = place / "store"
    pool = make_pool(backend=f"dir:{store}")
    (pool.mount / "kept").write_text("content")
    pool.stop()
    store.rename(place / "away")
    for _ in range(2):  # absent, then there but empty
        code, said = refused(place, mount="pool-mount")
        assert "is its file system mounted?" in said
        assert code == EXIT_CODES[Unavailable]
        ran = vpool("cluster", "init", "--dir", pool.directory, "--listen", "127.0.0.1:9470")
        assert (ran.code, "is its file system mounted?" in ran.err) == (EXIT_CODES[Unavailable], True)
        store.mkdir(exist_ok=True)
    assert list(store.iterdir()) == []
    store.rmdir()
    (place / "away").rename(store)
    pool.start()
    assert (pool.mount / "kept").read_text() == "content"


def test_a_directory_of_somebody_else(place: Path) -> None:
    (place / "pool").mkdir()
    (place / "pool/thesis.odt").touch()
    code, said = refused(place)
    assert "is not a vPool and not empty (it has 'thesis.odt')" in said
    assert code == EXIT_CODES[Invalid]


def test_a_directory_without_a_parent(place: Path) -> None:
    code, said = refused(place, directory="no/pool")
    assert "cannot be made" in said
    assert code == EXIT_CODES[Invalid]


@pytest.mark.mount
def test_a_directory_of_another_vpool_of_a_newer_format_and_in_use(place: Path, make_pool: PoolMaker) -> None:
    pool = make_pool("pool")
    again = vpool("up", pool.directory, place / "mount", environment=SMALL_CACHE)
    assert "is in use by a running daemon" in again.err
    assert again.code == EXIT_CODES[Conflict]
    assert pool.stop() == 0

    (place / "store").mkdir()
    code, said = refused(place, "--backend", f"dir:{place}/store")
    assert f"belongs to the backend dir:{place}/pool/backend, not dir:{place}/store" in said
    assert code == EXIT_CODES[Invalid]

    marker = place / "pool/vpool.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"format": 99}))
    code, said = refused(place)
    assert "has format 99, made by a newer release" in said
    assert code == EXIT_CODES[Invalid]


def test_a_cache_disk_that_is_too_small(place: Path) -> None:
    code, said = refused(place, environment={"VPOOL_CACHE__SIZE_BYTES": "900T"})
    assert "cache.size_bytes is 900 TiB" in said
    assert code == EXIT_CODES[NoSpace]


def test_settings_that_are_wrong(place: Path) -> None:
    (place / "settings.toml").write_text("[cache]\nsize = 1\n")
    code, said = refused(place, "--config", f"{place}/settings.toml")
    assert "settings.toml:2: unknown key 'cache.size'" in said
    assert code == EXIT_CODES[Invalid]


@pytest.mark.mount
@pytest.mark.parametrize(
    ("path", "size", "message", "kind"),
    [
        ("a.raw", "0", "must be greater than 0", "Invalid"),
        ("a.raw", "-10G", "must be greater than 0", "Invalid"),
        ("a.raw", "1000", "not a multiple of 512, the sector of a disk; the next larger size is 1024", "Invalid"),
        ("a.raw", "65T", "at most 64 TiB", "Invalid"),
        ("a.raw", "big", "is not a size", "Invalid"),
        ("a.txt", "1G", "would be a file, not a volume; volumes are named *.raw or *-flat.vmdk", "Invalid"),
        ("no/a.raw", "1G", "there is no directory no", "NotFound"),
        ("../a.raw", "1G", "must not contain '.' or '..'", "Invalid"),
        ("/", "1G", "a volume needs a path", "Invalid"),
        ("there.raw", "1G", "", "Exists"),
        ("f" * 252 + ".raw", "1G", "", "Invalid"),
    ],
)
def test_volumes_that_cannot_be(module_pool: MountedPool, path: str, size: str, message: str, kind: str) -> None:
    ran = vpool("volume", "create", path, size, "--dir", module_pool.directory, "--json")
    assert message in ran.err
    assert json.loads(ran.err)["error"] == kind
    listed = json.loads(vpool("volume", "list", "--dir", module_pool.directory, "--json").out)
    assert [volume["path"] for volume in listed["volumes"]] == ["there.raw"]


@pytest.fixture(scope="module")
def module_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedPool]:
    top = tmp_path_factory.mktemp("bad")
    with MountedPool(top / "pool", top / "mount", environment=SMALL_CACHE) as pool:
        assert vpool("volume", "create", "there.raw", "1G", "--dir", pool.directory).code == 0
        yield pool
