"""Links on trio: dial a node, or listen for nodes; then frames both ways.

``post`` never waits: it encrypts and sends at once, in the task of whoever calls it, as long as the socket takes it. What it does
not take is sent by ``carry``, a task of its own, or by whoever waits in ``send``. Frames leave in the order of the calls, several
that wait together in one record. ``receive`` and ``more`` belong to one task.

Concurrency: one loop. Between taking what is outgoing and the socket's answer nothing is awaited.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Self

import structlog
import trio

from peers.addresses import Address
from peers.certificates import Peer
from peers.channel import HANDSHAKE_S, Admit, Channel
from peers.credentials import Contexts
from peers.frames import Malformed
from peers.hello import Hello
from vpool.errors import Conflict, Denied, Invalid, Unavailable, VPoolError

log = structlog.get_logger()

RECEIVE_BYTES = 1 << 18
SEAL_BYTES = 1 << 18  # encrypted at a time: what the socket does not take waits as it is
RECORD_BYTES = 1 << 14  # shorter frames that wait are put together
HANDSHAKES_MAX = 64  # connections that have not shown who they are; further ones wait in the kernel's queue


class Link:
    """An established connection to an authenticated node.

    Attributes:
        peer: who is at the other end.
        hello: what it has said first.
        frames: that have come and were not taken.
    """

    def __init__(self, connection: socket.socket, channel: Channel, frames: deque[bytes]) -> None:
        assert channel.peer is not None
        assert channel.hello is not None
        self.peer: Peer = channel.peer
        self.hello: Hello = channel.hello
        self.frames = frames
        self._socket, self._channel = connection, channel
        self._space = memoryview(bytearray(RECEIVE_BYTES))
        self._plain: deque[bytes | memoryview] = deque()  # posted, not encrypted yet
        self._sealed = memoryview(b"")  # encrypted, not taken by the socket yet
        self._corked = False
        self._full = False  # the socket takes no more, or the link has ended: ``carry`` goes on
        self._stuck = trio.Event()
        self._broken: Unavailable | None = None
        self._sending = trio.Lock()

    def post(self, *frames: bytes) -> None:
        """Queue frames, one right after the other, and send what the socket takes. Errors: ``Malformed`` (too long).

        After the end of the link they go nowhere.
        """
        for frame in frames:
            self._plain += (self._channel.prefix(len(frame)), frame)
        if not (self._corked or self._full):
            self._push()

    def cork(self) -> None:
        """Keep what is posted until ``uncork``: several frames then leave together. Nothing may be awaited in between."""
        self._corked = True

    def uncork(self) -> None:
        """Send what was posted."""
        self._corked = False
        if self._plain and not self._full:
            self._push()

    async def carry(self) -> None:
        """Send what the socket has not taken, for ever. Errors: ``Unavailable`` (the link has ended)."""
        while True:
            await self._stuck.wait()
            await self._emptied()

    async def send(self, data: bytes) -> None:
        """Send one frame; returns when the kernel has it. Not beside ``carry``.

        Errors: ``Unavailable`` (the link has ended), ``Malformed`` (too long). A caller that is cancelled meanwhile must close
        the link.
        """
        self.post(data)
        async with self._sending:
            await self._emptied()

    async def receive(self) -> bytes:
        """The next frame. Errors: ``Unavailable`` (the link has ended), ``Denied`` (the peer has ended it), ``Malformed``."""
        while not self.frames:
            await self.more()
        return self.frames.popleft()

    async def more(self) -> None:
        """Wait until something has come; whole frames are in ``frames`` then. Errors: as ``receive``."""
        count = await _received(self._socket, self._space)
        self.frames.extend(self._channel.receive(self._space[:count]))
        if self._channel.outgoing_bytes and not self._full:  # a key update
            self._push()

    def close(self) -> None:
        """Close; frames under way may be lost. Whoever waits for some is told that the link has ended."""
        _close(self._socket)

    async def aclose(self) -> None:
        """As ``close``."""
        self.close()
        await trio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def _push(self) -> None:
        """Give the socket what there is; if it does not take it all, ``carry`` is to go on."""
        try:
            while True:
                self._seal()
                sealed = self._channel.outgoing()
                sent = self._socket.send(sealed)
                if sent < len(sealed):
                    self._sealed = memoryview(sealed)[sent:]
                    break
                if not self._plain:
                    return
        except OSError:  # would block, or has ended: who carries on finds out
            self._sealed = memoryview(sealed)
        except Unavailable as error:
            self._broken = error
        self._full = True
        self._stuck.set()

    def _seal(self) -> None:
        if len(self._plain) == 2 and len(self._plain[1]) < RECORD_BYTES:  # one frame and its length, as mostly
            self._channel.put(b"".join(self._plain))
            self._plain.clear()
            return
        together: list[bytes | memoryview] = []
        left = SEAL_BYTES
        while self._plain and left > 0:
            part = self._plain.popleft()
            if len(part) > left:
                self._plain.appendleft(memoryview(part)[left:])
                part = memoryview(part)[:left]
            left -= len(part)
            if len(part) < RECORD_BYTES:
                together.append(part)
                continue
            if together:
                self._channel.put(b"".join(together))
                together.clear()
            self._channel.put(part)
        if together:
            self._channel.put(b"".join(together))

    async def _emptied(self) -> None:
        while self._full:
            if self._broken is not None:
                raise self._broken
            await _writable(self._socket)
            try:
                if self._sealed:
                    self._sealed = self._sealed[self._socket.send(self._sealed) :]
                else:
                    self._seal()
                    self._sealed = memoryview(self._channel.outgoing())
            except BlockingIOError:
                continue
            except OSError as error:
                raise Unavailable(f"the link has ended: {error}") from None
            if not (self._sealed or self._plain):
                self._full, self._stuck = False, trio.Event()


async def dial(
    address: Address,
    credentials: Contexts,
    mine: Hello,
    *,
    node: str | None,
    frame_bytes_max: int,
    limit_s: float = HANDSHAKE_S,
) -> Link:
    """A link to the node at an address; ``node`` must answer there, or any of the vPool (None).

    Errors: ``Unavailable`` (nobody answers in time), ``Denied``, ``Conflict``, ``Invalid`` (either side refuses the other).
    """

    def admit(peer: Peer, _: Hello) -> None:
        if node is not None and peer.node != node:
            raise Denied("another node answers at this address", address=address, wanted=node, found=peer.node)

    connection = None
    try:
        with trio.fail_after(limit_s):
            connection = _taken_over(await trio.open_tcp_stream(address.host, address.port))
            channel = Channel(credentials.contexts()[1], mine, server_side=False, frame_bytes_max=frame_bytes_max, admit=admit)
            return await _establish(connection, channel)
    except BaseException as error:
        if connection is not None:
            _close(connection)
        if isinstance(error, trio.TooSlowError | OSError):
            why = "no answer in time" if isinstance(error, trio.TooSlowError) else str(error)
            raise Unavailable(f"no connection to {address}: {why}") from None
        raise


async def serve(
    address: Address,
    credentials: Contexts,
    mine: Callable[[], Hello],
    handler: Callable[[Link], Awaitable[None]],
    *,
    frame_bytes_max: int,
    admit: Admit,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Accept links for ever; each is given to ``handler`` and closed when that returns. Started when it listens.

    What a link's peer does wrong ends the link and is logged; other errors of ``handler`` leave.
    Errors: ``Invalid`` (the address cannot be bound).
    """
    handshakes = trio.CapacityLimiter(HANDSHAKES_MAX)

    async def accepted(stream: trio.SocketStream) -> None:
        connection = _taken_over(stream)
        try:
            async with handshakes:
                with trio.fail_after(HANDSHAKE_S):
                    channel = Channel(
                        credentials.contexts()[0], mine(), server_side=True, frame_bytes_max=frame_bytes_max, admit=admit
                    )
                    link = await _establish(connection, channel)
            async with link:
                await handler(link)
        except trio.TooSlowError:
            log.warning("link_refused", reason="the handshake did not end in time")
        except (Denied, Conflict, Invalid, Malformed) as error:
            log.warning("link_refused", reason=str(error))
        except Unavailable as error:
            log.info("link_ended", reason=str(error))
        finally:
            _close(connection)

    try:
        listeners = await trio.open_tcp_listeners(address.port, host=address.host)
    except OSError as error:
        raise Invalid(f"cannot listen at {address}: {error}") from None
    async with trio.open_nursery() as nursery:
        task_status.started()
        await trio.serve_listeners(accepted, listeners, handler_nursery=nursery)


