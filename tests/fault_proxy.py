"""An HTTP proxy between a daemon and its object store, which makes the store fail and watches what is written.

It serves Swift and S3 alike, in a thread of its own, on a port that stays the same however often the daemon is started again.
It is switched from the test's thread: ``faults`` and ``outage`` may be set at any time and count for requests that come after.
The dice are seeded; as requests run side by side, a seed gives the same kind of weather, not the same storm.
"""

from __future__ import annotations

import contextlib
import enum
import queue
import random
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import h11
import trio

from tests.fault_plan import Counts, Faults, Ledger, Listings, fate, object_name

RECEIVE_BYTES = 1 << 16
HEADERS_BYTES_MAX = 1 << 16
STOP_S = 10.0
OUTAGE_CHECK_S = 0.02
HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"expect", b"content-length", b"proxy-connection"})
NOT_FOUND_S3 = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>NoSuchKey</Code><Message>not there yet</Message></Error>'
Headers = list[tuple[bytes, bytes]]


class Outage(enum.Enum):
    """How a store is away."""

    NONE = "there"
    RESET = "every connection is broken"
    SILENT = "nothing is answered"


@dataclass(frozen=True, slots=True)
class Message:
    """A whole request or answer."""

    method: bytes
    target: str
    status: int
    headers: Headers
    body: bytes


class _Broken(Exception):
    """The client's connection is to be reset; ``data``: what is sent before."""


@dataclass(slots=True)
class FaultProxy:
    """See ``running``."""

    upstream: str  # http://host:port
    faults: Faults
    dice: random.Random
    port: int = 0
    outage: Outage = Outage.NONE
    ledger: Ledger = field(default_factory=Ledger)
    counts: Counts = field(default_factory=Counts)
    puts_under_way: int = 0
    _listings: Listings = field(default_factory=Listings)

    @classmethod
    @contextlib.contextmanager
    def running(cls, upstream: str, *, faults: Faults | None = None, seed: int = 0) -> Iterator[FaultProxy]:
        """Run a proxy in front of ``upstream`` (``http://host:port``) until the block is left."""
        proxy = cls(upstream, faults or Faults(), random.Random(seed))
        started: queue.Queue[trio.lowlevel.TrioToken | BaseException] = queue.Queue()
        stop = trio.CancelScope()

        def run() -> None:
            try:
                trio.run(proxy._main, started, stop)
            except BaseException as error:
                started.put(error)

        thread = threading.Thread(target=run, name="fault-proxy", daemon=True)
        thread.start()
        token = started.get(timeout=STOP_S)
        if not isinstance(token, trio.lowlevel.TrioToken):
            raise token
        try:
            yield proxy
        finally:
            trio.from_thread.run_sync(stop.cancel, trio_token=token)
            thread.join(STOP_S)
        if not started.empty():
            raise AssertionError(f"the fault proxy has failed: {started.get()!r}")

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def _main(self, started: queue.Queue[trio.lowlevel.TrioToken | BaseException], stop: trio.CancelScope) -> None:
        with stop:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            self.port = listeners[0].socket.getsockname()[1]
            started.put(trio.lowlevel.current_trio_token())
            await trio.serve_listeners(self._serve, listeners)

    async def _serve(self, stream: trio.SocketStream) -> None:
        """One connection of a client, request after request."""
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEADERS_BYTES_MAX)
        try:
            while (request := await _receive(stream, connection)) is not None:
                is_put = request.method == b"PUT"
                self.puts_under_way += is_put
                try:
                    await self._answer(stream, connection, request)
                finally:
                    self.puts_under_way -= is_put
                if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                    break
                connection.start_next_cycle()
        except (_Broken, h11.RemoteProtocolError):
            linger = struct.pack("ii", 1, 0)  # closing sends a reset
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client was killed
        finally:
            with trio.move_on_after(1) as scope:
                scope.shield = True
                stream.socket.close()

    async def _answer(self, stream: trio.SocketStream, connection: h11.Connection, request: Message) -> None:
        what = fate(self.faults, self.dice)
        await self._while_away()
        self.counts["requests"] += 1
        if what.reset_before:
            self._count_and_break("reset before")
        if what.refused:
            self.counts["refused"] += 1
            await _send(stream, connection, _made(request, 503))
            return
        if what.delay_s:
            self.counts["delayed"] += 1
            await trio.sleep(what.delay_s)
        answer = await self._forward(request)
        if what.reset_after:
            self._count_and_break("reply lost")
        if what.failed_after:
            self.counts["failed although done"] += 1
            answer = _made(request, 503)
        short = what.short_body and request.method == b"GET" and answer.status in (200, 206) and len(answer.body) > 1
        await _send(stream, connection, answer, short=short)
        if short:
            self._count_and_break("short body")

    async def _while_away(self) -> None:
        """Break or hold what comes during an outage; what was held is broken in the end."""
        if self.outage is Outage.NONE:
            return
        self.counts["during outage"] += 1
        while self.outage is Outage.SILENT:
            await trio.sleep(OUTAGE_CHECK_S)
        raise _Broken

    def _count_and_break(self, what: str) -> None:
        self.counts[what] += 1
        raise _Broken

    async def _forward(self, request: Message) -> Message:
        """The store's answer, or what an eventually consistent one might say; note what is written."""
        name = object_name(request.target)
        if name is not None and request.method in (b"GET", b"HEAD") and self.ledger.hidden(name, trio.current_time()):
            self.counts["not visible yet"] += 1
            return _made(request, 404)
        if name is not None and request.method == b"PUT":
            self.ledger.sent(name, request.body)
        answer = await self._exchange(request)
        if name is not None and request.method == b"PUT" and answer.status < 300:
            hidden_s = self.dice.uniform(0, self.faults.invisible_s) if self.dice.random() < self.faults.invisible else 0.0
            self.ledger.stored(name, trio.current_time() + hidden_s)
        if name is None and request.method == b"GET" and answer.status == 200 and not request.target.startswith("/auth"):
            stale = self.dice.random() < self.faults.stale_listing
            body = self._listings.answer(request.target, answer.body, stale=stale)
            self.counts["stale listing"] += body is not answer.body
            answer = Message(answer.method, answer.target, answer.status, answer.headers, body)
        return answer

    async def _exchange(self, request: Message) -> Message:
        """Send a request to the store on a connection of its own; 503 where it is not there."""
        at = urlsplit(self.upstream)
        try:
            async with await trio.open_tcp_stream(at.hostname or "", at.port or 80) as stream:
                connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEADERS_BYTES_MAX)
                headers = [*request.headers, (b"connection", b"close")]
                if request.body or request.method in (b"PUT", b"POST"):
                    headers.append((b"content-length", b"%d" % len(request.body)))
                await _write(stream, connection, h11.Request(method=request.method, target=request.target, headers=headers))
                if request.body:
                    await _write(stream, connection, h11.Data(data=request.body))
                await _write(stream, connection, h11.EndOfMessage())
                answer = await _receive(stream, connection)
        except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError):
            answer = None
        if answer is None:
            self.counts["store away"] += 1
            return _made(request, 503)
        upstream, own = self.upstream.encode(), self.url.encode()
        headers = [
            (key, value.replace(upstream, own) if key in (b"x-storage-url", b"location") else value)
            for key, value in answer.headers
        ]
        return Message(request.method, request.target, answer.status, headers, answer.body)


