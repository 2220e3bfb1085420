"""What an administrator may ask of a running node, apart from how the question came."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import TYPE_CHECKING, Any, Protocol

import trio

from admin.models import BackendReport, CacheReport, DaemonReport, StatusReport, VolumeList, VolumeReport
from vpool.errors import Conflict, Invalid, NotFound, VPoolError

if TYPE_CHECKING:
    from objectrouter import DirectoryEntry, Inode

ROOT = 1
SECTOR_BYTES = 512
VOLUME_BYTES_MAX = 64 << 40
CHECK_S = 3.0  # how long a status waits for the backend
CHECK_VALID_S = 2.0  # how long the answer is taken for true
ENTRIES_AT_ONCE = 512
MODE = 0o600


class Namespace(Protocol):
    """What is asked of the object router."""

    async def lookup(self, parent: int, name: str) -> Inode: ...

    async def attributes(self, inode: int) -> Inode: ...

    async def create(self, parent: int, name: str, *, mode: int, uid: int, gid: int, size: int = 0) -> Inode: ...

    async def unlink(self, parent: int, name: str) -> None: ...

    async def entries(self, directory: int, after_cookie: int, limit: int) -> list[tuple[DirectoryEntry, Inode]]: ...

    def is_volume_name(self, name: str) -> bool: ...

    def handles(self, inode: int) -> int: ...

    async def reopen(self, inode: int, *, accept_loss: bool) -> None: ...

    async def reopen_files(self, *, accept_loss: bool) -> None: ...


class Volumes(Protocol):
    """What is asked of the volume driver."""

    def statuses(self) -> Sequence[Any]: ...


class Store(Protocol):
    """What is asked of the object store."""

    url: str

    async def check(self) -> None: ...


class Engine(Protocol):
    """What is asked of the engine."""

    def stats(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What does not change while the daemon runs."""

    version: str
    vpool: str
    node: str
    directory: str
    mountpoint: str
    volume_rules: tuple[str, ...]
    segment_bytes: int


