"""The routes of volumes' contents."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import unquote_to_bytes

from fastapi import FastAPI, Query, Request, Response

from admin.contents import Contents
from admin.contents_models import (
    ContentReport,
    Copying,
    Extents,
    FillingProgress,
    FillingReport,
    NewFilling,
    Resizing,
    Verifying,
)
from admin.contents_models import Request as PathRequest
from admin.events import EventStream, Tell
from admin.models import ErrorReport, VolumeReport
from volumedriver import VOLUME_BYTES_MAX, Filling

DATA = "/v1/data/"
EXTENTS = "/v1/extents/"
CONTENTS = "/v1/contents/"
REFUSALS: dict[int | str, dict[str, Any]] = {"default": {"model": ErrorReport}}


def path_behind(request: Request, prefix: str) -> str:
    """The path in the vPool at the end of an address, as it was sent: its bytes need not be UTF-8."""
    raw = request.scope["raw_path"].partition(b"?")[0]
    return unquote_to_bytes(raw).decode("utf-8", "surrogateescape").removeprefix(prefix)


def add_contents(api: FastAPI, contents: Contents) -> None:
    """Add them to the application."""
    _add_reading(api, contents)
    _add_filling(api, contents)
    _add_work(api, contents)


def _add_reading(api: FastAPI, contents: Contents) -> None:
    @api.get(f"{CONTENTS}{{path:path}}", responses=REFUSALS)
    async def content(path: str, request: Request) -> ContentReport:
        return await contents.describe(path_behind(request, CONTENTS))

    @api.get(f"{EXTENTS}{{path:path}}", responses=REFUSALS)
    async def extents(
        path: str, request: Request, offset: Annotated[int, Query(ge=0)] = 0, end: Annotated[int, Query(ge=0)] = VOLUME_BYTES_MAX
    ) -> Extents:
        return await contents.extents(path_behind(request, EXTENTS), offset, end)

    @api.get(f"{DATA}{{path:path}}", responses=REFUSALS, response_class=Response)
    async def read(path: str, request: Request, offset: int, length: int) -> Response:
        data = await contents.read(path_behind(request, DATA), offset, length)
        return Response(data, media_type="application/octet-stream")


def _add_filling(api: FastAPI, contents: Contents) -> None:
    @api.post("/v1/fillings", status_code=201, responses=REFUSALS)
    async def begin(new: NewFilling) -> FillingReport:
        return await contents.begin_filling(new.path, new.size, Filling("import", new.source, new.fingerprint, 0))

    @api.put(f"{DATA}{{path:path}}", status_code=204, responses=REFUSALS)
    async def write(path: str, request: Request, offset: int) -> None:
        await contents.write(path_behind(request, DATA), offset, await request.body())

    @api.post("/v1/fillings/progress", responses=REFUSALS)
    async def progress(made: FillingProgress) -> FillingReport:
        return await contents.note_progress(made.path, made.done_bytes)

    @api.post("/v1/fillings/end", responses=REFUSALS)
    async def end(finished: PathRequest) -> VolumeReport:
        return await contents.finish_filling(finished.path)

    @api.post("/v1/resizings", responses=REFUSALS)
    async def resize(resizing: Resizing) -> VolumeReport:
        return await contents.resize(resizing.path, resizing.size, shrink=resizing.shrink)


def _add_work(api: FastAPI, contents: Contents) -> None:
    @api.post("/v1/verifications", responses=REFUSALS, response_class=EventStream, response_model=None)
    async def verify(wanted: Verifying) -> EventStream:
        await contents.describe(wanted.path)

        async def work(tell: Tell) -> dict[str, Any]:
            return await contents.verify(wanted.path, wanted.patience_s, tell)

        return EventStream(work)

    @api.post("/v1/copies", responses=REFUSALS, response_class=EventStream, response_model=None)
    async def copy(wanted: Copying) -> EventStream:
        await contents.check_copy(wanted.path, wanted.target, while_open=wanted.while_open)

        async def work(tell: Tell) -> dict[str, Any]:
            return await contents.copy(
                wanted.path, wanted.target, while_open=wanted.while_open, trust_source=wanted.trust_source, tell=tell
            )

        return EventStream(work)
