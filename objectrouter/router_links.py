"""Links of this node's router to other routers: dialled on demand, one per node, kept, and dialled again when they break.

A link belongs to whoever dialled it: requests go out on it and answers come back. What other nodes ask comes over theirs
(``serving.py``). What nodes say to each other about ownership goes, either way, over the link that the speaker has
dialled. Frames leave in the order of the calls of ``send``, which never waits. A link over which nothing has come for
``SILENCE_S`` is broken: a cut network says nothing.

**The way of a request is short**: whoever sends a message also encrypts it and gives it to the socket. Whoever reads a frame also
does what it asks for, in the same task; only if that has to wait does another task go on reading. So one request at a time costs
one turn of the loop at its owner and two at the asker. A task that does a request outlives the link, as the request does.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from contextvars import copy_context
from functools import partial
from typing import Any, Protocol

import structlog
import trio

from objectrouter.wire import FRAME_BYTES_MAX, Message, Ping, decode, frames, is_first_of_two
from peers import PROTOCOL, Contexts, Hello, Link, Malformed, Purpose, dial, parse_address
from registry import RegistryView
from vpool.errors import Unavailable, VPoolError

log = structlog.get_logger()

PING_S = 1.0
SILENCE_S = 5.0
LATE_S = 0.1  # for bytes that have come and were not read, since the whole process stood still
FRAMES_TOGETHER = 16  # whose answers leave together
REDIAL_S = 0.2
REDIAL_S_MAX = 1.0


class Way(Protocol):
    """A link, or the way to this node itself."""

    node: str
    closed: trio.Event

    def send(self, message: Message) -> None:
        """Queue a message; after the end of the link it goes nowhere."""


Received = Callable[["RouterLink", Message], Coroutine[Any, Any, None] | None]


class RouterLink:
    """One link; ends with ``closed`` set."""

    def __init__(self, link: Link, nursery: trio.Nursery) -> None:
        """``nursery``: of requests that are done here."""
        self.node = link.peer.node
        self.closed = trio.Event()
        self._link, self._nursery = link, nursery
        self._protocol = min(link.hello.protocol, PROTOCOL)  # the lower of both is spoken
        self._ended: VPoolError | Malformed | None = None
        self._scope = trio.CancelScope()
        self._context = copy_context()  # of tasks that read: nothing of a request is in it
        self._heard = trio.current_time()
        self._first: bytes | None = None  # of two frames

    def send(self, message: Message) -> None:
        """Queue a message; after the end of the link it goes nowhere."""
        if not self.closed.is_set():
            self._link.post(*frames(message, self._protocol))

    async def run(self, received: Received, *, pings: bool) -> None:
        """Until the link breaks. Errors: ``Unavailable``, ``Malformed``, ``Denied`` say why.

        ``received`` is given each message. What it returns, if anything, is to be awaited: the next messages do not wait for it.
        """
        self._heard = trio.current_time()
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                nursery.start_soon(self._write)
                nursery.start_soon(self._listen)
                if pings:
                    nursery.start_soon(self._ping)
                self._read_on(received)
        finally:
            self.closed.set()
            self._link.close()  # and whoever reads ends
        raise self._ended or Unavailable("the link has ended")

    def _end(self, why: VPoolError | Malformed) -> None:
        self._ended = self._ended or why
        self._scope.cancel()

    def _read_on(self, received: Received) -> None:
        """Have a task read; it is given nothing of what this one does."""
        self._link.uncork()
        self._context.run(self._nursery.start_soon, self._read, received)

    async def _read(self, received: Received) -> None:
        """Take frames until one has to wait, or the link has ended."""
        read_on = partial(self._read_on, received)
        while not self.closed.is_set():
            self._link.cork()
            for _ in range(min(len(self._link.frames), FRAMES_TOGETHER)):
                try:
                    work = self._take(received)
                except (VPoolError, Malformed) as error:
                    self._end(error)
                    return
                if work is not None and await _Begun(work, read_on):
                    return
            self._link.uncork()
            try:
                await self._more()
            except (VPoolError, Malformed) as error:
                self._end(error)
                return

    async def _more(self) -> None:
        if self._link.frames:
            await trio.lowlevel.checkpoint()
        else:
            await self._link.more()
            self._heard = trio.current_time()

    def _take(self, received: Received) -> Coroutine[Any, Any, None] | None:
        """The next frame."""
        frame, first, self._first = self._link.frames.popleft(), self._first, None
        if first is None and is_first_of_two(frame):
            self._first = frame
            return None
        message = decode(frame) if first is None else decode(first, frame)
        if not isinstance(message, Ping):
            return received(self, message)
        if not message.answer:
            self.send(Ping(True))
        return None

    async def _write(self) -> None:
        try:
            await self._link.carry()
        except VPoolError as error:
            log.info("router_link_broken", node=self.node, reason=str(error))
            self._end(error)

    async def _listen(self) -> None:
        """End the link when nothing has come for too long."""
        while True:
            heard = self._heard
            await trio.sleep_until(heard + SILENCE_S)
            if self._heard == heard:
                await trio.sleep(LATE_S)
            if self._heard == heard:
                return self._end(Unavailable("nothing has come over the link", seconds=SILENCE_S))

    async def _ping(self) -> None:
        while True:
            await trio.sleep(PING_S)
            self.send(Ping(False))


class _Begun:
    """Awaits some work as a part of this task; True if it had to wait, of which ``waits`` is told before."""

    def __init__(self, work: Coroutine[Any, Any, None], waits: Callable[[], None]) -> None:
        self._work, self._waits = work, waits

    def __await__(self) -> Generator[Any, Any, bool]:
        steps = self._work.__await__()
        try:
            step = next(steps)
        except StopIteration:
            return False
        self._waits()
        while True:
            try:
                answer = yield step
            except BaseException as error:
                give = partial(steps.throw, error)
            else:
                give = partial(steps.send, answer)
            try:
                step = give()
            except StopIteration:
                return True


class LinkUser(Protocol):
    """Who is told of what comes over the links."""

    def received(self, link: Way, message: Message) -> None:
        """A message has come: an answer, so there is nothing to await."""

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
            routed = self._up[node] = RouterLink(link, self._nursery)
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
