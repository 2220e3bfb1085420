"""What is in the backend and why: buckets, and the objects of one, each judged by what the registry and the map know."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, Field

from admin.contents_routes import REFUSALS, path_behind
from admin.events import EventStream, Tell
from admin.service import Administration
from volumedriver import Judgement, LogKnowledge, Progress, judge, shared_bucket, tombstone_object
from vpool.errors import Invalid, NotFound

OBJECTS = "/v1/objects/"  # and a bucket, a slash, an object
JUDGEMENTS = "/v1/judgements/"
OBJECT_BYTES_MAX = 32 << 20  # the largest of ours has 16 MiB
_VOLUME_BUCKET = re.compile(r"vpool-([0-9a-f]{32})")
_LOG_NAME = re.compile(r"([0-9a-f]{32})/(.+)")
_EXPORT = re.compile(r"namespace/[0-9a-f]{16}/\S+")


class Store(Protocol):
    """What is asked of the object store."""

    def list_buckets(self) -> AsyncIterator[str]: ...

    def list(self, bucket: str, prefix: str = "") -> AsyncIterator[Any]: ...

    async def get(self, bucket: str, name: str, *, start: int = 0, length: int | None = None) -> bytes: ...

    async def size(self, bucket: str, name: str) -> int: ...


class Objects(Protocol):
    """What is asked of the registry's view."""

    def object(self, object_id: str) -> Any: ...

    def path_of(self, inode: int) -> str | None: ...


class Logs(Protocol):
    """What is asked of the volume driver."""

    async def knowledge(self, object_id: str, advance: Callable[[int, int], Awaitable[None]]) -> LogKnowledge: ...


class BucketReport(BaseModel):
    """One bucket."""

    bucket: str
    what: str = Field(description="volume, shared (logs of files, exports, tombstones), deleted or foreign")
    object: str = Field(description="UUID of the volume; empty for others")
    path: str = Field(description="of the volume; empty if it has no name")
    why: str


class BucketList(BaseModel):
    """All buckets that can be seen."""

    buckets: list[BucketReport]


class Listing(BaseModel):
    """A request for the objects of a bucket."""

    place: str = Field(description="a bucket's name, a volume's UUID, or a volume's path")


@dataclass(frozen=True, slots=True)
class Listed:
    """One object and why it is there."""

    name: str
    size: int
    what: str
    state: str
    why: str


@dataclass
class _Totals:
    objects: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)

    def add(self, listed: Listed) -> None:
        self.objects[listed.state] = self.objects.get(listed.state, 0) + 1
        self.bytes[listed.state] = self.bytes.get(listed.state, 0) + listed.size


