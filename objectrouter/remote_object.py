"""An object that another node owns, as the router here uses it: the shell around ``Forwarder``.

Before anything is sent over a link, or after it has broken, the object is *attached*: its owner opens it and says under which
epoch. Requests that come meanwhile wait here and have not been sent, so they do not fail where an owner has lost its memory of
what it has executed; only those that were on their way then do, as *lost*.

Concurrency: one loop; ``Forwarder`` is called without an await between its answer and the carrying out of its effects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Never

import structlog
import trio

from objectrouter.forwarder import AskRegistry, Complete, Forwarder
from objectrouter.forwarder import Effect as ForwarderEffect
from objectrouter.operation import Attributes, Operation
from objectrouter.requests import Done, Failed, Reply, Request
from objectrouter.wire import Attach, Attached, NotAttached
from registry import ObjectRecord, RegistryClient
from volumedriver import Phase, Waiting
from vpool.errors import Fenced, Internal, Invalid, Moved, NotFound, Unavailable, VPoolError

if TYPE_CHECKING:
    from objectrouter.router_links import RouterLinks, Way

log = structlog.get_logger()

IN_FLIGHT = 256  # requests on one object that are on their way; others wait before they are numbered
ATTACH_AGAIN_S = 0.2
ATTACH_LINK_S = 5.0  # for a link to the owner; then the registry is looked at again
OWNER_LOOK_S = 0.1  # how often the registry's copy is looked at while there is no link to the owner
ATTACH_TRY_S = 30.0  # for the owner to open the object; then it is asked again


class _Answer:
    """What one task waits for; it is woken in the very turn of the loop in which the answer is read."""

    __slots__ = ("_given", "_task")

    def __init__(self) -> None:
        self._given: Done | Failed | None = None
        self._task: trio.lowlevel.Task | None = None

    def give(self, answer: Done | Failed) -> None:
        """Here it is."""
        self._given = answer
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    async def come(self) -> Done | Failed:
        """The answer, when it has come."""
        if self._given is None:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._cancelled)
        assert self._given is not None
        return self._given

    def _cancelled(self, _: Callable[[], Never]) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


class RemoteObject:
    """One object for one incarnation of this node: numbers of requests must never begin anew within it."""

    def __init__(
        self,
        object_id: str,
        registry: RegistryClient,
        links: RouterLinks,
        nursery: trio.Nursery,
        now: Callable[[], float],
        *,
        wait_s: float,
    ) -> None:
        self.object = object_id
        self.attributes: Attributes | None = None  # as last heard
        self._registry, self._links, self._nursery, self._now = registry, links, nursery, now
        self._wait_s = wait_s
        self._forwarder = Forwarder(object_id, registry.node, registry.incarnation, wait_s=wait_s)
        self._answers: dict[int, _Answer] = {}
        self._in_flight = trio.Semaphore(IN_FLIGHT)
        self._room = trio.lowlevel.ParkingLot()
        self._link: Way | None = None  # attached over it
        self._ready = trio.Event()
        self._refusal: VPoolError | None = None  # why the owner does not serve it
        self._attaching = False
        self._looking = False
        self._said: trio.Event | None = None  # the owner's answer to ``Attach``
        self._answer: Attached | NotAttached | None = None
        self._never_attached = True
        self.requests = 0  # so far

    @property
    def is_attached(self) -> bool:
        """Whether its owner serves it over a link that is up."""
        return self._link is not None

    async def request(self, operation: Operation, stream: int) -> object:
        """Have it done by the owner; the value of its answer.

        Errors: the owner's; ``Unavailable`` (no owner within ``wait_s``; lost with the owner); ``Fenced``; ``Moved`` (this node
        owns it now: the caller's knowledge is old).
        """
        with Waiting(Phase.OWNER):
            try:
                self._in_flight.acquire_nowait()
            except trio.WouldBlock:
                await self._in_flight.acquire()
            try:
                if self._link is None:
                    await self._attached()
                self.requests += 1
                answer = await self._submitted(operation, stream)
            finally:
                self._in_flight.release()
        if isinstance(answer, Failed):
            raise self._error_of(answer)
        if isinstance(answer.value, VPoolError):
            raise type(answer.value)(answer.value.message, **answer.value.details)
        if isinstance(answer.value, Attributes):
            self.attributes = answer.value
        return answer.value

    async def attach(self) -> Attributes:
        """Attach, and what the owner knows of the object. Errors: as ``request``; ``Moved`` as soon as this node owns it.

        Whoever asks holds the lock under which objects are opened here, and this node's own answer would wait for that.
        """
        found: list[object] = []
        async with trio.open_nursery() as nursery:

            async def asked() -> None:
                try:
                    await self._attached()
                    found.append(await self.request(Operation("attributes"), 0))
                except VPoolError as error:
                    found.append(error)
                nursery.cancel_scope.cancel()

            nursery.start_soon(asked)
            while (record := self._owning()) is None or record.owner != self._registry.node:  # noqa: ASYNC110  # as below
                await trio.sleep(OWNER_LOOK_S)
            nursery.cancel_scope.cancel()
        value = found[0] if found else Moved("the object is this node's now", object=self.object)
        if isinstance(value, VPoolError):
            raise value
        if not isinstance(value, Attributes):
            raise Internal("the owner answers something else than attributes", object=self.object)
        return value

    def written(self, stream: int, epoch: int, lsn: int) -> None:
        """Something was written through this node as its owner, and not flushed: its last record."""
        self._forwarder.written(stream, epoch, lsn)

    def closed(self, stream: int) -> None:
        """Nobody is left who could be told that something is lost."""
        self._forwarder.closed(stream)

    # -- events ------------------------------------------------------------------------------------------------------------

    def received(self, link: Way, message: Attached | NotAttached | Reply) -> None:
        """The owner has said something."""
        if isinstance(message, Reply):
            if link is self._link and message.origin.node == self._registry.node:
                self._run(self._forwarder.reply(message, self._now()))
        elif self._said is not None:
            self._answer = message
            self._said.set()

    def lost(self, link: Way) -> None:
        """A link has ended."""
        if link is self._link:
            self._detached()

    def tick(self) -> None:
        """Time passes."""
        self._run(self._forwarder.tick(self._now()))

    def fence(self) -> None:
        """This life of the node is over."""
        self._run(self._forwarder.fence())

    # -- parts of the above ------------------------------------------------------------------------------------------------

    async def _attached(self) -> None:
        with trio.move_on_after(self._wait_s):
            while self._link is None:
                self._attach_soon()
                await self._ready.wait()
                if self._refusal is not None:
                    raise type(self._refusal)(self._refusal.message, **self._refusal.details)
        if self._link is None:
            raise Unavailable("the owner of the object does not answer", object=self.object, waited_s=self._wait_s)

    async def _submitted(self, operation: Operation, stream: int) -> Done | Failed:
        while not self._forwarder.has_room:
            await self._room.park()
        number, effects = self._forwarder.submit(operation.kind, operation, self._now(), stream)
        answer = self._answers[number] = _Answer()
        self._run(effects)
        return await answer.come()

    def _run(self, effects: list[ForwarderEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Complete):
                self._answers.pop(effect.number).give(effect.answer)
                if self._room:
                    self._room.unpark_all()
            elif isinstance(effect, AskRegistry):
                if not self._looking:
                    self._looking = True
                    self._nursery.start_soon(self._look_again)
            elif self._link is not None and self._link.node == effect.node:
                assert isinstance(effect.message, Request)
                self._link.send(effect.message)

    def _error_of(self, failed: Failed) -> VPoolError:
        if failed.why == "fenced":
            return Fenced("this life of the node is over", object=self.object)
        if failed.why == "lost":
            return Unavailable(
                "the object's owner has ended meanwhile: what was on its way there, or not flushed, may not have survived",
                object=self.object,
                reason="lost",
            )
        if failed.why == "waited":
            return self._refusal or Unavailable("the owner of the object does not answer", object=self.object)
        return Invalid("the owner refuses the request's number", object=self.object)

    async def _look_again(self) -> None:
        """The registry may know a newer owner or epoch."""
        try:
            await self._registry.barrier()
            record = self._owning()
            if record is None or (record.owner, record.epoch) != (self._forwarder.owner, self._forwarder.epoch):
                self._detached()
        except VPoolError as error:
            log.info("owner_not_asked_for", object=self.object, reason=str(error))
        finally:
            self._looking = False

    def _detached(self) -> None:
        self._link = None
        if self._ready.is_set():  # else somebody waits for it already, and would wait for ever
            self._ready = trio.Event()
        self._attach_soon()

    def _attach_soon(self) -> None:
        if not self._attaching:
            self._attaching = True
            self._refusal = None
            if self._ready.is_set():
                self._ready = trio.Event()
            self._nursery.start_soon(self._attach)

    async def _attach(self) -> None:
        try:
            while self._link is None:
                try:
                    await self._attach_once()
                except Unavailable as error:
                    log.info("not_attached_yet", object=self.object, reason=str(error))
                    await trio.sleep(ATTACH_AGAIN_S)
        except VPoolError as error:  # the owner cannot serve it, and waiting changes nothing
            log.warning("not_attached", object=self.object, reason=str(error))
            self._refusal = error
            self._run(self._forwarder.abandon())
        finally:
            self._attaching = False
            self._ready.set()

    async def _attach_once(self) -> None:
        record = self._owning()
        if record is None:
            raise NotFound("the object is gone", object=self.object)
        if not record.owner:
            raise Moved("nobody owns the object", object=self.object)
        link = None
        with trio.move_on_after(ATTACH_LINK_S):
            link = await self._link_to(record.owner)
        if link is None:
            raise Unavailable("no link to the owner", object=self.object, owner=record.owner)
        answer = await self._answer_to_attach(link)
        if answer is None or link.closed.is_set():
            raise Unavailable("the owner does not say whether it serves the object", object=self.object, owner=record.owner)
        if isinstance(answer, NotAttached):
            if isinstance(answer.error, Moved):
                await self._registry.barrier()
                raise Unavailable("the owner has changed", object=self.object)
            raise answer.error
        self.attributes = answer.attributes
        self._link = link
        if not self._never_attached:
            self._run(self._forwarder.reconnected(self._now()))
        self._never_attached = False
        self._run(self._forwarder.route(record.owner, answer.epoch, self._now()))

    async def _answer_to_attach(self, link: Way) -> Attached | NotAttached | None:
        self._said, self._answer = trio.Event(), None
        link.send(Attach(self.object))
        with trio.move_on_after(ATTACH_TRY_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_either, self._said, nursery.cancel_scope)
                nursery.start_soon(_either, link.closed, nursery.cancel_scope)
        return self._answer

    async def _link_to(self, owner: str) -> Way | None:
        """The link to the owner; None as soon as it is another node's."""
        found: list[Way] = []
        async with trio.open_nursery() as nursery:

            async def dialled() -> None:
                found.append(await self._links.to(owner))
                nursery.cancel_scope.cancel()

            nursery.start_soon(dialled)
            while (record := self._owning()) is not None and record.owner == owner:  # noqa: ASYNC110  # the registry tells nobody
                await trio.sleep(OWNER_LOOK_S)
            nursery.cancel_scope.cancel()
        return found[0] if found else None

    def _owning(self) -> ObjectRecord | None:
        """The record that says who owns it: a file's is its log's."""
        record = self._registry.view.object(self.object)
        return self._registry.view.object(record.log) if record is not None and record.log else record


async def _either(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
