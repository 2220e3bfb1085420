"""The management API over its real unix socket, with a router in memory below: requests, refusals, and who may connect."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import admin
from tests.memory_router import MemoryRouter
from vpool.cli.client import Client, volume_path
from vpool.errors import Conflict, Exists, Halted, Internal, Invalid, NotFound, Unavailable, VPoolError


@dataclass(frozen=True)
class Status:
    """A volume driver's status with a field that the models do not know."""

    object: str
    state: str = "serving"
    size: int = 0
    epoch: int = 3
    dirty_bytes: int = 5000
    oldest_dirty_age_s: float = 1.5
    head_tlog: int = 7
    uploading: int = 1
    retries: int = 2
    stalled: str = ""
    halted_reason: str = ""
    something_new: int = 42


class Volumes:
    """What the volume driver would say."""

    def __init__(self) -> None:
        self.known: list[Status] = []

    def statuses(self) -> list[Status]:
        return self.known


class Store:
    """A store that may be away."""

    url = "dir:/srv/x"
    problem: VPoolError | None = None

    async def check(self) -> None:
        if self.problem is not None:
            raise self.problem


@dataclass(frozen=True)
class EngineStats:
    """The engine's figures."""

    segments: int = 20
    segments_free: int = 90
    segments_max: int = 100
    map_cache_bytes: int = 1
    read_cache_bytes: int = 1000
    read_cache_used_bytes: int = 10
    read_cache_failed: str | None = None
    map_failure: str | None = None
    full: tuple[str, ...] = ()


class Engine:
    """The engine, as far as a status asks it."""

    def stats(self) -> EngineStats:
        return EngineStats()


FACTS = admin.NodeFacts("1.0", "v" * 32, "n" * 32, "/srv/pool", "/mnt/pool", ("*.raw",), 1 << 20)


class Served:
    """A daemon's management API and what is below it."""

    def __init__(self, directory: Path) -> None:
        self.router, self.volumes, self.store = MemoryRouter(), Volumes(), Store()
        self.administration = admin.Administration(
            facts=FACTS, namespace=self.router, volumes=self.volumes, store=self.store, engine=Engine()
        )
        self.directory = directory
        self.client = Client(directory)

    async def get(self, path: str) -> Any:
        return await trio.to_thread.run_sync(self.client.get, path)

    async def post(self, **body: object) -> Any:
        return await trio.to_thread.run_sync(self.client.post, "/v1/volumes", body)

    async def delete(self, path: str, **options: str) -> None:
        await trio.to_thread.run_sync(partial(self.client.delete, volume_path(path), **options))


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[Served]:
    served = Served(directory)
    async with trio.open_nursery() as nursery:
        await nursery.start(admin.serve, served.administration, directory / "admin.sock")
        with trio.fail_after(20):
            yield served
        nursery.cancel_scope.cancel()


