"""The management API: HTTP on one side, ``Administration`` on the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Annotated, Any
from urllib.parse import unquote_to_bytes

import structlog
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from admin.contents import DATA_BYTES_MAX
from admin.contents_routes import DATA
from admin.models import ErrorReport, NewVolume, Opening, StatusReport, VolumeList, VolumeReport
from admin.service import Administration
from admin.statuses import kind_of, status_of
from vpool.errors import Internal, Invalid, NotFound, VPoolError

log = structlog.get_logger()

BODY_BYTES_MAX = 64 * 1024
VOLUMES = "/v1/volumes/"


class _Ascii(JSONResponse):
    """Names are bytes: those that are not UTF-8 go as lone surrogates, which JSON has only when escaped."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode("ascii")


class _ShortBodies:
    """Bodies are read into memory before anybody looks at them; so what is too long is not read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        most = left = DATA_BYTES_MAX if scope.get("path", "").startswith(DATA) else BODY_BYTES_MAX

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, f"a request has at most {most} bytes")
            return message

        await self._app(scope, counted, send)


def _path(request: Request) -> str:
    """The path of a volume as it was sent: its bytes need not be UTF-8."""
    raw = request.scope["raw_path"].partition(b"?")[0]
    return unquote_to_bytes(raw).decode("utf-8", "surrogateescape").removeprefix(VOLUMES)


def make_api(administration: Administration, more: Iterable[Callable[[FastAPI], None]] = ()) -> FastAPI:
    """The application that hypercorn runs; ``more`` add the routes of their nouns."""
    api = FastAPI(
        title="vPool management API",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        default_response_class=_Ascii,
    )
    api.add_middleware(_ShortBodies)
    refusals = {"model": ErrorReport}

    @api.get("/v1/status", responses={"default": refusals})
    async def status() -> StatusReport:
        return await administration.status()

    @api.get("/v1/volumes", responses={"default": refusals})
    async def volumes() -> VolumeList:
        return await administration.volumes()

    @api.post("/v1/volumes", status_code=201, responses={"default": refusals})
    async def create_volume(new: NewVolume) -> VolumeReport:
        return await administration.create_volume(new.path, new.size)

    @api.post("/v1/openings", responses={"default": refusals})
    async def open_again(opening: Opening) -> VolumeReport | None:
        if opening.path is None:
            await administration.open_files(accept_loss=opening.accept_loss)
            return None
        return await administration.open_volume(opening.path, accept_loss=opening.accept_loss)

    @api.get("/v1/volumes/{path:path}", responses={"default": refusals})
    async def volume(path: str, request: Request) -> VolumeReport:
        return await administration.volume(_path(request))

    @api.delete("/v1/volumes/{path:path}", status_code=204, responses={"default": refusals})
    async def delete_volume(
        path: str, request: Request, force: Annotated[bool, Query(description="even while it is open")] = False
    ) -> None:
        await administration.delete_volume(_path(request), force=force)

    for add in more:
        add(api)

    @api.exception_handler(VPoolError)
    async def refused(request: Request, error: VPoolError) -> JSONResponse:
        return _answer(error)

    @api.exception_handler(RequestValidationError)
    async def unreadable(request: Request, error: RequestValidationError) -> JSONResponse:
        problems = "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
        return _answer(Invalid(f"the request cannot be understood: {problems}"))

    @api.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> JSONResponse:
        return _answer(Invalid("the request is not complete"))

    @api.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        kind = NotFound if error.status_code == 404 else Invalid
        return _answer(kind(f"{request.method} {request.scope['path']}: {error.detail}"), error.status_code)

    @api.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        log.error("admin_request_failed", request=f"{request.method} {request.url.path}", error=repr(error), exc_info=error)
        return _answer(Internal("the daemon failed to answer; its log says why", error=repr(error)))

    return api


def _answer(error: VPoolError, status: int | None = None) -> JSONResponse:
    report = ErrorReport(
        error=kind_of(error).__name__, message=error.message, details={key: str(value) for key, value in error.details.items()}
    )
    return _Ascii(report.model_dump(), status_code=status or status_of(error))
