"""What other nodes ask of objects that this node owns: the shell around ``OwnedObject``.

Everything is executed by the very methods that serve this node's own front ends, so both see one size, one history. An answer
leaves only if this node's lease runs at that moment.

Concurrency: one loop; an ``OwnedObject`` is called without an await between its answer and the carrying out of its effects. A
*service* lasts for one epoch. Where this node takes a new epoch by itself (its log was reopened), what is still being
executed under the old one ends first and is noted; only then does the next service begin.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Protocol, TypeVar, TypeVarTuple

import structlog
import trio

from objectrouter.operation import Attributes, Operation
from objectrouter.owned import Effect, Execute, OwnedObject, Sync
from objectrouter.requests import Moved as MovedAnswer
from objectrouter.requests import Reply, Request, RequestKind
from objectrouter.router_links import RouterLink, Way
from objectrouter.wire import Attach, Attached, Look, Message, NotAttached, Seen
from objectrouter.wire_ownership import OwnershipMessage
from peers import Link, Malformed
from registry import ObjectKind, ObjectRecord, RegistryView
from volumedriver import Entries, Executed, Held, Lineage, LogNotes, Origin, RecordMarks, giving_way, joined, marking, parted
from vpool.errors import Halted, Moved, NotFound, Unavailable, VPoolError

log = structlog.get_logger()

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")

STOP_S = 5.0  # for what is being executed when the node stops


class LocalObjects(Protocol):
    """What is done here: ``ObjectRouter``, as the front ends use it, and the epochs of its logs.

    Never ``gated``: when an answer leaves is decided here.
    """

    async def read(self, inode: int, offset: int, length: int, *, gated: bool) -> bytes:
        """See ``ObjectRouter``."""

    async def write(self, inode: int, offset: int, data: bytes, *, gated: bool) -> int:
        """See ``ObjectRouter``."""

    async def zero(self, inode: int, offset: int, length: int, *, gated: bool) -> None:
        """See ``ObjectRouter``."""

    async def flush(self, inode: int, *, gated: bool) -> None:
        """See ``ObjectRouter``."""

    async def cut(self, inode: int, size: int, *, gated: bool) -> None:
        """Set the size."""

    async def owned_attributes(self, inode: int) -> Attributes:
        """Open an object of this node, if it is not open, and what is known of it. ``Moved``: it is not this node's."""

    def seen(self, object_id: str) -> Attributes | None:
        """What is known of an object of this node that is open; None: what is published is right."""

    def begun(self, object_id: str) -> tuple[int, int]:
        """(epoch, its first LSN) of an open log."""

    def written(self, object_id: str) -> int:
        """LSN of the last record of an open log."""


class _Service:
    """One object for one epoch."""

    def __init__(self, inode: int, log_id: str, owned: OwnedObject) -> None:
        self.inode, self.log_id, self.owned = inode, log_id, owned
        self.executing = 0
        self.executed = 0  # so far
        self.idle = trio.Event()
        self.marks: dict[Origin, RecordMarks] = {}  # of writes that are being executed, or may be asked for again
        self.late: list[tuple[Origin, int]] = []  # writes that ended after the epoch was known to be over