async def test_volumes_are_made_listed_shown_and_deleted(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.router.make_directory(1, "machines", mode=0o755, uid=0, gid=0)
        made = await served.post(path="/machines/wéb 1.raw", size=1 << 30)
        assert (made["path"], made["size"], made["state"]) == ("machines/wéb 1.raw", 1 << 30, "closed")
        await served.post(path="a.raw", size=512)
        served.volumes.known = [Status(made["object"])]
        listed = await served.get("/v1/volumes")
        assert [volume["path"] for volume in listed["volumes"]] == ["a.raw", "machines/wéb 1.raw"]
        shown = await served.get(volume_path("machines/wéb 1.raw"))
        assert (shown["epoch"], shown["dirty_bytes"], shown["something_new"], shown["size"]) == (3, 5000, 42, 1 << 30)
        await served.delete("machines/wéb 1.raw")
        with pytest.raises(NotFound, match=r"there is no volume machines/wéb 1\.raw"):
            await served.get(volume_path("machines/wéb 1.raw"))


async def test_what_is_halted_is_opened_again_and_a_loss_only_where_it_is_accepted(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        made = await served.post(path="a.raw", size=512)
        inode = (await served.router.lookup(1, "a.raw")).number

        async def opening(**body: object) -> Any:
            return await trio.to_thread.run_sync(served.client.post, "/v1/openings", body)

        assert (await opening(path="a.raw"))["object"] == made["object"]
        await opening(path="a.raw", accept_loss=True)
        assert await opening() is None
        assert served.router.reopened == [(inode, False), (inode, True), (None, False)]
        served.router.failures["reopen"] = Conflict("the volume is not halted")
        with pytest.raises(Conflict, match="not halted"):
            await opening(path="a.raw")


@pytest.mark.parametrize(
    ("path", "size", "kind", "message"),
    [
        ("a.raw", 0, Invalid, "must be greater than 0"),
        ("a.raw", -512, Invalid, "must be greater than 0"),
        ("a.raw", 1000, Invalid, "the next larger size is 1024"),
        ("a.raw", (64 << 40) + 512, Invalid, "at most 64 TiB"),
        ("a.iso", 512, Invalid, r"volumes are named \*\.raw"),
        ("", 512, Invalid, "needs a path"),
        ("x/../a.raw", 512, Invalid, "must not contain"),
        ("none/a.raw", 512, NotFound, "there is no directory none"),
        ("file/a.raw", 512, Invalid, "file is not a directory"),
        ("there.raw", 512, Exists, "taken"),
        ("a.raw", "much", Invalid, "body.size"),
    ],
)
async def test_volumes_that_cannot_be_are_refused(
    tmp_path: Path, path: str, size: object, kind: type[VPoolError], message: str
) -> None:
    async with serving(tmp_path) as served:
        await served.router.create(1, "file", mode=0o600, uid=0, gid=0)
        await served.post(path="there.raw", size=512)
        before = dict(served.router.inodes)
        with pytest.raises(kind, match=message):
            await served.post(path=path, size=size)
        assert served.router.inodes == before


@pytest.mark.parametrize("size", [512, 4096 + 512, 64 << 40])
async def test_sizes_of_whole_sectors_are_taken(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path) as served:
        create = served.router.create

        async def small(parent: int, name: str, *, mode: int, uid: int, gid: int, size: int) -> Any:
            return await create(parent, name, mode=mode, uid=uid, gid=gid)

        monkeypatch.setattr(served.router, "create", small)
        await served.post(path="a.raw", size=size)


async def test_an_open_volume_goes_only_by_force(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        made = await served.post(path="a.raw", size=512)
        await served.router.open(made["inode"])
        with pytest.raises(Conflict, match=r"is open \(1 handles\)"):
            await served.delete("a.raw")
        await served.delete("a.raw", force="true")
        assert (await served.get("/v1/volumes"))["volumes"] == []


async def test_files_and_directories_are_not_deleted_as_volumes(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.router.create(1, "file", mode=0o600, uid=0, gid=0)
        with pytest.raises(Invalid, match="file is a file, not a volume"):
            await served.delete("file")


async def test_status_sums_up(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        served.volumes.known = [Status("1"), Status("2", state="halted", halted_reason="why", oldest_dirty_age_s=9.0)]
        report = await served.get("/v1/status")
        assert (report["dirty_bytes"], report["oldest_dirty_age_s"], report["halted"]) == (10_000, 9.0, 1)
        assert report["cache"]["log_bytes_used"] == 10 << 20
        assert report["objects"][1]["halted_reason"] == "why"
        assert report["backend"] == {"url": "dir:/srv/x", "reachable": True, "problem": ""}


async def test_status_answers_when_the_backend_does_not(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        served.store.problem = Unavailable("gone fishing")
        report = await served.get("/v1/status")
        assert report["backend"]["reachable"] is False
        assert "gone fishing" in report["backend"]["problem"]


@pytest.mark.parametrize(("error", "kind"), [(Halted("see the log"), Halted), (KeyError("a defect"), Internal)])
async def test_errors_keep_their_class(tmp_path: Path, error: Exception, kind: type[VPoolError]) -> None:
    async with serving(tmp_path) as served:
        served.router.failures["lookup"] = error
        with pytest.raises(kind):
            await served.get(volume_path("a.raw"))
        served.router.failures.clear()
        await served.get("/v1/status")


async def test_unknown_addresses_are_said(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        with pytest.raises(NotFound, match="GET /v2/status"):
            await served.get("/v2/status")


async def test_the_socket_is_its_owners_and_goes_with_the_daemon(tmp_path: Path) -> None:
    (tmp_path / "admin.sock").touch()  # left by one that was killed
    async with serving(tmp_path):
        assert (tmp_path / "admin.sock").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "admin.sock").exists()


async def test_a_daemon_deep_in_the_tree_is_reached(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a-directory-with-a-long-name"] * 6)
    deep.mkdir(parents=True)
    async with serving(deep) as served:
        assert json.dumps(await served.get("/v1/volumes")) == '{"volumes": []}'


@pytest.mark.parametrize("name", ["\udcff\udcfe.raw", "[bold]x.raw", "50%?#.raw"])
async def test_names_are_bytes(tmp_path: Path, name: str) -> None:
    async with serving(tmp_path) as served:
        await served.post(path=name, size=512)
        assert [volume["path"] for volume in (await served.get("/v1/volumes"))["volumes"]] == [name]
        assert (await served.get(volume_path(name)))["path"] == name
        await served.delete(name)
        with pytest.raises(NotFound):
            await served.get(volume_path(name))


async def test_a_body_that_is_too_long_is_refused_before_it_is_in_memory(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        with pytest.raises(Invalid, match="at most 65536 bytes"):
            await served.post(path="a.raw", size=512, more="x" * 70_000)


async def test_clients_that_leave_in_the_middle_of_a_request_hurt_nobody(tmp_path: Path) -> None:
    """Would break: one impatient client ends the daemon, and with it every guest."""
    head = b"POST /v1/volumes HTTP/1.1\r\nHost: vpool\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n"
    async with serving(tmp_path) as served:
        for number in range(100):
            stream = await trio.open_unix_socket(str(tmp_path / "admin.sock"))
            await stream.send_all(head + b"{" * (number * 300))
            await stream.aclose()
        assert (await served.get("/v1/volumes"))["volumes"] == []
