"""Objects are moved because an administrator says so, from any node: it has the target ask their owner, and watches.

The target is told again and again what is wanted (``Bid``), so neither a lost link nor the end of this node leaves more behind
than a wish that ends by itself. Whatever happens, the registry says whose an object is.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
import trio

from objectrouter.wishes import Bid, Wish
from registry import NodeRecord, NodeStatus, ObjectKind, ObjectRecord, ObjectState, RegistryClient, RegistryView, SetNode
from vpool.errors import Conflict, Invalid, NoSpace, NotFound, Unavailable, VPoolError

if TYPE_CHECKING:
    from objectrouter.ownership import Ownership

log = structlog.get_logger()

SAY_AGAIN_S = 0.25
SILENCE_S = 10.0  # of the target
TRIES = 5  # of what may be over soon: another attempt, a new epoch, a lost link
TRY_AGAIN_S = 1.0
TRANSIENT = frozenset({"busy", "not-owner", "cancelled", "silent", "elsewhere"})
REASONS = {
    "busy": "another hand-over of it is under way",
    "not-owner": "its owner has changed meanwhile",
    "status": "its owner has seen that the node is given nothing now",
    "no-room": "the node's cache has no room for what is not in the backend yet",
    "cancelled": "it was given up: clients would have waited too long, or the link broke",
    "nameless": "a file in it that has no name any more is open on its owner; it can move once that is closed",
    "silent": "its owner does not answer",
    "elsewhere": "its owner has changed meanwhile",
}


@dataclass(frozen=True, slots=True)
class Moving:
    """How far a move is."""

    object: str
    state: str
    came: int  # records
    wanted: int  # records, as of the beginning


@dataclass(frozen=True, slots=True)
class Drained:
    """One object of a node that is being drained: ``problem`` "" if it has moved to ``owner``.

    ``is_files``: it is a log of files, with all that are in it.
    """

    object: str
    owner: str
    problem: str
    is_files: bool = False


Tell = Callable[[object], Awaitable[None]]


class Moves:
    """See above."""

    def __init__(self, ownership: Ownership, registry: RegistryClient) -> None:
        self._ownership, self._registry = ownership, registry
        self._watched: dict[int, trio.MemorySendChannel[Wish]] = {}  # by ticket

    def received(self, wish: Wish) -> None:
        """A target says how a wish goes."""
        watcher = self._watched.get(wish.ticket)
        if watcher is not None:
            try:
                watcher.send_nowait(wish)
            except trio.WouldBlock:
                return  # it has not looked at the one before; the next comes soon

    async def move(self, object_id: str, node: str, tell: Tell) -> ObjectRecord:
        """Have an object with a log move; its record after that. ``tell`` gets ``Moving``.

        When cancelled, so is the move, if that can be.

        Errors: ``NotFound``, ``Invalid``, ``Conflict`` (it is there already; drained, dead, ...), ``NoSpace``, ``Unavailable``.
        """
        await self._registry.barrier()
        for left in reversed(range(TRIES)):
            self.check(object_id, node)
            wish = await self._wish(object_id, node, tell)
            await self._registry.barrier()
            record = self._registry.view.object(object_id)
            if record is not None and record.owner == node:
                return record
            if wish is None:
                raise Unavailable("the node that is to have it does not answer", object=object_id, node=node)
            if wish.why not in TRANSIENT or not left:
                raise Conflict(f"it has not moved: {REASONS.get(wish.why, wish.why)}", object=object_id, node=node)
            await trio.sleep(TRY_AGAIN_S)
        raise AssertionError("unreachable")

    async def move_file(self, object_id: str, node: str, tell: Tell) -> ObjectRecord:
        """Have a file move by itself; the record of the log that it is in after that. As ``move``.

        Where it shares its log with others it gets one of its own first, on its owner.
        """
        await self._registry.barrier()
        self.check_file(object_id, node)
        wish: Wish | None = None
        for _ in range(TRIES):
            file, owner = self._file(object_id)
            if is_alone(self._registry.view, file):
                return await self.move(file.log, node, tell)
            wish = await self._wish(object_id, owner, tell)
            await self._registry.barrier()
            if wish is not None and wish.state == "failed":
                await trio.sleep(TRY_AGAIN_S)
        why = "its owner does not answer" if wish is None else wish.why
        raise Conflict(f"the file has not moved: {why}", object=object_id, node=node)

    def check_file(self, object_id: str, node: str) -> None:
        """Whether a file can move there, as far as is known here. Errors: as ``move_file``."""
        view = self._registry.view
        record, me = view.object(object_id), view.node(self._registry.node)
        if record is None or record.state is ObjectState.CONDEMNED:
            raise NotFound("no such object", object=object_id)
        if record.kind is not ObjectKind.FILE:
            raise Invalid("not a file; a volume moves by vpool volume move", object=object_id)
        if record.state is ObjectState.HALTED:
            raise Conflict("the file is halted", object=object_id)
        older = [each.id for each in view.nodes() if not each.expired and me is not None and each.release != me.release]
        if older:
            raise Conflict("a node runs another release, and may not know how files move: upgrade it first", node=older[0])
        self.check(record.log, node)

    def _file(self, object_id: str) -> tuple[ObjectRecord, str]:
        """A file, and who owns it."""
        file = self._registry.view.object(object_id)
        owning = None if file is None else self._registry.view.object(file.log)
        if file is None or owning is None:
            raise NotFound("the file is gone", object=object_id)
        return file, owning.owner

    async def drain(self, node: str, tell: Tell) -> list[Drained]:
        """Give the node nothing any more, and have its volumes and logs of files move to others.

        ``tell`` gets ``Moving`` and ``Drained``. What cannot be moved stays, and says why.

        Errors: ``NotFound``, ``Conflict`` (dead: there is steal).
        """
        await self._registry.barrier()
        self.check_drain(node)
        await self._registry.submit(SetNode(node, NodeStatus.DRAINED))
        log.info("node_drains", node=node)
        done = []
        for record in self._owned(node):
            done.append(await self._move_off(record, tell))
            await tell(done[-1])
        log.info("node_drained", node=node, moved=sum(not each.problem for each in done), left=sum(bool(e.problem) for e in done))
        return done

    async def undrain(self, node: str) -> NodeRecord:
        """Give it something again. NotFound."""
        record = await self._registry.submit(SetNode(node, NodeStatus.ACTIVE))
        log.info("node_active", node=node)
        return record

    def check_drain(self, node: str) -> None:
        """Whether a node can be drained. Errors: as ``drain``."""
        found = self._registry.view.node(node)
        if found is None:
            raise NotFound("no such node", node=node)
        if found.expired:
            raise Conflict("the node is dead: what it owned is taken over by vpool node steal", node=node)

    def check(self, object_id: str, node: str) -> None:
        """Whether an object with a log can move there, as far as is known here. Errors: as ``move``."""
        record, target = self._registry.view.object(object_id), self._registry.view.node(node)
        if record is None or record.state in (ObjectState.CONDEMNED, ObjectState.ORPHAN):
            raise NotFound("no such object", object=object_id)
        if record.kind is ObjectKind.FILE:
            raise Invalid("not a volume; a file moves by vpool file move", object=object_id)
        what = "volume" if record.kind is ObjectKind.VOLUME else "log of files"
        if target is None:
            raise NotFound("no such node", node=node)
        if record.owner == node:
            raise Conflict(f"the {what} is there already", node=node)
        if target.expired:
            raise Conflict("the node is dead", node=node)
        if target.status is not NodeStatus.ACTIVE:
            raise Conflict(f"the node is given nothing now: its status is {target.status.value}", node=node)
        if target.room_bytes == 0:
            raise NoSpace("the node's cache is full", node=node)
        if not record.owner:
            raise Conflict(f"nobody owns the {what} yet: the first node to open it will", object=object_id)
        owner = self._registry.view.node(record.owner)
        if owner is None or owner.expired:
            raise Conflict("its owner is dead: it is taken over by vpool volume steal", owner=record.owner)
        if record.state is ObjectState.HALTED:
            raise Conflict(f"the {what} is halted; open it first", object=object_id)

    # -- parts of the above ------------------------------------------------------------------------------------------------

    def _owned(self, node: str) -> list[ObjectRecord]:
        return [
            record
            for record in self._registry.view.objects_with_log()
            if record.owner == node and record.state is ObjectState.LIVE
        ]

    async def _move_off(self, record: ObjectRecord, tell: Tell) -> Drained:
        targets = sorted(filter(takes, self._registry.view.nodes()), key=lambda node: (len(self._owned(node.id)), node.id))
        problem = "no other node takes anything"
        for target in targets:
            try:
                moved = await self.move(record.id, target.id, tell)
            except VPoolError as error:
                problem = str(error)
                log.warning("not_moved_off", object=record.id, node=target.id, reason=problem)
            else:
                return Drained(record.id, moved.owner, "", record.kind is ObjectKind.FILE_LOG)
        return Drained(record.id, record.owner, problem, record.kind is ObjectKind.FILE_LOG)

    async def _wish(self, object_id: str, node: str, tell: Tell) -> Wish | None:
        """The end of a wish; None: the target does not answer."""
        ticket = random.getrandbits(62)
        send, heard = trio.open_memory_channel[Wish](4)
        self._watched[ticket] = send
        said = ""
        heard_at = trio.current_time()
        try:
            while True:
                self._say(node, Bid(object_id, ticket))
                wish = None
                with trio.move_on_after(SAY_AGAIN_S):
                    wish = await heard.receive()
                if wish is None:
                    if trio.current_time() - heard_at > SILENCE_S:
                        return None
                    continue
                heard_at = trio.current_time()
                if wish.state in ("done", "failed"):
                    return wish
                if f"{wish.state}{wish.came}" != said:
                    said = f"{wish.state}{wish.came}"
                    await tell(Moving(object_id, wish.state, wish.came, wish.wanted))
                await trio.sleep(SAY_AGAIN_S)
        except trio.Cancelled:
            self._say(node, Bid(object_id, ticket, cancel=True))
            raise
        finally:
            del self._watched[ticket]

    def _say(self, node: str, bid: Bid) -> None:
        if node == self._registry.node:
            self._ownership.bid(node, bid)
        else:
            self._ownership.send(node, bid)


def is_alone(view: RegistryView, file: ObjectRecord) -> bool:
    """Whether a file has its log for itself."""
    return [object_id for _, object_id in view.files_in(file.log, 0, 2)] == [file.id]


def takes(node: NodeRecord) -> bool:
    """Whether a node may be given something."""
    return not node.expired and node.status is NodeStatus.ACTIVE and node.room_bytes != 0
