"""Answers that take long: one JSON object per line while the work goes on, the outcome in the last one.

A client that goes away cancels the work. What went wrong after the answer has begun is the last line, as an ``ErrorReport``.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

import structlog
import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from admin.models import ErrorReport
from admin.statuses import kind_of
from volumedriver import Progress
from vpool.errors import Internal, VPoolError

log = structlog.get_logger()

PROGRESS_S = 0.2  # progress is told at most this often

Tell = Callable[[object], Awaitable[None]]


class EventStream(Response):
    """Runs ``work(tell)`` and streams what it tells (dataclasses) and returns."""

    media_type = "application/x-ndjson"

    def __init__(self, work: Callable[[Tell], Awaitable[dict[str, Any]]]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._work = work
        self._told_s = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})

        async def line(event: str, fields: dict[str, Any]) -> None:
            text = json.dumps({"event": event, **fields}, allow_nan=False) + "\n"
            await send({"type": "http.response.body", "body": text.encode("ascii"), "more_body": True})

        async def tell(told: object) -> None:
            if isinstance(told, Progress):
                if trio.current_time() - self._told_s < PROGRESS_S and told.position < told.size:
                    return
                self._told_s = trio.current_time()
            await line(type(told).__name__.lower(), asdict(told))  # type: ignore[call-overload]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_gone, receive, nursery.cancel_scope)
            try:
                outcome = await self._work(tell)
            except (VPoolError, ExceptionGroup) as error:
                await line("error", _report(error).model_dump())
            else:
                await line("done", outcome)
            nursery.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b""})


async def _cancel_when_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _report(error: Exception) -> ErrorReport:
    """The first error that an operator can act on."""
    leaves: list[Exception] = []
    waiting: list[Exception] = [error]
    while waiting:
        found = waiting.pop()
        if isinstance(found, ExceptionGroup):
            waiting += found.exceptions
        else:
            leaves.append(found)
    ours = [leaf for leaf in leaves if isinstance(leaf, VPoolError)]
    if not ours:
        log.error("admin_work_failed", error=repr(leaves), exc_info=error)
    chosen = ours[0] if ours else Internal("the daemon failed; its log says why")
    details = {key: str(value) for key, value in chosen.details.items()}
    return ErrorReport(error=kind_of(chosen).__name__, message=chosen.message, details=details)