class Administration:
    """Volumes and state of one node. All methods may run concurrently on the trio loop."""

    def __init__(self, *, facts: NodeFacts, namespace: Namespace, volumes: Volumes, store: Store, engine: Engine) -> None:
        self._facts = facts
        self._namespace = namespace
        self._volumes = volumes
        self._store = store
        self._engine = engine
        self._started = time.monotonic()
        self._checked: tuple[float, BackendReport] | None = None

    async def status(self) -> StatusReport:
        """The node at a glance; asks the backend whether it answers."""
        objects = list((await self._by_object()).values())
        return StatusReport(
            daemon=DaemonReport(
                version=self._facts.version,
                pid=os.getpid(),
                vpool=self._facts.vpool,
                node=self._facts.node,
                directory=self._facts.directory,
                mountpoint=self._facts.mountpoint,
                uptime_s=round(time.monotonic() - self._started, 3),
            ),
            backend=await self._backend(),
            cache=self._cache(),
            dirty_bytes=sum(status["dirty_bytes"] for status in objects),
            oldest_dirty_age_s=max((status["oldest_dirty_age_s"] for status in objects), default=0.0),
            uploading=sum(status.get("uploading", 0) for status in objects),
            retries=sum(status.get("retries", 0) for status in objects),
            halted=sum(status["state"] == "halted" for status in objects),
            objects=objects,
        )

    async def volumes(self) -> VolumeList:
        """All volumes that have a name, by path; one with several names is there several times."""
        statuses = await self._by_object()
        found: list[VolumeReport] = []
        waiting: list[tuple[str, int]] = [("", ROOT)]
        while waiting:
            path, directory = waiting.pop()
            cookie = 0
            while entries := await self._namespace.entries(directory, cookie, ENTRIES_AT_ONCE):
                for entry, inode in entries:
                    cookie = entry.cookie
                    if inode.kind.value == "directory":
                        waiting.append((f"{path}{entry.name}/", inode.number))
                    elif inode.kind.value == "volume":
                        found.append(self._report(path + entry.name, inode, statuses))
                await trio.lowlevel.checkpoint()  # a large namespace must not hold up I/O
        return VolumeList(volumes=sorted(found, key=lambda report: report.path))

    async def volume(self, path: str) -> VolumeReport:
        """One volume. NotFound; Invalid if the path is no volume."""
        _, _, inode = await self.find(path)
        return self._report(normal(path), inode, await self._by_object())

    async def create_volume(self, path: str, size: int) -> VolumeReport:
        """A new volume full of zeros, for the daemon's user.

        Raises:
            Invalid: size or name that a volume cannot have.
            NotFound: its directory does not exist.
            Exists: the name is taken.
        """
        check_size(size)
        made = await self._make_volume(path, size)
        return self._report(normal(path), made, await self._by_object())

    async def make_empty_volume(self, path: str) -> None:
        """A volume without a size yet, for whoever fills it. As ``create_volume``."""
        await self._make_volume(path, 0)

    async def _make_volume(self, path: str, size: int) -> Inode:
        *directories, name = _parts(path)
        if not self._namespace.is_volume_name(name):
            rules = " or ".join(self._facts.volume_rules)
            raise Invalid(f"{name!r} would be a file, not a volume; volumes are named {rules} (setting namespace.volume_rules)")
        parent = await self._directory(directories)
        return await self._namespace.create(parent, name, mode=MODE, uid=os.geteuid(), gid=os.getegid(), size=size)

    async def delete_volume(self, path: str, *, force: bool) -> None:
        """Remove a volume's name, and with its last one its data.

        Raises:
            NotFound: there is none.
            Invalid: the path is no volume.
            Conflict: it is open, and ``force`` is not given.
        """
        parent, name, inode = await self.find(path)
        if (handles := self._namespace.handles(inode.number)) and not force:
            raise Conflict(
                f"{normal(path)} is open ({handles} handles); close it first, or force: "
                "its name goes now, its data with the last handle"
            )
        await self._namespace.unlink(parent, name)

    async def open_volume(self, path: str, *, accept_loss: bool) -> VolumeReport:
        """Open a halted volume again; ``accept_loss``: without what lies behind the damage in its local log.

        Raises:
            NotFound: there is none.
            Conflict: it is not halted.
            Halted: its cause is still there; the message says what to do.
        """
        _, _, inode = await self.find(path)
        await self._namespace.reopen(inode.number, accept_loss=accept_loss)
        return await self.volume(path)

    async def open_files(self, *, accept_loss: bool) -> None:
        """The same for the log of this node's files."""
        await self._namespace.reopen_files(accept_loss=accept_loss)

    async def find(self, path: str, kind: str = "volume") -> tuple[int, str, Inode]:
        """(Inode of the directory, name, inode) of a volume, or a file. NotFound, Invalid."""
        *directories, name = _parts(path)
        parent = await self._directory(directories)
        try:
            inode = await self._namespace.lookup(parent, name)
        except NotFound:
            raise NotFound(f"there is no {kind} {normal(path)}") from None
        if inode.kind.value != kind:
            raise Invalid(f"{normal(path)} is a {inode.kind.value}, not a {kind}")
        return parent, name, inode

    async def _directory(self, names: Sequence[str]) -> int:
        number = ROOT
        for depth, name in enumerate(names, 1):
            try:
                inode = await self._namespace.lookup(number, name)
            except NotFound:
                raise NotFound(f"there is no directory {'/'.join(names[:depth])}; make it through the mount first") from None
            if inode.kind.value != "directory":
                raise Invalid(f"{'/'.join(names[:depth])} is not a directory")
            number = inode.number
        return number

    async def _by_object(self) -> dict[str, dict[str, Any]]:
        """In a thread: it goes through all objects of the registry, and I/O must not wait for that."""
        statuses = await trio.to_thread.run_sync(self._volumes.statuses)
        return {status["object"]: status for status in map(_fields, statuses)}

    def _report(self, path: str, inode: Inode, statuses: dict[str, dict[str, Any]]) -> VolumeReport:
        none: dict[str, Any] = {
            "state": "closed",
            "epoch": 0,
            "dirty_bytes": 0,
            "oldest_dirty_age_s": 0.0,
            "head_tlog": 0,
            "halted_reason": "",
        }
        fields = none | statuses.get(inode.object, {})
        own = {"path": path, "inode": inode.number, "object": inode.object, "size": inode.size}
        return VolumeReport(**{**fields, **own, "handles": self._namespace.handles(inode.number)})

    async def _backend(self) -> BackendReport:
        now = trio.current_time()
        if self._checked is None or now - self._checked[0] > CHECK_VALID_S:
            problem = f"no answer within {CHECK_S:g} s"
            with trio.move_on_after(CHECK_S):
                try:
                    await self._store.check()
                    problem = ""
                except VPoolError as error:
                    problem = str(error)
            self._checked = (trio.current_time(), BackendReport(url=self._store.url, reachable=not problem, problem=problem))
        return self._checked[1]

    def _cache(self) -> CacheReport:
        stats = self._engine.stats()
        used = stats.segments_max - stats.segments_free  # what is free counts files that are not made yet
        return CacheReport(
            log_bytes_used=used * self._facts.segment_bytes,
            log_bytes_max=stats.segments_max * self._facts.segment_bytes,
            read_cache_used_bytes=stats.read_cache_used_bytes,
            read_cache_bytes=stats.read_cache_bytes,
            full=stats.full,
            map_failure=stats.map_failure or "",
            read_cache_failed=stats.read_cache_failed or "",
        )


def _fields(status: Any) -> dict[str, Any]:
    assert is_dataclass(status)
    assert not isinstance(status, type)
    return asdict(status)


def check_size(size: int) -> None:
    """Refuse a size that a volume cannot have. Invalid."""
    if size <= 0:
        raise Invalid(f"a volume cannot have {size} bytes; its size must be greater than 0")
    if size % SECTOR_BYTES:
        next_size = -(-size // SECTOR_BYTES) * SECTOR_BYTES
        raise Invalid(
            f"{size} bytes is not a multiple of {SECTOR_BYTES}, the sector of a disk; the next larger size is {next_size}"
        )
    if size > VOLUME_BYTES_MAX:
        raise Invalid(f"{size} bytes is too large; a volume has at most 64 TiB ({VOLUME_BYTES_MAX} bytes)")


def _parts(path: str) -> list[str]:
    parts = [part for part in path.split("/") if part]
    if not parts:
        raise Invalid("a volume needs a path, as in machines/web.raw")
    if "." in parts or ".." in parts:
        raise Invalid(
            f"the path {path!r} must not contain '.' or '..'; write it from the root of the vPool, as in machines/web.raw"
        )
    return parts


def normal(path: str) -> str:
    """A path as it is shown: without leading or doubled slashes. Invalid."""
    return "/".join(_parts(path))
