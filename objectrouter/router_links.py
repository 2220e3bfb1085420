"""Links of this node's router to other routers: dialled on demand, one per node, kept, and dialled again when they break.

A link belongs to whoever dialled it: requests go out on it and answers come back. What other nodes ask comes over theirs
(``serving.py``). What nodes say to each other about ownership goes, either way, over the link that the speaker has
dialled. Frames leave in the order of the calls of ``send``, which never waits. A link over which nothing has come for
``SILENCE_S`` is broken: a cut network says nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import structlog
import trio

from objectrouter.wire import FRAME_BYTES_MAX, Message, Ping, decode, encode
from peers import Contexts, Hello, Link, Malformed, Purpose, dial, parse_address
from registry import RegistryView
from vpool.errors import Unavailable, VPoolError

log = structlog.get_logger()

PING_S = 1.0
SILENCE_S = 5.0
REDIAL_S = 0.2
REDIAL_S_MAX = 1.0


class Way(Protocol):
    """A link, or the way to this node itself."""

    node: str
    closed: trio.Event

    def send(self, message: Message) -> None:
        """Queue a message; after the end of the link it goes nowhere."""


class RouterLink:
    """One link; ends with ``closed`` set."""

    def __init__(self, link: Link) -> None:
        self.node = link.peer.node
        self.closed = trio.Event()
        self._link = link
        self._outbox: deque[bytes] = deque()
        self._something = trio.Event()
        self._sent = trio.Event()

    def send(self, message: Message) -> None:
        """Queue a message; after the end of the link it goes nowhere."""
        if not self.closed.is_set():
            self._outbox.append(encode(message))
            self._something.set()

    async def run(self, received: Callable[[RouterLink, Message], None], *, pings: bool) -> None:
        """Until the link breaks. Errors: ``Unavailable``, ``Malformed``, ``Denied`` say why."""
        ended: VPoolError | Malformed = Unavailable("the link has ended")
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, nursery.cancel_scope)
                if pings:
                    nursery.start_soon(self._ping)
                try:
                    await self._read(received)
                except (VPoolError, Malformed) as error:
                    ended = error
                nursery.cancel_scope.cancel()
        finally:
            self.closed.set()
            self._outbox.clear()
        raise ended

    async def drained(self) -> None:
        """Everything queued has gone to the kernel, or the link has ended."""
        while self._outbox and not self.closed.is_set():
            await self._sent.wait()

    async def _read(self, received: Callable[[RouterLink, Message], None]) -> None:
        while True:
            message = None
            with trio.move_on_after(SILENCE_S):
                message = decode(await self._link.receive())
            if message is None:
                raise Unavailable("nothing has come over the link", seconds=SILENCE_S)
            if not isinstance(message, Ping):
                received(self, message)
            elif not message.answer:
                self.send(Ping(True))

    async def _write(self, scope: trio.CancelScope) -> None:
        try:
            while True:
                await self._something.wait()
                self._something = trio.Event()
                while self._outbox:
                    await self._link.send(self._outbox[0])
                    self._outbox.popleft()
                self._sent.set()
                self._sent = trio.Event()
        except VPoolError as error:
            log.info("router_link_broken", node=self.node, reason=str(error))
            scope.cancel()
        finally:
            self._sent.set()

    async def _ping(self) -> None:
        while True:
            await trio.sleep(PING_S)
            self.send(Ping(False))


class LinkUser(Protocol):
    """Who is told of what comes over the links."""

    def received(self, link: Way, message: Message) -> None:
        """A message has come."""

    def lost(self, link: RouterLink) -> None:
        """The link has ended."""


class RouterLinks:
    """All links that this node has dialled."""

    def __init__(
        self,
        view: RegistryView,
        credentials: Contexts,
        hello: Callable[[Purpose], Hello],
        user: LinkUser,
        nursery: trio.Nursery,
        itself: Way,
    ) -> None:
        """``itself``: the way to this node."""
        self._itself = itself
        self._view, self._credentials, self._hello, self._user, self._nursery = view, credentials, hello, user, nursery
        self._up: dict[str, RouterLink] = {}
        self._came: dict[str, trio.Event] = {}

    async def to(self, node: str) -> Way:
        """The link to a node, as soon as there is one."""
        if node == self._itself.node:
            return self._itself
        while node not in self._up:
            if node not in self._came:
                self._came[node] = trio.Event()
                self._nursery.start_soon(self._keep, node)
            await self._came[node].wait()
        return self._up[node]

    def send(self, node: str, message: Message) -> None:
        """Send a message if there is a link to the node; else have one dialled, for the next."""
        link = self._itself if node == self._itself.node else self._up.get(node)
        if link is not None:
            link.send(message)
        elif node not in self._came:
            self._came[node] = trio.Event()
            self._nursery.start_soon(self._keep, node)

    async def soon(self, node: str, within_s: float) -> Way | None:
        """The link to a node; None if there is none. One that has never been dialled is waited for."""
        if node not in self._came:
            with trio.move_on_after(within_s):
                return await self.to(node)
        return self._up.get(node)

    async def _keep(self, node: str) -> None:
        pause, said = REDIAL_S, ""
        while True:
            try:
                await self._once(node)
                pause, said = REDIAL_S, ""
            except (VPoolError, Malformed) as error:
                if str(error) != said:
                    log.info("router_link_down", node=node, reason=str(error))
                    said = str(error)
            await trio.sleep(pause)
            pause = min(2 * pause, REDIAL_S_MAX)

    async def _once(self, node: str) -> None:
        record = self._view.node(node)
        if record is None or not record.address:
            raise Unavailable("the registry has no address of the node", node=node)
        link = await dial(
            parse_address(record.address), self._credentials, self._hello(Purpose.ROUTER), node=node,
            frame_bytes_max=FRAME_BYTES_MAX, limit_s=SILENCE_S,
        )  # fmt: skip
        async with link:
            routed = self._up[node] = RouterLink(link)
            came, self._came[node] = self._came[node], trio.Event()
            came.set()
            log.info("router_link_up", node=node)
            try:
                await routed.run(self._user.received, pings=True)
            except Unavailable as error:
                log.info("router_link_down", node=node, reason=str(error))
            finally:
                del self._up[node]
                self._user.lost(routed)