async def _receive(stream: trio.SocketStream, connection: h11.Connection) -> Message | None:
    """The next whole message; None where the other side has closed."""
    head: h11.Request | h11.Response | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                await _write(stream, connection, h11.InformationalResponse(status_code=100, headers=[]))
            connection.receive_data(await stream.receive_some(RECEIVE_BYTES))
        elif isinstance(event, h11.Request | h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            break
        elif not isinstance(event, h11.InformationalResponse):
            return None
    assert head is not None
    kept = [(key, value) for key, value in head.headers if key not in HOP_BY_HOP]
    if isinstance(head, h11.Request):
        return Message(head.method, head.target.decode("ascii"), 0, kept, bytes(body))
    lengths = [(key, value) for key, value in head.headers if key == b"content-length" and not body]  # of answers to HEAD
    return Message(b"", "", head.status_code, kept + lengths, bytes(body))


async def _send(stream: trio.SocketStream, connection: h11.Connection, answer: Message, *, short: bool = False) -> None:
    headers = list(answer.headers)
    if answer.method != b"HEAD" and answer.status not in (204, 304):
        headers = [(key, value) for key, value in headers if key != b"content-length"]
        headers.append((b"content-length", b"%d" % len(answer.body)))
    await _write(stream, connection, h11.Response(status_code=answer.status, headers=headers))
    body = answer.body[: len(answer.body) // 2] if short else answer.body
    if body and answer.method != b"HEAD":
        await _write(stream, connection, h11.Data(data=body))
    if not short:
        await _write(stream, connection, h11.EndOfMessage())


async def _write(stream: trio.SocketStream, connection: h11.Connection, event: h11.Event) -> None:
    data = connection.send(event)
    if data:
        await stream.send_all(data)


def _made(request: Message, status: int) -> Message:
    """An answer that the store has not given."""
    is_swift = request.target.startswith(("/v1/", "/auth"))
    body = NOT_FOUND_S3 if status == 404 and not is_swift and request.method != b"HEAD" else b""
    return Message(request.method, request.target, status, [(b"content-type", b"application/xml")], body)