class Buckets:
    """The backend of one vPool, looked at. All methods may run concurrently on the trio loop."""

    def __init__(self, administration: Administration, store: Store, objects: Objects, logs: Logs, vpool: str) -> None:
        self._administration = administration
        self._store = store
        self._objects = objects
        self._logs = logs
        self._shared = shared_bucket(vpool)

    async def buckets(self) -> BucketList:
        """All buckets, by name; the listing may lag. Unavailable, Denied."""
        return BucketList(buckets=[self._bucket(name) async for name in self._store.list_buckets()])

    def _bucket(self, name: str) -> BucketReport:
        if name == self._shared:
            why = "logs of files, exports of the namespace, tombstones of deleted volumes"
            return BucketReport(bucket=name, what="shared", object="", path="", why=why)
        match = _VOLUME_BUCKET.fullmatch(name)
        if match is None:
            return BucketReport(bucket=name, what="foreign", object="", path="", why="no name that this vPool gives")
        record = self._objects.object(match[1])
        if record is None:
            why = "the registry knows no such volume: it is of another vPool, or what a deletion has not removed"
            return BucketReport(bucket=name, what="foreign", object=match[1], path="", why=why)
        path = (self._objects.path_of(record.inode) or "").strip("/") if record.inode else ""
        deleted = record.state.value in ("condemned", "orphan")
        why = "deleted; its objects are being removed" if deleted else f"the volume {path}" if path else "a volume without a name"
        return BucketReport(bucket=name, what="deleted" if deleted else "volume", object=record.id, path=path, why=why)

    async def bucket_of(self, place: str) -> str:
        """The bucket that a bucket's name, a volume's UUID or a path means. NotFound, Invalid."""
        if place.startswith("vpool-") and "/" not in place:
            return place
        if re.fullmatch(r"[0-9a-f]{32}", place):
            return f"vpool-{place}"
        _, _, inode = await self._administration.find(place)
        return f"vpool-{inode.object}"

    async def list(self, bucket: str, tell: Tell) -> dict[str, Any]:
        """Tell of every object of a bucket, in the order of names. NotFound: no such bucket."""
        totals, known = _Totals(), dict[str, LogKnowledge | None]()
        async for info in self._store.list(bucket):
            listed = await self._judged(bucket, info.name, info.size_bytes, known, tell)
            totals.add(listed)
            await tell(listed)
        return {"bucket": bucket, "objects": totals.objects, "bytes": totals.bytes}

    async def judged(self, bucket: str, name: str) -> Listed:
        """One object. NotFound."""

        async def nobody(told: object) -> None:
            return

        return await self._judged(bucket, name, await self._store.size(bucket, name), {}, nobody)

    async def content(self, bucket: str, name: str) -> bytes:
        """The bytes of one object. NotFound; Invalid: larger than any of ours."""
        size = await self._store.size(bucket, name)
        if size > OBJECT_BYTES_MAX:
            raise Invalid(f"{name} has {size} bytes, more than any object of vPool; get it with the backend's own tools")
        return await self._store.get(bucket, name)

    async def _judged(self, bucket: str, name: str, size: int, known: dict[str, LogKnowledge | None], tell: Tell) -> Listed:
        judgement = await self._judgement(bucket, name, size, known, tell)
        return Listed(name, size, judgement.what, judgement.state, judgement.why)

    async def _judgement(self, bucket: str, name: str, size: int, known: dict[str, LogKnowledge | None], tell: Tell) -> Judgement:
        if bucket == self._shared:
            match = _LOG_NAME.fullmatch(name)
            if match is None:
                return self._of_shared(name)
            object_id, rest = match[1], match[2]
        else:
            bucket_match = _VOLUME_BUCKET.fullmatch(bucket)
            if bucket_match is None:
                return Judgement("foreign", "unknown", "in a bucket that is not this vPool's")
            object_id, rest = bucket_match[1], name
        if object_id not in known:
            known[object_id] = await self._know(object_id, tell)
        knowledge = known[object_id]
        if knowledge is None:
            return Judgement("foreign", "unknown", "of an object that the registry does not know")
        if knowledge.record.state.value == "condemned":
            return Judgement(judge(rest, size, knowledge).what, "garbage", "its volume is deleted; it is being removed")
        return judge(rest, size, knowledge)

    async def _know(self, object_id: str, tell: Tell) -> LogKnowledge | None:
        async def advance(position: int, end: int) -> None:
            await tell(Progress(position, end, 0, 0, ""))

        try:
            return await self._logs.knowledge(object_id, advance)
        except NotFound:
            record = self._objects.object(object_id)
            return None if record is None else LogKnowledge(record, lineage=None, problem="it is deleted")

    def _of_shared(self, name: str) -> Judgement:
        object_id = tombstone_object(name)
        if object_id is not None:
            return Judgement("tombstone", "live", f"the volume {object_id} was deleted; kept for recovery.tombstone_days")
        if _EXPORT.fullmatch(name):
            return Judgement("export", "live", "of the namespace, for vpool recover; goes when newer ones are complete")
        return Judgement("foreign", "unknown", "no name that vPool gives")


def add_buckets(api: FastAPI, buckets: Buckets) -> None:
    """Add the routes to the application."""

    @api.get("/v1/buckets", responses=REFUSALS)
    async def listed() -> BucketList:
        return await buckets.buckets()

    @api.post("/v1/listings", responses=REFUSALS, response_class=EventStream, response_model=None)
    async def objects(listing: Listing) -> EventStream:
        bucket = await buckets.bucket_of(listing.place)

        async def work(tell: Tell) -> dict[str, Any]:
            return await buckets.list(bucket, tell)

        return EventStream(work)

    @api.get(f"{OBJECTS}{{path:path}}", responses=REFUSALS, response_class=Response)
    async def content(path: str, request: Request) -> Response:
        bucket, _, name = path_behind(request, OBJECTS).partition("/")
        return Response(await buckets.content(bucket, name), media_type="application/octet-stream")

    @api.get(f"{JUDGEMENTS}{{path:path}}", responses=REFUSALS)
    async def judged(path: str, request: Request) -> Listed:
        bucket, _, name = path_behind(request, JUDGEMENTS).partition("/")
        return await buckets.judged(bucket, name)
