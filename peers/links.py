"""Links on trio: dial a node, or listen for nodes; then frames both ways.

A link's ``send`` may be called by several tasks: frames leave in the order of the calls, and several wait for the socket
together. ``receive`` belongs to one task. Between taking what is outgoing and sending it nothing else may take it: ``_flush``
holds a lock.
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
HANDSHAKES_MAX = 64  # connections that have not shown who they are; further ones wait in the kernel's queue


class Link:
    """An established connection to an authenticated node.

    Attributes:
        peer: who is at the other end.
        hello: what it has said first.
    """

    def __init__(self, stream: trio.SocketStream, channel: Channel, frames: deque[bytes]) -> None:
        assert channel.peer is not None
        assert channel.hello is not None
        self.peer: Peer = channel.peer
        self.hello: Hello = channel.hello
        self._stream, self._channel, self._frames = stream, channel, frames
        self._sending = trio.Lock()

    async def send(self, data: bytes) -> None:
        """Send one frame; returns when the kernel has it.

        Errors: ``Unavailable`` (the link has ended), ``Malformed`` (too long). A caller that is cancelled meanwhile must close
        the link.
        """
        self._channel.send(data)
        await _flush(self._stream, self._channel, self._sending)

    async def receive(self) -> bytes:
        """The next frame. Errors: ``Unavailable`` (the link has ended), ``Denied`` (the peer has ended it), ``Malformed``."""
        while not self._frames:
            self._frames.extend(self._channel.receive(await _receive(self._stream)))
            if self._channel.outgoing_bytes:  # a key update
                await _flush(self._stream, self._channel, self._sending)
        return self._frames.popleft()

    async def aclose(self) -> None:
        """Close; frames under way may be lost."""
        await trio.aclose_forcefully(self._stream)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


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

    stream = None
    try:
        with trio.fail_after(limit_s):
            stream = await trio.open_tcp_stream(address.host, address.port)
            channel = Channel(credentials.contexts()[1], mine, server_side=False, frame_bytes_max=frame_bytes_max, admit=admit)
            return await _establish(stream, channel)
    except (trio.TooSlowError, OSError) as error:
        if stream is not None:
            await trio.aclose_forcefully(stream)
        why = "no answer in time" if isinstance(error, trio.TooSlowError) else str(error)
        raise Unavailable(f"no connection to {address}: {why}") from None
    except BaseException:
        if stream is not None:
            await trio.aclose_forcefully(stream)
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
        try:
            async with handshakes:
                with trio.fail_after(HANDSHAKE_S):
                    channel = Channel(
                        credentials.contexts()[0], mine(), server_side=True, frame_bytes_max=frame_bytes_max, admit=admit
                    )
                    link = await _establish(stream, channel)
            async with link:
                await handler(link)
        except trio.TooSlowError:
            log.warning("link_refused", reason="the handshake did not end in time")
        except (Denied, Conflict, Invalid, Malformed) as error:
            log.warning("link_refused", reason=str(error))
        except Unavailable as error:
            log.info("link_ended", reason=str(error))
        finally:
            await trio.aclose_forcefully(stream)

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


async def _establish(stream: trio.SocketStream, channel: Channel) -> Link:
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    frames: deque[bytes] = deque()
    alone = trio.Lock()
    try:
        while not channel.established:
            await _flush(stream, channel, alone)
            frames.extend(channel.receive(await _receive(stream)))
        await _flush(stream, channel, alone)
    except (VPoolError, Malformed):
        with trio.move_on_after(1.0, shield=True):
            with suppress(Unavailable):  # it has gone, or has its own reason: ours is raised in any case
                await _flush(stream, channel, alone)  # tell the peer why
        raise
    return Link(stream, channel, frames)


async def _receive(stream: trio.SocketStream) -> bytes:
    try:
        return bytes(await stream.receive_some(RECEIVE_BYTES))
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise Unavailable(f"the link has ended: {error}") from None


async def _flush(stream: trio.SocketStream, channel: Channel, lock: trio.Lock) -> None:
    async with lock:
        while data := channel.outgoing():
            try:
                await stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise Unavailable(f"the link has ended: {error}") from None