@asynccontextmanager
async def dialled(
    address: Address, credentials: Contexts, mine: Hello, *, node: str | None, frame_bytes_max: int
) -> AsyncIterator[Link]:
    """``dial`` as a context: the link is closed at its end."""
    link = await dial(address, credentials, mine, node=node, frame_bytes_max=frame_bytes_max)
    async with link:
        yield link


async def _establish(connection: socket.socket, channel: Channel) -> Link:
    frames: deque[bytes] = deque()
    space = memoryview(bytearray(RECEIVE_BYTES))
    try:
        while not channel.established:
            await _send_all(connection, channel.outgoing())
            count = await _received(connection, space)
            frames.extend(channel.receive(space[:count]))
        await _send_all(connection, channel.outgoing())
    except (VPoolError, Malformed):
        with trio.move_on_after(1.0, shield=True):
            with suppress(Unavailable):  # it has gone, or has its own reason: ours is raised in any case
                await _send_all(connection, channel.outgoing())  # tell the peer why
        raise
    return Link(connection, channel, frames)


def _taken_over(stream: trio.SocketStream) -> socket.socket:
    """The stream's socket, as it is: nobody else has it any more."""
    connection = socket.socket(fileno=stream.socket.detach())
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _close(connection: socket.socket) -> None:
    if connection.fileno() != -1:
        trio.lowlevel.notify_closing(connection)
        connection.close()


async def _received(connection: socket.socket, space: memoryview) -> int:
    """How many bytes have come, 0 at the end. Errors: ``Unavailable``."""
    while True:
        try:
            await trio.lowlevel.wait_readable(connection)
            return connection.recv_into(space)
        except BlockingIOError:
            continue
        except (OSError, ValueError, trio.ClosedResourceError) as error:  # ValueError: it was closed before
            raise Unavailable(f"the link has ended: {error}") from None


async def _writable(connection: socket.socket) -> None:
    try:
        await trio.lowlevel.wait_writable(connection)
    except (OSError, ValueError, trio.ClosedResourceError) as error:
        raise Unavailable(f"the link has ended: {error}") from None


async def _send_all(connection: socket.socket, data: bytes) -> None:
    left = memoryview(data)
    while left:
        await _writable(connection)
        try:
            left = left[connection.send(left) :]
        except BlockingIOError:
            continue
        except OSError as error:
            raise Unavailable(f"the link has ended: {error}") from None