class Serving:
    """All of them; ``serve`` is the handler of the listener."""

    def __init__(
        self,
        view: RegistryView,
        node: str,
        objects: LocalObjects,
        notes: LogNotes,
        may_reply: Callable[[str, float], bool],
        now: Callable[[], float],
        nursery: trio.Nursery,
        caught_up: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
    ) -> None:
        """``caught_up``: returns when what was committed before shows in ``view``."""
        self._caught_up = caught_up
        self._view, self._node, self._objects, self._notes = view, node, objects, notes
        self._may_reply, self._now, self._nursery = may_reply, now, nursery
        self._services: dict[str, _Service] = {}
        self._locks: defaultdict[str, trio.Lock] = defaultdict(trio.Lock)
        self._links: dict[str, Way] = {}  # by node: the newest
        self._held: set[str] = set()  # logs that are being handed over
        self._stopping = False
        self.executed = 0  # requests of other nodes, so far
        self._about_ownership: Callable[[str, OwnershipMessage], None] | None = None

    def also_takes(self, received: Callable[[str, OwnershipMessage], None]) -> None:
        """Whom to give what other nodes say about ownership."""
        self._about_ownership = received

    def connect_itself(self, way: Way) -> None:
        """Where answers to this node's own requests go: those that were on their way to a former owner."""
        self._links[self._node] = way

    async def serve(self, link: Link) -> None:
        """One node's link, until it ends."""
        routed = RouterLink(link, self._nursery)
        self._links[routed.node] = routed
        try:
            await routed.run(self.begun, pings=True)
        finally:
            if self._links.get(routed.node) is routed:
                del self._links[routed.node]

    def tick(self) -> None:
        """The lease may allow answers that it did not; lives of nodes may be over."""
        nodes = self._view.nodes()
        for service in list(self._services.values()):
            for node in nodes:
                service.owned.ban(node.id, node.incarnation - (not node.expired))
            self._run(service, service.owned.tick(self._now()))

    async def stop(self) -> None:
        """Begin nothing more; end what is being executed, and keep what has been answered for the next life."""
        self._stopping = True
        for service in self._services.values():
            service.owned.hold()
        with trio.move_on_after(STOP_S):
            for object_id, service in self._services.items():
                while service.executing:
                    await service.idle.wait()
                await self._keep(object_id, service)

    # -- what a hand-over needs ----------------------------------------------------------------------------------------

    # An object with a log is a volume, or a log of files: then all of them are meant.

    async def lineage(self, log_id: str) -> Lineage:
        """Of an object of this node with a log; a volume is served from now on. Errors: as opening it; ``Moved``."""
        if self._is_volume(log_id):
            service, _ = await self._served(log_id)
            return service.owned.lineage
        lineage, _ = await _durably(self._notes.files, log_id, *self._objects.begun(log_id))
        return lineage

    def forwarded(self, log_id: str) -> int:
        """How many requests of other nodes have been executed on it in this epoch."""
        return sum(service.executed for service in self._of_log(log_id).values())

    def executing(self, log_id: str) -> list[str]:
        """What is being executed of an object for other nodes: names of operations."""
        return sorted(name for service in self._of_log(log_id).values() for name in service.owned.executing)

    async def drained(self, log_id: str) -> tuple[Lineage, Entries]:
        """Answer nothing more, and return when nothing of other nodes is being executed: the lineage, and what has been."""
        self._held.add(log_id)
        services = self._of_log(log_id)
        for service in services.values():
            service.owned.hold()
        for service in services.values():
            while service.executing:
                await service.idle.wait()
        if self._is_volume(log_id):
            owned = services[log_id].owned
            return owned.lineage, owned.executed_table.entries()
        lineage, came = await _durably(self._notes.files, log_id, *self._objects.begun(log_id))
        end_lsn = self._objects.written(log_id)
        served = {file: _carried(service, lineage, end_lsn).entries() for file, service in services.items()}
        return lineage, joined(came.since, {**parted(came), **served})

    def resume(self, log_id: str) -> None:
        """It stays here: what waits is done."""
        self._held.discard(log_id)
        for service in self._of_log(log_id).values():
            self._run(service, service.owned.resume(self._now()))

    # -- what the relocation of one file needs -------------------------------------------------------------------------

    async def attached(self, object_id: str) -> None:
        """It is served from now on, so that what other nodes ask of it is known. Errors: as opening it; ``Moved``."""
        await self._served(object_id)

    async def file_drained(self, object_id: str) -> None:
        """Answer nothing more of a file, and return when nothing of other nodes is being executed."""
        service = self._services[object_id]
        service.owned.hold()
        while service.executing:
            await service.idle.wait()

    def file_resumes(self, object_id: str) -> None:
        """It stays where it is."""
        service = self._services.get(object_id)
        if service is not None:
            self._run(service, service.owned.resume(self._now()))

    def relocated(self, object_id: str, log_id: str) -> None:
        """A file that was held is in another log of this node: it is served from there, and who waits asks again."""
        before = self._services[object_id]
        (epoch, first_lsn), end_lsn = self._objects.begun(log_id), self._objects.written(log_id)
        left_at = self._objects.written(before.log_id)
        table = _carried(before, before.owned.lineage, left_at).relocated(before.owned.lineage, left_at, epoch, end_lsn)
        lineage = Lineage(((epoch, first_lsn),))
        owned = OwnedObject(
            object_id, epoch, lineage, end_lsn, Executed(table, lineage, end_lsn), may_reply=partial(self._may_reply, log_id),
            covers=lambda lsn: True,
        )  # fmt: skip
        for node in self._view.nodes():
            owned.ban(node.id, node.incarnation - (not node.expired))
        self._services[object_id] = _Service(before.inode, log_id, owned)
        self._run(before, before.owned.depose(self._node, epoch))

    def hold_is_over(self, log_id: str) -> None:
        """Its log has been closed: what is served of it next is not held, and what was is answered *moved* then."""
        self._held.discard(log_id)

    def is_held(self, log_id: str) -> bool:
        """Nothing of it is answered."""
        return log_id in self._held

    def depose(self, log_id: str, owner: str, epoch: int) -> None:
        """Another node has it: whoever waits is sent there."""
        self._held.discard(log_id)
        for object_id, service in self._of_log(log_id).items():
            del self._services[object_id]
            self._run(service, service.owned.depose(owner, epoch))

    def executed_of(self, volume: str, epoch: int) -> Entries:
        """What is known at this moment of what has been executed on a volume, for whoever keeps its log a second time.

        All requests whose records the log has are in it, unless their answers have come.
        """
        service = self._services.get(volume)
        if service is None or service.owned.epoch != epoch:
            return Entries(epoch if self._is_volume(volume) else epoch + 1)
        table = service.owned.executed_table
        entries, marks = table.entries(), service.marks
        for origin in [origin for origin in marks if table.is_over(origin)]:
            del marks[origin]
        done = {origin: (at, lsn) for origin, at, lsn in entries.done}
        for origin, found in marks.items():
            is_one = found.first_lsn == found.last_lsn and (found.is_whole or origin in done)
            if found.first_lsn:  # of several records some may be there, and others not
                done[origin] = (epoch, found.last_lsn if is_one else -found.first_lsn)
        return Entries(entries.since, tuple((origin, *at) for origin, at in done.items()))

    def _of_log(self, log_id: str) -> dict[str, _Service]:
        return {object_id: service for object_id, service in self._services.items() if service.log_id == log_id}

    def _is_volume(self, object_id: str) -> bool:
        record = self._view.object(object_id)
        return record is None or record.kind is ObjectKind.VOLUME

    # -- messages ----------------------------------------------------------------------------------------------------------

    def received(self, link: Way, message: Message) -> None:
        """Another router asks for something. ``Malformed``: what nobody may say here."""
        work = self.begun(link, message)
        if work is not None:
            self._nursery.start_soon(_awaited, work)

    def begun(self, link: Way, message: Message) -> Coroutine[Any, Any, None] | None:
        """As ``received``; what is returned is to be awaited at once, and is not to be cancelled with the link."""
        if isinstance(message, Request):
            if message.origin.node != link.node:
                raise Malformed("a request in the name of another node")
            return self._request(link, message)
        if isinstance(message, Attach):
            self._nursery.start_soon(self._attach, link, message.object)
        elif isinstance(message, Look):
            link.send(Seen(message.ticket, self._objects.seen(message.object)))
        elif isinstance(message, OwnershipMessage) and self._about_ownership is not None:
            self._about_ownership(link.node, message)
        else:
            raise Malformed("an answer that nobody has asked for")
        return None

    async def _attach(self, link: Way, object_id: str) -> None:
        try:
            service, attributes = await self._served(object_id)
            link.send(Attached(object_id, service.owned.epoch, attributes))
        except VPoolError as error:
            link.send(NotAttached(object_id, error))

    def _request(self, link: Way, request: Request) -> Coroutine[Any, Any, None] | None:
        service = self._services.get(request.object)
        if service is None:
            owning = self._owning(request.object)
            if owning is not None and owning.owner != self._node and owning.epoch >= request.epoch:
                moved = MovedAnswer(owning.owner, owning.epoch)
                link.send(Reply(request.object, request.origin, request.epoch, moved))
            return None  # ours, and not open: whoever asks attaches first, or asks again
        if self._is_over(service):
            self._run(service, service.owned.depose(self._node, service.owned.epoch + 1))
        elif request.kind is RequestKind.FLUSH:
            service.owned.written(self._objects.written(service.log_id))
        effects = service.owned.request(request, self._now())
        if len(effects) == 1 and isinstance(effects[0], Execute):
            service.executing += 1
            return self._execute(service, effects[0].request)
        self._run(service, effects)
        return None

    def _owning(self, object_id: str) -> ObjectRecord | None:
        record = self._view.object(object_id)
        return self._view.object(record.log) if record is not None and record.log else record

    # -- services ----------------------------------------------------------------------------------------------------------

    def _is_over(self, service: _Service) -> bool:
        try:
            return self._objects.begun(service.log_id)[0] != service.owned.epoch
        except NotFound:
            return True

    async def _served(self, object_id: str) -> tuple[_Service, Attributes]:
        async with self._locks[object_id]:
            if self._stopping:
                raise Unavailable("the node stops")
            record = self._view.object(object_id)
            if record is None:  # a drained node makes its files in a log that is ours, and has seen that before we have
                await self._caught_up()
                record = self._view.object(object_id)
            if record is None or not record.inode:
                raise NotFound("no such object", object=object_id)
            try:
                attributes = await self._objects.owned_attributes(record.inode)
            except Moved:  # the asker may have seen that it has come here before we have
                await self._caught_up()
                attributes = await self._objects.owned_attributes(record.inode)
            service = self._services.get(object_id)
            if service is None or self._is_over(service):
                service = await self._begin(object_id, record, service)
            return service, attributes

    async def _begin(self, object_id: str, record: ObjectRecord, before: _Service | None) -> _Service:
        log_id = record.log or object_id
        epoch, first_lsn = self._objects.begun(log_id)
        known = await _durably(self._notes.begin, object_id, epoch, first_lsn, log_id)
        lineage, end_lsn = known.lineage, first_lsn - 1
        if before is None:
            table = Executed(known.executed, lineage, end_lsn)
        else:
            self._run(before, before.owned.depose(self._node, epoch))
            while before.executing:
                await before.idle.wait()
            if self._objects.begun(log_id)[0] != epoch:
                raise Unavailable("the log was reopened meanwhile", object=object_id)
            table = _carried(before, lineage, end_lsn)
        owned = OwnedObject(
            object_id, epoch, lineage, end_lsn, table, may_reply=partial(self._may_reply, log_id), covers=lambda lsn: True
        )  # fmt: skip
        for node in self._view.nodes():
            owned.ban(node.id, node.incarnation - (not node.expired))
        if log_id in self._held:
            owned.hold()
        service = self._services[object_id] = _Service(record.inode, log_id, owned)
        log.info("serving_other_nodes", object=object_id, epoch=epoch, end_lsn=end_lsn)
        return service

    async def _keep(self, object_id: str, service: _Service) -> None:
        owned = service.owned
        if owned.moved is not None or self._is_over(service):
            return
        try:
            await self._objects.flush(service.inode, gated=False)
            end_lsn = self._objects.written(service.log_id)
            entries = owned.executed_table.entries()
            await _durably(self._notes.end, object_id, owned.lineage, entries, owned.epoch, end_lsn)
        except VPoolError as error:
            log.warning("answers_not_kept", object=object_id, reason=str(error))

    # -- effects -----------------------------------------------------------------------------------------------------------

    def _run(self, service: _Service, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Execute):
                service.executing += 1
                self._nursery.start_soon(self._execute, service, effect.request)
            elif isinstance(effect, Sync):
                self._nursery.start_soon(self._sync, service, effect.lsn)
            elif (link := self._links.get(effect.node)) is not None:
                assert isinstance(effect.message, Reply)
                link.send(effect.message)

    async def _execute(self, service: _Service, request: Request) -> None:
        value: object
        lsn, held, marks = 0, False, RecordMarks()
        if request.kind is RequestKind.WRITE:
            service.marks[request.origin] = marks
        try:
            with giving_way(), marking(marks):
                value = await self._do(service.inode, request.payload)
            if request.kind is RequestKind.WRITE:
                lsn = marks.last_lsn or self._objects.written(service.log_id)
                value = await self._objects.owned_attributes(service.inode)
        except VPoolError as error:
            value = None if lsn else error  # it has been done
        except Held:
            value, held = None, True
        finally:
            service.executing -= 1
            if not marks.last_lsn:
                service.marks.pop(request.origin, None)
        service.executed += not held
        self.executed += not held
        if held:
            self._run(service, service.owned.put_back(request.origin, self._now()))
        elif lsn and (service.owned.moved is not None or self._is_over(service)):  # the log may have been reopened meanwhile
            service.late.append((request.origin, lsn))
        else:
            self._run(service, service.owned.executed(request.origin, value, lsn, self._now()))
        if not service.executing:
            service.idle.set()
            service.idle = trio.Event()

    async def _do(self, inode: int, operation: Operation) -> bytes | Attributes | None:
        arguments = operation.arguments
        if operation.name == "read":
            return await self._objects.read(inode, *arguments, gated=False)
        if operation.name == "attributes":
            return await self._objects.owned_attributes(inode)
        change: dict[str, Callable[..., Awaitable[object]]] = {
            "write": self._objects.write,
            "zero": self._objects.zero,
            "truncate": self._objects.cut,
        }
        await change[operation.name](inode, *arguments, gated=False)
        return None

    async def _sync(self, service: _Service, lsn: int) -> None:
        try:
            await self._objects.flush(service.inode, gated=False)
        except VPoolError as error:
            self._run(service, service.owned.not_synced(error, self._now()))
        else:
            self._run(service, service.owned.synced(lsn, self._now()))


def _carried(before: _Service, lineage: Lineage, end_lsn: int) -> Executed:
    """What was executed in the epochs before, as far as the log has it: this very process has seen it all."""
    table = Executed(before.owned.executed_table.entries(), lineage, end_lsn)
    for origin, lsn in before.late:
        table.note(origin, lineage.epoch_at(lsn), lsn)
    return table


async def _awaited(work: Coroutine[Any, Any, None]) -> None:
    await work


async def _durably(write: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
    try:
        return await trio.to_thread.run_sync(write, *arguments)
    except OSError as error:
        raise Halted(f"what is known of the object's log cannot be kept: {error}") from None
